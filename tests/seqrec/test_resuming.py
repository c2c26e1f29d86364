"""Evaluation gives the same numbers on any number of ranks and after any kill."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.artifacts import read_json, write_json
from src.common.parts import key_of
from src.seqrec import core
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import Parts, Samples, ask, check, cut_batches, evaluate, make_samples
from src.seqrec.recommender import Recommender
from src.seqrec.results import Ranked
from src.tasks.task import load_task
from tests.seqrec.toy_runs import assert_equal_predictions, config_for, predictions_of, write_checkpoint
from tests.toy import INDEX_FILE, NAME, toy_catalogue, toy_path

ROOT = Path(__file__).resolve().parents[2]


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


def test_parts_of_other_pictures_or_models_are_not_taken(tmp_path, monkeypatch):
    """After a kill, pictures that were fetched again, another base model or another tokenizer used to make up one half
    of the results."""
    data = shutil.copytree(toy_path(), tmp_path / "data")
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2_vl", data)
    config = config_for(tmp_path, "qwen2_vl", ckpt_model=folder, data_path=data, test_task="mmseqrec")
    keys = []
    init = core.CommonParts.__init__

    def spy(self, place, key):
        keys.append(key)
        init(self, place, key)

    monkeypatch.setattr(core.CommonParts, "__init__", spy)
    evaluate(config)
    evaluate(config)
    assert keys[0] == keys[1]
    first, second, *_ = check(config)[2].image_files.values()
    shutil.copy(second, first)
    evaluate(config)
    assert keys[2] != keys[1]
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    evaluate(config)
    assert keys[3] != keys[2]


@pytest.mark.parametrize("inputs", ["base model", "pictures"])
def test_large_inputs_count_as_rank_0_has_hashed_them(inputs):
    assert key_of({}, [], {inputs: {"sha256": "a"}}) != key_of({}, [], {inputs: {"sha256": "b"}})
    assert key_of({}, [], {"SASRec results": {"sha256": "a"}}) == key_of({}, [])


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_rank_asks_its_share(tmp_path, whole, monkeypatch, ranks):
    """One rank after the other in this process: together they give one rank's lists, each once."""
    for name in ("barrier", "check_same", "check_shared", "wait_until_seen"):
        monkeypatch.setattr(f"src.common.parts.{name}", lambda *_: None)
    monkeypatch.setattr("src.common.parts.gather", lambda value: [value])
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
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]

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
