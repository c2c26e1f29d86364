"""One embedding of several: each normalised and weighted, side by side, and perhaps reduced to principal components.

    python3 data_process/fuse_embeddings.py --out data/Games/Games.emb-fused.npy --weights 1,0.5 --dim 256 \
        --inputs data/Games/Games.emb-text.npy data/Games/Games.emb-image.npy

Rows are joined by item id, in the order of the first file. Writes the embeddings and their ids.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.embedding_files import write_embeddings
from src.common.artifacts import check_writable, load_embeddings
from src.common.cli import check_at_least, new_parser, number_list, user_errors
from src.common.record import run_record

if TYPE_CHECKING:
    import numpy as np

NORMALIZE = ("l2", "standardize", "none")
MISSING = ("error", "mean")
PCA_ROWS = 200_000  # that principal components are learnt from, at most


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """`weights` are of the squared length: with 1 and 0.5 the first file counts twice as much in a cosine."""

    inputs: tuple[Path, ...]
    out: Path
    weights: tuple[float, ...] | None = None  # None: all alike
    normalize: str = "l2"  # every row to length 1; every column to mean 0 and variance 1/D; or as they are
    dim: int | None = None  # of the principal components; None: all columns
    missing: str = "error"  # what becomes of items that a file lacks: they may get its mean
    seed: int = 42

    def __post_init__(self):
        check_at_least(self, seed=0)
        if self.out.suffix != ".npy":
            raise ValueError(f"--out {self.out} must end in .npy, as in data/Games/Games.emb-fused.npy")
        if self.dim is not None:
            check_at_least(self, dim=1)
        if len(self.inputs) < 2:
            raise ValueError(f"--inputs has {len(self.inputs)} file: there is nothing to fuse below two")
        if self.weights is not None and len(self.weights) != len(self.inputs):
            raise ValueError(f"--weights has {len(self.weights)} numbers for {len(self.inputs)} files")
        if self.weights is not None and min(self.weights) <= 0:
            raise ValueError(f"--weights {min(self.weights):g}: weights must be above 0; leave the file out instead")
        for field, choices in (("normalize", NORMALIZE), ("missing", MISSING)):
            if getattr(self, field) not in choices:
                raise ValueError(f"unknown --{field} {getattr(self, field)!r}: choose one of {', '.join(choices)}")


def fuse(config: FuseConfig) -> Path:
    """Writes the fused embeddings and returns their path.

    Raises:
        ValueError: the files are of other items and --missing is error; or --dim is more than there is.
    """
    import numpy as np

    from src.common.log import logger

    check_writable(config.out)
    tables, ids = zip(*(load_embeddings(path) for path in config.inputs), strict=True)
    width = sum(table.shape[1] for table in tables)
    item_ids = list(dict.fromkeys(item for part in ids for item in part)) if config.missing == "mean" else ids[0]
    if config.dim is not None and config.dim > min(width, len(item_ids)):
        raise ValueError(f"--dim {config.dim}: {len(item_ids)} rows of {width} numbers have no more than the smaller")
    weights = config.weights or (1.0,) * len(tables)
    parts = []
    for path, table, own, weight in zip(config.inputs, tables, ids, weights, strict=True):
        rows = aligned(normalized(table, config.normalize, path), own, item_ids, path, config.missing)
        parts.append(rows * np.float32(np.sqrt(weight)))
    joined = np.concatenate(parts, 1)
    if config.dim is not None:
        joined, share = principal_components(joined, config.dim, config.seed)
        logger.info(f"{config.dim} principal components keep {share:.1%} of the variance")
    inputs = {f"embeddings_{number}": path for number, path in enumerate(config.inputs)}
    write_embeddings(config.out, joined, item_ids, run_record(config, inputs))
    logger.info(f"{config.out}: {len(item_ids)} items, {joined.shape[1]} dimensions")
    return config.out


def normalized(table: "np.ndarray", how: str, path: Path) -> "np.ndarray":
    """(N, D) float32: rows of length 1; or columns of mean 0 whose variances add up to 1; or as they are.

    Raises:
        ValueError: a row has no length, or no column varies.
    """
    import numpy as np

    if how == "l2":
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        if not lengths.all():
            raise ValueError(
                f"{path} has nothing but zeros in row {int(lengths.argmin())}: use --normalize standardize"
            )
        return table / lengths
    if how == "standardize":
        spread = table.std(0, dtype=np.float64)
        varies = spread > 1e-6 * spread.max()
        if not varies.any():
            raise ValueError(f"{path} has the same vector for all items")
        scale = np.where(varies, 1 / np.where(varies, spread, 1) / np.sqrt(varies.sum()), 0)
        return ((table - table.mean(0, dtype=np.float64)) * scale).astype(np.float32)
    return table


def aligned(table: "np.ndarray", own: Sequence[int], item_ids: Sequence[int], path: Path, missing: str) -> "np.ndarray":
    """(M, D) rows in the order of `item_ids`; the mean row for items that `table` lacks, where that is allowed."""
    import numpy as np

    places = {item: row for row, item in enumerate(own)}
    absent = [item for item in item_ids if item not in places]
    if missing == "error" and (absent or len(own) != len(item_ids)):
        more = [] if absent else sorted(set(own) - set(item_ids))
        what = f"lacks {len(absent)} items" if absent else f"has {len(more)} items more"
        raise ValueError(
            f"{path} {what}, the first being {(absent or more)[0]}: the files are of other items. With --missing mean"
            f" an item gets the mean of a file that lacks it"
        )
    if not absent:
        return table[[places[item] for item in item_ids]]
    mean = table.mean(0, dtype=np.float64).astype(np.float32)
    return np.stack([table[places[item]] if item in places else mean for item in item_ids])


def principal_components(table: "np.ndarray", dim: int, seed: int) -> tuple["np.ndarray", float]:
    """(N, dim) float32 centred rows in the directions of most variance, largest first; and the share that they keep."""
    import numpy as np
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(seed).permutation(len(table))[: max(PCA_ROWS, dim)]
    solver = "covariance_eigh" if len(rows) >= table.shape[1] else "full"
    pca = PCA(dim, svd_solver=solver, random_state=seed).fit(table[np.sort(rows)])
    return pca.transform(table).astype(np.float32), float(pca.explained_variance_ratio_.sum())


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, metavar="NPY", help="embeddings to fuse")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="NPY", help="file to write, <dataset>.emb-<name>.npy"
    )
    parser.add_argument("--weights", type=number_list(float), help="one for each file, such as 1,0.5; default: alike")
    parser.add_argument("--normalize", choices=NORMALIZE, default=FuseConfig.normalize, help="of each file, before")
    parser.add_argument("--dim", type=int, help="principal components to keep; default: all columns")
    parser.add_argument("--missing", choices=MISSING, default=FuseConfig.missing, help="for items that a file lacks")
    parser.add_argument("--seed", type=int, default=FuseConfig.seed, help="of the rows that components are learnt from")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common.log import setup_logging  # imports torch: after parsing, so that --help answers at once

    setup_logging()
    with user_errors():
        settings = {**vars(args), "inputs": tuple(args.inputs)}
        fuse(FuseConfig(**settings | {"weights": tuple(args.weights) if args.weights else None}))


if __name__ == "__main__":
    main()
