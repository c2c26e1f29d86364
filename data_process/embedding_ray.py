"""Embedding jobs on a Ray cluster: Ray Data hands batches to workers that each hold the model.

Workers read pictures by their paths, so the dataset lies on storage that all nodes share.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_process.cluster import connect
from data_process.embedding_jobs import BATCHES_PER_PART, Batch, Encoder, JobConfig, Outcome, embed
from src.common import distributed

BLOCKS_PER_WORKER = 4  # so that slow and quick workers end together


class Worker:
    """Holds the encoder of one worker and embeds batches, which come and go as plain columns."""

    def __init__(self, build: Callable[..., Encoder], device: str, skip_bad_images: bool):
        from src.common.log import setup_logging

        setup_logging(to_stderr=True)
        self.encoder = build(device=distributed.resolve_device(device))
        self.skip_bad_images = skip_bad_images

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item_ids, texts, images = (json.loads(row[name]) for name in ("item_ids", "texts", "images"))
        paths = [None if image is None else Path(image) for image in images]
        done = embed(self.encoder, Batch(item_ids, texts, paths), self.skip_bad_images)
        rows = np.stack(list(done.vectors.values())) if done.vectors else np.zeros((0, 0))
        return {
            "item_ids": json.dumps(list(done.vectors)),
            "vectors": np.ascontiguousarray(rows, np.float32).tobytes(),
            "failures": json.dumps(done.failures),
        }


def outcomes(config: JobConfig, batches: list[Batch], build: Callable[..., Encoder]) -> Iterator[Outcome]:
    """What became of each batch, in the order in which they are done.

    Raises:
        ValueError: Ray is not installed, or torchrun is in the way.
    """
    ray = connect()
    workers, gpus = workers_of(config, ray.cluster_resources(), len(ray.nodes()))
    rows = [
        {
            "item_ids": json.dumps(batch.item_ids),
            "texts": json.dumps(batch.texts),
            "images": json.dumps([None if image is None else os.path.abspath(image) for image in batch.images]),
        }
        for batch in batches
    ]
    blocks = min(len(rows), max(BLOCKS_PER_WORKER * workers, len(rows) // BATCHES_PER_PART))
    dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
        Worker,
        fn_constructor_args=(build, config.device, config.skip_bad_images),
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in dataset.iter_rows():
        item_ids = json.loads(row["item_ids"])
        vectors = np.frombuffer(row["vectors"], np.float32)
        vectors = vectors.reshape(len(item_ids), -1) if item_ids else vectors.reshape(0, 0)
        failures = {int(item): reason for item, reason in json.loads(row["failures"]).items()}
        yield Outcome(dict(zip(item_ids, vectors, strict=True)), failures)


def workers_of(config: JobConfig, resources: dict[str, float], nodes: int) -> tuple[int, int]:
    """How many workers, and GPUs for each: one worker a GPU, or one a node where there is none or `cpu` is asked for.

    Raises:
        ValueError: more workers than GPUs or CPUs, which would wait for ever.
    """
    gpus = 0 if config.device == "cpu" else int(resources.get("GPU", 0))
    room = gpus or int(resources.get("CPU", 0))
    if config.workers > room:
        raise ValueError(f"--workers {config.workers}: the Ray cluster has {room} {'GPUs' if gpus else 'CPUs'}")
    return config.workers or gpus or min(nodes, room), 1 if gpus else 0
