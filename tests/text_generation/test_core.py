"""Evaluation of texts: the same for any number of ranks and after any kill, for every task and kind of model."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from src.common.artifacts import read_json, write_json
from src.reporting.answers import case_lines
from src.tasks.task import load_task
from src.text_generation import benchmark, case, compare, evaluate
from src.text_generation.config import TextCaseConfig, TextConfig
from src.text_generation.core import evaluate as run
from src.text_generation.core import run_key
from src.text_generation.generator import Captioner, Generator, join_fields, make_generator
from src.text_generation.judging import copied, judge
from src.text_generation.plan import check, prompt_settings, shuffled
from src.text_generation.questions import make_samples
from src.text_generation.results import predictions_path, read_predictions, read_results, upsert
from tests.seqrec.test_core import checkpoint, write_checkpoint
from tests.toy import (
    INDEX_FILE,
    NAME,
    WITHOUT_PICTURE,
    enriched_fields,
    item_fields,
    scratch,
    shared_model,
    tiny_model,
    toy_catalogue,
    toy_copy,
    toy_path,
)

TEST_ITEMS = toy_catalogue().enriched_split("test").tolist()


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr("src.text_generation.core.NUM_RESAMPLES", 20)


def config_for(folder: Path, family: str = "qwen2_vl", **changes) -> TextConfig:
    values = {
        "dataset": NAME,
        "index_file": None if changes.get("zero_shot") else INDEX_FILE,
        "ckpt_model": tiny_model(family) if changes.get("zero_shot") else checkpoint(family),
        "data_path": toy_path(),
        "test_batch_size": 2,
        "max_new_tokens": 8,
        "results_file": folder / "results.json",
        "device": "cpu",
    }
    return TextConfig(**{**values, **changes})


def fake_answers(monkeypatch, write) -> list[int]:
    """Lets `write(item)` answer in place of a model; gives the items that were asked about."""
    from src.text_generation.generator import Answers

    asked = []

    def answer(self, template, prompt_id, numbers, limit, decoding):
        items = self.samples.items[numbers].tolist()
        asked.extend(items)
        none = np.zeros(len(items), bool)
        return Answers([write(item) for item in items], none, none)

    monkeypatch.setattr(Generator, "answer", answer)
    return asked


def labelled(item: int) -> str:
    """The right answer of text_enrich, in another order."""
    fields = enriched_fields(item)
    lines = {
        "Tags": "tags",
        "Title": "enhanced_title",
        "Highlights": "highlights",
        "Characteristics": "characteristics",
    }
    texts = {label: fields[slot] for label, slot in lines.items()}
    texts = {label: text if isinstance(text, str) else "; ".join(e.replace(";", ",") for e in text)
             for label, text in texts.items()}  # fmt: skip
    return "\n".join(f"{label}: {text}" for label, text in texts.items() if text)


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


# ---- ranks and kills -------------------------------------------------------------------------------------------------
def test_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = run(config_for(tmp_path / "whole"))
    config = config_for(tmp_path / "killed")
    answer, calls = Generator.answer, []

    def fail_later(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return answer(self, *args)

    monkeypatch.setattr("src.common.parts.SAVE_SECONDS", -1)
    monkeypatch.setattr(Generator, "answer", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(config)
    assert not config.results_path.exists()
    asked = []
    monkeypatch.setattr(Generator, "answer", lambda self, *args: asked.extend(args[2]) or answer(self, *args))
    run(config)
    assert len(asked) == len(TEST_ITEMS) - 2
    frames = [read_predictions(predictions_path(path)) for path in (whole, config.results_path)]
    assert frames[0].equals(frames[1])


def test_ranks_are_joined_before_they_wait_for_each_other(tmp_path, monkeypatch):
    """Evaluation on several ranks used to end at its first barrier, in Parts, before there was a group."""
    done = []
    monkeypatch.setattr("src.text_generation.core.init_process_group", lambda device: done.append("joined"))
    monkeypatch.setattr("src.common.parts.barrier", lambda: done.append("waited"))
    run(config_for(tmp_path, sample_num=1))
    assert done[:2] == ["joined", "waited"]


def test_answers_of_another_processor_are_not_taken(tmp_path):
    """Pictures of another size, after a run that was killed for want of memory."""
    folder = shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "ckpt")
    config = config_for(tmp_path, ckpt_model=folder)
    before = run_key(config, check(config))
    assert run_key(replace(config, device="auto", page_items=1), check(config)) == before
    path = next(
        folder / name for name in ("preprocessor_config.json", "processor_config.json") if (folder / name).is_file()
    )
    write_json(path, read_json(path) | {"max_pixels": 99})
    assert run_key(config, check(config)) != before


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path):
    one = run(config_for(tmp_path / "one"))
    flags = flags_for(tmp_path / "two", checkpoint("qwen2_vl"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, "-m", "src.text_generation.evaluate", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    frames = [read_predictions(predictions_path(tmp_path / name / "results.json")) for name in ("one", "two")]
    assert frames[0].equals(frames[1])
    means = [read_results(path)["mean_results"] for path in (one, tmp_path / "two" / "results.json")]
    assert means[0] == means[1]


def flags_for(folder: Path, ckpt: Path, *more) -> list[str]:
    return [
        *("--dataset", NAME, "--data_path", str(toy_path()), "--index_file", INDEX_FILE, "--ckpt_model", str(ckpt)),
        *("--device", "cpu", "--max_new_tokens", "8", "--test_batch_size", "2"),
        *("--results_file", str(folder / "results.json"), *map(str, more)),
    ]


# ---- models that were not fine-tuned ---------------------------------------------------------------------------------
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


# ---- the table -------------------------------------------------------------------------------------------------------
def row(model: str, **more) -> dict:
    return {"model": model, "dataset": "D", "task": "t", "split": "test", "prompts": "0", "pictures": "own", **more}


def test_no_row_is_lost_when_many_write(tmp_path):
    path = tmp_path / "table.csv"
    with ThreadPoolExecutor(8) as pool:  # each opens the lock anew, as a process of its own would
        list(pool.map(lambda number: upsert(path, [row(f"model {number}", rougeL=number)]), range(60)))
    table = pl.read_csv(path)
    assert sorted(table["rougeL"].to_list()) == list(range(60))


def test_rows_are_replaced_and_columns_added(tmp_path):
    path = tmp_path / "table.csv"
    upsert(path, [row("a", rougeL=1), row("b, c", rougeL=2)])
    upsert(path, [row("a", rougeL=3, bleu=4)])
    table = pl.read_csv(path)
    assert table["model"].to_list() == ["a", "b, c"]
    assert table["rougeL"].to_list() == [3, 2]
    assert table["bleu"].to_list() == [4, None]
    path.write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="a table of something else"):
        upsert(path, [row("a")])
    assert path.read_text() == "x,y\n1,2\n"


# ---- cases -----------------------------------------------------------------------------------------------------------
def test_cases_are_shown_in_the_order_asked(tmp_path, capsys):
    items = [str(item) for item in reversed(TEST_ITEMS[:2])]
    flags = flags_for(tmp_path, checkpoint("qwen2_vl"), "--items", ",".join(items), "--html", tmp_path / "page.html")
    case.main(flags)
    out = capsys.readouterr().out
    assert re.findall(r"=== (\d+) ", out) == items
    assert "reference Lovely" in out
    assert (tmp_path / "page.html").read_text().count('class="person"') == 2
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]  # nothing else is written


@pytest.mark.parametrize("flag", ["--table_file", "--page_items"])
def test_cases_refuse_flags_that_would_change_nothing(tmp_path, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        case.main(flags_for(tmp_path, Path("gone"), flag, "3"))
    assert ended.value.code == 2
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_cases_are_those_of_the_evaluation(tmp_path):
    config = TextCaseConfig(**vars(config_for(tmp_path)))
    case.show(replace(config, sample_num=2, html=tmp_path / "page.html"))
    drawn = check(replace(config, sample_num=2)).samples.keys
    assert set(drawn) <= {str(item) for item in TEST_ITEMS}
    assert len(drawn) == 2


# ---- comparing -------------------------------------------------------------------------------------------------------
@cache
def two_runs() -> tuple[Path, Path]:
    folder = scratch() / "text_runs"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(type(toy_catalogue()), "enriched_split", lambda self, split: self.item_ids[8:38])
        fake_answers(monkeypatch, labelled)
        good = run(config_for(folder / "good"))
        fake_answers(monkeypatch, lambda item: labelled(item).replace("kind", "sort").replace("Lovely", "Nice"))
        return good, run(config_for(folder / "worse"))


def test_compare_is_a_gate(capsys):
    good, worse = map(str, two_runs())
    assert compare.main([good, worse]) == 0
    assert "30 items, paired" in capsys.readouterr().out
    assert compare.main([good, worse, "--max_drop", "rougeL=.01"]) == 1
    assert "DROPPED" in capsys.readouterr().out
    assert compare.main([good, worse, "--max_drop", "rougeL=.5"]) == 0
    assert compare.main([worse, good, "--max_drop", "rougeL=.01,tags.rougeL=0"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics", "bleu"], "has no bleu of single samples: take sentence_bleu4"),
        (["--max_drop", "tags.chrf=1"], "has no tags.chrf of single samples: take sentence_chrf"),
        (["--metrics", "clarity"], "has no clarity of single samples"),
    ],
)
def test_what_does_not_compare_says_why(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main([*map(str, two_runs()), *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_wordings_that_ask_for_other_fields_compare(tmp_path, monkeypatch, capsys):
    """Some of index2item ask for titles, some for descriptions: metrics of titles used to have no sample at all."""
    fake_answers(monkeypatch, lambda item: "\n".join(item_fields(item)[name] for name in ("title", "description")))
    config = config_for(tmp_path / "all", "qwen2", test_task="index2item", test_prompt_ids="0,2", sample_num=10)
    both, title, description = (
        str(run(replace(config, test_prompt_ids=ids, results_file=tmp_path / ids / "results.json")))
        for ids in ("0,2", "0", "2")
    )
    assert compare.main([both, both, "--metrics", "title_hit@1,rougeL"]) == 0
    assert "title_hit@1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        compare.main([title, description])
    assert ended.value.code == 2
    assert "were judged by other right answers" in capsys.readouterr().err


def test_results_of_other_samples_do_not_compare(tmp_path, monkeypatch, capsys):
    fake_answers(monkeypatch, labelled)
    other = run(config_for(tmp_path))
    with pytest.raises(SystemExit):
        compare.main([str(two_runs()[0]), str(other)])
    assert "30 samples" in capsys.readouterr().err


# ---- faults ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2_vl", {"test_task": "seqrec"}, "'seqrec' is not written here.* use python -m src.seqrec.metric_ddp"),
        ("qwen2_vl", {"test_task": "poems"}, "'poems' is not written here: choose from index2item"),
        ("qwen2_vl", {"test_prompt_ids": "0,99"}, "--test_prompt_ids 0,99: text_enrich asks in wordings 0 to"),
        ("qwen2_vl", {"index_file": None}, "text_enrich names items by their SIDs: give --index_file"),
        ("qwen2_vl", {"zero_shot": True, "index_file": INDEX_FILE}, "--index_file changes nothing with --zero_shot"),
        ("qwen2_vl", {"zero_shot": True, "test_task": "index2item"}, "--zero_shot: index2item asks about SIDs"),
        ("qwen2_vl", {"ckpt_model": Path("gone")}, "--ckpt_model gone is no folder"),
        ("qwen2_vl", {"temperature": 0.5}, "changes nothing without --do_sample"),
        (
            "qwen2_vl",
            {"max_new_tokens": 5000},
            "--max_new_tokens 5000 leaves no room for a prompt: .* takes 2048 tokens",
        ),
        ("qwen2_vl", {"test_batch_size": 0}, "--test_batch_size 0: it must be at least 1"),
        ("qwen2_vl", {"bertscore_model": Path("gone")}, "--bertscore_model gone is no folder with an encoder"),
        ("qwen2_vl", {"embedding_model": Path("gone")}, "--embedding_model gone is no folder with an encoder"),
        ("qwen2_vl", {"bertscore_layer": 2}, "--bertscore_layer changes nothing without --bertscore_model"),
        ("qwen2", {"test_task": "index2item", "shuffle_images": True}, "--shuffle_images: not every wording"),
        ("qwen2_vl", {"image_path": "none"}, "text_enrich shows pictures, and .*none has none"),
        ("qwen2_vl", {"results_file": Path("/dev/null/x.json")}, "x.json cannot be written"),
        ("qwen2", {}, "text_enrich shows pictures, and .*qwen2 is a qwen2, which takes only texts"),
        ("blip2", {"ckpt_model": "blip2"}, "is a blip-2, which GRec does not fine-tune"),
    ],
)
def test_faults_are_found_before_the_model(tmp_path, monkeypatch, family, changes, message):
    monkeypatch.setattr("src.text_generation.generator.make_generator", None)
    if changes.get("ckpt_model") == "blip2":
        changes, family = {"ckpt_model": tiny_model("blip2")}, "qwen2_vl"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(config_for(tmp_path, family, **changes))


def test_changed_wordings_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2_vl", toy_path())
    record = read_json(folder / "run.json") | {"templates_sha256": {"text_enrich": "of another time"}}
    write_json(folder / "run.json", record)
    with pytest.raises(ValueError, match="the wordings of text_enrich have changed"):
        check(config_for(tmp_path, ckpt_model=folder))


def test_the_entry_says_what_is_wrong(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--dataset", NAME, "--data_path", str(toy_path()), "--ckpt_model", "gone"])
    assert ended.value.code == 2
    assert "error: --ckpt_model gone is no folder" in capsys.readouterr().err


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


# ---- a list of models ------------------------------------------------------------------------------------------------
def write_list(folder: Path, **changes) -> Path:
    settings = {"dataset": NAME, "data_path": str(toy_path()), "device": "cpu", "max_new_tokens": 4, "sample_num": 2}
    models = [
        {"model_name": "ours", "ckpt_model": str(checkpoint("qwen2_vl")), "index_file": INDEX_FILE},
        {"model_name": "published", "ckpt_model": str(tiny_model("qwen2_vl")), "zero_shot": True},
    ]
    table = {"table_file": str(folder / "table.csv"), "settings": settings, "models": models, **changes}
    path = folder / "list.yml"
    path.write_text(json.dumps(table))  # JSON is YAML
    return path


def test_a_list_of_models_gives_one_table(tmp_path, capsys, monkeypatch):
    """Each in this process here, instead of one of its own; the first fails."""

    start = subprocess.run

    def run_here(command, **options):
        if "src.text_generation.evaluate" not in command:
            return start(command, **options)
        if "ours" not in command:
            evaluate.main(command[command.index("src.text_generation.evaluate") + 1 :])
        return subprocess.CompletedProcess(command, int("ours" in command))

    monkeypatch.setattr(benchmark.subprocess, "run", run_here)
    path = write_list(tmp_path)
    table = json.loads(path.read_text())
    for entry in table["models"]:
        entry["results_file"] = str(tmp_path / f"{entry['model_name']}.json")
    path.write_text(json.dumps(table))
    assert benchmark.main(["--config", str(path)]) == 1
    assert pl.read_csv(tmp_path / "table.csv")["model"].to_list() == ["published", "copy title", "copy input"]
    out, err = capsys.readouterr()
    assert out.splitlines()[-3].startswith("published")
    assert "rougeL" in out.splitlines()[-4]
    assert "failed: ours" in err


def test_the_table_of_a_list_holds_its_task_only(tmp_path):
    """All tasks of a dataset share one file."""
    upsert(tmp_path / "t.csv", [row("a", task="text_enrich", bleu=1), row("b", task="index2item", bleu=2)])
    lines = benchmark.table_lines(tmp_path / "t.csv", TextConfig("D", Path(), test_task="mmitemenrich"))
    assert [line.split()[0] for line in lines[1:]] == ["a"]


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"models": []}, [], "must hold a list `models`"),
        ({"speed": 3}, [], "there is no setting 'speed'"),
        ({"models": [{"ckpt_model": "x"}]}, [], "every model needs a model_name"),
        (
            {"models": [{"model_name": "x", "ckpt_model": "gone", "sped": 2}]},
            [],
            "model x: unrecognized arguments: --sped",
        ),
        ({"models": [{"model_name": "x", "ckpt_model": "gone"}]}, [], "model x: --ckpt_model gone is no folder"),
        ({"settings": ["dataset"]}, [], "`settings` must be flags with their values"),
        ({"nproc_per_node": "all"}, [], "nproc_per_node 'all' is no whole number"),
        (
            {"settings": {"dataset": NAME, "results_file": "one.json"}},
            [],
            "several models would write one.json: give each a results_file of its own",
        ),
        ({"nproc_per_node": 0}, [], "--nproc_per_node 0: it must be at least 1"),
        ({}, ["--only", "mine"], "--only mine: .* has the models ours, published"),
    ],
)
def test_faults_of_a_list_are_found_before_any_run(tmp_path, monkeypatch, capsys, changes, flags, message):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--config", str(write_list(tmp_path, **changes)), *flags])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_list_that_is_shipped_is_well_formed():
    runs, processes = benchmark.read_runs(Path(__file__).parents[2] / "config" / "text_generation_benchmark.yml", [])
    assert processes == 1
    assert [run.config.zero_shot for run in runs] == [False, True, True, True, True, True]


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


def test_cases_in_the_terminal(tmp_path):
    plan = check(config_for(tmp_path))
    config = config_for(tmp_path)
    answers = [labelled(item) for item in TEST_ITEMS]
    lines = case_lines(plan, judge(config, plan, plan.wordings[0], answers), 0)
    assert lines[0] == f"=== {TEST_ITEMS[0]}  ROUGE-L 1.000"


def test_items_without_an_answer_are_left_out(tmp_path):
    data = toy_copy(tmp_path)
    items = read_json(data / NAME / f"{NAME}.item.json")
    items["4"]["title"] = " "
    write_json(data / NAME / f"{NAME}.item.json", items)
    config = config_for(tmp_path, "qwen2", data_path=data, test_task="index2item")
    assert "4" not in check(config).samples.keys
    samples = make_samples(load_task("index2item"), toy_catalogue(), "test", False)
    assert "4" in samples.keys
