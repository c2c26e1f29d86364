"""Embeddings of a Hugging Face vision-language or text model: the mean of its last hidden states over all real tokens.

    python3 data_process/qwen_embeddings.py --dataset Games --model Qwen/Qwen2-VL-2B-Instruct --batch-size 8

Several GPUs: torchrun --nproc_per_node=8 data_process/qwen_embeddings.py ... (the same flags). What is done is kept in
`<output>.parts/`: run the same command again to go on after a failure, with any number of GPUs. `--mode` chooses texts,
`--no-image` and `--image-only` what the model sees. Writes <dataset>.emb-<name>.npy and its ids.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data_process.embedding_inputs import EmbeddingInputs, InputConfig, add_input_flags, load_inputs, name_of_inputs
from data_process.embedding_parts import Parts
from src.common.artifacts import save_embeddings
from src.common.cli import add_device_flag, new_parser, user_errors

BATCHES_PER_PART = 32  # after which a rank saves: at most so much is lost
LISTED_FAILURES = 20


@dataclass(frozen=True, kw_only=True)
class QwenConfig(InputConfig):
    """`pooling` is "mean" over the real tokens or the "last" of them; `max_length` cuts the item's text, in tokens."""

    model: str
    batch_size: int = 8
    max_length: int = 512
    pooling: str = "mean"
    device: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        for field in ("batch_size", "max_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"--{field} {getattr(self, field)} must be at least 1")


def extract(config: QwenConfig) -> Path:
    """Embeds what is not embedded yet, joins the parts of all ranks, and returns the path of the embeddings.

    Raises:
        ValueError: the parts belong to other settings; or --image-only with a text model.
        RuntimeError: items failed, batch or alone; lists them. The others are kept for the next run.
    """
    from data_process.encoders import Encoder
    from src.common import distributed
    from src.common.log import logger
    from src.processors import processor_class

    if processor_class(config.model) is None and config.image:
        if config.image_only:
            raise ValueError(f"--image-only: {config.model} is a text model and sees no pictures")
        logger.warning(f"{config.model} is a text model: these embeddings hold texts only")
        config = replace(config, image=False)
    device = distributed.resolve_device(config.device)
    distributed.init_process_group(device)
    inputs = load_inputs(config)
    path = config.output_path(f"{Path(config.model).name}-{name_of_inputs(config)}")
    parts = Parts(path.with_suffix(".parts"), inputs)
    if distributed.is_main():
        parts.claim({"model": config.model, "max_length": config.max_length, "pooling": config.pooling})
    distributed.barrier()
    done = parts.read()
    distributed.barrier()  # no rank writes before every rank has read
    encoder = Encoder(config.model, device, config.max_length, config.pooling)
    # Items with and without a picture do not share a batch: some processors refuse the mixture.
    pending = [
        row for row in range(len(inputs.item_ids)) if inputs.item_ids[row] not in done and _has_input(inputs, row)
    ]
    pending.sort(key=lambda row: inputs.images[row] is None)
    if done:
        logger.info(f"{len(done)} items are done already, {len(pending)} are left")
    failures = _embed(config, encoder, inputs, list(distributed.shard(pending)), parts)
    failures = {item: reason for part in distributed.gather(failures) for item, reason in part.items()}
    if failures:
        listed = "\n".join(f"  item {item}: {failures[item]}" for item in sorted(failures)[:LISTED_FAILURES])
        raise RuntimeError(
            f"{len(failures)} of {len(inputs.item_ids)} items failed, the others are kept in {parts.folder}:\n"
            f"{listed}\nMend them and run the same command again; pictures that do not decode: --skip_bad_images"
        )
    if distributed.is_main():
        vectors = parts.read()
        mean = np.mean(list(vectors.values()), 0)
        missing = [item for item in inputs.item_ids if item not in vectors]
        if missing:
            logger.warning(f"{len(missing)} items have nothing to embed and get the mean of the others: {missing[:5]}")
        save_embeddings(path, np.stack([vectors.get(item, mean) for item in inputs.item_ids]), inputs.item_ids)
        shutil.rmtree(parts.folder)
        logger.info(f"{path}: {len(inputs.item_ids)} items, {len(mean)} dimensions")
    distributed.barrier()
    return path


def _has_input(inputs: EmbeddingInputs, row: int) -> bool:
    return bool(inputs.texts[row].strip()) or inputs.images[row] is not None


def _embed(config: QwenConfig, encoder, inputs: EmbeddingInputs, rows: list[int], parts: Parts) -> dict[int, str]:
    """Embeds these rows in batches and saves them by item id; gives the reason of each failure."""
    from src.common.log import logger

    failures: dict[int, str] = {}
    fresh = {}
    sizes = range(0, len(rows), config.batch_size)
    for number, start in enumerate(sizes, 1):
        batch = rows[start : start + config.batch_size]
        for sees in (True, False):
            some = [row for row in batch if (inputs.images[row] is not None) == sees]
            vectors, reasons = embed_batch(encoder, inputs, some, config.skip_bad_images)
            fresh.update(vectors)
            failures.update(reasons)
        if number % BATCHES_PER_PART == 0 or number == len(sizes):
            parts.write(fresh)
            fresh = {}
            logger.info(f"{number} of {len(sizes)} batches")
    return failures


def embed_batch(encoder, inputs: EmbeddingInputs, rows: list[int], skip_bad_images: bool):
    """Vectors by item id, and reasons by item id. A batch that fails is done again item by item."""
    from src.common.log import logger

    if not rows:
        return {}, {}
    ids = [inputs.item_ids[row] for row in rows]
    try:
        pictures = [_open(inputs.images[row], skip_bad_images) for row in rows]
        if len(rows) > 1 and len({picture is None for picture in pictures}) > 1:
            raise ValueError("a skipped picture leaves a mixed batch")
        vectors = encoder.encode([inputs.texts[row] for row in rows], pictures)
        return dict(zip(ids, vectors, strict=True)), {}
    except Exception as error:  # out of memory, a bad picture, a text that a processor refuses: all are per item
        if len(rows) == 1:
            return {}, {ids[0]: f"{type(error).__name__}: {error}"}
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning(f"a batch of {len(rows)} failed ({reason}): its items one by one")
    encoder.free_memory()
    vectors, failures = {}, {}
    for row in rows:
        some, reasons = embed_batch(encoder, inputs, [row], skip_bad_images)
        vectors.update(some)
        failures.update(reasons)
    return vectors, failures


def _open(path: Path | None, skip_bad_images: bool):
    from src.common.images import open_image
    from src.common.log import logger

    if path is None:
        return None
    try:
        return open_image(path)
    except ValueError as error:
        if not skip_bad_images:
            raise
        logger.warning(f"skipped: {error}")
        return None


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser)
    parser.add_argument("--model", required=True, help="folder or hub name of a vision-language or text model")
    parser.add_argument(
        *("--batch-size", "--batch_size"), type=int, default=QwenConfig.batch_size, help="items at once, per GPU"
    )
    parser.add_argument(
        *("--max_length", "--max-length"), type=int, default=QwenConfig.max_length, help="tokens of an item's text"
    )
    parser.add_argument(
        "--pooling", choices=("mean", "last"), default=QwenConfig.pooling, help="over the tokens, or the last one's"
    )
    add_device_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common import distributed  # imports torch: after parsing, so that --help and a typo answer at once
    from src.common.log import setup_logging

    setup_logging()
    try:
        with user_errors():
            extract(QwenConfig(**vars(args)))
    finally:
        distributed.finish()


if __name__ == "__main__":
    main()
