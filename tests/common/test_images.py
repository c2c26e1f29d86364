"""src/common/images.py: what decodes, what is refused, and random views."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from src.common import images
from src.common.images import open_image, random_view, to_jpeg, undecodable


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


# ---- pictures from the web -------------------------------------------------------------------------------------------
def encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def as_jpeg(data: bytes, max_side: int = 512) -> Image.Image:
    jpeg = to_jpeg(data, max_side)
    image = Image.open(io.BytesIO(jpeg.data))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (jpeg.width, jpeg.height))
    return image


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_of_the_web_become_jpeg(form):
    image = as_jpeg(encoded(Image.new("RGB", (60, 40), "red"), form))
    assert image.size == (60, 40)
    assert np.abs(np.asarray(image, int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("form", ["EPS", "PPM", "ICO", "PCX"])
def test_other_formats_are_not_opened(form):
    """Pillow hands an EPS to Ghostscript."""
    with pytest.raises(ValueError, match="no picture of a format of the web"):
        to_jpeg(encoded(Image.new("RGB", (60, 40), "red"), form), 512)


@pytest.mark.parametrize("size", [(3000, 1000), (700, 2000), (513, 512)])
def test_large_pictures_are_made_smaller(size):
    image = as_jpeg(encoded(Image.new("RGB", size, "blue"), "JPEG"))
    assert max(image.size) == 512
    assert abs(image.width / image.height - size[0] / size[1]) < 0.01


def test_pictures_stand_upright():
    """EXIF orientation 6: the camera was turned, and the left of the file is the top of the picture."""
    image, exif = Image.new("RGB", (64, 32), "black"), Image.Exif()
    image.paste("red", (0, 0, 32, 32))
    exif[0x112] = 6
    upright = as_jpeg(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (32, 64)
    assert upright.getpixel((16, 8))[0] > 240
    assert upright.getpixel((16, 56))[0] < 15
    assert not upright.getexif()


def test_sixteen_bits_of_grey_are_scaled():
    """They used to be cut off at 255, which left a white picture."""
    grey = Image.fromarray(np.full((40, 40), 0x8000, np.uint16))
    assert np.abs(np.asarray(as_jpeg(encoded(grey, "PNG")), int) - 128).max() < 4


def test_transparency_lies_on_white():
    glass = Image.new("RGBA", (40, 40), (0, 0, 255, 0))
    assert as_jpeg(encoded(glass, "PNG")).getpixel((20, 20)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_cut_off_pictures_are_refused(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8))
    data = encoded(noise, form)
    with pytest.raises(ValueError, match=r"no (whole )?picture"):
        to_jpeg(data[: len(data) // 2], 512)


def test_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(ValueError, match=r"no whole picture \(9000 x 9000 pixels, over 64,000,000\)"):
        to_jpeg(encoded(Image.new("1", (9000, 9000)), "PNG"), 512)
