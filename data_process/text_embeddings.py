"""Embeddings of item texts by a text encoder: a model of sentence-transformers, or any encoder of transformers.

    python3 data_process/text_embeddings.py --dataset Games --model ./models/all-MiniLM-L6-v2

A folder with a modules.json is a model of sentence-transformers and pools as it was trained to; `--pooling` takes the
transformer alone, as of a folder without. Ranks, Ray and going on after a failure: as data_process/qwen_embeddings.py.
Writes <dataset>.emb-<name>.npy and its ids.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_inputs import add_input_flags, load_inputs, name_of_inputs
from data_process.embedding_jobs import JobConfig, add_job_flags, check_sources, model_place, run_job
from src.common.cli import check_at_least, new_parser, user_errors

POOLINGS = ("mean", "cls", "last", "eos")


@dataclass(frozen=True, kw_only=True)
class TextConfig(JobConfig):
    """`prompt` is put before every text, for encoders that were trained with one ("passage: ")."""

    batch_size: int = 32
    image: bool = False
    max_length: int = 512
    pooling: str | None = None  # the model's own, or "mean" where it has none
    prompt: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, max_length=1)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(f"unknown --pooling {self.pooling!r}: choose one of {', '.join(POOLINGS)}")


def extract(config: TextConfig) -> Path:
    """Embeds what is not embedded yet and returns the path of the embeddings; see `run_job`."""
    check_sources(config)
    name = f"{Path(config.model).name}-{name_of_inputs(config)}"
    return run_job(config, load_inputs(config), encoder_of(config), name)


def encoder_of(config: TextConfig) -> Callable:
    """What makes the encoder on a device."""
    from data_process.encoders import Encoder
    from data_process.sentence_encoders import SentenceEncoder, is_sentence_encoder

    settings: dict[str, Any] = {"max_length": config.max_length, "dtype": config.dtype, "prompt": config.prompt}
    if config.pooling is None and is_sentence_encoder(config.model):
        return partial(SentenceEncoder, model_place(config.model), **settings)
    return partial(Encoder, model_place(config.model), **settings, pooling=config.pooling or "mean", chat=False)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser, pictures=False)
    add_job_flags(parser, "folder or hub name of a text encoder", TextConfig.batch_size)
    parser.add_argument(
        *("--max_length", "--max-length"), type=int, default=TextConfig.max_length, help="tokens of a text, at most"
    )
    parser.add_argument(
        "--pooling", choices=POOLINGS, default=TextConfig.pooling, help="default: the model's own, else mean"
    )
    parser.add_argument("--prompt", default=TextConfig.prompt, help="put before every text, such as 'passage: '")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common import distributed  # imports torch: after parsing, so that --help and a typo answer at once
    from src.common.log import setup_logging

    setup_logging()
    try:
        with user_errors():
            extract(TextConfig(**vars(args)))
    finally:
        distributed.finish()


if __name__ == "__main__":
    main()
