"""Several rankings made one: models of different SID tables, and collaborative scores, as one convex combination.

Every source gives items a chance: a model the probability that it writes the item's SID, a collaborative score its
share of what it gives to all items. Chances of one kind can be added; scores of different kinds cannot.

Shape letters: M samples, S sources (models first), C candidates of a sample, N items of the catalogue.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from src.seqrec.metrics import PADDING, per_sample_metrics
from src.seqrec.results import Ranked

JUDGED_BY = "ndcg@10"
MISS = 1 << 30  # rank of what is no candidate: below every k, however few candidates there are
ROUNDS = 10  # in which a model joins a weighted mean
STEPS = {1: 20, 2: 10, 3: 10}  # of a weight from 0 to 1, by the number of collaborative scores


class Pool(NamedTuple):
    """Candidates from all sources."""

    items: np.ndarray  # (M, C) int64, each item once a row, -1 where there is no more
    chances: np.ndarray  # (S, M, C) float64: in float32 those of long or unlikely SIDs would be 0


class Mix(NamedTuple):
    """How sources are put together: models by their mean, weighted or not, or best; then a convex combination."""

    ensemble_by: str
    weights: tuple[float, ...]  # of the collaborative scores, 0 to 1 together; the models have the rest
    shares: tuple[float, ...] = ()  # of each model in that rest, where the mean is weighted; 1 together

    @property
    def rest(self) -> float:
        """Weight of the models; 0, and no trace of rounding, where the scores have all."""
        return max(0.0, round(1 - sum(self.weights), 9))


def chances_of(ranked: Ranked, num_tokens: int, sharing: np.ndarray) -> np.ndarray:
    """(M, K) float64: probability of each ranked item, from its mean log-probability a token.

    Args:
        num_tokens: over which the scores are means.
        sharing: (largest item id + 1,) how many items have the SID of each: they share its probability.
    """
    chances = np.exp(ranked.scores.astype(np.float64) * num_tokens)
    return chances / np.where(ranked.items >= 0, sharing[ranked.items], 1)


def distinct(items: np.ndarray) -> np.ndarray:
    """(M, C) int64: the distinct items of each row, ascending, then -1; C is what the fullest row needs."""
    ordered = np.sort(items, axis=1)
    fresh = ordered >= 0
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    places = np.argsort(~fresh, axis=1, kind="stable")[:, : max(1, int(fresh.sum(1).max(initial=0)))]
    return np.where(np.take_along_axis(fresh, places, 1), np.take_along_axis(ordered, places, 1), PADDING)


def look_up(items: np.ndarray, ranked_items: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M, C) float64: the value that each of (M, C) items has in its (M, K) list, 0 where the list lacks it."""
    same = (items[:, :, None] == ranked_items[:, None]) & (items >= 0)[:, :, None]
    found = np.take_along_axis(values, same.argmax(2), 1)
    return np.where(same.any(2), found, 0.0)


def mixed(pool: Pool, num_models: int, mix: Mix) -> np.ndarray:
    """(M, C) float64: the chance of each candidate under a mix."""
    models = pool.chances[:num_models]
    if mix.ensemble_by == "weighted":
        together = np.tensordot(mix.shares, models, 1)
    else:
        together = models.mean(0) if mix.ensemble_by == "mean" else models.max(0)
    total = mix.rest * together
    for weight, chances in zip(mix.weights, pool.chances[num_models:], strict=True):
        total += weight * chances
    return total


def rank_candidates(items: np.ndarray, scores: np.ndarray, tie_rank: np.ndarray, length: int) -> Ranked:
    """The best `length` candidates of each sample; equal ones by `tie_rank` (largest item id + 1,)."""
    scores = np.where(items >= 0, scores, -np.inf)
    order = np.lexsort((tie_rank[items], -scores), axis=1)[:, :length]
    ranked, values = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
    if missing := length - ranked.shape[1]:
        ranked = np.pad(ranked, ((0, 0), (0, missing)), constant_values=PADDING)
        values = np.pad(values, ((0, 0), (0, missing)), constant_values=-np.inf)
    return Ranked(ranked, values.astype(np.float32))


def candidate_ranks(items: np.ndarray, scores: np.ndarray, tie_rank: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(M,) int64: rank of each target among the candidates, from 0; MISS where it is none of them."""
    own = items == targets[:, None]
    score = np.where(own, scores, -np.inf).max(1)[:, None]
    ahead = (scores > score) | ((scores == score) & (tie_rank[items] < tie_rank[targets][:, None]))
    return np.where(own.any(1), (ahead & (items >= 0)).sum(1), MISS)


def weight_grid(num_scores: int) -> list[tuple[float, ...]]:
    """Every combination of weights that leaves the models 0 or more, smaller weights first."""
    if not num_scores:
        return [()]
    steps = STEPS[num_scores]
    rows = [row for row in product(range(steps + 1), repeat=num_scores) if sum(row) <= steps]
    return [tuple(number / steps for number in row) for row in sorted(rows, key=sum)]


def choose_mix(
    pools: Sequence[Pool], num_models: int, tie_rank: np.ndarray, targets: Sequence[np.ndarray], kinds: Sequence[str],
    weights: Sequence[tuple[float, ...]],
) -> tuple[Mix, float]:  # fmt: skip
    """The mix with the best NDCG@10 for the targets of a validation split, the first of equals; and its NDCG@10.

    Args:
        pools, targets: of each wording.
        kinds: of `src.seqrec.config.ENSEMBLE_BY`.
        weights: to choose from, as from `weight_grid`.
    """

    def judge(mix: Mix) -> float:
        ranks = [
            candidate_ranks(pool.items, mixed(pool, num_models, mix), tie_rank, right)
            for pool, right in zip(pools, targets, strict=True)
        ]
        return float(per_sample_metrics(np.concatenate(ranks), [JUDGED_BY])[JUDGED_BY].mean())

    shares = greedy_shares(judge, num_models, len(weights[0])) if "weighted" in kinds else ()
    mixes = [Mix(kind, row, shares if kind == "weighted" else ()) for row in weights for kind in kinds]
    values = [judge(mix) for mix in mixes]
    best = int(np.argmax(values))
    return mixes[best], values[best]


def greedy_shares(judge: Callable[[Mix], float], num_models: int, num_scores: int) -> tuple[float, ...]:
    """Shares of models by adding one model after another, again and again, each time the one that ranks best.

    Reference: Caruana et al., Ensemble selection from libraries of models, ICML 2004.
    """
    counts = np.zeros(num_models)
    tried: dict[tuple[float, ...], float] = {}
    for _ in range(ROUNDS):
        steps = [tuple(((counts + one) / (counts.sum() + 1)).tolist()) for one in np.eye(num_models)]
        tried |= {step: judge(Mix("weighted", (0.0,) * num_scores, step)) for step in steps if step not in tried}
        counts[int(np.argmax([tried[step] for step in steps]))] += 1
    return max(tried, key=lambda step: tried[step])
