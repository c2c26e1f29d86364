"""All embeddings of a dataset by one vision-language model, and a table of what each of them knows.

    torchrun --nproc_per_node=8 scripts/extract_rep.py --dataset Games --model Qwen/Qwen2-VL-2B-Instruct

Seven of them: original, enhanced and both texts, each with and without pictures, and pictures alone. The model is
loaded once. What is there already, of the same model, settings, texts and pictures, is kept. Writes
<dataset>.emb-<name>.npy each, as data_process/qwen_embeddings.py does, and <dataset>.emb-comparison.json.
"""

import argparse
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m scripts.extract_rep` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.compare_embeddings import CompareConfig, compare
from data_process.embedding_inputs import MODES, add_input_flags, load_inputs
from data_process.embedding_jobs import add_job_flags, check_sources
from data_process.qwen_embeddings import QwenConfig, add_model_flags, encoder_of, extract
from src.common.cli import name_list, new_parser, user_errors

COMBINATIONS = [{"mode": mode, "image": image} for mode in MODES for image in (True, False)] + [{"image_only": True}]


def extract_all(config: QwenConfig, modes: list[str]) -> list[Path]:
    """Paths of the embeddings of every combination of these modes.

    Raises:
        ValueError: an unknown mode; a text model; or see `qwen_embeddings.extract`.
        FileNotFoundError: texts or pictures are missing, before any model is loaded.
    """
    from src.common.distributed import is_main
    from src.processors import processor_class

    if unknown := sorted(set(modes) - set(MODES)):
        raise ValueError(f"--modes: unknown {unknown[0]!r}: choose from {', '.join(MODES)}")
    check_sources(config)
    if processor_class(config.model) is None:
        raise ValueError(f"{config.model} is a text model and sees no pictures: use data_process/qwen_embeddings.py")
    chosen = [replace(config, **one) for one in COMBINATIONS if one.get("mode", modes[0]) in modes]
    for one in chosen:
        load_inputs(one)
    build = encoder_of(config)
    if config.engine == "local":
        build = cache(build)  # one model for all of them
    paths = [extract(one, build) for one in chosen]
    if is_main():
        folder = paths[0].parent
        comparison = folder / f"{config.dataset}.emb-comparison.json"
        compare(CompareConfig(dataset=config.dataset, data_path=config.data_path, inputs=tuple(paths), json=comparison))
    return paths


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser, texts=False, name=False)
    add_job_flags(parser, "folder or hub name of a vision-language model")
    add_model_flags(parser)
    parser.add_argument(
        "--modes", type=name_list, default=list(MODES), help="texts to take: orig alone needs no enriched items"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    settings = vars(build_parser().parse_args(argv))
    modes = settings.pop("modes")
    from src.common import distributed  # imports torch: after parsing, so that --help and a typo answer at once
    from src.common.log import setup_logging

    setup_logging()
    try:
        with user_errors():
            extract_all(QwenConfig(**settings), modes)
    finally:
        distributed.finish()


if __name__ == "__main__":
    main()
