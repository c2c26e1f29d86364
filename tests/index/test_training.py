"""The training loop: reproducible, resumable, and every flag has an effect."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from index import trainer
from index.checkpoints import read_checkpoint
from index.config import TrainConfig, flag_of
from index.epoch_order import sid_keys
from index.main import build_parser, parse_config
from index.trainer import train
from src.common.artifacts import read_rows
from tests.index.conftest import clustered

CPU = torch.device("cpu")


def weights(folder, name="last.pth"):
    return read_checkpoint(folder / name)["state_dict"]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_run_folder_is_complete(run_folder, plots):
    assert plots == [run_folder / "training.png"]
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"best_loss_model.pth", "best_collision_model.pth", "best_utilization_model.pth", "last.pth"}
    assert names >= {"epoch_3.pth", "epoch_6.pth", "config.json", "metrics.jsonl"}
    assert not [name for name in names if name.startswith(".")]
    rows = read_rows(run_folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["utilization" in row for row in rows] == [False, False, True] * 2
    assert len(rows[-1]["perplexity"]) == 3
    record = json.loads((run_folder / "config.json").read_text())
    assert record["config"]["codebook_sizes"] == [8, 8, 8]
    assert len(record["inputs"]["embeddings"]["sha256"]) == 64


def test_training_repeats_and_lowers_the_loss(config):
    long = replace(config, epochs=60, eval_step=60)
    first, second = train(long), train(long)
    assert first != second  # started in the same second, perhaps
    assert equal(weights(first), weights(second))
    rows = read_rows(first / "metrics.jsonl")
    assert rows[-1]["reconstruction"] < 0.6 * rows[0]["reconstruction"]
    assert min(rows[-1]["utilization"]) >= 0.75


CHANGES = {
    "codebook_sizes": (8, 4, 8),
    "e_dim": 3,
    "layers": (8, 8),
    "dropout_prob": 0.5,
    "bn": True,
    "loss_type": "l1",
    "quant_loss_weight": 0.1,
    "beta": 2.0,
    "spread_weight": 1.0,
    "diversity_weight": 1.0,
    "neighbour_weight": 1.0,
    "quantizer": "fsq",
    "sk_epsilons": (0.05,),
    "normalize": "standardize",
    "learning_rate": 1e-2,
    "epochs": 3,
    "batch_size": 30,
    "learner": "SGD",
    "warmup_epochs": 4,
    "pretrain_epochs": 2,
    "weight_decay": 0.5,
    "kmeans_init": False,
    "large_scale_kmeans": False,
    "kmeans_iters": 1,
    "seed": 7,
}
OTHERWISE_TESTED = {"data_path", "ckpt_dir", "eval_step", "save_limit", "device", "num_workers", "resume"}
OTHERWISE_TESTED |= {"use_wandb", "wandb_project", "wandb_name", "sk_iters", "lr_scheduler_type"}
OTHERWISE_TESTED |= {"fusion", "cf_path", "cf_weight"}  # in test_tokenizers.py


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_has_an_effect(config, run_folder, name):
    assert not equal(weights(run_folder), weights(train(replace(config, **{name: CHANGES[name]}))))


def test_no_setting_is_forgotten():
    assert CHANGES.keys() | OTHERWISE_TESTED == set(TrainConfig.__dataclass_fields__)
    assert {action.dest for action in build_parser(None)._actions} - {"help"} == set(TrainConfig.__dataclass_fields__)


@pytest.mark.parametrize("learner", trainer.OPTIMIZERS)
def test_every_learner_trains(config, learner):
    assert weights(train(replace(config, learner=learner, epochs=1)))


def test_sinkhorn_iterations_have_an_effect(config):
    few, many = (replace(config, sk_epsilons=(0.05,), sk_iters=sk_iters) for sk_iters in (1, 50))
    assert not equal(weights(train(few)), weights(train(many)))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.125), ("cosine", 0.038)])
def test_learning_rate_follows_its_schedule(config, schedule, last):
    folder = train(replace(config, lr_scheduler_type=schedule, epochs=10, warmup_epochs=2))
    rates = [row["learning_rate"] for row in read_rows(folder / "metrics.jsonl")]
    assert rates[0] == pytest.approx(config.learning_rate / 4)  # two steps an epoch, two epochs of warm-up
    assert rates[2] == pytest.approx(config.learning_rate)
    assert rates[-1] == pytest.approx(config.learning_rate * last, rel=0.02)


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_save_limit_keeps_the_newest(config, limit):
    folder = train(replace(config, save_limit=limit, eval_step=1))
    kept = {path.name for path in folder.glob("epoch_*.pth")}
    assert kept == {f"epoch_{epoch}.pth" for epoch in range(7 - limit, 7)}


def test_num_workers_sets_threads_for_the_run_only(config, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer.Trainer, "train_epoch", lambda self: seen.append(torch.get_num_threads()) or 1 / 0)
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        train(replace(config, num_workers=3))
    assert (seen, torch.get_num_threads()) == ([3], before)


# ---- resuming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pretrain_epochs": 5, "spread_weight": 1.0},
        {"dropout_prob": 0.2, "bn": True, "sk_epsilons": (0.05,), "learner": "Adam"},
    ],
)
def test_resumed_run_equals_a_straight_one(config, more):
    config = replace(config, **more, eval_step=2)
    straight = train(replace(config, epochs=26))
    first = train(replace(config, epochs=12))
    assert train(replace(config, epochs=26, resume=first)) == first
    assert equal(weights(straight), weights(first))
    assert read_rows(straight / "metrics.jsonl") == read_rows(first / "metrics.jsonl")
    assert equal(weights(straight, "best_loss_model.pth"), weights(first, "best_loss_model.pth"))


@pytest.mark.parametrize("pretrain_epochs", [0, 4])
def test_killed_run_goes_on_from_its_last_evaluation(config, monkeypatch, pretrain_epochs):
    config = replace(config, pretrain_epochs=pretrain_epochs)
    straight = train(config)
    train_epoch = trainer.Trainer.train_epoch

    def die_in_epoch_5(self):
        if self.epoch == 5:
            raise KeyboardInterrupt
        train_epoch(self)

    monkeypatch.setattr(trainer.Trainer, "train_epoch", die_in_epoch_5)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_READINGS", 0.0)  # so that the log is ahead of the checkpoint
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, ckpt_dir=config.ckpt_dir / "killed"))
    (folder,) = (config.ckpt_dir / "killed").iterdir()
    assert read_checkpoint(folder / "last.pth")["epoch"] == 3
    monkeypatch.undo()
    train(replace(config, resume=folder / "last.pth"))
    assert equal(weights(straight), weights(folder))
    assert read_rows(straight / "metrics.jsonl") == read_rows(folder / "metrics.jsonl")


def test_resume_refuses_other_settings(config, run_folder):
    with pytest.raises(ValueError, match=r"--lr was 0\.001 and is now 0\.1"):
        train(replace(config, resume=run_folder, learning_rate=0.1))
    np.save(config.data_path[0], clustered(seed=5))
    with pytest.raises(ValueError, match="has changed"):
        train(replace(config, resume=run_folder))


def test_resume_on_the_command_line_keeps_the_flags_of_the_run(config, run_folder):
    resumed = parse_config(["--resume", str(run_folder), "--epochs", "9"])
    assert resumed == replace(config, resume=run_folder, epochs=9)
    train(resumed)
    assert read_checkpoint(run_folder / "last.pth")["epoch"] == 9


# ---- input that cannot work ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_embeddings_are_refused(config, bad):
    rows = clustered()
    rows[17, 3] = bad
    np.save(config.data_path[0], rows)
    with pytest.raises(ValueError, match="row 17"):
        train(config)


def test_equal_embeddings_are_refused(config):
    np.save(config.data_path[0], np.ones((50, 4), np.float32))
    with pytest.raises(ValueError, match="zero variance"):
        train(config)


def test_fewer_rows_than_codewords_is_refused(config):
    with pytest.raises(ValueError, match=r"120 rows, fewer than the 256 codewords.*--num_emb_list 15 15 15"):
        train(replace(config, codebook_sizes=(8, 8, 256)))
    assert not config.ckpt_dir.exists()


def test_diverging_loss_stops_the_run(config):
    with pytest.raises(ValueError, match="lower --lr"):
        train(replace(config, learner="SGD", learning_rate=1e30, epochs=20))


def test_device_without_a_gpu(config):
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="--device cpu"):
            train(replace(config, device="cuda:0"))


# ---- flags -----------------------------------------------------------------------------------------------------------
FILES = ["--data_path", "x.npy", "--ckpt_dir", "y"]


def test_switches_mean_what_they_say():
    assert parse_config([*FILES, "--bn"]).bn is True
    assert parse_config([*FILES, "--bn", "True"]).bn is True
    assert parse_config([*FILES, "--bn", "False", "--kmeans_init", "False"]).bn is False
    assert parse_config([*FILES, "--kmeans_init", "False"]).kmeans_init is False


def test_sinkhorn_strengths_are_counted():
    assert parse_config([*FILES, "--sk_epsilons", "0.003"]).level_epsilons == (0.0, 0.0, 0.003)
    assert parse_config([*FILES, "--sk_epsilons", "0", "0.1", "0.2"]).level_epsilons == (0.0, 0.1, 0.2)
    with pytest.raises(ValueError, match="--sk_epsilons has 2 values for 3 levels"):
        TrainConfig(data_path="x", ckpt_dir="y", sk_epsilons=(0.0, 0.003))


@pytest.mark.parametrize(
    "flags",
    ["--sk_epsilons 0 0.003", "--bn maybe", "--learner Lion", "--epochs 0", "--lr 0", "--dropout_prob 1", "--layer 8"],
)
def test_wrong_flags_end_with_usage(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_config([*FILES, *flags.split()])
    assert stopped.value.code == 2
    assert re.search(r"error: .*--", capsys.readouterr().err)


def test_every_flag_has_a_field():
    flags = {flag for action in build_parser(None)._actions for flag in action.option_strings}
    assert {flag_of(name) for name in TrainConfig.__dataclass_fields__} <= flags


def test_the_model_with_the_fewest_collisions_is_a_trained_one(config, monkeypatch):
    """Early on, collisions can be rarer than ever after: best_collision_model.pth used to be such a model."""
    points = iter([(0.01, 1.0), (0.2, 0.5), (0.1, 0.54), (0.05, 0.6)])  # collision rate, loss of each evaluation
    evaluate = trainer.Trainer.evaluate

    def scripted(self):
        found = evaluate(self)
        rate, loss = next(points)
        return found._replace(loss=loss, measures=found.measures._replace(collision_rate=rate))

    monkeypatch.setattr(trainer.Trainer, "evaluate", scripted)
    folder = train(replace(config, epochs=4, eval_step=1))
    epochs = {name: read_checkpoint(folder / f"best_{name}_model.pth")["epoch"] for name in ("loss", "collision")}
    assert epochs == {"loss": 2, "collision": 3}


def test_items_that_share_a_sid_are_shown_together(config):
    """Two such items met in one batch of fifty by chance only, so the spread had nothing to push."""
    run = trainer.Trainer(replace(config, spread_weight=1.0), CPU)
    groups = np.random.default_rng(0).permutation(np.arange(120) // 2)
    run.order.seen.copy_(torch.from_numpy(groups))
    first, second = run.order.draw(), run.order.draw()
    for order in (first, second):
        assert sorted(order.tolist()) == list(range(120))
        places = groups[order.numpy()].reshape(60, 2)
        assert (places[:, 0] == places[:, 1]).all()
    assert not torch.equal(first, second)
    codes = torch.randint(0, 3, (500, 4))
    distinct = len(sid_keys(codes).unique())
    assert distinct == len(codes.unique(dim=0))
