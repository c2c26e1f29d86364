"""src/common/images.py: what decodes, what is refused, and random views."""

import random

import numpy as np
import pytest
from PIL import Image

from src.common import images
from src.common.images import open_image, random_view, undecodable


def test_every_mode_becomes_rgb(tmp_path):
    for mode in ("L", "RGB", "P", "CMYK", "LA", "RGBA"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (8, 6)).save(path)
        picture = open_image(path)
        assert (picture.mode, picture.size) == ("RGB", (8, 6))


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_broken_files_are_named_with_the_remedy(tmp_path):
    good, cut, text = tmp_path / "good.jpg", tmp_path / "cut.jpg", tmp_path / "text.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cut.write_bytes(good.read_bytes()[:400])
    text.write_text("<html>not found</html>")
    for path in (cut, text):
        with pytest.raises(ValueError, match=rf"{path.name}.*--skip_bad_images"):
            open_image(path)
    assert set(undecodable([good, cut, text])) == {cut, text}


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "big.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 9_999)
    with pytest.raises(ValueError, match="100 x 100 pixels"):
        open_image(tmp_path / "big.png")


def test_random_views_repeat_for_a_seed_and_keep_size_and_ground():
    picture = Image.new("RGB", (40, 30), "white")
    picture.paste("red", (10, 10, 30, 20))
    first, again, other = (random_view(picture, 0.2, random.Random(seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert first.size == picture.size
    assert first.getpixel((0, 0)) == (255, 255, 255)
    assert random_view(picture, 0.0, random.Random(1)).tobytes() == picture.tobytes()
