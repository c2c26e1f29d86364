"""Several embeddings of one catalogue side by side, SIDs among them: aligned rows, nearest items, common neighbours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_process.compare_embeddings import NUM_NEIGHBOURS, Share, embeddings_name, nearest_rows, retrieval
from src.common.artifacts import DatasetPaths, load_embeddings
from src.common.codebooks import sid_vectors
from src.tasks.catalogue import Catalogue

SID = "SID"  # what the SIDs' own rows are called, beside the names of the embeddings


def embedding_files(paths: DatasetPaths) -> list[Path]:
    """All embeddings in the dataset's folder, by name.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(paths.folder.glob(f"{paths.dataset}.emb-*.npy"))
    if not files:
        raise FileNotFoundError(
            f"{paths.folder} has no {paths.dataset}.emb-*.npy: make one, such as with"
            f" python3 data_process/simple_embeddings.py --dataset {paths.dataset}"
        )
    return files


def aligned_embeddings(files: Sequence[Path], catalogue: Catalogue) -> dict[str, np.ndarray]:
    """(N, D) float32 rows of `catalogue.item_ids` by the name of the embeddings; and of the SIDs, where it has them.

    Rows of SIDs are the sums of their codewords.

    Raises:
        ValueError: a file lacks items of the catalogue, two have one name, or the index is without codebooks.
    """
    table = {}
    for path in files:
        vectors, ids = load_embeddings(path)
        place = {item: row for row, item in enumerate(ids)}
        missing = [item for item in catalogue.item_ids.tolist() if item not in place]
        if missing:
            raise ValueError(
                f"{path} lacks {len(missing)} of {len(catalogue.item_ids)} items of {catalogue.name}, the first being"
                f" {missing[0]}: make it again for all of them"
            )
        name = embeddings_name(path)
        if name in table or name == SID:
            raise ValueError(f"{path}: there are embeddings named {name!r} already; rename one of them")
        table[name] = vectors[[place[item] for item in catalogue.item_ids.tolist()]]
    if catalogue.sid_index is not None:
        table[SID] = sid_vectors(catalogue.sid_index, catalogue.item_ids)
    return table


def shares_of(
    table: Mapping[str, np.ndarray], catalogue: Catalogue, num_queries: int = 2000, seed: int = 42
) -> dict[str, dict[str, Share]]:
    """What `retrieval` finds, for each of aligned embeddings."""
    item_ids = catalogue.item_ids.tolist()
    return {name: retrieval(vectors, item_ids, catalogue, num_queries, seed) for name, vectors in table.items()}


def neighbour_rows(
    table: Mapping[str, np.ndarray], catalogue: Catalogue, item: int, k: int = 8
) -> dict[str, list[int]]:
    """An item, and the k nearest to it in each of aligned embeddings, as rows to draw."""
    near = {name: nearest_items(vectors, catalogue.item_ids, item, k) for name, vectors in table.items()}
    return {f"item {item}": [item], **near}


def nearest_items(vectors: np.ndarray, item_ids: np.ndarray, item: int, k: int = NUM_NEIGHBOURS) -> list[int]:
    """The k items nearest to one by cosine, nearest first, without itself.

    Args:
        vectors: (N, D), rows of (N,) `item_ids` in ascending order.
    """
    row = int(np.searchsorted(item_ids, item))
    if row == len(item_ids) or item_ids[row] != item:
        raise ValueError(f"there is no item {item}: they are numbered {item_ids[0]} to {item_ids[-1]}")
    (near,) = nearest_rows(vectors, np.array([row]), min(k, len(vectors) - 1))
    unit = vectors[near] / np.maximum(np.linalg.norm(vectors[near], axis=1, keepdims=True), 1e-12)
    return item_ids[near[np.argsort(-(unit @ vectors[row]), kind="stable")]].tolist()


def agreement(
    table: Mapping[str, np.ndarray], num_queries: int = 2000, seed: int = 42, k: int = NUM_NEIGHBOURS
) -> np.ndarray:
    """(S, S) float64: of a seeded part of the items, the share of their k nearest that two of S embeddings share."""
    num_items = len(next(iter(table.values())))
    queries = np.sort(np.random.default_rng(seed).permutation(num_items)[:num_queries])
    near = [np.sort(nearest_rows(vectors, queries, k), 1) for vectors in table.values()]
    return np.array(
        [[(first[:, :, None] == second[:, None]).any(2).mean() for second in near] for first in near], np.float64
    )
