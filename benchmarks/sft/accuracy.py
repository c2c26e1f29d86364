"""What prefix sharing does to accuracy: HMWeek, a tiny Qwen2, as many epochs and steps with it and without.

It takes about an hour of one core. Stopped and started again it goes on; what it makes is in output/benchmarks/sft.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, real_data

DATASET, CORPUS = "HMWeek", "item.json"
FOLDER = Path("output/benchmarks/sft")
LOWEST = -0.005  # the interval of the difference in hit@10 must lie above


@dataclass(frozen=True)
class Settings:
    """Those of the quickstart, which were chosen on validation data (docs/lab.md)."""

    seeds: tuple[int, ...] = (1, 2, 3)
    epochs: int = 6
    batch_size: int = 64  # samples of a step; with shared prefixes as many users as have so many samples
    learning_rate: float = 1e-3
    codebooks: tuple[int, ...] = (256, 256, 256)
    rqvae_epochs: int = 400


def do(module: str, *flags: object) -> None:
    """Runs an entry in a process of its own, with one thread."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    print(f"  {' '.join(command[1:])}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed with status {done.returncode}:\n{done.stderr[-2000:]}")


def prepare(source: Path, settings: Settings) -> tuple[Path, Path, Path]:
    """Folder of the dataset, its SID index and the base model."""
    data, model = FOLDER / "data", FOLDER / "model"
    folder = data / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    for file in [*source.glob(f"{DATASET}.*"), source / "images"]:
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    index_file = folder / "index" / "simple" / f"{DATASET}.index_simple.json"
    if not index_file.is_file():
        embeddings = folder / f"{DATASET}.emb-simple.npy"
        do("data_process.simple_embeddings", "--dataset", DATASET, "--data_path", data, "--name", "simple")
        do(
            "index.main", "--data_path", embeddings, "--ckpt_dir", folder / "index" / "runs", "--layers", 256, 128,
            "--num_emb_list", *settings.codebooks, "--epochs", settings.rqvae_epochs, "--batch_size", 1024,
            "--lr_scheduler_type", "cosine", "--warmup_epochs", settings.rqvae_epochs // 20, "--device", "cpu",
        )  # fmt: skip
        run = max((folder / "index" / "runs").glob("*/"), key=lambda path: path.stat().st_mtime)
        do(
            "index.generate_indices", "--dataset", DATASET, "--ckpt_path", run, "--output_dir", index_file.parent,
            "--output_file", index_file.name, "--device", "cpu",
        )  # fmt: skip
    if not (model / "config.json").is_file():
        do("scripts.make_tiny_model", "--family", "qwen2", "--out", model, "--corpus", folder / f"{DATASET}.{CORPUS}")
    return data, index_file, model


def results_of(seed: int, share_prefix: bool, split: str, settings: Settings, source: Path) -> Path:
    """Trains and evaluates one model, unless that is done; its results file."""
    from src.tasks.catalogue import load_catalogue

    data, index_file, model = prepare(source, settings)
    name = f"{'shared' if share_prefix else 'independent'}-{seed}"
    output, results = FOLDER / "runs" / name, FOLDER / f"{name}-{split}.json"
    if results.is_file():
        return results
    batch_size = settings.batch_size
    if share_prefix:
        catalogue = load_catalogue(data, DATASET)
        users = catalogue.next_item_targets("train").users
        batch_size = round(batch_size * len(np.unique(users)) / len(users))
    if not (output / "token_meta.json").is_file():
        do(
            "src.finetune.train_ddp", "--base_model", model, "--model_type", "qwen2", "--output_dir", output,
            "--data_path", data, "--dataset", DATASET, "--index_file", index_file, "--tasks", "seqrec",
            *(["--share_prefix"] if share_prefix else []), "--per_device_batch_size", batch_size, "--epochs",
            settings.epochs, "--learning_rate", settings.learning_rate, "--adam_beta2", 0.95, "--warmup_ratio", 0.05,
            "--his_sep", ",", "--max_valid_samples", 2000, "--logging_step", 100, "--seed", seed, "--device", "cpu",
            "--resume_from_checkpoint", "auto",
        )  # fmt: skip
    do(
        "src.seqrec.metric_ddp", "--data_path", data, "--dataset", DATASET, "--index_file", index_file, "--ckpt_model",
        output, "--filter_history", "--test_batch_size", 64, "--split", split, "--device", "cpu", "--results_file",
        results,
    )  # fmt: skip
    return results


def difference_row(split: str, settings: Settings, source: Path) -> Row:
    """hit@10 with shared prefixes less hit@10 without, over all seeds, users drawn anew as a whole."""
    from src.common.uncertainty import paired_test
    from src.seqrec.compare import load_samples

    pairs = [  # seed by seed, so that a run cut short leaves whole pairs
        [load_samples(results_of(seed, share, split, settings, source), ["hit@10"]) for share in (False, True)]
        for seed in settings.seeds
    ]
    sides = [np.concatenate([side.values["hit@10"] for side in kind]) for kind in zip(*pairs, strict=True)]
    users = [user for independent, _ in pairs for user, _, _ in independent.keys]
    test = paired_test(*sides, users)
    means = [side.reshape(len(settings.seeds), -1).mean(1) for side in sides]
    return Row(
        f"accuracy, {DATASET}, {split}: lower end of the difference in hit@10",
        test.low,
        "",
        goal=LOWEST,
        rival="independent samples, the same epochs and steps",
        runs=len(settings.seeds),
        note=f"difference {test.difference:+.4f}, 95 % interval {test.low:+.4f} to {test.high:+.4f}; shared"
        f" {means[1].mean():.4f} ({', '.join(f'{mean:.4f}' for mean in means[1])}), independent {means[0].mean():.4f}"
        f" ({', '.join(f'{mean:.4f}' for mean in means[0])})",
    )


def rows(quick: bool) -> Iterator[Row]:
    source = real_data(DATASET)
    if source is None or quick:
        print(f"accuracy: skipped, {'it takes an hour' if quick else f'{DATASET} is absent; set GREC_DATA'}")
        return
    for split in ("valid", "test"):
        yield difference_row(split, Settings(), source)
