"""Do shared prefixes mean anything? Codes against categories, sequences, and neighbours (index/neighbours.py).

Each measure stands beside what chance would give, since the sizes of the groups alone move most of them: every item in
a group of its own has purity 1. Three numbers compare tokenizers whatever their levels: `neighbour_recall` and
`sequence_recall` rank all items by the number of leading codes they share with an item, so a coarse first level wins
nothing; `reconstruction_recall` ranks them by what the decoder makes of their codes, so levels need not be coarse to
fine. Pure functions of numpy arrays; N items, L levels.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from index.metrics import all_prefix_groups, entropy, measure, number_labels
from index.neighbours import NUM_NEIGHBOURS, neighbour_measures, recall_by_prefix

ROOT_SHARE = 0.9  # an entry of the categories that this share of items has is the shop's name, not a category


def measure_all(
    codes: np.ndarray,
    codebook_sizes: Sequence[int],
    embeddings: np.ndarray | None = None,
    categories: Sequence[str] | None = None,
    sequences: Sequence[Sequence[int] | np.ndarray] | None = None,
    reconstructions: np.ndarray | None = None,
    num_queries: int = 2000,
    seed: int = 42,
) -> dict[str, Any]:
    """Every measure that the inputs allow, as one flat table: numbers, and lists of L numbers.

    Args:
        codes: (N, L) int.
        codebook_sizes: codewords of each level.
        embeddings: (N, D) float; a row of NaN where an item has none.
        categories: of each item, coarse to fine, separated by commas; empty where an item has none.
        sequences: of each user, rows of `codes`, oldest first; only what trains.
        reconstructions: (N, D) float, what the decoder makes of the codes of each item.
        num_queries: items whose neighbours are looked up, at most.

    Returns:
        the fields of `IndexMetrics`, and those of `category_measures`, `neighbour_measures`, `sequence_measures`
        whose inputs are given.
    """
    table = measure(codes, codebook_sizes).table()
    groups = all_prefix_groups(codes)
    if categories is not None:
        table |= category_measures(groups, categories, seed)
    if embeddings is not None:
        table |= neighbour_measures(groups, embeddings, reconstructions, num_queries, seed)
    if sequences is not None:
        table |= sequence_measures(groups, sequences)
    return table


# ---- categories ------------------------------------------------------------------------------------------------------
def category_measures(groups: np.ndarray, categories: Sequence[str], seed: int = 42) -> dict[str, Any]:
    """How far prefixes tell categories: the top one, and the whole string.

    Purity is the share of items whose category is the most frequent one of their prefix; `nmi` the mutual information
    of prefix and category over the mean of their entropies. `_shuffled` is the same for a random order of the items,
    so for groups of the same sizes. Items without a category are left out.

    Args:
        groups: (L, N) int, as `all_prefix_groups` gives them.
        categories: N strings.

    Returns:
        categorised_items, and for `top` and `full`: <name>_categories, purity_<name>, nmi_<name> and their `_shuffled`;
        only `categorised_items` where that is 0.
    """
    known = np.flatnonzero([bool(text.strip()) for text in categories])
    table: dict[str, Any] = {"categorised_items": len(known)}
    if not len(known):
        return table
    kept = [categories[row] for row in known.tolist()]
    shuffle = np.random.default_rng(seed).permutation(len(known))
    for name, labels in (("top", number_labels(top_categories(kept))), ("full", number_labels(kept))):
        table[f"{name}_categories"] = int(labels.max()) + 1
        for suffix, order in (("", slice(None)), ("_shuffled", shuffle)):
            found = [agreement(prefixes[known], labels[order]) for prefixes in groups]
            table[f"purity_{name}{suffix}"] = [purity for purity, _ in found]
            table[f"nmi_{name}{suffix}"] = [information for _, information in found]
    return table


def top_categories(categories: Sequence[str]) -> list[str]:
    """The first entry of each item's categories that tells items apart.

    Entries that nearly every item has ("Industrial & Scientific") are passed over: the level taken is the first where
    no entry has `ROOT_SHARE` of the items. An item with fewer entries counts under its last.
    """
    entries = [[entry.strip() for entry in text.split(",")] for text in categories]
    for depth in range(max(map(len, entries))):
        tops = [parts[min(depth, len(parts) - 1)] for parts in entries]
        if np.bincount(number_labels(tops)).max() < ROOT_SHARE * len(tops):
            return tops
    return [parts[0] for parts in entries]


def agreement(groups: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Purity, and normalised mutual information, of (N,) groups and (N,) labels, both int."""
    num_labels = int(labels.max()) + 1
    pairs, counts = np.unique(groups * num_labels + labels, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs // num_labels, prepend=-1))  # pairs are sorted, so groups lie together
    purity = np.maximum.reduceat(counts, starts).sum() / len(labels)
    of_groups, of_labels = entropy(np.add.reduceat(counts, starts)), entropy(np.bincount(labels))
    mean = (of_groups + of_labels) / 2
    shared = max(0.0, of_groups + of_labels - entropy(counts))
    return float(purity), shared / mean if mean > 0 else 1.0  # one group and one label agree


# ---- sequences -------------------------------------------------------------------------------------------------------
def sequence_measures(groups: np.ndarray, sequences: Sequence[Sequence[int] | np.ndarray]) -> dict[str, Any]:
    """Do consecutive items of a sequence share codes more often than items of the same popularity do by chance?

    Pairs of an item with itself do not count. Chance is exact: both sides of the pairs drawn independently of each
    other, as often as they occur there.

    Args:
        groups: (L, N) int, as `all_prefix_groups` gives them.
        sequences: of each user, items as columns of `groups`, oldest first.

    Returns:
        sequence_pairs: how many.
        sequence_share, sequence_share_random: share of the pairs, and of random ones, with equal first 1 to L codes.
        sequence_lift: the first over the second; None where chance gives 0, as for SIDs that are all different.
        sequence_recall: share of the next items among the 10 first, when items are ranked by how many leading codes
            they share with the item before; among equals every order counts alike.
        Only `sequence_pairs` where that is 0.
    """
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    items = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    is_start = np.zeros(len(items) + 1, bool)
    is_start[np.cumsum(lengths)] = True  # of the next sequence, and the end of the last
    is_pair = ~is_start[1 : len(items)] & (items[:-1] != items[1:])
    first, second = items[:-1][is_pair], items[1:][is_pair]
    if not len(first):
        return {"sequence_pairs": 0}
    num_pairs, num_items = len(first), groups.shape[1]
    before, after = (np.bincount(side, minlength=num_items) for side in (first, second))
    own = int(before @ after)  # chance pairs of an item with itself, out of num_pairs ** 2
    same = np.stack([prefixes[first] == prefixes[second] for prefixes in groups])
    share = same.mean(1).tolist()
    by_chance = [
        (int(group_sums(before, prefixes) @ group_sums(after, prefixes)) - own) / max(1, num_pairs**2 - own)
        for prefixes in groups
    ]
    return {
        "sequence_pairs": num_pairs,
        "sequence_share": share,
        "sequence_share_random": by_chance,
        "sequence_lift": [real / chance if chance else None for real, chance in zip(share, by_chance, strict=True)],
        "sequence_recall": recall_by_prefix(groups, first, same, 1),
    }


def group_sums(counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """int64 sums of (N,) counts over the items of each group."""
    return np.bincount(groups, weights=counts).astype(np.int64)


# ---- as people read them ---------------------------------------------------------------------------------------------
def format_semantics(table: dict[str, Any]) -> str:
    """The measures of `measure_all` that are not of `index.metrics.format_table`; empty where there are none."""
    columns = {
        "purity top": "purity_top",
        "shuffled": "purity_top_shuffled",
        "purity full": "purity_full",
        "shuffled ": "purity_full_shuffled",
        "NMI top": "nmi_top",
        "shuffled  ": "nmi_top_shuffled",
        "neighbours": "neighbour_share",
        "random pairs": "random_share",
        "next item": "sequence_share",
        "random": "sequence_share_random",
        "lift": "sequence_lift",
    }
    columns = {title: table[name] for title, name in columns.items() if name in table}
    lines = []
    if columns:
        lines.append("prefix  " + "  ".join(f"{title.rstrip():>11}" for title in columns))
        for place, row in enumerate(zip(*columns.values(), strict=True)):
            lines.append(f"{place + 1:6}  " + "  ".join(f"{_short(value):>11}" for value in row))
    titles = {
        "neighbours by prefix": "neighbour_recall",
        "neighbours by reconstruction": "reconstruction_recall",
        "next item by prefix": "sequence_recall",
        "random order": "neighbour_recall_random",
    }
    recalls = [f"{title} {table[name]:.4f}" for title, name in titles.items() if name in table]
    if recalls:
        lines.append(f"recall@{NUM_NEIGHBOURS}: " + "   ".join(recalls))
    if "reconstruction_error" in table:
        lines.append(f"reconstruction error {table['reconstruction_error']:.4f} of the variance")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 0.001 <= value < 100 or not value else f"{value:.1e}" if value < 1 else f"{value:,.0f}"
