"""Embeddings of a Hugging Face vision-language or text model: its last hidden states over the tokens of an item.

    python3 data_process/qwen_embeddings.py --dataset Games --model Qwen/Qwen2-VL-2B-Instruct --batch-size 8

Several GPUs: torchrun --nproc_per_node=8 data_process/qwen_embeddings.py ... (the same flags); a cluster: --engine
ray. What is done is kept in `<output>.parts/`: run the same command again to go on after a failure, with any number of
GPUs. `--mode` chooses texts, `--no-image` and `--image-only` what the model sees. Writes <dataset>.emb-<name>.npy, its
ids, and <dataset>.emb-<name>.run.json, by which the same command knows that there is nothing left to do.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_inputs import add_input_flags, load_inputs, name_of_inputs
from data_process.embedding_jobs import JobConfig, add_job_flags, check_sources, model_place, run_job
from src.common.cli import check_at_least, new_parser, user_errors

POOLINGS = ("mean", "last", "eos")


@dataclass(frozen=True, kw_only=True)
class QwenConfig(JobConfig):
    """`max_length` cuts the item's text, in tokens; `pooling` is over the item's own tokens."""

    max_length: int = 512
    pooling: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, max_length=1)
        if self.pooling not in POOLINGS:
            raise ValueError(f"unknown --pooling {self.pooling!r}: choose one of {', '.join(POOLINGS)}")


def extract(config: QwenConfig, build: Callable | None = None) -> Path:
    """Embeds what is not embedded yet and returns the path of the embeddings.

    Args:
        build: what makes the encoder, where several runs share one.

    Raises:
        ValueError: --image-only with a text model; or see `run_job`.
    """
    from src.common.log import logger
    from src.processors import processor_class

    check_sources(config)
    if processor_class(config.model) is None and config.image:
        if config.image_only:
            raise ValueError(f"--image-only: {config.model} is a text model and sees no pictures")
        logger.warning(f"{config.model} is a text model: these embeddings hold texts only")
        config = replace(config, image=False)
    name = f"{Path(config.model).name}-{name_of_inputs(config)}"
    return run_job(config, load_inputs(config), build or encoder_of(config), name)


def encoder_of(config: QwenConfig) -> Callable:
    """What makes the encoder on a device."""
    from data_process.encoders import Encoder

    settings: dict[str, Any] = {"max_length": config.max_length, "pooling": config.pooling, "dtype": config.dtype}
    return partial(Encoder, model_place(config.model), **settings)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser)
    add_job_flags(parser, "folder or hub name of a vision-language or text model")
    add_model_flags(parser)
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `QwenConfig` beyond those of a job."""
    parser.add_argument(
        *("--max_length", "--max-length"), type=int, default=QwenConfig.max_length, help="tokens of an item's text"
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        default=QwenConfig.pooling,
        help="over the item's tokens, the last of them, or the token that ends the text",
    )


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
