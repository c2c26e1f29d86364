"""Embeddings without any download: TF-IDF of the texts, statistics of the pictures, both of equal weight.

    python3 data_process/simple_embeddings.py --dataset Demo

Writes <dataset>.emb-simple.npy and its ids. Takes seconds for thousands of items on one core.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_files import item_inputs, write_embeddings
from data_process.embedding_inputs import InputConfig, add_input_flags, load_inputs
from src.common.cli import new_parser, user_errors
from src.common.record import run_record

# A Chinese or Japanese character, or a run of any other letters and digits.
WORDS = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"


@dataclass(frozen=True, kw_only=True)
class SimpleConfig(InputConfig):
    """`whitening` 0 keeps the directions of the data as long as they are, 1 makes all equally long."""

    dim: int = 128
    whitening: float = 0.5
    seed: int = 42

    def __post_init__(self):
        super().__post_init__()
        if self.dim < 1:
            raise ValueError(f"--dim {self.dim} must be at least 1")
        if not 0 <= self.whitening <= 1:
            raise ValueError(f"--whitening {self.whitening} must lie between 0 and 1")


def extract(config: SimpleConfig) -> Path:
    """Writes the embeddings of all items and returns their path.

    Raises:
        ValueError: a picture does not decode; no item has a text or a picture.
    """
    import numpy as np

    from src.common.log import logger

    inputs = load_inputs(config)
    parts = []
    if any(text.strip() for text in inputs.texts):
        parts.append(text_vectors(inputs.texts, config.dim, config.seed))
    if any(inputs.images):
        parts.append(image_vectors(inputs.images, config.dim, config.seed, config.skip_bad_images))
    elif config.image:
        logger.warning(f"no item of {config.dataset} has a picture: these embeddings hold texts only")
    if not parts:
        raise ValueError(f"no item of {config.dataset} has a text or a picture: there is nothing to embed")
    joined = np.concatenate(parts, 1)
    vectors = principal_components(joined, config.dim, config.seed, config.whitening)
    vectors *= np.sqrt(vectors.shape[1])  # a standard deviation of about 1 per column, which RQ-VAEs start well from
    path = config.output_path("simple")
    write_embeddings(path, vectors, inputs.item_ids, run_record(config, item_inputs(config, inputs.images)))
    logger.info(f"{path}: {vectors.shape[0]} items, {vectors.shape[1]} dimensions")
    return path


def text_vectors(texts: Sequence[str], dim: int, seed: int):
    """(N, <= dim) float64: TF-IDF of words and pairs of words, reduced, with a mean squared length of 1.

    Chinese and Japanese set no blanks between words, so there characters and pairs of them count.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000, token_pattern=WORDS)
    try:
        table = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"the item texts hold no words ({error}): use --image-only") from error
    return principal_components(table, dim, seed)


def image_vectors(images: Sequence[Path | None], dim: int, seed: int, skip_bad_images: bool = False):
    """(N, <= dim) float64 with a mean squared length of 1; items without a picture get the mean picture, which is 0.

    Raises:
        ValueError: a picture does not decode, unless `skip_bad_images`; or none does.
    """
    import numpy as np

    from data_process.image_statistics import statistics_of_files
    from src.common.log import logger

    blocks, known = statistics_of_files(images, skip_bad_images)
    if not known.any():
        raise ValueError("no picture decodes: use --no-image")
    if num_missing := int((~known).sum()):
        logger.info(f"{num_missing} of {len(images)} items get the mean picture in place of their own")
    scaled = []
    for block in blocks:
        block = block[known] - block[known].mean(0)
        block /= block.std(0) + 0.1 * block.std() + 1e-9  # near-constant columns are noise, and stay small
        scaled.append(block / np.sqrt((block**2).sum(1).mean() + 1e-12))
    reduced = principal_components(np.concatenate(scaled, 1), dim, seed)
    vectors = np.zeros((len(images), reduced.shape[1]))
    vectors[known] = reduced
    return vectors


def principal_components(table, dim: int, seed: int, whitening: float = 0.0):
    """(N, <= dim) float64, centred, of mean squared length 1. `table` is (N, F), dense or sparse."""
    import numpy as np
    from sklearn.utils.extmath import randomized_svd

    if table.shape[1] > 4 * dim or not isinstance(table, np.ndarray):  # the sparse table is too large to be centred
        rank = min(dim + 1, *table.shape)  # one for the mean
        left, lengths, _ = randomized_svd(table, rank, n_iter=4, random_state=seed)
        table = left * lengths
    centred = table - table.mean(0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    kept = lengths[:dim] > 1e-6 * max(lengths[0], 1e-12)
    if not kept.any():  # all items are alike
        return np.zeros((len(centred), 1))
    vectors = left[:, :dim][:, kept] * lengths[:dim][kept] ** (1 - whitening)
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])  # alike on every machine
    vectors *= signs
    return vectors / np.sqrt((vectors**2).sum(1).mean())


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_input_flags(parser)
    parser.add_argument("--dim", type=int, default=SimpleConfig.dim, help="dimensions, at most")
    parser.add_argument(
        "--whitening", type=float, default=SimpleConfig.whitening, help="0 none, 1 all directions equally long"
    )
    parser.add_argument("--seed", type=int, default=SimpleConfig.seed, help="seed of the reductions")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common.log import setup_logging  # imports torch: after parsing, so that --help answers at once

    setup_logging()
    with user_errors():
        extract(SimpleConfig(**vars(args)))


if __name__ == "__main__":
    main()
