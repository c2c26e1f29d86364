"""Models as encoders: pictures count, batches and padding do not, and pooling is over the item's own tokens."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data_process import encoders, image_embeddings, qwen_embeddings, text_embeddings
from data_process.encoders import Encoder, content_span, pool
from data_process.image_embeddings import ImageConfig
from data_process.make_demo_data import DemoConfig, make_demo_data
from data_process.qwen_embeddings import QwenConfig
from data_process.text_embeddings import TextConfig
from scripts.make_tiny_model import TinyModelConfig, make_tiny_model
from src.common.artifacts import load_embeddings

VISION_TOKENS = ("vision_start", "vision_end", "image_pad")
CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    return make_demo_data(DemoConfig(data_path=tmp_path, items=40, users=5, image_size=56)).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "item.json").write_text(json.dumps({"0": {"title": "Nora mug in stoneware, made of lines"}}))
    small = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 400}
    for family in ("qwen2_vl", "qwen3_vl", "llava_onevision", "blip2", "qwen2", "llama", "t5"):
        make_tiny_model(TinyModelConfig(family, folder / family, folder / "item.json", **small))
    return folder


def rows(path):
    vectors, ids = load_embeddings(path)
    return dict(zip(ids, vectors, strict=True))


def embed(data, model, **settings):
    settings = {"batch_size": 7, **settings}
    return rows(qwen_embeddings.extract(QwenConfig(dataset="Demo", data_path=data, model=str(model), **settings)))


def assert_same(some, others):
    assert list(some) == list(others)
    for item in some:
        np.testing.assert_allclose(some[item], others[item], atol=1e-5)


# ---- vision-language and text models ---------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava_onevision", "blip2"])
def test_vectors_change_with_the_picture(data, model, family):
    before = embed(data, model / family)
    images = data / "Demo" / "images"
    one, two = images / "D0000001.jpg", images / "D0000002.jpg"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    after = embed(data, model / family)
    changed = [item for item in before if not np.allclose(before[item], after[item], atol=1e-5)]
    assert changed == [1, 2]
    alone = embed(data, model / family, image_only=True)
    assert not np.allclose(alone[1], alone[2], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2", "llama", "t5"])
def test_padding_and_batching_change_no_vector(data, model, family, pooling):
    """Some items have no picture, so that batches are mixed; texts differ in length, so that rows are padded."""
    for item in (3, 7, 8):
        (data / "Demo" / "images" / f"D{item:07d}.jpg").unlink()
    items = json.loads((data / "Demo" / "Demo.item.json").read_text())
    for item in range(0, 40, 3):
        items[str(item)]["description"] = "stoneware lines " * item
    (data / "Demo" / "Demo.item.json").write_text(json.dumps(items))
    together = embed(data, model / family, pooling=pooling, batch_size=16)
    assert_same(together, embed(data, model / family, pooling=pooling, batch_size=1, name="alone"))


def ids_as_states(seen):
    """A model whose hidden states are the token ids, so that pooling says which tokens it saw."""

    def model(input_ids, **_):
        seen.append(input_ids)
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())

    return model


@pytest.mark.parametrize(("family", "ending"), [("qwen2", "<|im_end|>"), ("llama", "<|eot_id|>"), ("t5", "</s>")])
def test_only_the_tokens_of_the_item_count(model, family, ending):
    texts = ("Nora mug", "made of lines")
    found = {}
    for pooling in ("mean", "last", "eos"):
        encoder = Encoder(str(model / family), CPU, pooling=pooling)
        encoder.model = ids_as_states([])
        found[pooling] = encoder.encode(texts, [None, None])[:, 0]
    tokenizer = encoder.tokenizer
    for row, text in enumerate(texts):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found["mean"][row] == pytest.approx(np.mean(own))
        assert found["last"][row] == own[-1]
        assert found["eos"][row] == tokenizer.convert_tokens_to_ids(ending)


def test_pictures_count_as_tokens_of_the_item(model):
    encoder, seen = Encoder(str(model / "qwen2_vl"), CPU), []
    encoder.model = ids_as_states(seen)
    picture = Image.new("RGB", (56, 56), "red")
    alone, with_text = (encoder.encode([text], [picture])[0, 0] for text in ("", "Nora mug"))
    start, end, pad = (encoder.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in VISION_TOKENS)
    count = int((seen[0] == pad).sum())
    assert count >= 4
    vision = [start, *[pad] * count, end]
    assert alone == pytest.approx(np.mean(vision))
    own = encoder.tokenizer("Nora mug", add_special_tokens=False)["input_ids"]
    assert with_text == pytest.approx(np.mean(vision + own))


def test_content_is_what_the_frame_lacks():
    assert content_span([1, 2, 7, 8, 3], [1, 2, 3]) == (2, 4)
    assert content_span([7, 8], []) == (0, 2)
    assert content_span([1, 1, 1, 2], [1, 2]) == (1, 3)  # the text begins as the frame does
    assert content_span([1, 2, 2, 2], [1, 2]) == (2, 4)  # and ends as it does: one place or the other
    assert content_span([1, 2, 3], [1, 2, 3]) == (0, 2)  # nothing is left


def test_pooling_of_known_states():
    hidden = torch.tensor([[[1.0], [3.0], [9.0]], [[2.0], [4.0], [6.0]]], dtype=torch.bfloat16)
    spans = torch.tensor([[0, 2], [1, 2]])
    for pooling, expected in {"mean": [2, 4], "last": [3, 4], "eos": [9, 6], "cls": [1, 2]}.items():
        found = pool(hidden, spans, pooling)
        assert (found[:, 0].tolist(), found.dtype) == (expected, torch.float32)


def test_long_texts_are_cut_before_the_picture(model):
    encoder = Encoder(str(model / "qwen2_vl"), CPU, max_length=5)
    words = " ".join(["stoneware"] * 50)
    (cut,) = encoder._cut([words])
    assert words.startswith(cut)
    assert len(encoder.tokenizer(cut, add_special_tokens=False)["input_ids"]) == 5
    picture = Image.new("RGB", (56, 56), "red")
    long, short = (encoder.encode([text], [picture]) for text in (words, cut))
    np.testing.assert_array_equal(long, short)


def test_nan_is_refused(data, model, monkeypatch):
    monkeypatch.setattr(encoders, "pool", lambda *args: pool(*args) * torch.nan)
    with pytest.raises(ValueError, match=r"(?s)40 of 40 items failed.*NaN"):
        embed(data, model / "qwen2")


def test_text_models_say_that_they_do_not_see(data, model):
    embed(data, model / "qwen2")
    assert (data / "Demo" / "Demo.emb-qwen2-td.npy").is_file()
    with pytest.raises(ValueError, match="text model"):
        embed(data, model / "qwen2", image_only=True)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near(data, model, dtype):
    half = np.stack(list(embed(data, model / "qwen2", dtype=dtype, name=dtype).values()))
    full = np.stack(list(embed(data, model / "qwen2").values()))
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-6 < error < 0.05
    with pytest.raises(ValueError, match="unknown --dtype"):
        embed(data, model / "qwen2", dtype="int8")


@pytest.mark.parametrize("extract", [qwen_embeddings.extract, text_embeddings.extract, image_embeddings.extract])
def test_a_folder_that_is_not_there(data, extract):
    kind = {qwen_embeddings.extract: QwenConfig, text_embeddings.extract: TextConfig}.get(extract, ImageConfig)
    for name in ("./none", "/models/none", "models/a/b", "../none"):
        with pytest.raises(FileNotFoundError, match="there is no model at"):
            extract(kind(dataset="Demo", data_path=data, model=name))
    with pytest.raises(FileNotFoundError, match="no dataset folder"):
        extract(kind(dataset="Other", data_path=data, model="no-such-model"))


# ---- text encoders ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT of at most 40 positions."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    words = BertWordPieceTokenizer()
    words.train_from_iterator(
        ["stoneware mug title description brand categories made of lines nora"] * 9, vocab_size=200
    )
    words.save_model(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    return folder


def test_any_encoder_of_texts(data, bert):
    """Texts longer than the model reads are cut, and [CLS] and [SEP] count only where they are asked for."""
    found = {}
    for pooling in (None, "mean", "cls", "last", "eos"):
        config = TextConfig(
            dataset="Demo", data_path=data, model=str(bert), pooling=pooling, name=str(pooling), max_length=500
        )
        found[pooling] = rows(text_embeddings.extract(config))
    assert_same(found[None], found["mean"])
    assert len({vectors[0].tobytes() for vectors in found.values()}) == 4
    prompted = TextConfig(dataset="Demo", data_path=data, model=str(bert), prompt="nora mug ", name="prompted")
    assert not np.allclose(rows(text_embeddings.extract(prompted))[0], found["mean"][0], atol=1e-3)


def test_sentence_encoders_pool_as_they_were_trained(data, bert, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = tmp_path / "sentence"
    word = Transformer(str(bert))
    modules = [word, Pooling(word.get_embedding_dimension(), "cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    config = TextConfig(dataset="Demo", data_path=data, model=str(folder), device="cpu", max_length=30)
    own = rows(text_embeddings.extract(config))
    assert (data / "Demo" / "Demo.emb-sentence-td.npy").is_file()
    plain = TextConfig(
        dataset="Demo", data_path=data, model=str(bert), pooling="cls", name="cls", max_length=28, device="cpu"
    )
    cls = {item: row / np.linalg.norm(row) for item, row in rows(text_embeddings.extract(plain)).items()}
    assert_same(own, cls)


# ---- image encoders --------------------------------------------------------------------------------------------------
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A tiny SigLIP, a ViT without pooler, as a classifier has it, and a ConvNeXt."""
    import transformers as t

    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    siglip = t.SiglipConfig(text_config={**TOWER, "vocab_size": 9}, vision_config=VISION)
    models = {
        "siglip": t.SiglipModel(siglip),
        "vit": t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False),
        "convnext": t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
    }
    for name, model in models.items():
        side = 64 if name == "convnext" else VISION["image_size"]
        size = {"height": side, "width": side}
        model.save_pretrained(folder / name)
        t.ViTImageProcessor(size=size).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", ["siglip", "vit", "convnext"])
def test_image_encoders(data, towers, name):
    def run(**settings):
        config = ImageConfig(dataset="Demo", data_path=data, model=str(towers / name), device="cpu", **settings)
        return rows(image_embeddings.extract(config))

    together, alone = run(), run(batch_size=1, name="alone")
    assert_same(together, alone)
    assert together[0].shape == (16,)
    images = data / "Demo" / "images"
    (images / "D0000001.jpg").write_bytes((images / "D0000002.jpg").read_bytes())
    swapped = run()
    np.testing.assert_allclose(swapped[1], swapped[2], atol=1e-6)
    assert not np.allclose(together[1], together[2], atol=1e-5)


def test_a_pooler_that_no_checkpoint_brought_is_not_used(towers):
    """transformers gives it random weights: the vectors of two processes would differ."""
    from data_process.image_encoders import ImageEncoder

    picture = Image.new("RGB", (28, 28), "red")
    torch.manual_seed(1)
    first = ImageEncoder(str(towers / "vit"), CPU).encode([""], [picture])
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, ImageEncoder(str(towers / "vit"), CPU).encode([""], [picture]))


def test_a_text_encoder_sees_no_pictures(data, bert):
    with pytest.raises(ValueError, match="is no image encoder"):
        image_embeddings.extract(ImageConfig(dataset="Demo", data_path=data, model=str(bert), device="cpu"))
