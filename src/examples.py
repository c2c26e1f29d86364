"""Next-item examples of a split, counted but not listed: which they are is worked out when they are asked for."""

from collections.abc import Callable, Iterator

import numpy as np

from src.common.interactions import blocks_of
from src.tasks.catalogue import Catalogue, Split

USERS = 64  # of a block: what is counted together. A mask of them is 8 bytes
BLOCKS = 1024  # gone through at a time


def draw_users(num_users: int, ratio: float, seed: int) -> np.ndarray:
    """A seeded share of the users, as (blocks, USERS / 8) uint8: a bit a user, those of a block together."""
    rng = np.random.default_rng(seed)
    bits = [np.packbits(rng.random(block.stop - block.start) < ratio) for block in blocks_of(num_users)]
    whole = np.zeros((-(-num_users // USERS), USERS // 8), np.uint8)
    whole.reshape(-1)[: sum(map(len, bits))] = np.concatenate(bits)
    return whole


def unpack_users(drawn: np.ndarray, num_users: int) -> np.ndarray:
    """(num_users,) bool: who is among `draw_users`."""
    return np.unpackbits(drawn.reshape(-1))[:num_users].astype(bool)


class NextItemExamples:
    """User, first and last target of each example, as rows of 3 int64; users in order, then targets.

    `examples[numbers]` gives them by number, `array()` all of them. What is held is 8 bytes for each block of users.

    Targets whose window holds the user's first item may share one example; those whose window has slid on stand alone.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        split: Split,
        kept: np.ndarray | None = None,
        most_shared: Callable[[int], int] | None = None,
    ):
        """
        Args:
            kept: users to take, from `draw_users`; None: all.
            most_shared: gives, for the longest history, the longest one whose targets share an example; None: no
                targets share one.
        """
        self.catalogue, self.split, self.kept, self.limit = catalogue, split, kept, 0
        self.num_blocks = -(-catalogue.num_users // USERS)
        self.longest = 0  # history, in items
        for blocks in self._all_blocks():
            _, start, end = self._targets(blocks)
            self.longest = max(self.longest, int((end - 1)[end > start].max(initial=0)))
        if most_shared is not None:
            self.limit = most_shared(self.longest)
        counts = [self._counts(*self._targets(blocks)[1:]).sum(1) for blocks in self._all_blocks()]
        self.ends = np.concatenate(counts).cumsum()  # examples up to the end of each block

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int | np.ndarray) -> np.ndarray:
        """(3,) of a number, or (N, 3) of (N,) numbers."""
        numbers = np.atleast_1d(number)
        blocks = np.searchsorted(self.ends, numbers, side="right")
        users, start, end = self._targets(blocks)
        counts = self._counts(start, end)
        before = counts.cumsum(1) - counts
        numbers = numbers - (self.ends[blocks] - counts.sum(1))  # in the block
        at = np.arange(len(numbers)), (before + counts <= numbers[:, None]).sum(1)
        rows = self._rows(users[at], start[at], end[at], numbers - before[at])
        return rows if np.ndim(number) else rows[0]

    def array(self) -> np.ndarray:
        """(M, 3) int64."""
        parts = []
        for blocks in self._all_blocks():
            users, start, end = (part.reshape(-1) for part in self._targets(blocks))
            counts = self._counts(start, end)
            owner = np.arange(len(users)).repeat(counts)
            number = np.arange(len(owner)) - (counts.cumsum() - counts)[owner]
            parts.append(self._rows(users[owner], start[owner], end[owner], number))
        return np.concatenate(parts)

    def _all_blocks(self) -> Iterator[np.ndarray]:
        return (np.arange(part.start, part.stop) for part in blocks_of(self.num_blocks, BLOCKS))

    def _targets(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users of (N,) blocks, and where their targets begin and end; each (N, USERS), without targets at the end."""
        users = blocks[:, None] * USERS + np.arange(USERS)
        there = users < self.catalogue.num_users
        start, end = self.catalogue.target_spans(self.split, np.minimum(users, self.catalogue.num_users - 1))
        if self.kept is not None:
            there &= np.unpackbits(self.kept[blocks], axis=1).astype(bool)
        return users, start, np.where(there, end, start)

    def _counts(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """How many examples targets from `start` to `end` make: one for those that share, and one for each other."""
        alone = np.maximum(end - np.maximum(start, self.limit + 1), 0)
        return alone + ((start < end) & (start <= self.limit))

    def _rows(self, users: np.ndarray, start: np.ndarray, end: np.ndarray, number: np.ndarray) -> np.ndarray:
        """The examples of these numbers among those of each user."""
        shares = start <= self.limit
        first = np.where(shares & (number > 0), self.limit + number, start + number)
        last = np.where(shares & (number == 0), np.minimum(end - 1, self.limit), first)
        return np.stack([users, first, last], 1)
