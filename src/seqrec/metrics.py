"""Ranking metrics, their uncertainty, and what the ranked lists are made of: pure functions of arrays.

Shape letters: M samples, K items in a ranked list, U users. A rank counts from 0; K stands for a miss.
"""

from collections.abc import Mapping, Sequence

import numpy as np

PADDING = -1  # fills a ranked list that has fewer than K items
DEFAULT_METRICS = "hit@1,hit@5,hit@10,ndcg@5,ndcg@10"
GAINS = {  # each metric of a 0-based rank that lies below k; there is one right item, so recall is hit
    "hit": lambda rank: np.ones_like(rank),
    "recall": lambda rank: np.ones_like(rank),
    "ndcg": lambda rank: 1 / np.log2(rank + 2),
    "mrr": lambda rank: 1 / (rank + 1),
}
HISTORY_LENGTHS = (1, 5, 10, 20, 50)  # lower ends of the buckets of a slice
POPULARITIES = (0, 1, 5, 20, 100)


# ---- metrics of a sample ---------------------------------------------------------------------------------------------
def parse_metric(name: str) -> tuple[str, int]:
    """`"ndcg@10"` -> `("ndcg", 10)`."""
    kind, _, cutoff = name.partition("@")
    if kind not in GAINS or not cutoff.isdecimal() or int(cutoff) < 1:
        raise ValueError(
            f"there is no metric {name!r}: write one of {', '.join(f'{kind}@k' for kind in GAINS)}, k from 1"
        )
    return kind, int(cutoff)


def parse_metrics(text: str | Sequence[str], num_beams: int | None = None) -> list[str]:
    """The metrics that `--metrics` names, each once, in the order given.

    Raises:
        ValueError: an unknown metric, none at all, or a k above `num_beams`, which no list is long enough for.
    """
    parts = text.split(",") if isinstance(text, str) else text
    names = list(dict.fromkeys(part.strip().lower() for part in parts if part.strip()))
    if not names:
        raise ValueError(f"--metrics names no metric; write for example {DEFAULT_METRICS}")
    for name in names:
        if num_beams is not None and parse_metric(name)[1] > num_beams:
            raise ValueError(
                f"{name} needs ranked lists of {parse_metric(name)[1]} items, --num_beams {num_beams} gives fewer:"
                f" raise --num_beams or lower k"
            )
        parse_metric(name)
    return names


def list_length(num_beams: int, num_items: int, names: Sequence[str]) -> int:
    """How long ranked lists are: no longer than there are items, unless a metric looks further down."""
    return min(num_beams, max([num_items, *(parse_metric(name)[1] for name in names)]))


def ranks_of(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where each target stands in its ranked list.

    Args:
        ranked: (M, K) int64 item ids, best first, filled up with -1 at the end.
        targets: (M,) int64.

    Returns:
        (M,) int64 in [0, K]; K where the list lacks the target.

    Raises:
        ValueError: an item stands twice in a list (which would push NDCG above 1), an item follows the padding, or a
            target is no item id.
    """
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise ValueError(f"ranked lists of shape {ranked.shape} do not fit targets of shape {targets.shape}")
    if (targets < 0).any():
        raise ValueError(
            f"sample {int((targets < 0).argmax())} has target {targets[targets < 0][0]}: item ids start at 0"
        )
    ordered = np.sort(ranked, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)).any(1)
    if twice.any():
        row = int(twice.argmax())
        raise ValueError(f"the ranked list of sample {row} has an item twice: {ranked[row].tolist()}")
    gap = ((ranked[:, :-1] == PADDING) & (ranked[:, 1:] != PADDING)).any(1)
    if gap.any():
        raise ValueError(f"the ranked list of sample {int(gap.argmax())} has padding before its end")
    found = ranked == targets[:, None]
    return np.where(found.any(1), found.argmax(1), ranked.shape[1]).astype(np.int64)


def sid_ranks_of(ranked_sids: np.ndarray, target_sids: np.ndarray) -> np.ndarray:
    """Where the SID of each target stands among the distinct SIDs of its ranked list.

    Args:
        ranked_sids: (M, K) int64 number of the SID of each ranked item, -1 at the end of short lists.
        target_sids: (M,) int64, from 0.

    Returns:
        (M,) int64 in [0, K]; K where the list lacks the SID. Where no items share a SID it is what `ranks_of` gives.
    """
    order = np.argsort(ranked_sids, axis=1, kind="stable")
    ordered = np.take_along_axis(ranked_sids, order, 1)
    fresh = np.ones(ranked_sids.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(fresh)  # whether a SID stands in the list for the first time
    np.put_along_axis(first, order, fresh, 1)
    found = ranked_sids == target_sids[:, None]
    rank = np.take_along_axis(first.cumsum(1), found.argmax(1)[:, None], 1)[:, 0] - 1
    return np.where(found.any(1), rank, ranked_sids.shape[1]).astype(np.int64)


def per_sample_metrics(ranks: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Each metric of each sample: (M,) float64 in [0, 1].

    Args:
        ranks: (M,) from `ranks_of`.
        names: from `parse_metrics`, which checks that no k is above K: a miss has rank K.
    """
    ranks = np.asarray(ranks, np.float64)
    values = {}
    for name in names:
        kind, cutoff = parse_metric(name)
        values[name] = np.where(ranks < cutoff, GAINS[kind](ranks), 0.0)
    return values


# ---- slices and lists ------------------------------------------------------------------------------------------------
def _buckets(numbers: np.ndarray, lower_ends: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    """Name and mask of each bucket `[end, next end)`; the last is open."""
    buckets = []
    for start, following in zip(lower_ends, [*lower_ends[1:], None], strict=True):
        if following is None:
            buckets.append((f"{start}+", numbers >= start))
        else:
            label = str(start) if following == start + 1 else f"{start}-{following - 1}"
            buckets.append((label, (numbers >= start) & (numbers < following)))
    return buckets


def slices(
    values: Mapping[str, np.ndarray], target_popularity: np.ndarray, history_lengths: np.ndarray | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Means of each metric over parts of the samples: `{slice: {bucket: {"num_samples": n, metric: mean}}}`.

    Args:
        values: (M,) of each metric.
        target_popularity: (M,) how often the target stands in the training part.
        history_lengths: (M,) items before the target; None leaves that slice out.
    """
    target_popularity = np.asarray(target_popularity)
    cuts = {
        "target_popularity": _buckets(target_popularity, POPULARITIES),
        "target": [("seen in training", target_popularity > 0), ("unseen in training", target_popularity == 0)],
    }
    if history_lengths is not None:
        cuts = {"history_length": _buckets(np.asarray(history_lengths), HISTORY_LENGTHS), **cuts}
    return {
        cut: {
            label: {"num_samples": int(mask.sum()), **{name: float(row[mask].mean()) for name, row in values.items()}}
            for label, mask in buckets
            if mask.any()
        }
        for cut, buckets in cuts.items()
    }


def list_statistics(
    ranked: np.ndarray, popularity: np.ndarray, item_ids: np.ndarray, cutoff: int = 10
) -> dict[str, float]:
    """What the first `cutoff` items of the lists are: `coverage@k`, `mean_popularity@k`, `novelty@k`, `gini@k`.

    Args:
        ranked: (M, K) item ids, -1 at the end of short lists; a K below `cutoff` lowers it.
        popularity: (largest item id + 1,) counts in the training part.
        item_ids: (N,) the items that may be recommended.

    Returns:
        coverage: share of the catalogue that stands in any list; mean_popularity: mean training count of a recommended
        item; novelty: mean of -log2 of its share in training, each count raised by one so that unseen items count;
        gini: 0 where every item of the catalogue is recommended equally often, near 1 where one item takes all.
    """
    cutoff = min(cutoff, ranked.shape[1])
    shown = ranked[:, :cutoff]
    shown = shown[shown != PADDING]
    if not len(shown):
        raise ValueError("the ranked lists are empty: nothing was recommended to anybody")
    times = np.sort(np.bincount(shown, minlength=int(item_ids[-1]) + 1)[item_ids]).astype(np.float64)
    num_items = len(item_ids)
    share = (popularity[shown] + 1) / (popularity[item_ids].sum() + num_items)
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    return {
        f"coverage@{cutoff}": float((times > 0).mean()),
        f"mean_popularity@{cutoff}": float(popularity[shown].mean()),
        f"novelty@{cutoff}": float(-np.log2(share).mean()),
        f"gini@{cutoff}": float((weights * times).sum() / (num_items * times.sum())),
    }
