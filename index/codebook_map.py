"""What codewords mean: a map of a codebook, the main label of each codeword's items, and the most crowded prefixes.

K codewords of a level, N items, L levels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from index.metrics import number_labels, prefix_groups
from index.semantics import top_categories
from src.common.codebooks import need_codebooks
from src.common.sid import SidIndex, sid_token

PERPLEXITY = 30  # neighbours that t-SNE looks at; scikit-learn's own default


class Meaning(NamedTuple):
    """Of a codeword at its level, whatever comes before it."""

    num_items: int
    label: str  # the most frequent one of its items; "" where it has none
    share: float  # of the items


class Prefix(NamedTuple):
    codes: tuple[int, ...]
    rows: np.ndarray  # (M,) int64 of its items, ascending


def flat_map(codebook: np.ndarray, seed: int = 42) -> np.ndarray:
    """(K, 2) float32: where (K, D) codewords lie in the plane, so that near ones stay near. Distances mean little.

    Reference: van der Maaten and Hinton, Visualizing Data using t-SNE (2008), as in scikit-learn.

    Raises:
        ValueError: fewer than 4 codewords.
    """
    from sklearn.manifold import TSNE

    if len(codebook) < 4:
        raise ValueError(f"a codebook of {len(codebook)} codewords is too small for a map: 4 are needed")
    perplexity = min(PERPLEXITY, (len(codebook) - 1) / 3)
    init = "pca" if codebook.shape[1] > 1 else "random"
    return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(codebook.astype(np.float32))


def codebook_maps(index: SidIndex, seed: int = 42) -> list[np.ndarray]:
    """The `flat_map` of each level of an index.

    Raises:
        ValueError: there are no codebooks beside it, or smaller ones than 4.
    """
    return [flat_map(book, seed) for book in need_codebooks(index)]


def all_meanings(codes: np.ndarray, sizes: Sequence[int], categories: Sequence[str] | None) -> list[list[Meaning]]:
    """The `meanings` of each level in terms of top categories, for (N, L) codes; None: no item has categories."""
    labels = top_categories(categories) if categories else [""] * len(codes)
    return [meanings(column, size, labels) for column, size in zip(codes.T, sizes, strict=True)]


def meanings(codes: np.ndarray, size: int, labels: Sequence[str]) -> list[Meaning]:
    """What each of `size` codewords of a level stands for.

    Args:
        codes: (N,) int, of this level.
        labels: N of them; "" where an item has none.
    """
    numbers = number_labels(labels)
    names = list(dict.fromkeys(labels))
    table = np.zeros((size, len(names)), np.int64)
    np.add.at(table, (codes, numbers), 1)
    counts, best = table.sum(1), table.argmax(1)
    return [
        Meaning(int(count), names[label] if count else "", float(table[code, label] / max(1, count)))
        for code, (count, label) in enumerate(zip(counts, best, strict=True))
    ]


def crowded_prefixes(codes: np.ndarray, length: int, count: int, below: tuple[int, ...] = ()) -> list[Prefix]:
    """The `count` prefixes of `length` codes with the most items, the fullest first, equal ones by their codes.

    Args:
        codes: (N, L) int.
        below: leading codes that they must have.

    Raises:
        ValueError: `length` is not between that of `below` and L.
    """
    if not max(1, len(below)) <= length <= codes.shape[1]:
        raise ValueError(
            f"prefixes of {length} codes below {below}, of SIDs of {codes.shape[1]} levels: there are none"
        )
    inside = np.flatnonzero((codes[:, : len(below)] == np.array(below, codes.dtype)).all(1))
    groups = prefix_groups(codes[inside], length)
    sizes = np.bincount(groups)
    fullest = np.argsort(-sizes, kind="stable")[:count]
    found = [inside[groups == group] for group in fullest]
    return [Prefix(tuple(codes[rows[0], :length].tolist()), rows) for rows in found]


def named_prefixes(
    prefixes: Sequence[Prefix], item_ids: np.ndarray, letters: Sequence[str], each: int = 8
) -> dict[str, list[int]]:
    """Up to `each` items of each prefix by its tokens and size, such as `<a_12><b_3>, 10 items`.

    Args:
        item_ids: (N,) items of the rows.
    """
    named = {}
    for codes, rows in prefixes:
        tokens = "".join(sid_token(letter, code) for letter, code in zip(letters, codes, strict=False))
        named[f"{tokens}, {len(rows)} item{'s' * (len(rows) > 1)}"] = item_ids[rows[:each]].tolist()
    return named
