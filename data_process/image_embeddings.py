"""Embeddings of item pictures by an image encoder: CLIP, SigLIP, DINOv2, ViT, ConvNeXt, or weights of timm.

    python3 data_process/image_embeddings.py --dataset Games --model ./models/siglip-base-patch16-224

Any folder that AutoModel and AutoImageProcessor of transformers open; those of timm need that package. Ranks, Ray and
going on after a failure: as data_process/qwen_embeddings.py. Writes <dataset>.emb-<name>.npy and its ids.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_inputs import add_input_flags, load_inputs
from data_process.embedding_jobs import JobConfig, add_job_flags, check_sources, model_place, run_job
from src.common.cli import new_parser, user_errors


@dataclass(frozen=True, kw_only=True)
class ImageConfig(JobConfig):
    batch_size: int = 32
    image_only: bool = True


def extract(config: ImageConfig) -> Path:
    """Embeds what is not embedded yet and returns the path of the embeddings; see `run_job`."""
    from data_process.image_encoders import ImageEncoder

    check_sources(config)
    build = partial(ImageEncoder, model_place(config.model), dtype=config.dtype)
    return run_job(config, load_inputs(config), build, Path(config.model).name)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser, texts=False)
    add_job_flags(parser, "folder or hub name of an image encoder", ImageConfig.batch_size)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common import distributed  # imports torch: after parsing, so that --help and a typo answer at once
    from src.common.log import setup_logging

    setup_logging()
    try:
        with user_errors():
            extract(ImageConfig(**vars(args)))
    finally:
        distributed.finish()


if __name__ == "__main__":
    main()
