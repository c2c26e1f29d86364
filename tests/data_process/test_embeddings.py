"""What all extractors read, and the one without a model: rows belong to their items, and pictures count."""

import json

import numpy as np
import pytest

from data_process import image_embeddings, qwen_embeddings, simple_embeddings, text_embeddings
from data_process.demo_process import load_process
from data_process.embedding_inputs import InputConfig, item_text, load_inputs
from data_process.make_demo_data import DemoConfig, make_demo_data
from data_process.simple_embeddings import SimpleConfig, image_vectors, text_vectors
from src.common.artifacts import load_embeddings


@pytest.fixture
def data(tmp_path):
    return make_demo_data(DemoConfig(data_path=tmp_path, items=40, users=5, image_size=56)).parent


def rows(path):
    vectors, ids = load_embeddings(path)
    return dict(zip(ids, vectors, strict=True))


# ---- simple ----------------------------------------------------------------------------------------------------------
def simple(data, **settings):
    return rows(simple_embeddings.extract(SimpleConfig(dataset="Demo", data_path=data, **settings)))


def test_simple_sees_pictures_where_texts_are_alike(data):
    process, _ = load_process(data / "Demo" / "Demo.truth.npz")
    twin = np.flatnonzero(process.text_class == process.text_class[0])[:2].tolist()
    both, texts, pictures = simple(data), simple(data, image=False), simple(data, image_only=True)
    assert list(both) == list(range(40))
    np.testing.assert_allclose(texts[twin[0]], texts[twin[1]], atol=1e-5)
    for vectors in (both, pictures):
        assert np.abs(vectors[twin[0]] - vectors[twin[1]]).max() > 0.1
    again = simple(data)
    np.testing.assert_array_equal(np.stack(list(both.values())), np.stack(list(again.values())))


def test_image_statistics_know_the_other_drawing(tmp_path):
    folder = make_demo_data(DemoConfig(data_path=tmp_path, items=100, users=5, image_size=56))
    files = [folder / name / f"D{item:07d}.jpg" for name in ("images", "images_second") for item in range(100)]
    vectors = image_vectors(files, 64, 0)
    distances = ((vectors[:100, None] - vectors[None, 100:]) ** 2).sum(2)
    assert (distances.argmin(1) == np.arange(100)).mean() > 0.9


def test_simple_reads_chinese():
    """A title without blanks used to be one word, which no other title had: kinds were found by chance."""
    kinds = ["保温杯", "充电宝", "蓝牙耳机", "羽绒服", "电饭煲", "跑步鞋"]
    titles = [
        f"{brand}{colour}{kind}" for kind in kinds for brand in ("青山", "海川") for colour in ("黑色", "红色", "墨绿")
    ]
    vectors = text_vectors(titles, 16, 42)
    near = vectors @ vectors.T / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors, axis=1)[:, None]
    np.fill_diagonal(near, -1)
    same = np.arange(len(titles)) // 6
    assert (same[np.argsort(-near, axis=1)[:, :5]] == same[:, None]).mean() > 0.8


def test_simple_missing_pictures_get_the_mean(data):
    images = data / "Demo" / "images"
    for item in (3, 7):
        (images / f"D{item:07d}.jpg").unlink()
    vectors = simple(data, image_only=True)
    assert list(vectors) == list(range(40))
    np.testing.assert_allclose(vectors[3], vectors[7], atol=1e-6)
    for file in images.iterdir():
        file.unlink()
    assert simple(data)[0].shape == simple(data, image=False)[0].shape
    with pytest.raises(FileNotFoundError, match="--image-only"):
        simple(data, image_only=True)


def test_undecodable_picture_is_named_or_skipped(data):
    (data / "Demo" / "images" / "D0000005.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"D0000005\.jpg.*--skip_bad_images"):
        simple(data)
    assert len(simple(data, skip_bad_images=True)) == 40


def test_item_text_takes_the_fields_of_the_mode():
    fields = {"title": "Mug", "brand": "", "tags": ["a", "b"], "enhanced_title": "Fine mug"}
    assert item_text(fields, "orig") == "Title: Mug"
    assert item_text(fields, "enhanced") == "Enhanced title: Fine mug\nTags: a, b"


def test_items_that_are_not_enriched_keep_their_text(data, caplog):
    enriched = data / "Demo" / "Demo.item_enriched_v2.json"
    enriched.unlink()
    with pytest.raises(FileNotFoundError, match="data_enricher"):
        load_inputs(InputConfig(dataset="Demo", data_path=data, mode="enhanced"))
    enriched.write_text(json.dumps({"3": {"enhanced_title": "Fine mug", "tags": ["a"]}, "4": {"enhanced_title": ""}}))
    original = load_inputs(InputConfig(dataset="Demo", data_path=data)).texts
    with caplog.at_level("WARNING", "grec"):
        texts = load_inputs(InputConfig(dataset="Demo", data_path=data, mode="enhanced")).texts
        both = load_inputs(InputConfig(dataset="Demo", data_path=data, mode="orig_enhanced")).texts
    assert "39 of 40 items are not enriched" in caplog.text
    assert texts[3] == "Enhanced title: Fine mug\nTags: a"
    assert both[3] == f"{original[3]}\n{texts[3]}"
    assert texts[:3] + texts[4:] == both[:3] + both[4:] == original[:3] + original[4:]
    enriched.write_text(json.dumps({"4": {"enhanced_title": ""}}))
    with pytest.raises(ValueError, match="no item of Demo"):
        load_inputs(InputConfig(dataset="Demo", data_path=data, mode="enhanced"))


@pytest.mark.parametrize("module", [simple_embeddings, qwen_embeddings, text_embeddings, image_embeddings])
def test_flags_with_dashes_and_underscores(module):
    flags = ["--dataset", "Demo", "--out-dir", "x"] + ([] if module is simple_embeddings else ["--model", "m"])
    flags += [] if module is text_embeddings else ["--skip-bad-images", "--image-path", "y"]
    flags += ["--image-only"] if module in (simple_embeddings, qwen_embeddings) else []
    flags += [] if module is simple_embeddings else ["--batch-size", "3"]
    underscores = ["--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag for flag in flags]
    parser = module.build_parser()
    assert vars(parser.parse_args(flags)) == vars(parser.parse_args(underscores))


def test_pictures_are_wanted_and_unwanted():
    with pytest.raises(ValueError, match="nothing to embed"):
        SimpleConfig(dataset="Demo", image=False, image_only=True)
