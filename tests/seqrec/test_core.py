"""Evaluation: what is written for every kind of task, which samples are asked, and lists that users see."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.artifacts import write_json
from src.common.index_files import index_path, save_sid_index
from src.common.sid import SidIndex
from src.seqrec import case, core, metric_ddp
from src.seqrec.config import CaseConfig, EvaluateConfig, build_parser, config_from
from src.seqrec.core import check, evaluate, make_samples, valid_share
from src.seqrec.recommender import Recommender, training_settings
from src.seqrec.results import Predictions
from src.tasks.task import load_task
from tests.seqrec.test_results import DOCUMENTED
from tests.seqrec.toy_runs import checkpoint, config_for, predictions_of, write_checkpoint
from tests.toy import (
    CODEBOOK_SIZES,
    NAME,
    NUM_ITEMS,
    codes,
    dataset_paths,
    toy_catalogue,
    toy_copy,
    toy_path,
    user_texts,
)


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
    assert ("pictures" in results["inputs"]) == (family != "qwen2")
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
    with pytest.raises(ValueError, match="have not seen the same items"):
        evaluate(replace(config, ensemble=(f"{checkpoint()}={config.index_file}",)))


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


# ---- entries ---------------------------------------------------------------------------------------------------------
def test_flags_become_the_config():
    needed = ["--dataset", "D", "--index_file", "i", "--ckpt_path", "c"]
    assert config_from(build_parser("").parse_args(needed)) == EvaluateConfig("D", "i", Path("c"))


def test_results_of_other_models_tasks_and_datasets_lie_in_other_files():
    """Without --results_file all used to go to one file, and each replaced the one before."""
    config = EvaluateConfig("D", "i", Path("output/D/mine"))
    assert config.results_path == Path("results/D/seqrec-mine.json")
    others = [{"dataset": "E"}, {"test_task": "item2index"}, {"ckpt_model": Path("output/D/other")}]
    assert len({replace(config, **other).results_path for other in [{}, *others]}) == 4
    assert replace(config, results_file=Path("r/a.json")).results_path == Path("r/a.json")


def test_entries_have_the_same_defaults(monkeypatch):
    """But for how many users a case shows; --filter_history decides whom a figure compares with."""
    seen = []
    monkeypatch.setattr(case, "show", seen.append)
    monkeypatch.setattr(core, "evaluate", seen.append)
    for entry in (case, metric_ddp):
        entry.main(["--dataset", "D", "--index_file", "i", "--ckpt_path", "c"])
    assert seen == [CaseConfig("D", "i", Path("c")), EvaluateConfig("D", "i", Path("c"))]
    common = {field.name: getattr(seen[0], field.name) for field in fields(EvaluateConfig)}
    own = {"sample_num": 0}  # what a case has defaults of its own for
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
