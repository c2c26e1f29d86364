"""Who had what and when: from names to integer codes, k-core, repeats, order, ids. Arrays only, no loop over rows.

Everything depends on the input alone: no hash, no thread and no seed decides an id or an order.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl


class Interactions(NamedTuple):
    """T interactions; user and item are codes, numbered in the order in which the input first names them.

    users, items: (T,) uint32; times: (T,) int64 in the ticks of the source, None where the input order counts;
    user_names, item_names: the original name of each code.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    user_names: pl.Series
    item_names: pl.Series

    @property
    def num_rows(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Interactions":
        """Some of the interactions, by number or mask; codes keep their meaning."""
        times = None if self.times is None else self.times[rows]
        return self._replace(users=self.users[rows], items=self.items[rows], times=times)


def read_interactions(blocks: Iterable[pl.DataFrame]) -> Interactions:
    """All interactions of frames with the columns user, item (text) and perhaps time (int64), in their order."""
    kinds = {"user": pl.Categories.random(), "item": pl.Categories.random()}
    # polars forgets the codes of a kind as soon as no series of it is left, and would begin at 0 with each block.
    anchors = [pl.Series(dtype=pl.Categorical(kind)) for kind in kinds.values()]
    parts: dict[str, list[np.ndarray]] = {"user": [], "item": [], "time": []}
    for block in blocks:
        for name, kind in kinds.items():
            parts[name].append(block[name].cast(pl.Categorical(kind)).to_physical().to_numpy())
        if "time" in block.columns:
            parts["time"].append(block["time"].to_numpy())
    whole: dict[str, np.ndarray] = {}
    for name, arrays in parts.items():
        if arrays:
            whole[name] = np.concatenate(arrays)
            arrays.clear()
    users, items = (whole.get(name, np.zeros(0, np.uint32)) for name in kinds)
    names = {name: kind.to_series().rename(name) for name, kind in kinds.items()}
    del anchors
    return Interactions(users, items, whole.get("time"), names["user"], names["item"])


def core_rows(users: np.ndarray, items: np.ndarray, user_k: int, item_k: int) -> np.ndarray:
    """Rows of the (user_k, item_k)-core: the largest part in which each user and item has so many interactions.

    Args:
        users, items: (T,) codes.

    Returns:
        (R,) int64 ascending.
    """
    rows = np.arange(len(users))
    while len(rows):
        enough = (np.bincount(users) >= user_k)[users] & (np.bincount(items) >= item_k)[items]
        if enough.all():
            break
        rows, users, items = rows[enough], users[enough], items[enough]
    return rows


def in_order(interactions: Interactions) -> Interactions:
    """By user, then time; what happened at the same time keeps the order of the input."""
    users, times = interactions.users, interactions.times
    if not interactions.num_rows:
        return interactions
    if times is None:
        return interactions.take(np.argsort(users, kind="stable"))
    since = times - times.min()
    time_bits = int(since.max()).bit_length()
    if int(users.max()).bit_length() + time_bits > 63:  # milliseconds of a very long time
        return interactions.take(np.lexsort((times, users)))
    return interactions.take(np.argsort(users.astype(np.int64) << time_bits | since, kind="stable"))


def without_repeats(interactions: Interactions) -> Interactions:
    """The first interaction of each user with each item, in the order given."""
    if not interactions.num_rows:
        return interactions
    pairs = interactions.users.astype(np.int64) * (int(interactions.items.max()) + 1) + interactions.items
    return interactions.take(pl.Series(pairs).is_first_distinct().to_numpy())


def renumbered(interactions: Interactions) -> Interactions:
    """The same with ids instead of codes: 0, 1, 2, ... over what is left, in the order of codes."""
    users, user_names = _ids(interactions.users, interactions.user_names)
    items, item_names = _ids(interactions.items, interactions.item_names)
    return Interactions(users, items, interactions.times, user_names, item_names)


def _ids(codes: np.ndarray, names: pl.Series) -> tuple[np.ndarray, pl.Series]:
    is_left = np.zeros(len(names), bool)
    is_left[codes] = True
    ids = np.cumsum(is_left, dtype=np.uint32) - np.uint32(1)
    return ids[codes], names.filter(pl.Series(is_left))


def offsets_of(users: np.ndarray) -> np.ndarray:
    """(U + 1,) int64: where each user's rows begin, of ids that ascend and leave none out."""
    return np.concatenate([[0], np.cumsum(np.bincount(users))])


def temporal_ends(users: np.ndarray, times: np.ndarray, valid_share: float, test_share: float) -> np.ndarray:
    """Where each user's training and validation end, if one moment for all parts training from what comes later.

    Equal times are never parted, so shares are met as nearly as the times allow.

    Args:
        users, times: (T,), by user, then time.

    Returns:
        (U, 2) int64: numbers of items that train and that validate.

    Raises:
        ValueError: nothing would train or nothing would test.
    """
    ordered = np.sort(times)
    cuts = [
        ordered[min(int(len(times) * share), len(times) - 1)]
        for share in (1 - valid_share - test_share, 1 - test_share)
    ]
    train, before_test = (np.bincount(users[times < cut], minlength=int(users[-1]) + 1) for cut in cuts)
    if not train.any():
        raise ValueError(
            f"--split temporal: nothing is left to train, as too many interactions share the time {ordered[0]}: take"
            f" --split leave_one_out, or other shares"
        )
    return np.stack([train, before_test - train], 1)
