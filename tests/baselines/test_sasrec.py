"""SASRec: learns what is certain, goes on after a kill as if nothing had been, and leaks nothing from the future."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.baselines import sasrec_model
from src.baselines.core import evaluate_ranker, rank_dense, run_baseline
from src.baselines.sasrec import SASRecConfig, build_parser
from src.baselines.sasrec_training import SASRecTraining
from src.seqrec.metrics import per_sample_metrics, ranks_of
from src.seqrec.results import read_results
from src.tasks.catalogue import load_catalogue
from tests.baselines.test_baselines import write_dataset


@pytest.fixture
def circle(tmp_path):
    """Everybody walks the same circle of ten items, so the next one is certain."""
    walks = {str(user): [(user + step) % 10 for step in range(5 + user % 4)] for user in range(60)}
    write_dataset(tmp_path, "Circle", walks)
    return SASRecConfig(
        "Circle", tmp_path / "out.json", data_path=tmp_path, num_beams=10, hidden_size=16, num_layers=1, batch_size=16,
        dropout=0.1, epochs=25, learning_rate=0.01, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_certain_items_are_learnt(circle, loss):
    results = read_results(run_baseline("sasrec", replace(circle, loss=loss, metrics="hit@1,hit@10")))
    assert results["mean_results"]["hit@1"] > 0.9
    assert results["settings"]["best_epoch"] > 0


def test_a_killed_run_goes_on_with_the_same_curve(circle, tmp_path, monkeypatch):
    catalogue = load_catalogue(tmp_path, "Circle")
    straight = SASRecTraining(catalogue, replace(circle, epochs=4, results_file=tmp_path / "a.json"))
    straight.run()
    killed = SASRecTraining(catalogue, replace(circle, epochs=4, results_file=tmp_path / "b.json"))
    train_epoch = SASRecTraining.train_epoch

    def dies(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        return train_epoch(self)

    monkeypatch.setattr(SASRecTraining, "train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    monkeypatch.undo()
    torch.manual_seed(0)  # another process has other random numbers
    resumed = SASRecTraining(catalogue, replace(circle, epochs=4, results_file=tmp_path / "b.json"))
    resumed.run()
    first, second = (torch.load(training.checkpoint, weights_only=True) for training in (straight, resumed))
    assert (first["best"], first["best_epoch"]) == (second["best"], second["best_epoch"])
    for part in ("learner", "average", "best_weights"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    other = SASRecTraining(catalogue, replace(circle, epochs=1, seed=7, results_file=tmp_path / "b.json"))
    other.run()  # of other settings, so it starts anew
    assert other.epoch == 1


@pytest.mark.parametrize("epochs", [0, 0.5])
def test_what_is_judged_is_the_running_mean_of_the_weights(circle, tmp_path, monkeypatch, epochs):
    training = SASRecTraining(load_catalogue(tmp_path, "Circle"), replace(circle, average_epochs=epochs))
    seen = []
    step = training.optimizer.step

    def noted(*args, **kwargs):
        step(*args, **kwargs)
        seen.append(training.learner.items.weight.detach().clone())

    monkeypatch.setattr(training.optimizer, "step", noted)
    training.train_epoch()
    mean, decay = seen[0], math.exp(-1 / (epochs * len(seen))) if epochs else 0
    for weight in seen[1:]:
        mean = decay * mean + (1 - decay) * weight
    assert len(seen) > 2
    torch.testing.assert_close(training.model.items.weight.detach(), mean)
    users, positions = training.catalogue.next_item_targets("valid")
    scores = training.score(users, positions)
    with torch.no_grad():
        training.learner.items.weight.zero_()
    assert np.array_equal(training.score(users, positions), scores)


def test_states_do_not_see_what_comes_after(circle, tmp_path):
    training = SASRecTraining(load_catalogue(tmp_path, "Circle"), circle)
    training.model.eval()
    sequence = torch.tensor([[3, 1, 4, 1, 5, 9]])
    changed = sequence.clone()
    changed[0, 4:] = 2
    with torch.no_grad():
        first, second = training.model(sequence), training.model(changed)
        padded = training.model.last(torch.cat([sequence, torch.zeros(1, 3, dtype=torch.int64)], 1))
    assert torch.allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert not torch.allclose(first[:, 4:], second[:, 4:], atol=1e-3)
    assert torch.allclose(padded, first[:, -1], atol=1e-6)


def test_training_reads_no_target_of_valid_or_test(circle, tmp_path):
    catalogue = load_catalogue(tmp_path, "Circle")
    training = SASRecTraining(catalogue, circle)
    users = training.users
    table = training.sequences(users, catalogue.train_end[users], 51)
    for row, user in enumerate(users):
        mine = catalogue.history(int(user), int(catalogue.train_end[user]))
        assert (table[row][table[row] > 0].numpy() - 1).tolist() == np.searchsorted(catalogue.item_ids, mine).tolist()


@pytest.mark.parametrize("filter_history", [False, True])
def test_early_stopping_sees_the_metric_of_record(circle, tmp_path, filter_history):
    catalogue = load_catalogue(tmp_path, "Circle")
    training = SASRecTraining(catalogue, replace(circle, filter_history=filter_history))
    found = evaluate_ranker("sasrec", training.score, catalogue, "valid", filter_history, 10)
    expected = per_sample_metrics(ranks_of(found.ranked, found.targets), ["ndcg@10"])["ndcg@10"].mean()
    assert training.quality("valid") == pytest.approx(expected, abs=1e-9)


def test_dense_ranking_of_known_scores():
    """Equal scores go by the order of ties, also where they straddle the end of the list."""
    matrix = np.array([[1, 3, 3, 2, 3], [5, 5, 5, 5, 5]], np.float32)
    order = np.array([4, 2, 0, 1, 3])
    columns, scores = rank_dense(matrix, order, None, 2)
    assert columns.tolist() == [[4, 2], [4, 2]]
    columns, scores = rank_dense(matrix, order, (np.array([0, 0, 0, 0]), np.array([4, 2, 1, 0])), 3)
    assert columns.tolist() == [[3, -1, -1], [4, 2, 0]]
    assert scores[0].tolist() == [2, -np.inf, -np.inf]


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_loss_over_all_items_is_cross_entropy(at_once, monkeypatch):
    monkeypatch.setattr(sasrec_model, "SCORES_AT_ONCE", (at_once, at_once))
    generator = torch.Generator().manual_seed(0)
    states, weight = (
        (9 * torch.randn(size, 4, generator=generator)).requires_grad_() for size in (11, 7)
    )  # beyond exp
    targets = torch.randint(7, (11,), generator=generator)
    found = []
    for loss in (
        lambda: sasrec_model.AllItemsLoss.apply(states, weight, targets),
        lambda: torch.nn.functional.cross_entropy(states @ weight.t(), targets),
    ):
        value = 3 * loss()
        found.append((value, *torch.autograd.grad(value, (states, weight))))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 10, "num_heads": 4},
        {"dropout": 1.0},
        {"average_epochs": -0.5},
        {"learning_rate": 0.0},
        {"patience": 0},
    ],
)
def test_wrong_settings_are_refused(circle, tmp_path, wrong):
    with pytest.raises(ValueError, match="--"):
        SASRecTraining(load_catalogue(tmp_path, "Circle"), replace(circle, **wrong))


def test_flags_are_the_settings():
    args = vars(build_parser(None).parse_args(["--dataset", "D", "--results_file", "r.json", "--loss", "bce"]))
    assert SASRecConfig(**args).loss == "bce"
    assert replace(SASRecConfig(**args), loss="ce") == SASRecConfig("D", args["results_file"])


@pytest.mark.parametrize(("walks", "split"), [([[1, 2]] * 3, "valid"), ([[1, 2, 3]] * 3, "train")])
def test_too_short_sequences_end_before_training(tmp_path, circle, walks, split):
    write_dataset(tmp_path, "Circle", {str(user): walk for user, walk in enumerate(walks)})
    with pytest.raises(ValueError, match=f"no {split} sample"):
        SASRecTraining(load_catalogue(tmp_path, "Circle"), circle)


def restarted(config) -> SASRecTraining:
    training = SASRecTraining(load_catalogue(config.data_path, "Circle"), config)
    training._resume()
    return training


def test_what_other_data_or_settings_left_is_not_taken(circle, tmp_path):
    """A split that changes would bring test items into training; item ids that change, the rows of other items."""
    config = replace(circle, epochs=2)
    SASRecTraining(load_catalogue(tmp_path, "Circle"), config).run()
    assert restarted(config).epoch == 2
    with pytest.raises(ValueError, match="asks for fewer"):
        restarted(replace(config, epochs=1))
    users = load_catalogue(tmp_path, "Circle").users
    (tmp_path / "Circle" / "Circle.split.json").write_text(json.dumps({user: [2, 1] for user in users}))
    assert restarted(config).epoch == 0


def test_one_process_only(circle, tmp_path, monkeypatch):
    monkeypatch.setattr("src.baselines.sasrec_training.world_size", lambda: 2)
    training = SASRecTraining(load_catalogue(tmp_path, "Circle"), circle)
    with pytest.raises(ValueError, match="without torchrun"):
        training.run()
    assert not training.epoch
