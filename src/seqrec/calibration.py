"""What ranked lists promise, and whether it holds: of all that was given a chance of 5 %, does 5 % come true?

Shape letters: M lists, K items in a list, B bins.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.common.artifacts import read_json
from src.seqrec.fusion import chances_of
from src.seqrec.metrics import ranks_of
from src.seqrec.ranker import num_sharing
from src.seqrec.results import Ranked, predictions_path, read_predictions
from src.tasks.catalogue import Catalogue

SURE = 1.96  # standard deviations on both sides of 95 %


class Promises(NamedTuple):
    """The lists of a results file, all wordings."""

    chances: np.ndarray  # (M, K) float64, of each listed item, best first; 0 at the end of short lists
    ranks: np.ndarray  # (M,) int64, of the right item, from 0; K where it is missing

    @property
    def hits(self) -> np.ndarray:
        """(M, K) bool: the right item."""
        return np.arange(self.chances.shape[1]) == self.ranks[:, None]


class Reliability(NamedTuple):
    """Bins of about equally many chances, rising; (B,) each, but the last."""

    promised: np.ndarray  # float64, mean chance
    came_true: np.ndarray  # float64, share
    low: np.ndarray  # float64, 95 % interval of that share
    high: np.ndarray
    counts: np.ndarray  # int64
    error: float  # mean distance of promise and share, over all chances (expected calibration error)


def read_promises(results_file: str | Path, catalogue: Catalogue) -> Promises:
    """The chances that a model gave to what it ranked, from the predictions beside its results.

    Raises:
        FileNotFoundError, ValueError: a file is missing, of another dataset or index, of a baseline, whose scores are
            no probabilities, or of an older version.
    """
    results = read_json(results_file)
    if results.get("dataset") != catalogue.name:
        raise ValueError(f"{results_file} is of {results.get('dataset')}, and the catalogue of {catalogue.name}")
    if not results.get("checkpoint"):
        raise ValueError(
            f"{results_file} is of {results.get('model', 'a baseline')}, whose scores are no probabilities:"
            " give results of src.seqrec.metric_ddp"
        )
    used, given = Path(results["index"]).name, Path(catalogue.index.path or "").name
    if used != given:
        raise ValueError(f"{results_file} was made with the index {used}, not with {given}")
    parts = read_predictions(predictions_path(results_file))
    items = np.concatenate([part.ranked for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    ranks = ranks_of(items, np.concatenate([part.targets for part in parts]))
    if results.get("fusion"):  # its scores are chances already
        return Promises(np.where(items >= 0, scores, 0).astype(np.float64), ranks)
    if "score_tokens" not in results:
        raise ValueError(
            f"{results_file} does not say of how many tokens its scores are means: an older version wrote it. Evaluate"
            f" again"
        )
    return Promises(chances_of(Ranked(items, scores), results["score_tokens"], num_sharing(catalogue)), ranks)


def reliability(chances: np.ndarray, came_true: np.ndarray, num_bins: int = 15) -> Reliability:
    """Compares chances with what happened.

    Equal chances stay in one bin, so there may be fewer bins than asked for.

    Args:
        chances: any shape, in [0, 1].
        came_true: of the same shape, bool.

    Raises:
        ValueError: nothing to compare, or a chance outside [0, 1].

    Reference: Nixon et al., Measuring Calibration in Deep Learning (2019), with bins of equal mass.
    """
    if np.shape(chances) != np.shape(came_true) or not np.size(chances):
        raise ValueError(
            f"chances of shape {np.shape(chances)} and outcomes of shape {np.shape(came_true)}: one or more are needed,"
            " as many of both"
        )
    chances, came_true = np.ravel(chances).astype(np.float64), np.ravel(came_true).astype(np.float64)
    if not ((chances >= 0) & (chances <= 1 + 1e-6)).all():
        raise ValueError(f"chances must lie in [0, 1], these in [{chances.min():.4g}, {chances.max():.4g}]")
    edges = np.unique(np.quantile(chances, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.unique(np.searchsorted(edges, chances), return_inverse=True)[1]
    counts = np.bincount(bins)
    promised, share = np.bincount(bins, chances) / counts, np.bincount(bins, came_true) / counts
    low, high = wilson_interval(share, counts)
    return Reliability(promised, share, low, high, counts, float(np.abs(promised - share) @ counts / len(chances)))


def wilson_interval(share: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 95 % interval of shares out of `counts`. Reference: Wilson, JASA 22 (1927)."""
    whole = 1 + SURE**2 / counts
    middle = (share + SURE**2 / (2 * counts)) / whole
    spread = SURE * np.sqrt(share * (1 - share) / counts + SURE**2 / (4 * counts**2)) / whole
    return np.maximum(0, middle - spread), np.minimum(1, middle + spread)
