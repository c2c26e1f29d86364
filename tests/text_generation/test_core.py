"""Evaluation of texts: what is written and scored, for every task."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from src.common.artifacts import read_json, write_json
from src.tasks.task import load_task
from src.text_generation.core import evaluate as run
from src.text_generation.generator import make_generator
from src.text_generation.judging import copied
from src.text_generation.plan import check, shuffled
from src.text_generation.questions import make_samples
from src.text_generation.results import predictions_path, read_predictions, read_results
from tests.text_generation.toy_runs import TEST_ITEMS, config_for, fake_answers, labelled
from tests.toy import NAME, WITHOUT_PICTURE, item_fields, shared_model, tiny_model, toy_catalogue, toy_copy


# ---- what is written -------------------------------------------------------------------------------------------------
def test_right_answers_score_all_and_copies_do_not(tmp_path, monkeypatch):
    fake_answers(monkeypatch, labelled)
    results = read_results(run(config_for(tmp_path, model_name="right")))
    means = results["mean_results"]
    assert results["num_samples"] == len(TEST_ITEMS)
    for name in ("rougeL", "tags.rougeL", "tags.tag_f1", "characteristics.sentence_bleu4", "parsed", "length_ratio"):
        assert means[name] == pytest.approx(1), name
        assert results["confidence_intervals"][name] == pytest.approx([1, 1])
    assert means["bleu"] == pytest.approx(100)
    assert 0 < results["baselines"]["copy title"]["rougeL"] < 0.6
    assert 0 < results["baselines"]["copy input"]["rougeL"] < 0.6
    assert set(results["baselines"]["copy title"]) == set(means)
    assert "tok:13a" in results["signatures"]["bleu"]
    assert results["decoding"]["do_sample"] is False
    frame = read_predictions(predictions_path(tmp_path / "results.json"))
    assert frame["item"].to_list() == TEST_ITEMS
    assert frame["generated:tags"].to_list() == frame["reference:tags"].to_list()
    page = (tmp_path / "results.html").read_text()
    assert page.count('class="person"') == len(TEST_ITEMS)
    assert page.count("data:image/jpeg") == len(set(TEST_ITEMS) - set(WITHOUT_PICTURE))
    table = pl.read_csv(tmp_path / "text_generation.csv")
    assert table["model"].to_list() == ["right", "copy title", "copy input"]
    assert table["rougeL"][0] == pytest.approx(1)
    assert not list(tmp_path.glob("*.parts"))


def test_fields_that_an_item_lacks_are_not_asked_of_it(tmp_path, monkeypatch):
    """Item 1 has no highlights: they are judged on the other items only."""
    catalogue = toy_catalogue()
    monkeypatch.setattr(type(catalogue), "enriched_split", lambda self, split: np.array([0, 1, 2]))
    fake_answers(monkeypatch, labelled)
    path = run(config_for(tmp_path))
    assert read_results(path)["mean_results"]["highlights.rougeL"] == pytest.approx(1)
    frame = read_predictions(predictions_path(path))
    assert frame["score:highlights.rougeL"].to_list() == [1, None, 1]
    assert frame["reference:highlights"].to_list()[1] is None


def test_a_real_model_writes(tmp_path):
    """Random weights: nothing is parsed, and it is told; texts hold no control tokens."""
    path = run(config_for(tmp_path, page_items=0))
    results = read_results(path)
    assert results["mean_results"]["parsed"] == 0
    assert results["max_new_tokens"] == [8]
    frame = read_predictions(predictions_path(path))
    assert all(frame["answer"].to_list())
    assert not any(re.search(r"<\|\w+\|>|<[abc]_\d+>", answer) for answer in frame["answer"])
    assert not (tmp_path / "results.html").exists()


@pytest.mark.parametrize(
    ("family", "task", "size", "fields"),
    [
        ("qwen2", "index2item", 40, {"title"}),
        ("qwen2_vl", "mmindex2item", 40, {"title", "brand", "categories", "description"}),
        ("qwen2", "preferenceobtain", None, {"preference"}),
        ("qwen2_vl", "mmitemenrichwithoutid", len(TEST_ITEMS), {"tags", "highlights"}),
        ("qwen2_vl", "mmitemenrich", len(TEST_ITEMS), {"tags", "highlights"}),
    ],
)
def test_other_tasks(tmp_path, family, task, size, fields):
    results = read_results(run(config_for(tmp_path, family, test_task=task, max_new_tokens=3, sample_num=0)))
    assert size in (None, results["num_samples"])
    frame = read_predictions(predictions_path(tmp_path / "results.json"))
    assert {f"reference:{field}" for field in fields} <= set(frame.columns)
    assert ("title_hit@1" in results["mean_results"]) == (task != "preferenceobtain")
    assert bool(results["baselines"]) == (task not in ("index2item", "mmindex2item"))
    assert results["split"] == ("seen" if size == 40 else "test")
    assert ("pictures" in results["inputs"]) == (family != "qwen2")


def test_longest_answer_comes_from_the_training_split(tmp_path):
    results = read_results(run(config_for(tmp_path, max_new_tokens=0, sample_num=1)))
    loaded = shared_model("qwen2_vl")
    training = toy_catalogue().enriched_split("train").tolist()
    template = load_task("text_enrich").templates[0]
    from tests.toy import toy_builder

    longest = max(len(toy_builder(loaded).answer_ids(template, [], item)) for item in training)
    assert results["max_new_tokens"] == [int(np.ceil(1.5 * longest))]


# ---- special tokens --------------------------------------------------------------------------------------------------
def test_special_tokens_never_reach_a_text(tmp_path):
    config = config_for(tmp_path)
    plan = check(config)
    import torch

    generator = make_generator(config, plan.catalogue, plan.samples, torch.device("cpu"))
    tokenizer = generator.loaded.tokenizer
    words = tokenizer("Title: Fine mug", add_special_tokens=False)["input_ids"]
    sid = tokenizer.convert_tokens_to_ids("<a_1>")
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    written = [np.array([sid, *words, pad, generator.builder.end_token]), np.array(words)]
    answers = generator.read(written)
    assert answers.texts == ["Title: Fine mug"] * 2
    assert answers.cut.tolist() == [False, True]
    assert answers.control.tolist() == [True, False]


# ---- pictures --------------------------------------------------------------------------------------------------------
def test_shuffled_pictures_are_others_and_it_is_told(tmp_path):
    own = toy_catalogue().image_files
    files = shuffled(own, np.array(TEST_ITEMS), 1)
    pictured = [item for item in TEST_ITEMS if item in own]
    assert all(files[item] != own[item] for item in pictured)
    assert sorted(files[item] for item in pictured) == sorted(own[item] for item in pictured)
    plain, mixed = (
        run(config_for(tmp_path / str(shuffle), shuffle_images=shuffle, table_file=tmp_path / "table.csv"))
        for shuffle in (False, True)
    )
    assert read_results(mixed)["shuffle_images"] is True
    assert read_results(mixed)["inputs"]["pictures"] == read_results(plain)["inputs"]["pictures"]
    answers = [read_predictions(predictions_path(path))["answer"].to_list() for path in (plain, mixed)]
    assert answers[0] != answers[1]
    assert pl.read_csv(tmp_path / "table.csv")["pictures"].to_list() == ["own", "none", "none", "others'"]
    assert "picture of another" in (tmp_path / "True" / "results.html").read_text()


def test_pixels_reach_the_model(tmp_path):
    """Same sizes, so the same prompts, and other pixels: answers that only a number of image tokens tells are equal."""
    data = toy_copy(tmp_path)
    plain = run(config_for(tmp_path / "plain", data_path=data))
    for path in (data / NAME / "images").iterdir():
        ImageOps.invert(Image.open(path).convert("RGB")).save(path)
    inverted = run(config_for(tmp_path / "inverted", data_path=data))
    answers = [read_predictions(predictions_path(path))["answer"].to_list() for path in (plain, inverted)]
    assert answers[0] != answers[1]


# ---- likeness of meaning ---------------------------------------------------------------------------------------------
def test_encoders_judge_meaning(tmp_path, monkeypatch):
    fake_answers(monkeypatch, lambda item: labelled(item) if item != TEST_ITEMS[0] else "")
    encoder = tiny_model("qwen2")
    config = config_for(tmp_path, bertscore_model=encoder, bertscore_layer=1, embedding_model=encoder)
    path = run(config)
    frame = read_predictions(predictions_path(path))
    for name in ("bertscore", "embedding_similarity"):
        values = frame[f"score:{name}"].to_list()
        assert values[0] == 0
        assert values[1:] == pytest.approx([1] * (len(TEST_ITEMS) - 1), abs=1e-5)
    assert 0 < read_results(path)["baselines"]["copy title"]["bertscore"] < 1
    with pytest.raises(ValueError, match="has the layers 0 to 2"):
        run(replace(config, bertscore_layer=9))


# ---- texts -----------------------------------------------------------------------------------------------------------
def test_baselines_copy_what_the_prompt_holds(tmp_path):
    plan = check(config_for(tmp_path))
    item = int(plan.samples.items[0])
    fields = item_fields(item)
    assert copied(plan, plan.wordings[0], "copy title")[0].splitlines()[1] == f"Tags: {fields['title']}"
    whole = ". ".join(fields[name] for name in ("title", "description", "brand", "categories"))
    assert copied(plan, plan.wordings[0], "copy input")[0].splitlines()[0] == f"Title: {whole}"
    preference = check(config_for(tmp_path, "qwen2", test_task="preferenceobtain"))
    history = preference.samples.history(preference.catalogue, 0).tolist()
    titles = [item_fields(item)["title"] for item in history]
    assert copied(preference, preference.wordings[0], "copy input")[0] == "; ".join(titles)
    assert copied(preference, preference.wordings[0], "copy title")[0] == titles[-1]


def test_items_without_an_answer_are_left_out(tmp_path):
    data = toy_copy(tmp_path)
    items = read_json(data / NAME / f"{NAME}.item.json")
    items["4"]["title"] = " "
    write_json(data / NAME / f"{NAME}.item.json", items)
    config = config_for(tmp_path, "qwen2", data_path=data, test_task="index2item")
    assert "4" not in check(config).samples.keys
    samples = make_samples(load_task("index2item"), toy_catalogue(), "test", False)
    assert "4" in samples.keys
