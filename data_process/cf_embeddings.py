"""Embeddings of items by the company they keep in the training part of the sequences, for `index/main.py --cf_path`.

    python3 data_process/cf_embeddings.py --dataset Games --sasrec_path results/Games/sasrec.model/last.pth
    python3 data_process/cf_embeddings.py --dataset HMWeek --dim 32

With --sasrec_path the item vectors of a SASRec that `python -m src.baselines.sasrec` has trained; without it, and
without training, a truncated SVD of the positive pointwise mutual information of co-transitions (Levy and Goldberg,
2014). Writes <dataset>.emb-sasrec.npy or emb-collaborative.npy and its ids; items that nobody has in the training part
are left out.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_files import write_embeddings
from src.common.artifacts import check_writable, dataset_paths, read_json
from src.common.cli import add_dataset_flags, check_at_least, new_parser, user_errors
from src.common.record import run_record

if TYPE_CHECKING:
    import numpy as np

    from src.tasks.catalogue import Catalogue

DEFAULT_DIM = 32
WEIGHT = "items.weight"  # of SASRec: row 0 is padding, row j + 1 is item j of the catalogue


@dataclass(frozen=True, kw_only=True)
class CollaborativeConfig:
    dataset: str
    data_path: Path = Path("data")
    out_dir: Path | None = None  # None: the dataset's folder
    name: str | None = None  # <dataset>.emb-<name>.npy
    sasrec_path: Path | None = None
    dim: int | None = None  # None: DEFAULT_DIM; SASRec has its own
    seed: int = 42

    def __post_init__(self):
        check_at_least(self, seed=0)
        if self.dim is not None:
            check_at_least(self, dim=1)
            if self.sasrec_path is not None:
                raise ValueError(f"--dim {self.dim}: a SASRec has its own width; leave --dim or --sasrec_path out")


def extract(config: CollaborativeConfig) -> Path:
    """Writes the embeddings of all items that occur in training, and returns their path.

    Raises:
        ValueError: there are fewer such items than dimensions; or the checkpoint is of other items.
    """
    from src.common.log import logger
    from src.tasks.catalogue import load_catalogue

    folder = config.out_dir or dataset_paths(config.data_path, config.dataset).folder
    name = config.name or ("collaborative" if config.sasrec_path is None else "sasrec")
    path = Path(folder) / f"{config.dataset}.emb-{name}.npy"
    check_writable(path)
    catalogue = load_catalogue(config.data_path, config.dataset)
    if config.sasrec_path is None:
        vectors, known = co_transition_vectors(catalogue, config.dim or DEFAULT_DIM, config.seed)
    else:
        vectors, known = sasrec_vectors(catalogue, config.sasrec_path)
    inputs = catalogue.input_files()
    if config.sasrec_path is not None:
        inputs["SASRec"] = config.sasrec_path
    write_embeddings(path, vectors, catalogue.item_ids[known].tolist(), run_record(config, inputs))
    logger.info(f"{path}: {len(known)} of {len(catalogue.item_ids)} items, {vectors.shape[1]} dimensions")
    return path


def sasrec_vectors(catalogue: "Catalogue", path: Path) -> tuple["np.ndarray", "np.ndarray"]:
    """(M, D) float32 of the best epoch, and (M,) columns of the catalogue: the items that occur in training.

    Raises:
        ValueError: the file is no checkpoint of SASRec, or one of another number of items.
    """
    import pickle

    import numpy as np
    import torch

    from src.baselines.core import training_entries

    if not path.is_file():
        raise FileNotFoundError(f"--sasrec_path {path} does not exist. Make it with: python -m src.baselines.sasrec")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["best_weights"][WEIGHT]
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"--sasrec_path {path} is no checkpoint of SASRec ({type(error).__name__}): give the last.pth that"
            f" python -m src.baselines.sasrec leaves in <results>.model/"
        ) from error
    results = path.parent.with_suffix(".json")  # where the run has left them
    trained_on = read_json(results).get("dataset") if results.is_file() else None
    if trained_on not in (None, catalogue.name):
        raise ValueError(
            f"--sasrec_path {path} was trained on {trained_on}, as {results} says, not on {catalogue.name}"
        )
    if len(weights) != len(catalogue.item_ids) + 1:
        raise ValueError(
            f"--sasrec_path {path} knows {len(weights) - 1} items, {catalogue.name} has {len(catalogue.item_ids)}:"
            f" train SASRec on this dataset"
        )
    known = np.unique(training_entries(catalogue)[1])  # others have random vectors
    return weights[1:].float().numpy()[known], known


def co_transition_vectors(catalogue: "Catalogue", dim: int, seed: int) -> tuple["np.ndarray", "np.ndarray"]:
    """(M, dim) float32, and (M,) columns of the catalogue: the items with a neighbour in training."""
    import numpy as np
    from scipy import sparse

    from src.baselines.cooccurrence import transition_counts

    counts = transition_counts(catalogue).astype(np.float64)
    counts = sparse.csr_array(counts + counts.T)
    known = np.flatnonzero(counts.sum(1))
    if len(known) <= dim:
        raise ValueError(
            f"only {len(known)} items of {catalogue.name} occur in training beside others: --dim must be below that,"
            f" and is {dim}"
        )
    return principal_directions(mutual_information(counts[known][:, known]), dim, seed), known


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
    parser.add_argument("--name", help="<dataset>.emb-<name>.npy; default: sasrec or collaborative")
    parser.add_argument("--sasrec_path", "--sasrec-path", type=Path, metavar="PTH", help="last.pth of a trained SASRec")
    parser.add_argument("--dim", type=int, help=f"dimensions of the SVD; default: {DEFAULT_DIM}")
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
