"""Baselines: rank the catalogue for every user of a split, and write results as model evaluation does.

Shape letters: B users of a chunk, N items of the catalogue. Column j of a matrix is `catalogue.item_ids[j]`.
"""

import importlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from src.baselines.config import BASELINES, BaselineConfig
from src.common.cli import check_at_least
from src.common.log import logger
from src.common.record import input_entries
from src.seqrec.metrics import PADDING, list_length, parse_metrics
from src.seqrec.results import Predictions, check_results_file, summarize, write_results
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import Split

CHUNK = 1024  # users ranked together; bounds memory, changes no number
DENSE_SCORES = 1 << 24  # scores of all items held at a time, where a baseline gives those
# users (B,), positions (B,) -> (B, N) scores: sparse ones >= 0, or an array of any
ScoreFunction = Callable[[np.ndarray, np.ndarray], sparse.csr_array | np.ndarray]


class Scorer(NamedTuple):
    """A fitted baseline: its scores, and the settings to keep in the results file."""

    score_function: ScoreFunction
    settings: dict[str, Any]
    is_dense: bool = False  # it scores all items
    weights: Path | None = None  # the file of what it has learnt


# ---- catalogues as matrices ------------------------------------------------------------------------------------------
def tie_order(catalogue: Catalogue) -> np.ndarray:
    """(N,) columns from the most to the least popular in training, equal ones by item id: how all ties are settled."""
    return np.argsort(-catalogue.popularity[catalogue.item_ids], kind="stable")


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


def history_entries(catalogue: Catalogue, users: np.ndarray, positions: np.ndarray) -> Entries:
    """Everything before the targets: row in the chunk, column, and distance from the target (1: the last item)."""
    rows = np.repeat(np.arange(len(users)), positions)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(positions) - positions, positions)
    items = catalogue.sequence[catalogue.offsets[users][rows] + within]
    return rows, np.searchsorted(catalogue.item_ids, items), positions[rows] - within


def last_items(catalogue: Catalogue, users: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """(B, T) int64: columns of the last `length` items before `ends` of each user's sequence, then -1."""
    sizes = np.minimum(ends, length)
    table = np.full((len(users), max(1, int(sizes.max()))), -1, np.int64)
    rows = np.repeat(np.arange(len(users)), sizes)
    within = np.arange(len(rows)) - np.repeat(sizes.cumsum() - sizes, sizes)
    begins = catalogue.offsets[users] + ends - sizes
    table[rows, within] = np.searchsorted(catalogue.item_ids, catalogue.sequence[begins[rows] + within])
    return table


def training_entries(catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """(T',) user and (T',) column of every interaction of the training parts, users in order, oldest first."""
    rows, columns, _ = history_entries(catalogue, np.arange(catalogue.num_users), catalogue.train_end)
    return rows, columns


# ---- ranking ---------------------------------------------------------------------------------------------------------
def evaluate_ranker(
    name: str,
    score_function: ScoreFunction,
    catalogue: Catalogue,
    split: Split,
    filter_history: bool,
    k: int,
    is_dense: bool = False,
) -> Predictions:
    """Ranks the whole catalogue for every target of the split.

    Args:
        name: of the baseline, for messages.
        score_function: scores; in sparse ones an item without a score has 0. Ties go by popularity, then item id.
        filter_history: leave out the items that stand before the target.
        k: length of the ranked lists; filled up with -1 only where fewer items are left.

    Raises:
        ValueError: a sparse score is negative, or a score is no number.
    """
    targets = catalogue.next_item_targets(split)
    if not len(targets.users):
        raise ValueError(f"{catalogue.name} has no target in the split {split}: no user has 3 items or more")
    order = tie_order(catalogue)
    ranked = np.full((len(targets.users), k), PADDING, np.int64)
    scores = np.full((len(targets.users), k), -np.inf, np.float32)
    size = max(1, min(CHUNK, DENSE_SCORES // len(order))) if is_dense else CHUNK
    for start in range(0, len(targets.users), size):
        chunk = slice(start, start + size)
        users, positions = targets.users[chunk], targets.positions[chunk]
        matrix = score_function(users, positions)
        seen = history_entries(catalogue, users, positions)[:2] if filter_history else None
        if isinstance(matrix, np.ndarray):
            if not np.isfinite(matrix).all():
                raise ValueError(f"{name} gives a score that is no number: training has gone wrong")
            columns, scores[chunk] = rank_dense(matrix, order, seen, k)
        else:
            matrix = sparse.csr_array(matrix)
            if matrix.nnz and not matrix.data.min() >= 0:
                raise ValueError(
                    f"{name} gives the score {matrix.data.min()}: they must be 0 or more, for 0 means none"
                )
            columns, scores[chunk] = rank_rows(matrix, order, seen, k)
        ranked[chunk] = np.where(columns == PADDING, PADDING, catalogue.item_ids[columns])
    return Predictions(
        users=[catalogue.users[user] for user in targets.users],
        targets=catalogue.sequence[catalogue.offsets[targets.users] + targets.positions],
        ranked=ranked,
        scores=scores,
        history_lengths=targets.positions,
    )


def largest_entries(matrix: sparse.csr_array, count: int) -> sparse.csr_array:
    """The `count` largest entries of each row, and all that equal the smallest of them: sorting the rest is wasted."""
    kept = np.ones(matrix.nnz, bool)
    lengths = np.diff(matrix.indptr)
    for row in np.flatnonzero(lengths > count):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[part]
        kept[part] = values >= np.partition(values, -count)[-count]
    ends = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], ends), shape=matrix.shape)


def rank_rows(
    matrix: sparse.csr_array, order: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row without ever holding B x N numbers.

    Args:
        matrix: (B, N) scores >= 0.
        order: (N,) columns in the order in which equal scores rank.
        seen: rows and columns to leave out.

    Returns:
        (B, k) int64 columns, -1 where a row runs out of items; (B, k) float32 scores, -inf there.
    """
    num_rows, num_items = matrix.shape
    tie_rank = np.empty(num_items, np.int64)
    tie_rank[order] = np.arange(num_items)
    seen_keys = np.empty(0, np.int64)
    if seen is not None:
        seen_keys = np.unique(seen[0] * num_items + tie_rank[seen[1]])
    # Items without a score rank by `order`: the first k + (most items left out of a row) of them suffice.
    longest = int(np.bincount(seen_keys // num_items, minlength=1).max()) if len(seen_keys) else 0
    fill = np.arange(min(num_items, k + longest))
    entries = largest_entries(matrix, k + longest).tocoo()
    scored = entries.data > 0
    keys = entries.row[scored].astype(np.int64) * num_items + tie_rank[entries.col[scored]]
    fill_keys = (np.arange(num_rows)[:, None] * num_items + fill).ravel()
    fill_keys = np.setdiff1d(fill_keys, keys, assume_unique=True)
    values = np.concatenate([entries.data[scored], np.zeros(len(fill_keys), entries.data.dtype)])
    keys = np.concatenate([keys, fill_keys])
    kept = ~np.isin(keys, seen_keys, assume_unique=True) if len(seen_keys) else np.ones(len(keys), bool)
    keys, values = keys[kept], values[kept]

    best = np.lexsort((keys, -values, keys // num_items))  # by row, then score, then tie order
    rows = keys[best] // num_items
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    first = best[place < k]
    rows, place = rows[place < k], place[place < k]
    columns = np.full((num_rows, k), PADDING, np.int64)
    scores = np.full((num_rows, k), -np.inf, np.float32)
    columns[rows, place] = order[keys[first] % num_items]
    scores[rows, place] = values[first]
    return columns, scores


def rank_dense(
    matrix: np.ndarray, order: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `rank_rows`, for (B, N) float scores of all items."""
    matrix = matrix[:, order]  # equal scores rank as they stand now
    if seen is not None:
        tie_rank = np.argsort(order)
        matrix[seen[0], tie_rank[seen[1]]] = -np.inf
    length = min(k, matrix.shape[1])
    least = np.partition(matrix, -length, 1)[:, -length]
    rows, places = np.nonzero(matrix >= least[:, None])
    best = np.lexsort((places, -matrix[rows, places], rows))
    rows, places = rows[best], places[best]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    rows, places, rank = (part[rank < length] for part in (rows, places, rank))
    columns = np.full((len(matrix), k), PADDING, np.int64)
    scores = np.full((len(matrix), k), -np.inf, np.float32)
    scores[rows, rank] = matrix[rows, places]
    columns[rows, rank] = np.where(np.isfinite(matrix[rows, places]), order[places], PADDING)
    return columns, scores


# ---- a whole run -----------------------------------------------------------------------------------------------------
def run_baseline(name: str, config: BaselineConfig) -> Path:
    """Fits a baseline on the training parts, ranks, writes `config.results_file` and its predictions; gives its path.

    Raises:
        ValueError: an unknown baseline or metric, or a k that lists of `num_beams` items are too short for.
    """
    if name not in BASELINES:
        raise ValueError(f"there is no baseline {name!r}: choose one of {', '.join(BASELINES)}")
    check_at_least(config, num_beams=1)
    names = parse_metrics(config.metrics, config.num_beams)
    catalogue = load_catalogue(config.data_path, config.dataset, needs_texts=False)
    check_results_file(config.results_file)
    inputs = input_entries(catalogue.input_files())  # now: they may change while it trains
    scorer = importlib.import_module(f"src.baselines.{name}").build_scorer(catalogue, config)
    length = list_length(config.num_beams, len(catalogue.item_ids), names)
    predictions = evaluate_ranker(
        name, scorer.score_function, catalogue, config.split, config.filter_history, length, scorer.is_dense
    )
    extra = {
        "model": name,
        "is_lora": False,
        "split": config.split,
        "filter_history": config.filter_history,
        "test_task": "seqrec",
        "settings": scorer.settings,
        "config": asdict(config),
        "inputs": inputs,
    }
    results = summarize(predictions, catalogue, names, extra)
    path = write_results(config.results_file, predictions, results, scorer.weights)
    shown = "  ".join(f"{metric} {value:.4f}" for metric, value in results["mean_results"].items())
    logger.info("%s on %s (%s, %d samples): %s", name, config.dataset, config.split, results["num_samples"], shown)
    logger.info("results: %s", path)
    return path
