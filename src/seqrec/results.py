"""Result files and, beside them, predictions: what model evaluation and baselines write and `compare` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from src.common.artifacts import atomic_path, check_writable, read_json
from src.common.record import commit, write_record
from src.common.uncertainty import bootstrap_intervals
from src.seqrec import metrics as ranking
from src.seqrec.protocol import protocol_asked

if TYPE_CHECKING:
    from src.tasks.catalogue import Catalogue

COLUMNS = ("user", "target", "ranked", "scores", "prompt_id")
CONTEXT = ("is_lora", "base_model", "index", "checkpoint")  # what only the caller knows; None for a baseline


class Ranked(NamedTuple):
    """Ranked lists of M questions."""

    items: np.ndarray  # (M, K) int64 item ids, best first, -1 where a list is shorter
    scores: np.ndarray  # (M, K) float32, -inf there


@dataclass(frozen=True)
class Predictions:
    """Ranked lists under one wording of the prompt.

    Attributes:
        users: M names, as in the interactions.
        targets: (M,) int64 right items.
        ranked: (M, K) int64 item ids, best first, -1 where the list is shorter than K.
        scores: (M, K) float32, not increasing; -inf where `ranked` is -1.
        prompt_id: which wording; 0 for systems without one.
        history_lengths: (M,) int64 items before the target, that is its position; None where there is no history.
    """

    users: Sequence[str]
    targets: np.ndarray
    ranked: np.ndarray
    scores: np.ndarray
    prompt_id: int = 0
    history_lengths: np.ndarray | None = None

    def __post_init__(self) -> None:
        rows = {len(self.users), len(self.targets), len(self.ranked), len(self.scores)}
        rows |= set() if self.history_lengths is None else {len(self.history_lengths)}
        if len(rows) != 1 or np.ndim(self.ranked) != 2 or np.shape(self.ranked) != np.shape(self.scores):
            raise ValueError(
                f"predictions of {len(self.users)} users, {len(self.targets)} targets, ranked lists"
                f" {np.shape(self.ranked)} and scores {np.shape(self.scores)} do not belong together"
            )

    @property
    def num_beams(self) -> int:
        return self.ranked.shape[1]


# ---- files -----------------------------------------------------------------------------------------------------------
def predictions_path(results_file: str | Path) -> Path:
    """`results/x.json` -> `results/x.predictions.parquet`."""
    return Path(results_file).with_suffix(".predictions.parquet")


def check_results_file(path: Path) -> None:
    """Raises ValueError where results cannot be written, or what lies beside them would be that of others."""
    check_writable(path)
    if path.suffix != ".json":
        raise ValueError(
            f"--results_file {path} must end in .json: predictions are named by what stands before the last dot, and"
            f" would lie in {predictions_path(path).name}"
        )


def write_predictions(path: str | Path, predictions: Sequence[Predictions] | Predictions) -> None:
    """One row a sample and wording: user, target, ranked, scores, prompt_id and, where known, history_length."""
    frames = []
    for part in [predictions] if isinstance(predictions, Predictions) else predictions:
        columns = {
            "user": pl.Series([str(user) for user in part.users], dtype=pl.String),
            "target": pl.Series(np.asarray(part.targets, np.int64)),
            "ranked": pl.Series(np.asarray(part.ranked, np.int64)).cast(pl.List(pl.Int64)),
            "scores": pl.Series(np.asarray(part.scores, np.float32)).cast(pl.List(pl.Float32)),
            "prompt_id": pl.Series([part.prompt_id], dtype=pl.Int64).new_from_index(0, len(part.users)),
        }
        if part.history_lengths is not None:
            columns["history_length"] = pl.Series(np.asarray(part.history_lengths, np.int64))
        frames.append(pl.DataFrame(columns))
    with atomic_path(path) as temporary:
        pl.concat(frames).write_parquet(temporary)


def read_predictions(path: str | Path) -> list[Predictions]:
    """The predictions of each wording, in the order written."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: it is written beside the results file of an evaluation")
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}). Run the evaluation again") from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or not len(table):
        raise ValueError(
            f"{path} has {len(table)} rows and lacks the columns {missing}: it holds no ranked predictions"
        )
    widths = table["ranked"].list.len().unique().to_list()
    if len(widths) != 1:
        raise ValueError(f"{path} has ranked lists of {sorted(widths)} items: they must be filled up with -1")
    parts = []
    for part in table.partition_by("prompt_id", maintain_order=True):
        parts.append(
            Predictions(
                users=part["user"].to_list(),
                targets=part["target"].to_numpy(),
                ranked=part["ranked"].list.to_array(widths[0]).to_numpy(),
                scores=part["scores"].list.to_array(widths[0]).to_numpy(),
                prompt_id=part["prompt_id"][0],
                history_lengths=part["history_length"].to_numpy() if "history_length" in part.columns else None,
            )
        )
    return parts


def read_results(results_file: str | Path) -> dict[str, Any]:
    """A results file, checked to be one."""
    results = read_json(
        results_file, "It is the --results_file of an evaluation, such as: python -m src.seqrec.metric_ddp"
    )
    if not isinstance(results, dict) or "mean_results" not in results:
        raise ValueError(f"{results_file} has no mean_results: it is no results file of src.seqrec or src.baselines")
    return results


def write_results(
    results_file: str | Path,
    predictions: Sequence[Predictions] | Predictions,
    summary: Mapping[str, Any],
    weights: Path | None = None,
) -> Path:
    """Writes the predictions, then the results of `summarize` beside them: results never stand there alone.

    Args:
        weights: what the run has learnt, where that lies beside the results.
    """
    path = predictions_path(results_file)
    write_predictions(path, predictions)
    outputs = {"predictions": path} | ({} if weights is None else {"weights": weights})
    write_record(results_file, {"artefact": "results", **summary}, outputs)
    return Path(results_file)


def change_results(results_file: str | Path, **entries: Any) -> None:
    """Adds entries to a results file, or replaces them."""
    write_record(results_file, read_results(results_file) | entries)


# ---- summary ---------------------------------------------------------------------------------------------------------
def mean_over_prompts(predictions: Sequence[Predictions], names: Sequence[str]) -> tuple[dict, list[dict[str, float]]]:
    """Metrics of each sample averaged over the wordings, and their means under each wording.

    Raises:
        ValueError: the wordings were asked about different samples.
    """
    first = predictions[0]
    for part in predictions[1:]:
        same_users = list(part.users) == list(first.users)
        if not same_users or not np.array_equal(part.targets, first.targets) or part.num_beams != first.num_beams:
            raise ValueError(
                f"prompts {first.prompt_id} and {part.prompt_id} have predictions of different samples:"
                f" every wording must be asked about every sample. Run the evaluation again"
            )
    parts = [ranking.per_sample_metrics(ranking.ranks_of(part.ranked, part.targets), names) for part in predictions]
    values = {name: np.mean([part[name] for part in parts], axis=0) for name in names}
    return values, [{name: float(part[name].mean()) for name in names} for part in parts]


def sid_values(
    predictions: Sequence[Predictions], catalogue: "Catalogue", names: Sequence[str]
) -> dict[str, np.ndarray]:
    """(M,) `sid_hit@k` and the like, means over the wordings; none where the catalogue has no SIDs.

    The right answer is the SID of the target, at its place among the distinct SIDs of the list: what the model itself
    has to find. It differs from the item's metrics only where items share a SID.
    """
    if catalogue.sid_index is None:
        return {}
    sid_of = np.full(int(catalogue.item_ids[-1]) + 2, ranking.PADDING)  # the last place is that of the padding
    sid_of[catalogue.item_ids] = catalogue.sid_index.sid_numbers()[catalogue.sid_index.rows_of(catalogue.item_ids)]
    parts = []
    for part in predictions:
        ranks = ranking.sid_ranks_of(sid_of[part.ranked], sid_of[part.targets])
        parts.append(ranking.per_sample_metrics(ranks, names))
    return {f"sid_{name}": np.mean([part[name] for part in parts], axis=0) for name in names}


def intervals(values: Mapping[str, np.ndarray], users: Sequence[str]) -> dict[str, list[float]]:
    """Both ends of the 95 % interval of each metric, as JSON holds them."""
    return {name: list(ends) for name, ends in bootstrap_intervals(values, users).items()}


def summarize(
    predictions: Sequence[Predictions] | Predictions,
    catalogue: "Catalogue",
    metrics: str | Sequence[str],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a results file (docs/data_format.md).

    Args:
        predictions: of each wording, over the same samples.
        metrics: such as "hit@10,ndcg@10"; a k above the length of the lists is an error.
        extra: split, filter_history and test_task, which settle the protocol; is_lora, base_model, index, checkpoint,
            inputs, and whatever else to keep: model, settings, ...

    Returns:
        The protocol; means over the wordings, the lowest and the highest; intervals, slices and list statistics of the
        wordings' average; metrics of SIDs beside those of items, where the catalogue has SIDs.
    """
    predictions = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    first = predictions[0]
    names = ranking.parse_metrics(metrics, first.num_beams)
    protocol = protocol_asked(catalogue, extra, first.num_beams)
    values, per_prompt = mean_over_prompts(predictions, names)
    table = {name: [result[name] for result in per_prompt] for name in names}
    lists = [ranking.list_statistics(part.ranked, catalogue.popularity, catalogue.item_ids) for part in predictions]
    own = {
        "test_prompt_ids": [part.prompt_id for part in predictions],
        "mean_results": {name: float(np.mean(column)) for name, column in table.items()},
        "min_results": {name: min(column) for name, column in table.items()},
        "max_results": {name: max(column) for name, column in table.items()},
        "all_prompt_results": per_prompt,
        "confidence_intervals": intervals(values, first.users),
        "num_samples": len(first.targets),
        "num_beams": first.num_beams,
        "dataset": catalogue.name,
        "protocol": protocol.table(),
        "commit": commit(),
        "slices": ranking.slices(values, catalogue.popularity[first.targets], first.history_lengths),
        "list_statistics": {name: float(np.mean([row[name] for row in lists])) for name in lists[0]},
    }
    if by_sid := sid_values(predictions, catalogue, names):
        own["sid_results"] = {name: float(row.mean()) for name, row in by_sid.items()}
        own["sid_confidence_intervals"] = intervals(by_sid, first.users)
    clash = own.keys() & extra.keys()
    if clash:
        raise ValueError(f"{sorted(clash)} are worked out from the predictions: leave them out of `extra`")
    return {**own, **dict.fromkeys(CONTEXT), **extra}
