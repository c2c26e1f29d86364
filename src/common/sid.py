"""Semantic IDs: codes <-> tokens `<a_12>`, and the ordered list of all SID tokens of an index."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

SID_TOKEN = re.compile(r"<([A-Za-z]+)_(\d+)>")


def sid_token(letter: str, code: int) -> str:
    return f"<{letter}_{code}>"


def level_letters(num_levels: int) -> tuple[str, ...]:
    """a, b, c, ... z: the letters of an index that GRec makes."""
    if not 1 <= num_levels <= len(ascii_lowercase):
        raise ValueError(f"a SID has 1 to {len(ascii_lowercase)} levels, not {num_levels}")
    return tuple(ascii_lowercase[:num_levels])


def parse_sid_token(token: str, source: Path | str = "SID index") -> tuple[str, int]:
    """`<a_12>` -> ("a", 12); `source` is the file to name where the token is something else."""
    match = SID_TOKEN.fullmatch(token) if isinstance(token, str) else None
    if match is None:
        raise ValueError(f"{source}: {token!r} is no SID token; they look like <a_12>")
    return match[1], int(match[2])


@dataclass(frozen=True)
class SidIndex:
    """The SID of every item.

    Attributes:
        item_ids: (N,) int64, ascending.
        codes: (N, L) int64; row i is the SID of `item_ids[i]`.
        letters: letter of each level, as in the tokens.
        codebook_sizes: codewords of each level; every code is below its level's size.
        path, meta: where it was read from, and its sidecar.
    """

    item_ids: np.ndarray
    codes: np.ndarray
    letters: tuple[str, ...]
    codebook_sizes: tuple[int, ...]
    path: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """`path`, of an index that was read from a file.

        Raises:
            ValueError: this one was put together in memory.
        """
        if self.path is None:
            raise ValueError("this SID index was made in memory and lies in no file: save it first")
        return self.path

    @property
    def num_levels(self) -> int:
        return len(self.letters)

    def tokens_of(self, row: int) -> list[str]:
        """SID tokens of the item in `row`, coarsest level first."""
        return [sid_token(letter, int(code)) for letter, code in zip(self.letters, self.codes[row], strict=True)]

    @cached_property
    def all_tokens(self) -> list[str]:
        """The full grid: every code of every level, in level order. Token `level_offsets[l] + code` is `<l_code>`."""
        sizes = zip(self.letters, self.codebook_sizes, strict=True)
        return [sid_token(letter, code) for letter, size in sizes for code in range(size)]

    @cached_property
    def level_offsets(self) -> np.ndarray:
        """(L,) int64: position in `all_tokens` of each level's code 0."""
        return np.concatenate([[0], np.cumsum(self.codebook_sizes)[:-1]]).astype(np.int64)

    def rows_of(self, item_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(M,) int64: row of each item id; all must be in the index."""
        wanted = np.asarray(item_ids, np.int64)
        rows = np.searchsorted(self.item_ids, wanted)
        known = (rows < len(self.item_ids)) & (self.item_ids[np.minimum(rows, len(self.item_ids) - 1)] == wanted)
        if not known.all():
            raise ValueError(f"item {wanted[~known][0]} has no SID in {self.path or 'this index'}")
        return rows

    def num_shared_levels(self, row: int, others: np.ndarray) -> np.ndarray:
        """(M,) int64: how many levels the SIDs of the rows `others` share with that of `row`, from the coarsest on."""
        return np.cumprod(self.codes[others] == self.codes[row], axis=1).sum(1)

    def sid_numbers(self) -> np.ndarray:
        """(N,) int64: number of each row's SID, from 0; rows that share a SID have one number."""
        return np.unique(self.codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def collision_rate(self) -> float:
        """1 - distinct SIDs / items."""
        return 1 - len(np.unique(self.codes, axis=0)) / len(self.codes)


def join_indexes(indexes: Sequence[SidIndex]) -> tuple[SidIndex, list[int]]:
    """One index over the items of several, whose grid holds the tokens of all.

    Returns:
        index: levels as in each, every codebook of the largest size; it has no path.
        starts: what was added to the item ids of each index, so that no two items are the same.

    Raises:
        ValueError: the levels differ.
    """
    first = indexes[0]
    for other in indexes[1:]:
        if other.letters != first.letters:
            raise ValueError(
                f"{first.path} has the levels {', '.join(first.letters)} and {other.path} {', '.join(other.letters)}:"
                f" datasets that train one model need SIDs alike. Make the indexes with the same --num_emb_list"
            )
    sizes = tuple(max(sizes) for sizes in zip(*(index.codebook_sizes for index in indexes), strict=True))
    starts = [0]
    for index in indexes[:-1]:
        starts.append(starts[-1] + int(index.item_ids[-1]) + 1)
    ids = [start + index.item_ids for start, index in zip(starts, indexes, strict=True)]
    return SidIndex(np.concatenate(ids), np.concatenate([i.codes for i in indexes]), first.letters, sizes), starts
