"""TIGER: learns what is certain, names items only, goes on after a kill, and trains on several ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.baselines.core import last_items
from src.baselines.tiger import TigerConfig, build_parser
from src.baselines.tiger_model import END, FIRST_TOKEN, PAD
from src.baselines.tiger_training import TigerTraining, run_tiger
from src.common.index_files import save_sid_index
from src.common.sid import SidIndex
from src.seqrec.results import predictions_path, read_predictions, read_results
from src.tasks.catalogue import load_catalogue
from tests.baselines.test_baselines import write_dataset

ROOT = Path(__file__).resolve().parents[2]
SIDS = np.array([[item // 4, item % 4] for item in range(10)])
TOKENS = SIDS + np.array([FIRST_TOKEN, FIRST_TOKEN + 3])


@pytest.fixture
def circle(tmp_path):
    """Everybody walks the same circle of ten items, so the next one is certain."""
    walks = {str(user): [(user + step) % 10 for step in range(4 + user % 9)] for user in range(120)}
    write_dataset(tmp_path, "Circle", walks)
    (tmp_path / "Circle" / "Circle.item.json").unlink()  # texts are not needed
    index_file = tmp_path / "Circle" / "Circle.index_toy.json"
    save_sid_index(index_file, SidIndex(np.arange(10), SIDS, ("a", "b"), (3, 4)), {})
    return TigerConfig(
        "Circle", tmp_path / "out.json", data_path=tmp_path, index_file=str(index_file), num_beams=10, hidden_size=32,
        num_layers=1, num_heads=2, head_size=16, intermediate_size=64, batch_size=32, dropout=0.0, epochs=25,
        learning_rate=0.002, device="cpu",
    )  # fmt: skip


def training_of(config, **changes):
    config = replace(config, **changes)
    return TigerTraining(load_catalogue(config.data_path, "Circle", config.index_file, needs_texts=False), config)


def test_certain_items_are_learnt(circle):
    results = read_results(run_tiger(replace(circle, metrics="hit@1,hit@10")))
    assert results["mean_results"]["hit@1"] > 0.5  # by chance .1
    assert results["mean_results"]["hit@10"] == 1  # ten beams hold all ten items
    assert results["model"] == "tiger"
    assert results["settings"]["best_epoch"] > 0


def test_history_is_left_out(circle):
    (part,) = read_predictions(predictions_path(run_tiger(replace(circle, epochs=1, filter_history=True))))
    for user, length, ranked in zip(part.users, part.history_lengths, part.ranked, strict=True):
        history = {(int(user) + step) % 10 for step in range(length)}
        kept = [item for item in ranked.tolist() if item >= 0]
        assert sorted(kept) == sorted(set(range(10)) - history)


def test_prompts_hold_the_latest_items_and_an_end(circle):
    training = training_of(circle, max_his_len=2)
    # User 0 had item 0, user 3 the items 3 4 5 6.
    questions = training.tiger.questions(last_items(training.catalogue, np.array([0, 3]), np.array([1, 4]), 2))
    first, second = TOKENS[[0, 5]].tolist()
    third = TOKENS[6].tolist()
    assert questions["input_ids"].tolist() == [[*first, END, PAD, PAD], [*second, *third, END]]
    assert questions["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    answers = training.tiger.answers(np.array([1]))
    assert answers.tolist() == [[*TOKENS[1].tolist(), END]]


def test_asked_it_sees_the_latest_items_as_in_training(circle, monkeypatch):
    tiger = training_of(circle, max_his_len=2).tiger
    seen = []
    monkeypatch.setattr(tiger, "search", lambda inputs, histories: seen.append(inputs["input_ids"].tolist()))
    tiger.rank(None, [np.array([3, 4, 5, 6]), np.array([0])])
    first, second, third = TOKENS[[5, 6, 0]].tolist()
    assert seen == [[[*first, *second, END], [*third, END, PAD, PAD]]]


def test_only_training_items_are_targets(circle):
    training = training_of(circle)
    users, positions = training.targets
    assert (positions < training.catalogue.train_end[users]).all()


def test_a_killed_run_goes_on_with_the_same_curve(circle, tmp_path, monkeypatch):
    straight = training_of(circle, epochs=4, dropout=0.2, results_file=tmp_path / "a.json")
    straight.run()
    train_epoch = TigerTraining.train_epoch

    def dies(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        return train_epoch(self)

    monkeypatch.setattr(TigerTraining, "train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        training_of(circle, epochs=4, dropout=0.2, results_file=tmp_path / "b.json").run()
    monkeypatch.undo()
    torch.manual_seed(1)  # another process has other random numbers
    resumed = training_of(circle, epochs=4, dropout=0.2, results_file=tmp_path / "b.json")
    resumed.run()
    first, second = (torch.load(training.checkpoint, weights_only=True) for training in (straight, resumed))
    assert (first["best"], first["best_epoch"]) == (second["best"], second["best_epoch"])
    for part in ("model", "best_weights"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])


def test_flags_are_the_settings():
    args = vars(build_parser(None).parse_args(["--dataset", "D", "--results_file", "r.json", "--index_file", "i"]))
    assert TigerConfig(**args) == TigerConfig("D", args["results_file"], index_file="i")


@pytest.mark.parametrize(
    "wrong",
    [{"warmup_ratio": 5.0}, {"dropout": 1.5}, {"weight_decay": -3.0}, {"learning_rate": 0.0}, {"batch_size": 0}],
)
def test_wrong_settings_are_refused(circle, wrong):
    with pytest.raises(ValueError, match="--"):
        training_of(circle, **wrong)


def test_a_loss_that_is_no_number_ends_the_run(circle):
    """Lists ranked by NaN used to be written as results."""
    with pytest.raises(ValueError, match="the loss of epoch 1 is nan"):
        run_tiger(replace(circle, learning_rate=1e30, warmup_ratio=0.0))
    assert not circle.results_file.exists()


@pytest.mark.slow
def test_two_ranks_train_the_model_of_one(circle, tmp_path):
    """They share every batch, of which the odd ones fall apart unevenly; and all users' lists come back once."""
    one = replace(circle, epochs=2, batch_size=33, results_file=tmp_path / "one.json")
    run_tiger(one)
    settings = {name: value for name, value in vars(one).items() if name not in ("metrics", "filter_history")}
    settings["results_file"] = tmp_path / "two.json"
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
    done = subprocess.run(
        [*command, "src.baselines.tiger", *flags], cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{name}.model" / "last.pth", weights_only=True) for name in ("one", "two"))
    for name in first["model"]:
        torch.testing.assert_close(first["model"][name], second["model"][name], atol=1e-5, rtol=1e-4)
    (mine,), (theirs,) = (read_predictions(predictions_path(tmp_path / f"{name}.json")) for name in ("one", "two"))
    assert (mine.users, len(mine.users)) == (theirs.users, 120)
    np.testing.assert_array_equal(mine.targets, theirs.targets)
