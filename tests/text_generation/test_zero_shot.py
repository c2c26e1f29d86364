"""Models that were not fine-tuned are asked without SIDs, each in its own way."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.common.artifacts import read_json, write_json
from src.text_generation.core import evaluate as run
from src.text_generation.generator import Captioner, join_fields, make_generator
from src.text_generation.plan import check, prompt_settings
from src.text_generation.results import predictions_path, read_predictions, read_results
from tests.text_generation.toy_runs import TEST_ITEMS, config_for
from tests.toy import WITHOUT_PICTURE, item_fields, tiny_model


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_onevision"])
def test_published_models_are_asked_without_sids(tmp_path, family):
    config = config_for(tmp_path, family, zero_shot=True, sample_num=3)
    plan = check(config)
    assert plan.catalogue.sid_index is None
    prompt = plan.texts.prompt(plan.wordings[0].answer, 0)
    assert "<a_" not in prompt
    assert item_fields(int(plan.samples.items[0]))["title"] in prompt
    results = read_results(run(config))
    assert (results["zero_shot"], results["asked_by_field"], results["index"]) == (True, False, None)
    assert set(results["baselines"]) == {"copy title", "copy input"}


def test_a_published_model_takes_pictures_of_any_size(tmp_path):
    """Where a picture was more than 2,048 tokens, it ended with the advice to raise a flag that evaluate lacks."""
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "published")
    table = read_json(folder / "config.json")
    table["text_config"]["max_position_embeddings"] = 7000
    write_json(folder / "config.json", table)
    assert prompt_settings(config_for(tmp_path, zero_shot=True, ckpt_model=folder)).model_max_length == 7000
    assert prompt_settings(config_for(tmp_path)).model_max_length == 2048  # as it was trained


@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_captioners_are_asked_field_by_field(tmp_path, family):
    """In batches as alone, with pictures that reach them."""
    import torch

    config = config_for(tmp_path, family, zero_shot=True)
    results = read_results(run(config))
    assert (results["asked_by_field"], results["num_samples"]) == (True, len(TEST_ITEMS))
    assert results["samples_without_picture"] == len(set(TEST_ITEMS) & set(WITHOUT_PICTURE))
    answers = read_predictions(predictions_path(config.results_path))["answer"].to_list()
    assert all(
        re.match(r"(Title|Tags|Highlights|Characteristics): ", line)
        for text in answers
        for line in text.split("\n")
        if line
    )
    plan = check(config)
    captioner = make_generator(config, plan.catalogue, plan.samples, torch.device("cpu"))
    assert isinstance(captioner, Captioner)
    template = next(iter(plan.wordings[0].questions.values()))
    numbers = np.arange(len(plan.samples))
    together = captioner.answer(template, 0, numbers, 8, plan.decoding)
    alone = [captioner.answer(template, 0, numbers[i : i + 1], 8, plan.decoding).texts[0] for i in numbers]
    assert together.texts == alone
    assert len(set(together.texts)) > 1
    sampled = [
        captioner.answer(template, 0, numbers, 8, plan.decoding._replace(do_sample=True)).texts for _ in range(2)
    ]
    assert sampled[0] == sampled[1] != together.texts


def test_a_captioner_ends_where_its_config_says(tmp_path):
    """BLIP-2 with OPT ends at a line break, and its tokenizer knows only `</s>`: it used to write on to the limit."""
    import torch

    def ask(folder: Path):
        config = config_for(tmp_path, zero_shot=True, ckpt_model=folder)
        plan = check(config)
        captioner = make_generator(config, plan.catalogue, plan.samples, torch.device("cpu"))
        template = next(iter(plan.wordings[0].questions.values()))
        return captioner, captioner.answer(template, 0, np.arange(len(plan.samples)), 8, plan.decoding)

    captioner, free = ask(tiny_model("blip2"))
    tokens = captioner.tokenizer(free.texts[0], add_special_tokens=False)["input_ids"]
    folder = shutil.copytree(tiny_model("blip2"), tmp_path / "blip2")
    table = read_json(folder / "config.json")
    table["text_config"]["eos_token_id"] = tokens[-1]
    write_json(folder / "config.json", table)
    _, ended = ask(folder)
    assert (free.cut[0], ended.cut[0]) == (True, False)
    assert len(ended.texts[0]) < len(free.texts[0])


def test_fields_asked_one_by_one_are_joined():
    from src.text_generation.generator import Answers

    none = np.zeros(2, bool)
    parts = {
        "enhanced_title": Answers(["A\nmug", "B"], np.array([True, False]), none),
        "tags": Answers(["red", ""], none, none),
    }
    joined = join_fields(parts, {"enhanced_title": "Title", "tags": "Tags"})
    assert joined.texts == ["Title: A mug\nTags: red", "Title: B"]
    assert joined.cut.tolist() == [True, False]
