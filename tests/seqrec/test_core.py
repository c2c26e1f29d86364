"""Evaluation: the same numbers on any number of ranks and after any kill, for every kind of task."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.artifacts import TOKEN_META, file_hash, index_path, read_json, save_sid_index, write_json
from src.common.sid import SidIndex
from src.models import token_meta
from src.prompt import PromptSettings
from src.seqrec import case, core, metric_ddp
from src.seqrec.config import CaseConfig, EvaluateConfig, build_parser, config_from
from src.seqrec.core import Parts, Samples, ask, check, cut_batches, evaluate, make_samples, valid_share
from src.seqrec.recommender import Recommender, training_settings
from src.seqrec.results import Predictions, Ranked, predictions_path, read_predictions
from src.tasks.task import load_task
from tests.seqrec.test_results import DOCUMENTED
from tests.toy import (
    CODEBOOK_SIZES,
    INDEX_FILE,
    NAME,
    NUM_ITEMS,
    codes,
    dataset_paths,
    scratch,
    shared_model,
    tiny_model,
    toy_catalogue,
    toy_copy,
    toy_index,
    toy_path,
    user_texts,
)

ROOT = Path(__file__).resolve().parents[2]


def write_checkpoint(folder: Path, family: str, data: Path, **settings) -> Path:
    """A model that learnt nothing, as a fine-tuning run leaves it."""
    loaded = shared_model(family)
    loaded.model.save_pretrained(folder)
    (loaded.processor or loaded.tokenizer).save_pretrained(folder)
    index = replace(toy_index(), path=index_path(dataset_paths(data, NAME), "simple"))
    write_json(folder / TOKEN_META, token_meta(index, 600))
    record = {"prompt_settings": vars(PromptSettings(**settings)), "config": {"item_split": "all"}}
    write_json(folder / "run.json", record)
    return folder


@cache
def checkpoint(family: str = "qwen2") -> Path:
    return write_checkpoint(scratch() / "checkpoints" / family, family, toy_path(), max_his_len=6)


def config_for(folder: Path, family: str = "qwen2", **changes) -> EvaluateConfig:
    values = {
        "dataset": NAME,
        "index_file": INDEX_FILE,
        "ckpt_model": checkpoint(family),
        "data_path": toy_path(),
        "num_beams": 10,
        "test_batch_size": 8,
        "results_file": folder / "results.json",
        "device": "cpu",
    }
    return EvaluateConfig(**{**values, **changes})


def predictions_of(config: EvaluateConfig):
    return read_predictions(predictions_path(config.results_file))


def assert_equal_predictions(one: EvaluateConfig, other: EvaluateConfig) -> None:
    for ours, theirs in zip(predictions_of(one), predictions_of(other), strict=True):
        assert ours.users == theirs.users
        for field in ("targets", "ranked", "history_lengths"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    results = [json.loads(config.results_file.read_text()) for config in (one, other)]
    for name in ("mean_results", "all_prompt_results", "confidence_intervals", "slices", "num_samples"):
        assert results[0][name] == results[1][name]


# ---- what is written -------------------------------------------------------------------------------------------------
def test_results_are_as_documented(tmp_path):
    config = config_for(tmp_path, test_prompt_ids="0,3")
    assert evaluate(config) == config.results_file
    results = json.loads(config.results_file.read_text())
    assert results.keys() >= DOCUMENTED
    catalogue = toy_catalogue()
    users, positions = catalogue.next_item_targets("test")
    assert results["num_samples"] == len(users) == 48
    assert (results["test_prompt_ids"], results["num_beams"], results["dataset"]) == ([0, 3], 10, NAME)
    assert (results["is_lora"], results["base_model"], results["split"]) == (False, None, "test")
    assert results["checkpoint"] == str(checkpoint())
    assert set(results["mean_results"]) == set(config.metrics)
    assert results["valid_beams"] == 1
    by_item = {f"sid_{name}": value for name, value in results["mean_results"].items()}
    assert results["sid_results"] == pytest.approx(by_item, abs=1e-12)
    parts = predictions_of(config)
    assert [part.prompt_id for part in parts] == [0, 3]
    for number, part in enumerate(parts):
        assert list(part.users) == [catalogue.users[user] for user in users]
        np.testing.assert_array_equal(part.history_lengths, positions)
        assert part.targets.tolist() == [catalogue.target(u, p) for u, p in zip(users, positions, strict=True)]
        assert ((part.ranked >= 0) & (part.ranked < NUM_ITEMS)).all()
        assert all(len(set(row)) == len(row) for row in part.ranked.tolist())
        hits = (part.ranked == part.targets[:, None]).any(1).mean()
        assert results["all_prompt_results"][number]["hit@10"] == pytest.approx(hits)
    assert not (tmp_path / "results.predictions.parts").exists()


@pytest.mark.parametrize(
    ("family", "task", "size"),
    [
        ("qwen2", "fusionseqrec", 48),
        ("qwen2", "item2index", 40),
        ("qwen2_vl", "mmitem2index", 40),
        ("llava_onevision", "mmseqrec", 48),
        ("qwen2", "itemsearch", 96),
    ],
)
def test_other_tasks(tmp_path, family, task, size):
    config = config_for(tmp_path, family, test_task=task, test_prompt_ids="all")
    results = json.loads(evaluate(config).read_text())
    assert results["num_samples"] == size
    assert results["test_prompt_ids"] == list(range(len(load_task(task).item_templates)))
    assert results["split"] == ("seen" if size == 40 else "test")  # every item trained
    wordings = results["all_prompt_results"]
    assert len(wordings) == len(results["test_prompt_ids"])
    for name in config.metrics:
        column = [wording[name] for wording in wordings]
        assert results["mean_results"][name] == pytest.approx(np.mean(column))
        assert (results["min_results"][name], results["max_results"][name]) == (min(column), max(column))


def test_queries_are_asked_with_what_the_user_had_then(tmp_path):
    """Each query of `test` is a question of its own; its history is that of user.json, and its target the item."""
    config = config_for(tmp_path, test_task="itemsearch", filter_history=True, num_beams=NUM_ITEMS)
    evaluate(config)
    (part,) = predictions_of(config)
    searches = user_texts()["user_vague_intention"]["test"]
    assert list(part.users) == [user for user in searches for _ in range(2)]
    for user, target, length, ranked in zip(part.users, part.targets, part.history_lengths, part.ranked, strict=True):
        assert target == searches[user]["item"]
        assert length == len(searches[user]["inters"])
        assert not set(ranked.tolist()) & set(searches[user]["inters"])
    first, second = part.scores[0], part.scores[1]
    assert not np.allclose(first[:5], second[:5])  # the words of the query reach the model


def test_wordings_are_in_the_language_of_training(tmp_path):
    folder = write_checkpoint(tmp_path / "zh", "qwen2", toy_path(), prompt_lang="zh")
    config = config_for(tmp_path, ckpt_model=folder)
    task, _, catalogue = check(config)
    assert task == load_task("seqrec", "zh")
    asked = Recommender(config, catalogue, torch.device("cpu")).builder
    assert asked.settings.prompt_lang == "zh"
    assert json.loads(evaluate(config).read_text())["prompt_lang"] == "zh"
    check(replace(config, prompt_lang="zh"))
    with pytest.raises(ValueError, match=r"zh was trained on prompts in zh: leave out --prompt_lang"):
        check(replace(config, prompt_lang="en"))
    (folder / "run.json").unlink()  # of another system: only the flag can tell
    assert check(config)[0] == load_task("seqrec")
    assert check(replace(config, prompt_lang="zh"))[0] == task
    assert training_settings(replace(config, prompt_lang="zh")).prompt_lang == "zh"


def test_changed_wordings_are_refused(tmp_path, monkeypatch):
    """Of a task that the model was trained on; a model of another system does not say."""
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2", toy_path())
    config = config_for(tmp_path, ckpt_model=folder)
    record = read_json(folder / "run.json") | {"commit": "1234abc"}
    check(config)
    write_json(folder / "run.json", record | {"templates_sha256": {"seqrec": load_task("seqrec").templates_sha256}})
    check(config)
    write_json(folder / "run.json", record | {"templates_sha256": {"seqrec": load_task("item2index").templates_sha256}})
    check(replace(config, test_task="fusionseqrec"))  # not trained on
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    with pytest.raises(
        ValueError, match=r"of seqrec have changed since .*ckpt was trained \(commit 1234abc\).* seqrec\.json"
    ):
        evaluate(config)


def test_ranked_lists_do_not_depend_on_the_target(tmp_path):
    """The right item is handed over only to fill slots such as {title}."""
    config = config_for(tmp_path)
    _, _, catalogue = check(config)
    recommender = Recommender(config, catalogue, torch.device("cpu"))
    template = load_task("seqrec").templates[0]
    histories = [np.array([1, 4, 13]), np.array([2])]
    one, other = (recommender.rank(template, histories, items) for items in ([0, 0], [7, 9]))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_prompts_are_the_checkpoints(tmp_path):
    config = config_for(tmp_path)
    assert training_settings(config).max_his_len == 6
    assert training_settings(replace(config, max_his_len=0)).max_his_len == 0
    assert training_settings(replace(config, max_his_len=3)).his_sep == ", "


def test_share_of_what_was_ranked_that_are_items():
    ranked = np.array([[0, 39, -1, -1], [1, 40, 7, -1]])  # there is no item 40; -1 is no beam
    part = Predictions(["u1", "u2"], np.array([0, 1]), ranked, np.zeros((2, 4), np.float32))
    assert valid_share([part], toy_catalogue()) == 4 / 5


# ---- ranks and kills -------------------------------------------------------------------------------------------------
def test_batches_hold_every_sample_once_however_many_ranks():
    positions = np.random.default_rng(0).integers(1, 30, 53)
    samples = Samples(np.arange(53), positions, positions, next_item=True)
    batches = cut_batches(samples, 8)
    assert [len(batch) for batch in batches] == [8] * 6 + [5]
    assert sorted(int(i) for batch in batches for i in batch) == list(range(53))
    for ranks in (1, 2, 3, 9):
        shares = [batches[rank::ranks] for rank in range(ranks)]
        assert sorted(int(i) for share in shares for batch in share for i in batch) == list(range(53))


@pytest.fixture
def whole(tmp_path) -> EvaluateConfig:
    config = config_for(tmp_path / "whole")
    evaluate(config)
    return config


def ask_some(config: EvaluateConfig, batches_of) -> None:
    """What a run that is killed leaves behind: predictions of some batches."""
    task, _, catalogue = check(config)
    samples = make_samples(config, task, catalogue)
    recommender = Recommender(config, catalogue, torch.device("cpu"))
    parts = Parts(config, catalogue)
    batches = cut_batches(samples, config.test_batch_size)
    ask(recommender, task.item_templates[0], 0, samples, batches_of(batches), parts)


def test_killed_run_goes_on_where_it_was(tmp_path, whole, monkeypatch):
    config = config_for(tmp_path / "killed")
    ask_some(config, lambda batches: batches[1:3])
    asked = []
    rank = Recommender.rank

    def spy(self, template, histories, *others):
        asked.append(len(histories))
        return rank(self, template, histories, *others)

    monkeypatch.setattr(Recommender, "rank", spy)
    evaluate(config)
    assert sum(asked) == 48 - 16
    assert_equal_predictions(config, whole)


def test_parts_of_another_run_are_not_taken(tmp_path, whole):
    config = config_for(tmp_path / "other")
    ask_some(replace(config, filter_history=True), lambda batches: batches)
    evaluate(config)
    assert_equal_predictions(config, whole)


@pytest.mark.parametrize("change", ["settings", "wordings"])
def test_parts_of_other_prompts_are_not_taken(tmp_path, monkeypatch, change):
    """A killed run used to go on with what had been asked in other words."""
    config = config_for(tmp_path, ckpt_model=write_checkpoint(tmp_path / "ckpt", "qwen2", toy_path()))
    catalogue = toy_catalogue()
    with Parts(config, catalogue) as parts:
        parts.write(0, [np.arange(8)], [Ranked(np.zeros((8, 10), np.int64), np.zeros((8, 10), np.float32))])
    assert len(list(Parts(config, catalogue).done(0))) == 1
    if change == "settings":
        record = read_json(config.ckpt_model / "run.json")
        write_json(config.ckpt_model / "run.json", record | {"prompt_settings": {"max_his_len": 2}})
    else:
        monkeypatch.setattr(core, "load_task", lambda name, language: load_task("fusionseqrec", language))
    assert not list(Parts(config, catalogue).done(0))


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_rank_asks_its_share(tmp_path, whole, monkeypatch, ranks):
    """One rank after the other in this process: together they give one rank's lists, each once."""
    for name in ("barrier", "check_same", "check_shared"):
        monkeypatch.setattr(f"src.common.parts.{name}", lambda *_: None)
    expected = predictions_of(whole)[0]
    asked = []
    for rank in map(str, range(ranks)):
        config = config_for(tmp_path / rank)
        monkeypatch.setenv("WORLD_SIZE", "1")
        ask_some(config, lambda batches: [])  # opens the folder, as rank 0 does
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        monkeypatch.setenv("RANK", rank)
        ask_some(config, lambda batches: batches)
        for samples, ranked in Parts(config, check(config)[2]).done(0):
            np.testing.assert_array_equal(ranked.items, expected.ranked[samples])
            np.testing.assert_allclose(ranked.scores, expected.scores[samples], atol=1e-5)
            asked += samples.tolist()
        monkeypatch.setenv("RANK", "0")
        assert len(asked) == 48 // ranks * (int(rank) + 1)
    assert sorted(asked) == list(range(48))


def test_failure_keeps_what_was_done_and_writes_no_results(tmp_path, monkeypatch):
    config = config_for(tmp_path / "failing")
    calls = []
    rank = Recommender.rank

    def fail_later(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return rank(self, *args)

    monkeypatch.setattr(Recommender, "rank", fail_later)
    monkeypatch.setattr("src.common.parts.SAVE_SECONDS", -1)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(config)
    assert not config.results_file.exists()
    assert len(list((tmp_path / "failing" / "results.predictions.parts").glob("0-*.npz"))) == 3


def test_failure_at_the_start_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Recommender, "rank", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(config_for(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "ranks"), [("qwen2", 2), ("qwen2", 3), ("qwen2_vl", 2)])
def test_several_processes_give_the_same_as_one(tmp_path, family, ranks):
    task = "seqrec" if family == "qwen2" else "mmseqrec"
    one = config_for(tmp_path / "one", family, test_task=task, filter_history=True)
    evaluate(one)
    two = replace(one, results_file=tmp_path / "two" / "results.json")
    flags = [
        *("--dataset", NAME, "--data_path", str(toy_path()), "--index_file", INDEX_FILE, "--filter_history"),
        *("--ckpt_model", str(two.ckpt_model), "--results_file", str(two.results_file), "--test_task", task),
        *("--num_beams", "10", "--test_batch_size", "8", "--device", "cpu"),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--master_port=29641"]

    def launch(*more):
        return subprocess.run(
            [*command, "-m", "src.seqrec.metric_ddp", *flags, *more],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=250,
        )  # fmt: skip

    done = launch()
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_predictions(two, one)
    if ranks == 3:
        failed = launch("--metrics", "hit@11")
        assert failed.returncode != 0
        assert "hit@11" in failed.stderr


# ---- samples ---------------------------------------------------------------------------------------------------------
def test_sample_num_is_seeded(tmp_path):
    config = config_for(tmp_path, sample_num=12)
    task, catalogue = load_task("seqrec"), toy_catalogue()
    draws = [make_samples(replace(config, seed=seed), task, catalogue).users.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(draw)) == 12 for draw in draws)
    for number in (0, 48, 1000):  # 0: all
        assert len(make_samples(replace(config, sample_num=number), task, catalogue).users) == 48
    valid = make_samples(replace(config, split="valid", sample_num=0), task, catalogue)
    assert (valid.positions == catalogue.valid_end[valid.users] - 1).all()


def test_held_out_items_are_asked_where_training_held_them_out(tmp_path):
    folder = tmp_path / "ckpt"
    shutil.copytree(checkpoint(), folder)
    write_json(folder / "run.json", {"prompt_settings": {}, "config": {"item_split": "holdout"}})
    config = config_for(tmp_path, ckpt_model=folder, test_task="item2index", num_beams=10)
    results = json.loads(evaluate(config).read_text())
    items = toy_catalogue().item_split("test", holdout=True)
    assert (results["split"], results["num_samples"]) == ("test", len(items))
    assert sorted(predictions_of(config)[0].targets) == items.tolist()


# ---- history and shared SIDs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_beams", [10, NUM_ITEMS])
def test_filtered_lists_hold_no_history_item(tmp_path, num_beams):
    plain, filtered = (
        config_for(tmp_path / str(way), num_beams=num_beams, filter_history=way) for way in (False, True)
    )
    catalogue = toy_catalogue()
    users, positions = catalogue.next_item_targets("test")
    seen = 0
    for config in (plain, filtered):
        evaluate(config)
        ranked = predictions_of(config)[0].ranked
        for row, user, position in zip(ranked, users, positions, strict=True):
            history = set(catalogue.history(user, position).tolist())  # the whole of it, whatever max_his_len
            overlap = history & set(row.tolist())
            seen += len(overlap)
            if config.filter_history:
                assert not overlap
                kept = (row >= 0).sum()
                assert kept == min(num_beams, NUM_ITEMS - len(history))
    assert seen > 0  # without the filter there are some


def test_items_that_share_a_sid_are_one_answer_of_the_model(tmp_path):
    """SIDs rank as in a brute-force count over the lists on disk."""
    data = toy_copy(tmp_path)
    shared = codes()[np.arange(NUM_ITEMS) // 4 * 4]  # ten SIDs of four items each
    path = index_path(dataset_paths(data, NAME), "simple")
    save_sid_index(path, SidIndex(np.arange(NUM_ITEMS), shared, ("a", "b", "c"), CODEBOOK_SIZES), {})
    config = config_for(tmp_path, data_path=data, ckpt_model=write_checkpoint(tmp_path / "ckpt", "qwen2", data))
    results = json.loads(evaluate(config).read_text())
    (part,) = predictions_of(config)
    for k in (1, 5):
        lists = [list(dict.fromkeys(item // 4 for item in row))[:k] for row in part.ranked.tolist()]
        hits = [target // 4 in row for target, row in zip(part.targets.tolist(), lists, strict=True)]
        assert results["sid_results"][f"sid_hit@{k}"] == pytest.approx(np.mean(hits))
    assert results["sid_results"]["sid_hit@5"] > results["mean_results"]["hit@5"]


def test_items_that_share_a_sid_take_its_rank_by_popularity(tmp_path):
    data = toy_copy(tmp_path)
    shared = codes()
    shared[[5, 9]] = shared[2]  # items 2, 5 and 9 have one SID
    path = index_path(dataset_paths(data, NAME), "simple")
    save_sid_index(path, SidIndex(np.arange(NUM_ITEMS), shared, ("a", "b", "c"), CODEBOOK_SIZES), {})
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2", data)
    config = config_for(tmp_path, data_path=data, ckpt_model=folder, num_beams=NUM_ITEMS)
    _, _, catalogue = check(config)
    order = sorted([2, 5, 9], key=lambda item: (-catalogue.popularity[item], item))
    assert len(set(catalogue.popularity[order])) > 1
    for filtering, expected in ((False, order), (True, [item for item in order if item != order[0]])):
        recommender = Recommender(replace(config, filter_history=filtering), catalogue, torch.device("cpu"))
        ranked = recommender.rank(load_task("seqrec").templates[0], [np.array([order[0], 1])], [0])
        items = ranked.items[0].tolist()
        place = items.index(expected[0])
        assert items[place : place + len(expected)] == expected
        assert len(set(ranked.scores[0, place : place + len(expected)])) == 1
        assert sorted(item for item in items if item >= 0) == sorted(
            set(range(NUM_ITEMS)) - ({order[0], 1} if filtering else set())
        )
        assert (np.diff(ranked.scores[0, : len(set(items) - {-1})]) <= 0).all()


# ---- errors come before the model ------------------------------------------------------------------------------------
FAULTS = [
    ({"num_beams": 5}, "hit@10"),
    ({"metrics": ("hits@3",)}, "hits@3"),
    ({"test_task": "index2item"}, r"'index2item' is not ranked here: .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "text_enrich"}, r"'text_enrich' is not ranked .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "mmitemenrich"}, r"'mmitemenrich' is not ranked .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "preferenceobtain"}, r"not ranked here: choose from seqrec, .*, itemsearch\. Its answers are texts"),
    ({"test_task": "seqrek"}, "'seqrek' is not ranked here"),
    ({"test_prompt_ids": "0,99"}, "--test_prompt_ids 0,99: seqrec asks for items in wordings 0 to"),
    ({"test_prompt_ids": "-1"}, "--test_prompt_ids -1"),
    ({"test_prompt_ids": "0,0"}, "--test_prompt_ids 0,0"),
    ({"test_prompt_ids": "x"}, "--test_prompt_ids 'x': numbers with commas, or all"),
    ({"filter_items": False}, "--filter_items False"),
    ({"num_beams": 0, "metrics": ()}, "at least 1"),
    ({"test_batch_size": 0}, "at least 1"),
    ({"sample_num": -1}, "--sample_num -1: it must be at least 0"),
    ({"max_his_len": -1}, "--max_his_len -1: it must be at least 0"),
    ({"device": "tpu"}, "there is no device 'tpu': choose auto, cpu, cuda or cuda:N"),
    ({"ckpt_model": Path("gone")}, "--ckpt_model gone is no folder"),
    ({"results_file": Path("/dev/null/results.json")}, "results.json cannot be written"),
    ({"dataset": "Gone"}, "there is no dataset folder"),
    ({"index_file": ".index_gone.json"}, "was not found. Tried"),
    ({"image_path": "gone", "test_task": "mmseqrec"}, "mmseqrec shows pictures, and .*gone has none"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS, ids=[f"{fault[:20]}-{n}" for n, (_, fault) in enumerate(FAULTS)])
def test_faults_are_found_before_the_model(tmp_path, monkeypatch, changes, fault):
    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", refuse)
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        evaluate(config_for(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_item_search_needs_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    data = toy_copy(tmp_path)
    config = config_for(tmp_path, data_path=data, test_task="itemsearch")
    path = data / NAME / f"{NAME}.user.json"
    write_json(path, user_texts() | {"user_vague_intention": {"train": {}, "test": {}}})
    with pytest.raises(ValueError, match=r"Toy has no test sample: user\.json has no query for it"):
        evaluate(config)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"Toy\.user\.json does not exist.* data_process/get_llm_output\.py"):
        evaluate(config)
    check(replace(config, test_task="seqrec"))  # which does not need it


def test_another_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    data = toy_copy(tmp_path)
    path = index_path(dataset_paths(data, NAME), "simple")
    before = file_hash(path)
    swapped = codes()
    swapped[[0, 1]] = swapped[[1, 0]]
    save_sid_index(path, SidIndex(np.arange(NUM_ITEMS), swapped, ("a", "b", "c"), CODEBOOK_SIZES), {})
    assert file_hash(path) != before
    with pytest.raises(ValueError, match=r"was trained with another SID index than .*Toy\.index_simple\.json"):
        evaluate(config_for(tmp_path, data_path=data))


def test_a_model_that_was_not_fine_tuned_is_told_from_a_wrong_index(tmp_path, monkeypatch):
    """Both used to read `wrong index?`, after the model had been loaded."""
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    with pytest.raises(
        ValueError, match=r"was not fine-tuned on SIDs: it has no token_meta\.json, and .* <a_0>\. Fine-"
    ):
        evaluate(config_for(tmp_path, ckpt_model=tiny_model("qwen2")))
    folder = tmp_path / "foreign"
    shutil.copytree(checkpoint(), folder)
    (folder / TOKEN_META).unlink()
    check(config_for(tmp_path, ckpt_model=folder))  # of another system: its tokenizer knows the SIDs


def test_lists_are_no_longer_than_there_are_items(tmp_path):
    """More beams than items used to take memory for each."""
    config = config_for(tmp_path, num_beams=10**9, metrics=("hit@10", "hit@50"))
    results = json.loads(evaluate(config).read_text())
    assert results["num_beams"] == 50  # a metric looks that far down
    assert results["mean_results"]["hit@50"] == 1
    assert results["valid_beams"] == 1  # the places that no item is left for used to count as invalid
    ranked = predictions_of(config)[0].ranked
    assert (np.sort(ranked[:, :NUM_ITEMS]) == np.arange(NUM_ITEMS)).all()
    assert (ranked[:, NUM_ITEMS:] == -1).all()


# ---- entries ---------------------------------------------------------------------------------------------------------
def test_flags_become_the_config():
    needed = ["--dataset", "D", "--index_file", "i", "--ckpt_path", "c"]
    assert config_from(build_parser("").parse_args(needed)) == EvaluateConfig("D", "i", Path("c"))


def test_entries_have_the_same_defaults(monkeypatch):
    """But for how many users a case shows; --filter_history decides whom a figure compares with."""
    seen = []
    monkeypatch.setattr(case, "show", seen.append)
    monkeypatch.setattr(core, "evaluate", seen.append)
    for entry in (case, metric_ddp):
        entry.main(["--dataset", "D", "--index_file", "i", "--ckpt_path", "c"])
    assert seen == [CaseConfig("D", "i", Path("c")), EvaluateConfig("D", "i", Path("c"))]
    common = {field.name: getattr(seen[0], field.name) for field in fields(EvaluateConfig)}
    own = {"sample_num": 0, "results_file": EvaluateConfig.results_file}  # what a case has defaults of its own for
    assert EvaluateConfig(**common | own) == seen[1]


def test_exact_lists_are_those_of_beams_for_every_item(tmp_path):
    """And a narrow beam never finds better ones."""
    wide = config_for(tmp_path / "wide", num_beams=NUM_ITEMS, filter_history=True)
    exact = config_for(tmp_path / "exact", num_beams=10, filter_history=True, exact=True)
    narrow = config_for(tmp_path / "narrow", num_beams=10, filter_history=True)
    for config in (wide, exact, narrow):
        results = json.loads(evaluate(config).read_text())
        assert results["exact"] is config.exact
    (full,), (mine,), (beam,) = (predictions_of(config) for config in (wide, exact, narrow))
    np.testing.assert_array_equal(mine.ranked, full.ranked[:, :10])
    np.testing.assert_allclose(mine.scores, full.scores[:, :10], atol=1e-5)
    assert (mine.scores >= beam.scores - 1e-5).all()
