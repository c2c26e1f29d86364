"""Training on several ranks, each of which holds its share of the items."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.config import GenerateConfig
from index.generate_indices import generate
from index.trainer import train
from src.common.artifacts import read_rows
from src.common.index_files import load_sid_index
from tests.index.conftest import clustered

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "index.main"]
    return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=200)


def flags_of(config) -> list[str]:
    return (
        f"--data_path {config.data_path[0]} --ckpt_dir {config.ckpt_dir} --num_emb_list 8 8 8 --layers 16 --e_dim 4"
        f" --epochs {config.epochs} --batch_size {config.batch_size} --eval_step 3 --warmup_epochs 1 --device cpu"
        f" --kmeans_init {config.kmeans_init}"
    ).split()


def test_two_ranks_train_as_one(config):
    """With whole batches, the mean of two gradients is the gradient: the curve must be that of a single process."""
    single = replace(config, kmeans_init=False, batch_size=120, epochs=6)
    straight = read_rows(train(single) / "metrics.jsonl")
    double = replace(single, ckpt_dir=config.ckpt_dir / "two", batch_size=60)
    done = torchrun(*flags_of(double))
    assert done.returncode == 0, done.stderr
    (folder,) = double.ckpt_dir.iterdir()
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in straight], rel=1e-4)
    assert rows[-1]["eval_loss"] == pytest.approx(straight[-1]["eval_loss"], rel=1e-4)
    assert rows[-1]["num_items"] == 120  # nobody is padded, nobody dropped
    index = load_sid_index(generate(GenerateConfig(dataset="Toy", ckpt_path=folder, device="cpu")), range(120))
    assert index.collision_rate() == 0


@pytest.mark.slow
def test_uneven_shares_revival_and_resuming(config):
    np.save(config.data_path[0], clustered(121))
    straight, halves = (replace(config, ckpt_dir=config.ckpt_dir / name) for name in ("straight", "halves"))
    assert torchrun(*flags_of(replace(straight, epochs=30))).returncode == 0
    assert torchrun(*flags_of(replace(halves, epochs=15))).returncode == 0
    (folder,) = halves.ckpt_dir.iterdir()
    assert torchrun("--resume", str(folder), "--epochs", "30").returncode == 0
    (other,) = straight.ckpt_dir.iterdir()
    first, second = (read_rows(path / "metrics.jsonl") for path in (other, folder))
    assert json.dumps(first) == json.dumps(second)


def test_a_fitted_tokenizer_wants_one_process(config):
    done = torchrun(*flags_of(config), "--quantizer", "rkmeans")
    assert done.returncode != 0
    assert "start it without torchrun" in done.stderr
