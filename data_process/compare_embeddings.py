"""What embeddings know, in one table: is what lies near an item alike, of one brand, or bought around the same time?

    python3 data_process/compare_embeddings.py --dataset Games \
        --inputs data/Games/Games.emb-text.npy data/Games/Games.emb-image.npy

Of the 10 nearest of an item by cosine: the share with its category (the last one that is named), with its brand, and of
items that follow or precede it within three steps in the training part of a sequence. Each stands beside what chance
would give. Texts may name category and brand; who buys what is in no text.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import check_writable, load_embeddings, write_json
from src.common.cli import add_dataset_flags, check_at_least, new_parser, user_errors

if TYPE_CHECKING:
    import numpy as np

    from src.tasks.catalogue import Catalogue

NUM_NEIGHBOURS = 10
QUERIES_AT_ONCE = 256  # similarities held at a time: these, with all items


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    dataset: str
    inputs: tuple[Path, ...]
    data_path: Path = Path("data")
    num_queries: int = 5000
    json: Path | None = None
    seed: int = 42

    def __post_init__(self):
        check_at_least(self, num_queries=1, seed=0)


class Share(NamedTuple):
    """Of the nearest items, over the queries that have any such item to find."""

    found: float
    chance: float  # the same for items drawn at random
    queries: int


def compare(config: CompareConfig) -> dict[str, dict[str, Share]]:
    """The table, printed and written: shares by relation by name of the embeddings.

    Raises:
        ValueError: a file has items that the dataset lacks, or fewer than 12.
    """
    from src.tasks.catalogue import load_catalogue

    if config.json:
        check_writable(config.json)
    catalogue = load_catalogue(config.data_path, config.dataset)
    table = {}
    for path in config.inputs:
        vectors, item_ids = load_embeddings(path)
        unknown = sorted(set(item_ids) - set(catalogue.item_ids.tolist()))
        if unknown:
            raise ValueError(
                f"{path} has {len(unknown)} items that {config.dataset} lacks, the first being {unknown[0]}"
            )
        name = embeddings_name(path)
        if name in table:
            raise ValueError(f"--inputs has two files named {name!r}: give one of them another name")
        table[name] = retrieval(vectors, item_ids, catalogue, config.num_queries, config.seed)
    print(formatted(table))
    if config.json:
        rows: dict[str, Any] = {
            name: {relation: share._asdict() for relation, share in shares.items()} for name, shares in table.items()
        }
        write_json(config.json, {"dataset": config.dataset, "neighbours": NUM_NEIGHBOURS, "rows": rows}, indent=2)
        print(f"Results: {config.json}")
    return table


def embeddings_name(path: Path) -> str:
    """`Games.emb-qwen7B.npy` -> `qwen7B`."""
    return path.stem.partition(".emb-")[2] or path.stem


def last_entry(text: str) -> str:
    """`"Clothing, Tops, T-shirt"` -> `"T-shirt"`, the finest of an item's categories."""
    return text.rpartition(",")[2].strip()


def retrieval(
    vectors: "np.ndarray", item_ids: Sequence[int], catalogue: "Catalogue", num_queries: int, seed: int
) -> dict[str, Share]:
    """How many of the nearest items are related, for each relation of which the catalogue knows something.

    Args:
        vectors: (M, D) float32, row i is item `item_ids[i]`.
    """
    import numpy as np

    from src.baselines.cooccurrence import transition_counts

    if len(vectors) < NUM_NEIGHBOURS + 2:
        raise ValueError(f"{len(vectors)} items are too few to look for the {NUM_NEIGHBOURS} nearest of each")
    queries = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:num_queries])
    nearest = nearest_rows(vectors, queries, NUM_NEIGHBOURS)
    shares = {}
    for relation, field in (("category", "categories"), ("brand", "brand")):
        labels = [last_entry(str(catalogue.items[item].get(field) or "")) for item in item_ids]
        if len(set(labels) - {""}) > 1:
            shares[relation] = same_label(labels, queries, nearest)
    columns = np.searchsorted(catalogue.item_ids, np.asarray(item_ids))
    counts = transition_counts(catalogue)
    together = (counts + counts.T)[columns][:, columns].tocsr()
    if together.nnz:
        shares["co-transition"] = neighbours_in(together, queries, nearest)
    return shares


def nearest_rows(vectors: "np.ndarray", queries: "np.ndarray", k: int) -> "np.ndarray":
    """(Q, k) int64 rows nearest to each query by cosine, in no order; never the query itself."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = queries[start : start + QUERIES_AT_ONCE]
        similarities = unit[rows] @ unit.T
        similarities[np.arange(len(rows)), rows] = -np.inf
        found[start : start + len(rows)] = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    return found


def same_label(labels: Sequence[str], queries: "np.ndarray", nearest: "np.ndarray") -> Share:
    """Share of the nearest with the label of the query; an empty label is none, and one of its own finds nothing."""
    import numpy as np

    names, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    asks = (names[codes[queries]] != "") & (sizes[codes[queries]] > 1)
    found = (codes[nearest] == codes[queries, None])[asks].mean()
    chance = ((sizes[codes[queries]] - 1) / (len(labels) - 1))[asks].mean()
    return Share(float(found), float(chance), int(asks.sum()))


def neighbours_in(table, queries: "np.ndarray", nearest: "np.ndarray") -> Share:
    """Share of the nearest that a sparse symmetric (M, M) table of counts joins with the query."""
    import numpy as np

    table = (table > 0).astype(np.int64)
    table.setdiag(0)  # an item bought again
    table.eliminate_zeros()
    degrees = np.diff(table.indptr)[queries]
    asks = degrees > 0
    rows, near = queries[asks], nearest[asks]
    found = np.asarray(table[np.repeat(rows, near.shape[1]), near.ravel()]).mean()
    return Share(float(found), float((degrees[asks] / (table.shape[0] - 1)).mean()), int(asks.sum()))


def formatted(table: dict[str, dict[str, Share]]) -> str:
    """The table as people read it: a line for each of the embeddings, found and (chance) for each relation."""
    relations = list(dict.fromkeys(relation for shares in table.values() for relation in shares))
    width = max(map(len, ("embeddings", *table))) + 2
    lines = [f"{'embeddings':{width}}" + "".join(f"{relation:>18}" for relation in relations)]
    for name, shares in table.items():
        cells = [f"{share.found:.3f} ({share.chance:.3f})" if share else "-" for share in map(shares.get, relations)]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, f"share of the {NUM_NEIGHBOURS} nearest (by chance)"])


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, metavar="NPY", help="embeddings to compare")
    parser.add_argument("--num_queries", type=int, default=CompareConfig.num_queries, help="items asked for, at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--seed", type=int, default=CompareConfig.seed, help="of the choice of items")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        compare(CompareConfig(**{**vars(args), "inputs": tuple(args.inputs)}))


if __name__ == "__main__":
    main()
