"""Codes against neighbours in embedding space, and recalls of rankings that know only codes.

Pure functions of numpy arrays; N items, L levels, Q queries.
"""

from typing import Any

import numpy as np

from index.metrics import number_labels

NUM_NEIGHBOURS = 10  # k of every recall
CHUNK_ROWS = 8192  # items compared at a time: 64 MB of similarities for 2,000 queries
CHUNK_QUERIES = 1 << 18  # items ranked for at a time: about 10 MB an array for 4 levels


def neighbour_measures(
    groups: np.ndarray,
    embeddings: np.ndarray,
    reconstructions: np.ndarray | None = None,
    num_queries: int = 2000,
    seed: int = 42,
) -> dict[str, Any]:
    """Do the nearest items in embedding space, by cosine, share codes? Of a seeded sample of items, their 10 nearest.

    Args:
        groups: (L, N) int, as `all_prefix_groups` gives them.
        embeddings: (N, D) float; items with a row of NaN take no part.
        reconstructions: (N, D) float.

    Returns:
        neighbour_queries: items looked up.
        neighbour_share, random_share: share of the neighbours, and of all pairs of items, with equal first 1 to L
            codes.
        neighbour_recall: share of the neighbours among the 10 first items, when items are ranked by how many leading
            codes they share with the query; among equals every order counts alike.
        neighbour_recall_random: the same for a random order.
        reconstruction_recall: the same when items are ranked by the cosine of reconstructions, where they are given.
        reconstruction_error: see `reconstruction_error`, where they are given.
    """
    known = np.isfinite(embeddings[:, 0])
    if not known.all():
        groups, embeddings = groups[:, known], embeddings[known]
        reconstructions = None if reconstructions is None else reconstructions[known]
    num_items = len(embeddings)
    if num_items < 2:
        return {"neighbour_queries": 0}
    num_neighbours = min(NUM_NEIGHBOURS, num_items - 1)
    queries = np.sort(np.random.default_rng(seed).permutation(num_items)[:num_queries])
    neighbours = nearest_rows(embeddings, queries, num_neighbours)
    shared = (groups[:, neighbours] == groups[:, queries, None]).sum(2)  # (L, queries)
    table = {
        "neighbour_queries": len(queries),
        "neighbour_share": (shared.mean(1) / num_neighbours).tolist(),
        "random_share": [same_pairs(prefixes) for prefixes in groups],
        "neighbour_recall": recall_by_prefix(groups, queries, shared, num_neighbours),
        "neighbour_recall_random": num_neighbours / (num_items - 1),
    }
    if reconstructions is not None:
        table["reconstruction_recall"] = recall_by_reconstruction(reconstructions, queries, neighbours)
        table["reconstruction_error"] = reconstruction_error(embeddings, reconstructions)
    return table


def nearest_rows(
    rows: np.ndarray, queries: np.ndarray, num_neighbours: int, among: np.ndarray | None = None
) -> np.ndarray:
    """(Q, k) int64: for each of the (Q,) queries its k most similar items by cosine, itself left out.

    Exact. Memory is that of Q x `CHUNK_ROWS` similarities.

    Args:
        rows: (N, D) float.
        queries: positions among the items.
        num_neighbours: k, below the number of items.
        among: rows that are items; all where it is left out. Queries and results count positions in it.
    """
    among = np.arange(len(rows)) if among is None else among
    wanted = _unit(rows[among[queries]])
    best = np.full((len(queries), num_neighbours), -np.inf, np.float32)
    found = np.zeros(best.shape, np.int64)
    for start in range(0, len(among), CHUNK_ROWS):
        part = among[start : start + CHUNK_ROWS]
        similarities = wanted @ _unit(rows[part]).T
        inside = np.flatnonzero((queries >= start) & (queries < start + len(part)))
        similarities[inside, queries[inside] - start] = -np.inf
        near = _largest(similarities, num_neighbours)
        both = np.concatenate([best, np.take_along_axis(similarities, near, 1)], 1)
        places = np.concatenate([found, near + start], 1)
        kept = _largest(both, num_neighbours)
        best, found = np.take_along_axis(both, kept, 1), np.take_along_axis(places, kept, 1)
    return np.take_along_axis(found, np.argsort(-best, 1, kind="stable"), 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; zeros stay."""
    rows = rows.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return rows


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """(Q, count) int64: columns of the largest values of each row, or all where there are fewer; in no order."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, 1)[:, -count:]


def same_pairs(groups: np.ndarray) -> float:
    """Share of the pairs of different items that are in the same of (N,) groups; 0 where there is one item."""
    counts = np.bincount(groups)
    return int((counts * (counts - 1)).sum()) / max(1, len(groups) * (len(groups) - 1))


def recall_by_prefix(groups: np.ndarray, queries: np.ndarray, shared: np.ndarray, num_wanted: int) -> float:
    """Share of the wanted items among the 10 first, when items are ranked by how many leading codes they share.

    Args:
        groups: (L, N) int.
        queries: (Q,) int, items that are ranked for.
        shared: (L, Q) int or bool, how many of the `num_wanted` items of each query share its first 1 to L codes.
    """
    others = [np.bincount(prefixes) - 1 for prefixes in groups]
    hits = 0.0
    for start in range(0, len(queries), CHUNK_QUERIES):
        part = slice(start, start + CHUNK_QUERIES)
        sizes = [prefix_others[prefixes[queries[part]]] for prefix_others, prefixes in zip(others, groups, strict=True)]
        tiers = _tiers(np.stack(sizes), groups.shape[1] - 1)
        hits += expected_hits(tiers, _tiers(shared[:, part], num_wanted), NUM_NEIGHBOURS).sum()
    return float(hits / (len(queries) * num_wanted))


def _tiers(at_least: np.ndarray, total: int) -> np.ndarray:
    """(Q, L + 1) int64: of `total` items how many share exactly L, L - 1, ... 0 codes, from (L, Q) at least 1 to L."""
    padded = np.pad(at_least.T.astype(np.int64), ((0, 0), (1, 1)), constant_values=((0, 0), (total, 0)))
    return -np.diff(padded, axis=1)[:, ::-1]


def recall_by_reconstruction(reconstructions: np.ndarray, queries: np.ndarray, neighbours: np.ndarray) -> float:
    """Share of (Q, k) neighbours among the k first, when items are ranked by the cosine of (N, D) reconstructions.

    Items with the same reconstruction are one tier, in which every order counts alike.
    """
    same = number_labels([hash(row.tobytes()) for row in reconstructions])
    _, first, counts = np.unique(same, return_index=True, return_counts=True)
    own = same[queries]
    near = nearest_rows(reconstructions, own, min(neighbours.shape[1], len(first) - 1), first)
    tiers = np.concatenate([own[:, None], near], 1)
    sizes = counts[tiers]
    sizes[:, 0] -= 1  # the query itself
    wanted = (same[neighbours][:, :, None] == tiers[:, None, :]).sum(1)
    return float(expected_hits(sizes, wanted, neighbours.shape[1]).mean() / neighbours.shape[1])


def reconstruction_error(embeddings: np.ndarray, reconstructions: np.ndarray) -> float:
    """Squared distance of (N, D) reconstructions over the variance of (N, D) embeddings, all scaled to length 1.

    0 where nothing is lost, 1 to 2 where all items are restored alike: so it compares tokenizers, whatever they do to
    embeddings first.
    """
    error, total = 0.0, np.zeros(embeddings.shape[1])
    for start in range(0, len(embeddings), CHUNK_ROWS):
        part = _unit(embeddings[start : start + CHUNK_ROWS])
        error += float(np.square(part - _unit(reconstructions[start : start + CHUNK_ROWS])).sum())
        total += part.sum(0)
    variance = 1 - float(np.square(total / len(embeddings)).sum())
    return error / len(embeddings) / variance


def expected_hits(sizes: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    """(Q,) float: wanted items expected among the k first, where the order inside a tier is random.

    Args:
        sizes, wanted: (Q, T) int: items of each tier, best first, and how many of them are wanted.
    """
    room = np.clip(k - (np.cumsum(sizes, 1) - sizes), 0, None)
    return (wanted * np.minimum(sizes, room) / np.maximum(sizes, 1)).sum(1)
