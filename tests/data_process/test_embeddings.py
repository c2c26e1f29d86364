"""Both extractors: rows belong to the items that the sidecar names, and pictures count."""

import json

import numpy as np
import pytest
import torch

from data_process import encoders, qwen_embeddings, simple_embeddings
from data_process.demo_process import load_process
from data_process.embedding_inputs import item_text
from data_process.make_demo_data import DemoConfig, make_demo_data
from data_process.qwen_embeddings import QwenConfig
from data_process.simple_embeddings import SimpleConfig, image_vectors
from scripts.make_tiny_model import TinyModelConfig, make_tiny_model
from src.common.artifacts import load_embeddings


@pytest.fixture
def data(tmp_path):
    return make_demo_data(DemoConfig(data_path=tmp_path, items=40, users=5, image_size=56)).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "item.json").write_text(json.dumps({"0": {"title": "Nora mug in stoneware, made of lines"}}))
    small = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 400}
    for family in ("qwen2_vl", "qwen2"):
        make_tiny_model(TinyModelConfig(family, folder / family, folder / "item.json", **small))
    return folder


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


def test_flags_with_dashes_and_underscores(data):
    for module in (simple_embeddings, qwen_embeddings):
        need = ["--dataset", "Demo"] + (["--model", "m"] if module is qwen_embeddings else [])
        dashes = module.build_parser().parse_args([*need, "--image-only", "--out-dir", "x", "--skip-bad-images"])
        underscores = module.build_parser().parse_args([*need, "--image_only", "--out_dir", "x", "--skip_bad_images"])
        assert vars(dashes) == vars(underscores)
    with pytest.raises(ValueError, match="nothing to embed"):
        SimpleConfig(dataset="Demo", image=False, image_only=True)


# ---- models ----------------------------------------------------------------------------------------------------------
def embed(data, model, **settings):
    settings = {"batch_size": 7, **settings}
    return rows(qwen_embeddings.extract(QwenConfig(dataset="Demo", data_path=data, model=str(model), **settings)))


def test_vectors_change_with_the_picture(data, model):
    before = embed(data, model / "qwen2_vl")
    images = data / "Demo" / "images"
    one, two = images / "D0000001.jpg", images / "D0000002.jpg"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    after = embed(data, model / "qwen2_vl")
    changed = [item for item in before if not np.allclose(before[item], after[item], atol=1e-5)]
    assert changed == [1, 2]
    assert not (data / "Demo" / "Demo.emb-qwen2_vl-td-image.parts").exists()


def test_a_failed_batch_shifts_no_row(data, model, monkeypatch):
    straight = embed(data, model / "qwen2_vl")
    encode, calls = encoders.Encoder.encode, []

    def fail_on_the_second_batch(self, texts, pictures):
        calls.append(len(texts))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return encode(self, texts, pictures)

    monkeypatch.setattr(encoders.Encoder, "encode", fail_on_the_second_batch)
    with_failure = embed(data, model / "qwen2_vl")
    assert calls[:4] == [7, 7, 1, 1]
    for item, vector in straight.items():
        np.testing.assert_allclose(with_failure[item], vector, atol=1e-5)


def test_failed_items_are_listed_and_the_rest_is_kept(data, model, monkeypatch):
    (data / "Demo" / "images" / "D0000005.jpg").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"(?s)1 of 40 items failed.*item 5: .*D0000005\.jpg"):
        embed(data, model / "qwen2_vl")
    parts = data / "Demo" / "Demo.emb-qwen2_vl-td-image.parts"
    assert not (data / "Demo" / "Demo.emb-qwen2_vl-td-image.npy").exists()

    encode, items = encoders.Encoder.encode, []
    monkeypatch.setattr(encoders.Encoder, "encode", lambda *args: items.append(len(args[1])) or encode(*args))
    with pytest.raises(ValueError, match="other settings"):
        embed(data, model / "qwen2_vl", max_length=9)
    assert len(embed(data, model / "qwen2_vl", skip_bad_images=True)) == 40
    assert sum(items) == 1  # the other 39 were kept
    assert not parts.exists()


def test_mended_pictures_are_embedded_and_the_rest_is_kept(data, model, monkeypatch):
    picture = data / "Demo" / "images" / "D0000005.jpg"
    good = picture.read_bytes()
    picture.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="1 of 40"):
        embed(data, model / "qwen2_vl")
    picture.write_bytes(good)
    encode, items = encoders.Encoder.encode, []
    monkeypatch.setattr(encoders.Encoder, "encode", lambda *args: items.append(len(args[1])) or encode(*args))
    mended = embed(data, model / "qwen2_vl")
    assert sum(items) == 1
    straight = embed(data, model / "qwen2_vl")
    np.testing.assert_allclose(np.stack(list(mended.values())), np.stack(list(straight.values())), atol=1e-5)


def test_nan_is_refused(data, model, monkeypatch):
    pool = encoders.pool
    monkeypatch.setattr(encoders, "pool", lambda *args: pool(*args) * torch.nan)
    with pytest.raises(RuntimeError, match="NaN"):
        embed(data, model / "qwen2")


def test_text_models_say_that_they_do_not_see(data, model):
    vectors = embed(data, model / "qwen2")
    assert (data / "Demo" / "Demo.emb-qwen2-td.npy").is_file()
    alone = embed(data, model / "qwen2", batch_size=1, name="alone")
    np.testing.assert_allclose(np.stack(list(vectors.values())), np.stack(list(alone.values())), atol=1e-5)
    with pytest.raises(ValueError, match="text model"):
        embed(data, model / "qwen2", image_only=True)


def test_pooling_ignores_padding():
    hidden = torch.tensor([[[1.0], [3.0], [9.0]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert encoders.pool(hidden, mask, "mean").tolist() == [[2.0], [4.0]]
    assert encoders.pool(hidden, mask, "last").tolist() == [[3.0], [6.0]]
