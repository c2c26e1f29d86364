"""Embeddings of items by who follows whom in the training part of the sequences, for `index/main.py --cf_path`.

    python3 data_process/collaborative_embeddings.py --dataset HMWeek

Writes <dataset>.emb-collaborative.npy and its ids: a truncated SVD of the positive pointwise mutual information of
co-transitions (Levy and Goldberg, 2014). Items that nobody has in the training part are left out.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import dataset_paths, save_embeddings
from src.common.cli import add_dataset_flags, check_at_least, new_parser, user_errors


@dataclass(frozen=True, kw_only=True)
class CollaborativeConfig:
    dataset: str
    data_path: Path = Path("data")
    out_dir: Path | None = None  # None: the dataset's folder
    dim: int = 32
    seed: int = 42

    def __post_init__(self):
        check_at_least(self, dim=1, seed=0)


def extract(config: CollaborativeConfig) -> Path:
    """Writes the embeddings of all items that occur in training, and returns their path.

    Raises:
        ValueError: there are fewer such items than dimensions.
    """
    import numpy as np
    from scipy import sparse

    from src.baselines.cooccurrence import transition_counts
    from src.common.log import logger
    from src.tasks.catalogue import load_catalogue

    catalogue = load_catalogue(config.data_path, config.dataset)
    counts = transition_counts(catalogue).astype(np.float64)
    counts = sparse.csr_array(counts + counts.T)
    known = np.flatnonzero(counts.sum(1))
    if len(known) <= config.dim:
        raise ValueError(
            f"only {len(known)} items of {config.dataset} occur in training beside others: --dim must be below that,"
            f" and is {config.dim}"
        )
    vectors = principal_directions(mutual_information(counts[known][:, known]), config.dim, config.seed)
    folder = config.out_dir or dataset_paths(config.data_path, config.dataset).folder
    path = Path(folder) / f"{config.dataset}.emb-collaborative.npy"
    save_embeddings(path, vectors, np.asarray(catalogue.item_ids)[known].tolist())
    logger.info(f"{path}: {len(known)} of {len(catalogue.item_ids)} items, {config.dim} dimensions")
    return path


def mutual_information(counts):
    """Positive pointwise mutual information of a symmetric (N, N) sparse table of counts, sparse as well."""
    import numpy as np

    table = counts.tocoo()
    totals = counts.sum(1)
    values = np.log(table.data * counts.sum() / (totals[table.coords[0]] * totals[table.coords[1]]))
    table.data = np.maximum(values, 0)
    return table.tocsr()


def principal_directions(table, dim: int, seed: int):
    """(N, dim) float32: left singular vectors times the roots of their values, largest first."""
    import numpy as np
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(seed).normal(size=table.shape[0])
    left, values, _ = svds(table, k=dim, v0=start)
    return (left * np.sqrt(values))[:, ::-1].astype(np.float32)


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add_dataset_flags(parser)
    parser.add_argument("--out-dir", "--out_dir", dest="out_dir", type=Path, help="default: the dataset's folder")
    parser.add_argument("--dim", type=int, default=CollaborativeConfig.dim, help="dimensions")
    parser.add_argument("--seed", type=int, default=CollaborativeConfig.seed, help="of the reduction")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        extract(CollaborativeConfig(**vars(args)))


if __name__ == "__main__":
    main()
