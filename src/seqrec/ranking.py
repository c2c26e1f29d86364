"""From ranked SIDs to ranked items."""

from collections.abc import Sequence

import numpy as np

from src.trie import Trie


def items_of_leaves(
    leaves: np.ndarray,
    scores: np.ndarray,
    trie: Trie,
    length: int,
    left_out: Sequence[np.ndarray] | None = None,
    item_of_row: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Items in the order of their SIDs, each once, at its best SID.

    Items that share a SID stand in the order of the trie's rows, all with its score.

    Args:
        leaves, scores: (B, K), best first; -1 and -inf where there is no more.
        length: of the lists that come back.
        left_out: for each prompt, items that may not be recommended, though others with their SID may.
        item_of_row: (N,) item of each row of the trie, where an item has several SIDs; else a row is an item.

    Returns:
        items: (B, length) int64, -1 at the end of a shorter list.
        scores: (B, length) float32, -inf there.
    """
    prompt, beam = np.nonzero(leaves >= 0)
    leaf = leaves[prompt, beam]
    first = trie.leaf_pointer[leaf]
    sizes = trie.leaf_pointer[leaf + 1] - first
    owner = np.repeat(np.arange(len(leaf)), sizes)
    rows = trie.rows[first[owner] + np.arange(len(owner)) - (sizes.cumsum() - sizes)[owner]]
    items = rows if item_of_row is None else item_of_row[rows]
    span = int(items.max(initial=0)) + 1
    keys = prompt[owner] * span + items
    kept = np.zeros(len(keys), bool)
    kept[np.unique(keys, return_index=True)[1]] = True
    if left_out is not None:
        unwanted = [number * span + np.asarray(part)[np.asarray(part) < span] for number, part in enumerate(left_out)]
        kept &= ~np.isin(keys, np.concatenate(unwanted))
    owner, items = owner[kept], items[kept]
    numbers = np.bincount(prompt[owner], minlength=len(leaves))
    place = np.arange(len(owner)) - (numbers.cumsum() - numbers)[prompt[owner]]
    owner, items, place = owner[place < length], items[place < length], place[place < length]
    found = np.full((len(leaves), length), -1, np.int64)
    values = np.full((len(leaves), length), -np.inf, np.float32)
    found[prompt[owner], place] = items
    values[prompt[owner], place] = scores[prompt[owner], beam[owner]]
    return found, values
