"""How soon the RQ-VAE is good: CPU seconds until it has what the plain loop has after 2,000 epochs on HMWeek."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, cpu_seconds, real_data
from benchmarks.rivals.plain_rqvae import PlainConfig, curve
from index.config import TrainConfig

DATASET = "HMWeek"
NUM_EPOCHS = 2000
CURVE = Path(__file__).parents[1] / "rivals" / "plain_rqvae_hmweek.json"  # the rival takes most of an hour


def embeddings(folder: Path) -> Path | None:
    """Embeddings of the real dataset by our own extractor, or None where the data is absent."""
    source = real_data(DATASET)
    if source is None:
        return None
    from data_process.simple_embeddings import SimpleConfig, extract

    config = SimpleConfig(dataset=DATASET, data_path=source.parent, out_dir=folder, name="simple")
    extract(config)
    return config.output_path("simple")


def our_config(path: Path, folder: Path) -> TrainConfig:
    """The plain loop's architecture; small batches, cosine schedule, codebooks that start late, a little spread."""
    plain = PlainConfig()
    return TrainConfig(
        data_path=(path,),
        ckpt_dir=folder / "runs",
        codebook_sizes=plain.codebook_sizes,
        layers=plain.layers,
        batch_size=64,
        epochs=100,
        pretrain_epochs=22,
        warmup_epochs=3,
        spread_weight=1.0,
        lr_scheduler_type="cosine",
        weight_decay=plain.weight_decay,
        eval_step=100,
        save_limit=0,
        device="cpu",
        num_workers=1,
    )


def rows(quick: bool) -> Iterator[Row]:
    if quick:
        return  # minutes, whatever the settings
    with tempfile.TemporaryDirectory() as name:
        path = embeddings(Path(name))
        if path is None:
            print(f"time to quality: skipped, {DATASET} is absent; set GREC_DATA to the folder that holds it")
            return
        rival = json.loads(CURVE.read_text(encoding="utf-8"))["points"][-1]
        from index.trainer import train

        before = cpu_seconds()
        folder = train(our_config(path, Path(name)))
        seconds = cpu_seconds() - before
        ours = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    reached = (
        ours["collision_rate"] <= rival["collision_rate"] and ours["eval_reconstruction"] <= rival["reconstruction"]
    )
    yield Row(
        f"RQ-VAE on {DATASET}: CPU seconds to the quality of the plain loop after {NUM_EPOCHS:,} epochs",
        rival["cpu_seconds"] / seconds,
        "x",
        goal=10.0,
        rival="plain loop, no workers, its stored curve",
        equal=reached,
        note=f"{seconds:.0f} s, collision rate {ours['collision_rate']:.4f}, reconstruction error"
        f" {ours['eval_reconstruction']:.4f}; plain: {rival['cpu_seconds']:.0f} s, {rival['collision_rate']:.4f},"
        f" {rival['reconstruction']:.4f}",
    )


def store_curve() -> None:
    """Runs the rival once, and keeps its curve.

    python -c "from benchmarks.sid.quality import store_curve; store_curve()"
    """
    import torch

    from benchmarks.harness import machine
    from src.common.artifacts import write_json

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        path = embeddings(Path(name))
        if path is None:
            raise SystemExit(f"{DATASET} is absent; set GREC_DATA to the folder that holds it")
        points: list[dict[str, Any]] = curve(np.load(path), PlainConfig(num_workers=0), NUM_EPOCHS)
    write_json(CURVE, {"machine": machine(), "dataset": DATASET, "points": points}, indent=1)
