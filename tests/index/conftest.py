"""Small embeddings with clusters in clusters, and settings that train on them in a blink."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.config import TrainConfig


def clustered(num_items: int = 120, width: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse, fine = rng.normal(size=(4, width)), 0.4 * rng.normal(size=(16, width))
    rows = coarse[rng.integers(4, size=num_items)] + fine[rng.integers(16, size=num_items)]
    return (rows + 0.1 * rng.normal(size=rows.shape)).astype(np.float32)


def random_codes(num_items: int = 400, sizes=(6, 7, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(sizes, size=(num_items, len(sizes)))


@pytest.fixture(autouse=True)
def plots(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Half a second each, so most tests do without: the paths where pictures would lie."""
    drawn: list[Path] = []
    monkeypatch.setattr("index.run_folder.plot_runs", lambda runs, path: drawn.append(path))
    return drawn


@pytest.fixture
def embeddings_path(tmp_path: Path) -> Path:
    path = tmp_path / "Toy.emb-toy.npy"
    np.save(path, clustered())
    return path


@pytest.fixture
def config(tmp_path: Path, embeddings_path: Path) -> TrainConfig:
    return TrainConfig(
        data_path=embeddings_path,
        ckpt_dir=tmp_path / "index" / "toy",
        codebook_sizes=(8, 8, 8),
        layers=(16,),
        e_dim=4,
        epochs=6,
        batch_size=64,
        eval_step=3,
        warmup_epochs=1,
        device="cpu",
    )


@pytest.fixture
def run_folder(config: TrainConfig) -> Path:
    from index.trainer import train

    return train(replace(config))
