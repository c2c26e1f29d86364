"""Collaborative scores as sources of a fusion: each gives every item its share of all scores of a sample."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from src.baselines.config import BaselineConfig
from src.baselines.core import DENSE_SCORES, history_entries, rank_dense, tie_order
from src.seqrec.config import EvaluateConfig
from src.seqrec.fusion import Pool, distinct, look_up
from src.seqrec.metrics import PADDING

if TYPE_CHECKING:
    from src.tasks.catalogue import Catalogue

SAMPLES = 4096  # looked at together: bounds memory where lists are long
# users (B,), positions (B,) -> (B, N) float32 shares, which sum to 1, or to 0 where nothing is known
Shares = Callable[[np.ndarray, np.ndarray], np.ndarray]


def counted_shares(baseline: str, catalogue: "Catalogue", config: EvaluateConfig) -> Shares:
    """Scores of a counting baseline over their sum."""
    settings = BaselineConfig(catalogue.name, config.results_path, filter_history=config.filter_history)
    score = importlib.import_module(f"src.baselines.{baseline}").build_scorer(catalogue, settings).score_function

    def shares(users: np.ndarray, positions: np.ndarray) -> np.ndarray:
        scores = score(users, positions).toarray().astype(np.float32)
        if config.filter_history:
            scores[history_entries(catalogue, users, positions)[:2]] = 0
        sums = scores.sum(1, keepdims=True)
        return scores / np.where(sums > 0, sums, 1)

    return shares


def sasrec_shares(catalogue: "Catalogue", config: EvaluateConfig) -> Shares:
    """Softmax over the scores of a SASRec that `src.baselines.sasrec` trained.

    Raises:
        ValueError, FileNotFoundError: `config.fuse_results` is not of a SASRec on this dataset.
    """
    from src.baselines.sasrec_training import load_sasrec

    assert config.fuse_results is not None  # fusion_plan has asked for it
    score = load_sasrec(config.fuse_results, catalogue, config.device).score

    def shares(users: np.ndarray, positions: np.ndarray) -> np.ndarray:
        scores = score(users, positions)
        if config.filter_history:
            scores[history_entries(catalogue, users, positions)[:2]] = -np.inf
        chances = np.exp(scores - scores.max(1, keepdims=True))
        return chances / chances.sum(1, keepdims=True)

    return shares


SOURCES: dict[str, Callable[["Catalogue", EvaluateConfig], Shares]] = {  # of each name in `src.seqrec.config.FUSED`
    "cooc": partial(counted_shares, "cooccurrence"),
    "itemknn": partial(counted_shares, "itemknn"),
    "sasrec": sasrec_shares,
}


def make_pool(
    models: Sequence[tuple[np.ndarray, np.ndarray]], scores: Sequence[Shares], catalogue: "Catalogue",
    users: np.ndarray, positions: np.ndarray, filter_history: bool, length: int,
) -> Pool:  # fmt: skip
    """Candidates of all sources with their chances from each.

    Args:
        models: (M, K) items and (M, K) chances of each model.
        scores: collaborative sources; each adds its best `length` items, and knows the chances of all others.
        users, positions: (M,) of the samples; looked at where there are collaborative sources.
    """
    order = tie_order(catalogue)
    size = max(1, min(SAMPLES, DENSE_SCORES // len(order))) if scores else SAMPLES
    parts = []
    for start in range(0, len(models[0][0]), size):
        chunk = slice(start, start + size)
        tables = [shares(users[chunk], positions[chunk]) for shares in scores]
        # models have left out the history themselves
        seen = history_entries(catalogue, users[chunk], positions[chunk])[:2] if scores and filter_history else None
        lists = [items[chunk] for items, _ in models]
        for table in tables:
            columns = rank_dense(table, order, seen, length)[0]
            lists.append(np.where(columns == PADDING, PADDING, catalogue.item_ids[columns]))
        items = distinct(np.concatenate(lists, 1))
        columns = np.searchsorted(catalogue.item_ids, np.maximum(items, catalogue.item_ids[0]))
        chances = [look_up(items, *(part[chunk] for part in model)) for model in models]
        chances += [np.where(items >= 0, np.take_along_axis(table, columns, 1), 0) for table in tables]
        parts.append((items, np.stack(chances)))
    width = max(items.shape[1] for items, _ in parts)
    return Pool(
        np.concatenate([_widened(items, width, PADDING) for items, _ in parts]),
        np.concatenate([_widened(chances, width, 0) for _, chances in parts], 1),
    )


def _widened(table: np.ndarray, width: int, filler: int) -> np.ndarray:
    missing = [(0, 0)] * (table.ndim - 1) + [(0, width - table.shape[-1])]
    return np.pad(table, missing, constant_values=filler)


def tie_rank_of(catalogue: "Catalogue") -> np.ndarray:
    """(largest item id + 1,) int64: place of each item among equal scores: by popularity in training, then id."""
    ranks = np.zeros(int(catalogue.item_ids[-1]) + 1, np.int64)
    ranks[catalogue.item_ids[tie_order(catalogue)]] = np.arange(len(catalogue.item_ids))
    return ranks
