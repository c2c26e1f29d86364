"""Measure a checkpoint or a SID index: collision rate, utilization and perplexity; print a table and write a JSON.

python3 index/evaluate_index.py --ckpt_path data/Games/index/qwen7B/2025-01-31_12-00-00 --batch_size 2048
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from index.config import EvaluateConfig
from src.common.artifacts import load_sid_index, write_json
from src.common.cli import add_device_flag, new_parser


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ckpt_path", type=Path, help="checkpoint, or run folder (its best_collision_model.pth)")
    what.add_argument("--index_file", type=Path, help="SID index (.json, .npz), or codes of any tokenizer (.npy)")
    add = parser.add_argument
    add("--data_path", type=Path, help="embeddings .npy; default: those that the checkpoint was trained on")
    add("--output_file", type=Path, help="default: beside what is measured, *.evaluation.json")
    add("--batch_size", type=int, default=EvaluateConfig.batch_size, help="items encoded at a time")
    add_device_flag(parser)
    return parser


def evaluate(config: EvaluateConfig) -> Path:
    """Measures, prints, and writes a JSON of the measures; gives its path."""
    from index.metrics import format_table, measure
    from src.common.log import logger

    if config.index_file is not None:
        source, more = Path(config.index_file), {}
        codes, sizes = read_codes(source)
    else:
        source, codes, sizes, more = encode_checkpoint(config)
    metrics = measure(codes, sizes)
    output = config.output_file or source.with_suffix(".evaluation.json")
    table = {"source": str(source), "codebook_sizes": list(sizes), **metrics.table(), **more}
    write_json(output, table, indent=2)
    logger.info(f"{source}\n{format_table(metrics, sizes)}")
    for name, value in more.items():
        logger.info(f"{name} {value}")
    logger.info(f"Results: {output}")
    return Path(output)


def read_codes(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """(N, L) codes of an index or of a .npy, and the codebook size of each level."""
    if path.suffix != ".npy":
        index = load_sid_index(path)
        return index.codes, index.codebook_sizes
    codes = np.load(path, allow_pickle=False)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer) or 0 in codes.shape or codes.min() < 0:
        raise ValueError(f"{path} must hold codes from 0, (items, levels) integers; holds {codes.dtype} {codes.shape}")
    return codes.astype(np.int64), tuple(int(size) for size in codes.max(0) + 1)


def encode_checkpoint(config: EvaluateConfig) -> tuple[Path, np.ndarray, tuple[int, ...], dict[str, Any]]:
    """Path, codes and codebook sizes of a checkpoint, and its errors, over its own embeddings or --data_path."""
    from index.checkpoints import load_checkpoint
    from index.collisions import quantization_error
    from index.embeddings import EmbeddingDataset
    from index.encoding import encode_all
    from src.common.distributed import resolve_device

    device = resolve_device(config.device)
    checkpoint = load_checkpoint(config.ckpt_path, device)
    data_path = config.data_path or checkpoint.data_path
    if data_path is None:
        raise ValueError(f"{checkpoint.path} does not say which embeddings it was trained on: pass --data_path")
    encoded = encode_all(
        checkpoint.model, EmbeddingDataset(data_path, device), config.batch_size, with_reconstruction=True
    )
    more = {
        "data_path": str(data_path),
        "epoch": checkpoint.epoch,
        "reconstruction": encoded.reconstruction,
        "quantization_error": quantization_error(encoded.latents, encoded.codebooks, encoded.codes),
    }
    return checkpoint.path, encoded.codes, checkpoint.model.config.codebook_sizes, more


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    args = parser.parse_args(argv)
    try:
        config = EvaluateConfig(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    from src.common.log import setup_logging  # imports torch: after parsing, so that --help and a typo answer at once

    setup_logging()
    evaluate(config)


if __name__ == "__main__":
    main()
