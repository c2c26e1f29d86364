"""Generation: batches give what single prompts give, answers end where they should, no checkpoint sets anything."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.collate import PromptCollator
from src.common.artifacts import write_json
from src.tasks.task import load_task
from src.text_generation.config import TextConfig
from src.text_generation.decoding import Decoding, choose, decoding_of, generate
from tests.toy import ALL_FAMILIES, VISION_FAMILIES, fresh_model, shared_model, toy_builder

SAMPLED = Decoding(do_sample=True, temperature=1.5, top_p=0.95, top_k=40, repetition_penalty=1.2)


def questions(loaded, items, image=True):
    builder = toy_builder(loaded)
    task = "mmindex2item" if loaded.processor is not None and image else "index2item"
    return [builder.question(load_task(task).templates[0], [], item, 40) for item in items]


def write_alone_and_together(loaded, samples, stop, decoding, limit=12):
    collate = PromptCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)
    seeds = list(range(len(samples)))
    together = generate(loaded.model, collate(samples), stop, limit, decoding, seeds)
    alone = [
        generate(loaded.model, collate([sample]), stop, limit, decoding, [seed])[0]
        for sample, seed in zip(samples, seeds, strict=True)
    ]
    return together, alone


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_batches_give_what_single_prompts_give(family):
    """Items with and without pictures, so that prompts are of unlike lengths; half of the answers end early."""
    loaded = shared_model(family)
    samples = questions(loaded, (0, 1, 3, 8, 30))
    first, _ = write_alone_and_together(loaded, samples, {-1}, Decoding())
    tokens = {token for ids in first for token in ids[2:-1].tolist()}
    stop = next({token} for token in sorted(tokens) if not all(token in ids[:-1] for ids in first))
    for decoding in (Decoding(), SAMPLED):
        together, alone = write_alone_and_together(loaded, samples, stop, decoding)
        assert [ids.tolist() for ids in together] == [ids.tolist() for ids in alone]
        for ids in together:
            assert not set(ids[:-1].tolist()) & stop
            assert len(ids) == 12 or int(ids[-1]) in stop
    greedy, _ = write_alone_and_together(loaded, samples, stop, Decoding())
    assert len({len(ids) for ids in greedy}) > 1  # some left the batch before others


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_greedy_is_that_of_transformers(family):
    loaded = shared_model(family)
    samples = questions(loaded, (0, 7, 12))
    inputs = PromptCollator(loaded.tokenizer.pad_token_id, False)(samples)
    ours = generate(loaded.model, inputs, {-1}, 10)
    plain = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    theirs = loaded.model.generate(**plain, do_sample=False, max_new_tokens=10, eos_token_id=None)
    np.testing.assert_array_equal(np.stack(ours), theirs[:, inputs["input_ids"].shape[1] :].numpy())


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_the_picture_reaches_the_answer(family):
    """The same words of two items with other pictures."""
    loaded = shared_model(family)
    builder = toy_builder(loaded)
    template = load_task("mmindex2item").templates[0]
    own = builder.question(template, [], 4, 40)
    other = own._replace(images=builder.question(template, [], 1, 40).images)
    collate = PromptCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)
    if own.images[0]["pixel_values"].shape != other.images[0]["pixel_values"].shape:
        other = own._replace(
            images=tuple({k: v * -1 if k == "pixel_values" else v for k, v in i.items()} for i in own.images)
        )
    texts = [generate(loaded.model, collate([sample]), {-1}, 12)[0].tolist() for sample in (own, other)]
    assert texts[0] != texts[1]


def test_settings_of_the_checkpoint_do_not_leak_in():
    loaded = fresh_model("qwen2")
    samples = questions(loaded, (0, 5))
    inputs = PromptCollator(loaded.tokenizer.pad_token_id, False)(samples)
    before = generate(loaded.model, inputs, {-1}, 8)
    loaded.model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=2)
    after = generate(loaded.model, inputs, {-1}, 8)
    np.testing.assert_array_equal(np.stack(before), np.stack(after))


# ---- choosing a token ------------------------------------------------------------------------------------------------
LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


@pytest.mark.parametrize(
    ("decoding", "shares"),
    [
        (Decoding(True), [0.5, 0.3, 0.15, 0.05]),
        (Decoding(True, top_k=2), [0.625, 0.375, 0, 0]),
        (Decoding(True, top_p=0.7), [0.625, 0.375, 0, 0]),
        (Decoding(True, temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(decoding, shares):
    numbers = (np.arange(2000) + 0.5) / 2000
    tokens = choose(LOGITS.expand(2000, -1), decoding, None, numbers)
    np.testing.assert_allclose(torch.bincount(tokens, minlength=4) / 2000, shares, atol=0.002)


def test_what_was_written_before_is_penalized():
    known = torch.tensor([[True, False, False, False]])
    logits = torch.tensor([[2.0, 1.5, -1.0, -2.0]])
    assert choose(logits, Decoding(repetition_penalty=1.2), known).item() == 0
    assert choose(logits, Decoding(repetition_penalty=1.5), known).item() == 1
    assert choose(-logits, Decoding(repetition_penalty=3.0), torch.tensor([[False, False, True, True]])).item() == 3


# ---- flags -----------------------------------------------------------------------------------------------------------
def config(folder: Path = Path("ckpt"), **changes) -> TextConfig:
    return TextConfig("Toy", folder, **changes)


def test_greedy_unless_flags_say_otherwise(tmp_path):
    write_json(tmp_path / "generation_config.json", {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.8})
    assert decoding_of(config(tmp_path)) == Decoding()
    asked = config(tmp_path, use_generation_config=True)
    assert decoding_of(asked) == Decoding(True, 0.1, 0.8, 1, 1.0)
    assert decoding_of(config(tmp_path, use_generation_config=True, top_p=0.5)).top_p == 0.5
    assert decoding_of(config(tmp_path, use_generation_config=True, do_sample=False)) == Decoding()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.7}, "--temperature 0.7 changes nothing without --do_sample"),
        ({"top_p": 0.9, "do_sample": False}, "--top_p 0.9 changes nothing without --do_sample"),
        ({"do_sample": True, "temperature": 0.0}, "--temperature 0.0: it must be above 0"),
        ({"do_sample": True, "temperature": float("nan")}, "--temperature nan: it must be above 0"),
        ({"do_sample": True, "top_p": 1.5}, "--top_p 1.5: it is a share"),
        ({"do_sample": True, "top_k": -1}, "--top_k -1: it must be at least 0"),
        ({"repetition_penalty": 0.0}, "--repetition_penalty 0.0: it must be above 0"),
        ({"use_generation_config": True}, r"generation_config.json does not exist. Leave out --use_generation_config"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        decoding_of(config(**changes))


@pytest.mark.parametrize(("name", "value"), [("temperature", "hot"), ("do_sample", "yes")])
def test_a_generation_config_of_other_types_is_refused(tmp_path, name, value):
    write_json(tmp_path / "generation_config.json", {"do_sample": True, name: value})
    with pytest.raises(ValueError, match=f"generation_config.json has {name} '{value}'"):
        decoding_of(config(tmp_path, use_generation_config=True))


def test_a_generation_config_that_asks_for_more_is_refused(tmp_path):
    write_json(tmp_path / "generation_config.json", {"num_beams": 4})
    with pytest.raises(ValueError, match="asks for num_beams 4, which is not done here"):
        decoding_of(config(tmp_path, use_generation_config=True))
