"""The loop of every encoder: batches of like lengths, on ranks or on Ray, into parts on disk and then into one file."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_process.cluster import add_engine_flags, check_engine
from data_process.embedding_files import item_inputs, record_path, write_embeddings
from data_process.embedding_inputs import EmbeddingInputs, InputConfig
from data_process.embedding_parts import Parts
from src.common import distributed
from src.common.artifacts import check_writable, dataset_paths, read_json
from src.common.cli import add_device_flag, check_at_least
from src.common.machines import check_shared
from src.common.record import write_record
from src.families import find_config, model_input

DTYPES = ("auto", "bf16", "fp16", "fp32")
BATCHES_PER_PART = 32  # after which what is done is saved: at most so much is lost
LISTED_FAILURES = 20
GIVE_UP_AFTER = 100  # failures and not one vector: the fault is the model's, and a catalogue has millions of items
# Of the vectors: rows are told apart by their text and picture, and a batch changes no vector.
SETTLES_NOTHING = {"dataset", "data_path", "out_dir", "name", "mode", "image", "image_only", "image_path"}
SETTLES_NOTHING |= {"skip_bad_images", "batch_size", "device", "engine", "workers"}


@dataclass(frozen=True, kw_only=True)
class JobConfig(InputConfig):
    """Settings of every job that runs a model over the items."""

    model: str
    batch_size: int = 8
    dtype: str = "auto"  # the checkpoint's on a GPU, fp32 on a CPU
    device: str = "auto"
    engine: str = "local"  # this process and the ranks of torchrun, or "ray"
    workers: int = 0  # of Ray; 0: one a GPU, or one a node

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, batch_size=1)
        check_engine(self)
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown --dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")


def check_sources(config: JobConfig) -> None:
    """Refuses a dataset or a model that is not there, before anything is loaded."""
    dataset_paths(config.data_path, config.dataset)
    if not (Path(config.model) / "modules.json").is_file():  # of sentence-transformers, which may keep it deeper
        find_config(config.model)


def model_place(model: str) -> str:
    """The model as workers elsewhere find it: a folder by its whole path, a name of the hub as it is."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def model_files(model: str) -> list[list]:
    """Name, size and time of each file in the model's folder, which may be trained anew; none of a model of the hub."""
    files = sorted(path for path in Path(model).glob("*") if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


class Encoder(Protocol):
    def encode(self, texts: Sequence[str], pictures: Sequence[Any]) -> np.ndarray:
        """(B, D) float32. All pictures (PIL images) of a call are None, or none is."""

    def free_memory(self) -> None:
        """Called after a batch has failed."""


class Batch(NamedTuple):
    """Items that go through the model together: all with a picture, or all without."""

    item_ids: list[int]
    texts: list[str]
    images: list[Path | None]


class Outcome(NamedTuple):
    vectors: dict[int, np.ndarray]  # (D,) float32 by item id
    failures: dict[int, str]  # reason by item id


def run_job(config: JobConfig, inputs: EmbeddingInputs, build: Callable[..., Encoder], default_name: str) -> Path:
    """Embeds what is not embedded yet, joins the parts of all ranks, and returns the path of the embeddings.

    Args:
        build: makes the encoder on `device=`; called once a process, and not at all where everything is done.

    Raises:
        ValueError: the parts belong to other settings; or items failed, batch and alone: it names them, and the others
            are kept for the next run.
    """
    from src.common.log import logger
    from src.common.record import plain, run_record

    if config.engine == "local":
        distributed.init_process_group(distributed.resolve_device(config.device))
    path = config.output_path(default_name)
    check_writable(path)
    if config.engine == "local":
        check_shared(path.parent, "--out-dir")
    parts = Parts(path.with_suffix(".parts"), inputs)
    settings = {name: value for name, value in plain(config).items() if name not in SETTLES_NOTHING}
    settings["model_files"] = model_files(config.model)
    if is_current(path, settings, parts):
        if distributed.is_main():
            parts.remove(settings)  # of a run that was killed after it had written everything
        logger.info(f"{path} is there already, of the same model, settings, texts and pictures")
        return path
    if distributed.is_main():
        parts.claim(settings)
        # Now, since what is read may change while it runs.
        record = run_record(config, item_inputs(config, inputs.images) | {"model": model_input(config.model)})
    distributed.barrier()
    done = parts.done()
    distributed.barrier()  # no rank writes before every rank has read
    batches = make_batches(inputs, done, config.batch_size)
    if done:
        logger.info(f"{len(done)} items are done already, {sum(len(batch.item_ids) for batch in batches)} are left")
    failures = _failures_of(config, batches, build, parts)
    if failures:
        listed = "\n".join(f"  item {item}: {failures[item]}" for item in sorted(failures)[:LISTED_FAILURES])
        raise ValueError(
            f"{len(failures)} of {len(inputs.item_ids)} items failed, the others are kept in {parts.folder}:\n"
            f"{listed}\nMend them and run the same command again; pictures that do not decode: --skip_bad_images"
        )
    if distributed.is_main():
        join(parts, inputs.item_ids, path, settings, record)
    distributed.barrier()
    return path


def make_batches(inputs: EmbeddingInputs, done: set[int], batch_size: int) -> list[Batch]:
    """Batches of what is left, of like lengths, longest first: little padding, and too little memory shows at once.

    Some processors refuse items with and without a picture together. Items with nothing to embed are in no batch.
    """
    batches = []
    for sees in (True, False):
        rows = [
            row
            for row, item in enumerate(inputs.item_ids)
            if item not in done and (inputs.images[row] is not None) == sees and (sees or inputs.texts[row].strip())
        ]
        rows.sort(key=lambda row: -len(inputs.texts[row]))
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            batches.append(
                Batch(
                    [inputs.item_ids[row] for row in batch],
                    [inputs.texts[row] for row in batch],
                    [inputs.images[row] for row in batch],
                )
            )
    return batches


def _failures_of(config: JobConfig, batches: list[Batch], build: Callable[..., Encoder], parts: Parts) -> dict:
    """Embeds the batches on the engine, into the parts; gives the reason of each failure, on every rank."""
    if not batches:
        return {}
    if config.engine == "ray":
        from data_process.embedding_ray import outcomes

        return save_outcomes(outcomes(config, batches, build), batches, parts)
    mine = list(distributed.shard(batches))  # whole ones, so that the number of ranks changes no vector
    found: dict[int, str] = {}
    if mine:
        encoder = build(device=distributed.resolve_device(config.device))
        found = save_outcomes((embed(encoder, batch, config.skip_bad_images) for batch in mine), mine, parts)
    return {item: reason for part in distributed.gather(found) for item, reason in part.items()}


def save_outcomes(outcomes, batches: Sequence[Batch], parts: Parts) -> dict[int, str]:
    """Saves vectors as they come, with progress; gives the reason of each failure."""
    from src.common.log import duration, logger

    failures: dict[int, str] = {}
    fresh: dict[int, np.ndarray] = {}
    total, count, started = sum(len(batch.item_ids) for batch in batches), 0, time.monotonic()
    for number, outcome in enumerate(outcomes, 1):
        fresh.update(outcome.vectors)
        failures.update(outcome.failures)
        count += len(outcome.vectors) + len(outcome.failures)
        if number % BATCHES_PER_PART == 0 or number == len(batches):
            parts.write(fresh)
            fresh = {}
            speed = count / max(1e-9, time.monotonic() - started)
            logger.info(f"{count} of {total} items, {speed:.1f} a second, {duration((total - count) / speed)} left")
        if count == len(failures) >= GIVE_UP_AFTER:
            logger.warning(f"the first {count} items have all failed: the others are not tried")
            break
    return failures


def embed(encoder: Encoder, batch: Batch, skip_bad_images: bool) -> Outcome:
    """Vectors and failures of a batch, by item id. A batch that fails is done again item by item."""
    from src.common.log import logger

    pictures, failures = _open(batch, skip_bad_images)
    vectors: dict[int, np.ndarray] = {}
    for sees in (True, False):  # a skipped picture leaves a text among items with pictures
        some = [
            row
            for row, item in enumerate(batch.item_ids)
            if item not in failures and (pictures[row] is not None) == sees and (sees or batch.texts[row].strip())
        ]
        if not some:
            continue
        try:
            vectors.update(_encode(encoder, batch, pictures, some))
            continue
        except Exception as error:  # out of memory, a picture or text that a processor refuses: all are per item
            reason = f"{type(error).__name__}: {error}"
        encoder.free_memory()
        if len(some) > 1:
            logger.warning(f"a batch of {len(some)} failed ({reason.splitlines()[0]}): its items one by one")
        for row in some:
            try:
                if len(some) > 1:
                    vectors.update(_encode(encoder, batch, pictures, [row]))
                else:
                    failures[batch.item_ids[row]] = reason
            except Exception as error:
                failures[batch.item_ids[row]] = f"{type(error).__name__}: {error}"
                encoder.free_memory()
    return Outcome(vectors, failures)


def _encode(encoder: Encoder, batch: Batch, pictures: list, rows: list[int]) -> dict[int, np.ndarray]:
    vectors = encoder.encode([batch.texts[row] for row in rows], [pictures[row] for row in rows])
    if not np.isfinite(vectors).all():
        raise ValueError("the model gave NaN or infinite values; with half precision, try --dtype fp32")
    return dict(zip([batch.item_ids[row] for row in rows], vectors, strict=True))


def _open(batch: Batch, skip_bad_images: bool) -> tuple[list, dict[int, str]]:
    """The pictures, None where there is none to see, and the items whose picture does not decode."""
    from src.common.images import open_image
    from src.common.log import logger

    pictures: list[Any] = [None] * len(batch.item_ids)
    failures = {}
    for row, image in enumerate(batch.images):
        if image is None:
            continue
        try:
            pictures[row] = open_image(image)
        except ValueError as error:
            if skip_bad_images:
                logger.warning(f"skipped: {error}")
            else:
                failures[batch.item_ids[row]] = str(error)
    return pictures, failures


def is_current(path: Path, settings: dict[str, Any], parts: Parts) -> bool:
    """Whether the embeddings are whole, of these settings and inputs, and no other program has written them since."""
    record = record_path(path)
    if not path.is_file() or not record.is_file():
        return False
    found, stat = read_json(record), path.stat()
    same_file = found.get("file") == [stat.st_size, stat.st_mtime_ns]
    items = found.get("items_sha256", found.get("inputs"))  # as it was called before
    return same_file and found.get("settings") == settings and items == parts.digest()


def join(
    parts: Parts, item_ids: Sequence[int], path: Path, settings: dict[str, Any], record: Mapping[str, Any]
) -> None:
    """Writes the embeddings and their ids from all parts, and removes the parts. Memory does not grow with the items.

    Items with nothing to embed get the mean of the others.
    """
    from src.common.log import logger

    table, known = parts.join(item_ids)
    if not known.all():
        missing = [item_ids[row] for row in np.flatnonzero(~known).tolist()]
        logger.warning(f"{len(missing)} items have nothing to embed and get the mean of the others: {missing[:5]}")
    write_embeddings(path, table, item_ids, record)
    stat = path.stat()
    own = {"settings": settings, "items_sha256": parts.digest(), "file": [stat.st_size, stat.st_mtime_ns]}
    write_record(record_path(path), read_json(record_path(path)) | own)
    logger.info(f"{path}: {len(item_ids)} items, {table.shape[1]} dimensions")
    del table
    parts.remove(settings)


def add_job_flags(parser: argparse.ArgumentParser, model_help: str, batch_size: int = JobConfig.batch_size) -> None:
    """The flags of `JobConfig` beyond those of its inputs, with dashes and underscores alike."""
    parser.add_argument("--model", required=True, help=model_help)
    parser.add_argument(*("--batch-size", "--batch_size"), type=int, default=batch_size, help="items at once, per GPU")
    parser.add_argument(
        "--dtype", choices=DTYPES, default=JobConfig.dtype, help="auto: the checkpoint's on a GPU, fp32 on a CPU"
    )
    add_device_flag(parser)
    add_engine_flags(parser, "this process or torchrun's", "one for each GPU, else one for each node")
