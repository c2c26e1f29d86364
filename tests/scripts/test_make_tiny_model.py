"""Every family is built, loads like a published model, and runs."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from scripts.make_tiny_model import FAMILIES, TinyModelConfig, make_tiny_model
from src.common.artifacts import UMASK
from src.processors import load_processor, processor_class

TEXT_FAMILIES = ("qwen2", "qwen3", "llama", "t5")
SMALL = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "vocab_size": 400}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "Toy.item.json"
    path.write_text(json.dumps({str(i): {"title": f"red cotton shirt number {i}"} for i in range(50)}))
    return path


def auto_class(family: str):
    if family == "t5":
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM if family in TEXT_FAMILIES else transformers.AutoModelForImageTextToText


@pytest.mark.parametrize("family", FAMILIES)
def test_family_loads_and_runs(family, corpus, tmp_path):
    folder = make_tiny_model(TinyModelConfig(family, tmp_path / family, corpus, **SMALL))
    model, info = auto_class(family).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = load_processor(folder)
    tokenizer = getattr(processor, "tokenizer", processor)
    assert (processor_class(folder) is None) == (family in TEXT_FAMILIES)
    assert tokenizer.decode(tokenizer("héllo red\n☃ 12").input_ids, skip_special_tokens=True) == "héllo red\n☃ 12"

    as_text = [{"role": "user", "content": "what next?"}]
    as_parts = [{"role": "user", "content": [{"type": "text", "text": "what next?"}]}]
    prompts = [
        processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in (as_text, as_parts)
    ]
    assert prompts[0] == prompts[1]
    assert "what next?" in prompts[0]

    if family in TEXT_FAMILIES:
        inputs = processor(prompts, return_tensors="pt")
        inputs.pop("token_type_ids", None)
    else:
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what next?"}]}]
        prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        pictures = [Image.new("RGB", (100, 100), colour) for colour in ("red", "blue")]
        inputs = processor(text=[prompt] * 2, images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model.eval()(**inputs, labels=inputs["input_ids"])
    assert torch.isfinite(output.loss)
    if family not in TEXT_FAMILIES:
        assert not torch.allclose(output.logits[0], output.logits[1], atol=1e-6)  # the picture reaches the model


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("image_size", [56, 84])
def test_image_size_is_exact(family, image_size, corpus, tmp_path):
    config = TinyModelConfig(family, tmp_path / "model", corpus, **SMALL, image_size=image_size)
    processor = load_processor(make_tiny_model(config))
    for side in (1, 40, 56, 60, 71, 83, 100, 112, 333):
        grid = processor.image_processor(Image.new("RGB", (side, side)), return_tensors="pt")["image_grid_thw"]
        assert grid.tolist() == [[1, image_size // 14, image_size // 14]], side


def test_seed_and_ties(corpus, tmp_path):
    def head(name: str, **settings):
        folder = make_tiny_model(TinyModelConfig("qwen2", tmp_path / name, corpus, **SMALL, **settings))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        return model.get_input_embeddings().weight, model.get_output_embeddings().weight

    first, again, other = head("a"), head("b"), head("c", seed=7)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert first[0].data_ptr() == first[1].data_ptr()
    untied = head("d", tie_word_embeddings=False, init_std=0.2)
    assert not torch.equal(*untied)
    assert untied[0].std().item() == pytest.approx(0.2, rel=0.05)


def test_only_replaces_its_own_folders(corpus, tmp_path):
    config = TinyModelConfig("qwen2", tmp_path / "model", corpus, **SMALL)
    make_tiny_model(config)
    make_tiny_model(config)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~UMASK
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose another --out"):
        make_tiny_model(TinyModelConfig("qwen2", tmp_path / "mine", corpus, **SMALL))
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"family": "gpt"}, "choose one of"), ({"hidden_size": 33}, "multiple"), ({"image_size": 50}, "multiple of 28")],
)
def test_bad_settings_name_the_cure(settings, message):
    with pytest.raises(ValueError, match=message):
        TinyModelConfig(**{"family": "qwen2", "out": Path("x"), "corpus": Path("y"), **settings})
