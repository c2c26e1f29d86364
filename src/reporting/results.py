"""Results files of every kind in one form: of src.seqrec, src.baselines, src.text_generation, and docs/results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from src.common.artifacts import read_json
from src.common.record import SEAL
from src.reporting.charts import is_number
from src.seqrec.protocol import Protocol, protocol_of
from src.seqrec.results import predictions_path

OTHER = "not said"
LARGEST = 64 << 20  # bytes: more is no results file, and would take minutes to read
KIND = {
    "next_item": "next item",
    "item": "item by its texts",
    "query": "item by a search",
    "enriched_item": "item by its enriched texts",
}
MAIN_TEXT_METRICS = ("bleu", "chrf", "rougeL", "token_f1", "parsed", "title_mrr")
PARTS = (  # of a results file, which are shown as themselves; the rest are settings
    *("mean_results", "min_results", "max_results", "all_prompt_results", "confidence_intervals", "slices", "protocol"),
    *("list_statistics", "sid_results", "sid_confidence_intervals", "baselines", "signatures", "item", "sid", "row"),
    *("dataset", "test_task", "split"),
)
OWN_PLACES = ("config.results_file", SEAL, "outputs.")  # differ always, and say nothing
FIGURES = ("seconds", "cpu_seconds", "valid_beams", "fusion.parts.")  # no settings either


class Metric(NamedTuple):
    value: float
    interval: tuple[float, float] | None


Metrics = Mapping[str, Metric]


@dataclass(frozen=True)
class Result:
    """What one evaluation found.

    Attributes:
        written: texts were judged, else ranked lists.
        dataset, task: "not said" in older files.
        protocol: results of unequal protocols never stand in one table.
        metrics: those that are shown first; `more` holds the others in named tables.
        slices: `{slice: {bucket: {"num_samples": n, metric: mean}}}`.
        settings: what else the file says, flat: `config.seed`.
        indexes, checkpoints: files and folders that the file names, here or not.
    """

    path: Path
    written: bool
    dataset: str
    task: str
    protocol: Protocol | tuple
    num_samples: int
    metrics: Metrics
    more: Mapping[str, Metrics] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    indexes: tuple[Path, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""  # on the page

    @property
    def key(self) -> tuple:
        """What is equal where results compare."""
        return (self.dataset, self.written, self.task, self.protocol)

    @property
    def protocol_name(self) -> str:
        if isinstance(self.protocol, Protocol):
            return self.protocol.name
        return "/".join("?" if part is None else str(part) for part in self.protocol)

    @property
    def predictions(self) -> Path:
        return predictions_path(self.path)  # one name for ranked and generated


def looks_like_results(table: Any) -> bool:
    return isinstance(table, dict) and ("mean_results" in table or {"row", "item", "protocol"} <= table.keys())


def read_result(path: Path) -> Result:
    """A results file of any kind.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is broken, something else, or of a version that this one does not know.
    """
    if path.is_file() and path.suffix != ".json":
        raise ValueError(f"{path} is no .json: name the results file that it lies beside, or the run's folder")
    if path.is_file() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size >> 20} MB, which no results file has")
    return result_of(read_json(path, "RUN is a results file, or a folder of results or of a training run"), path)


def result_of(table: Any, path: Path) -> Result:
    if not looks_like_results(table):
        raise ValueError(
            f"{path} is no results file: it has no mean_results. RUN is the --results_file of src.seqrec, src.baselines"
            f" or src.text_generation, a file of docs/results, or a folder"
        )
    if "mean_results" not in table:
        return _published(table, path)
    return (_written if "model_name" in table else _ranked)(table, path)


def _ranked(table: Mapping[str, Any], path: Path) -> Result:
    protocol, notes = protocol_of(table, str(path)), []
    if "protocol" not in table:
        notes.append(f"{path.name} is of an older form and states no protocol, so that it stands apart")
    more = {"Metrics of SIDs": _metrics(table, path, "sid_results", "sid_confidence_intervals")}
    more["What the lists are made of"] = _metrics(table, path, "list_statistics", None)
    members = (table.get("fusion") or {}).get("models") or []
    return Result(
        path, False, str(table.get("dataset") or OTHER), KIND.get(protocol.target or "", OTHER), protocol,
        _count(table, path), _metrics(table, path), {name: part for name, part in more.items() if part},
        _slices(table, path), settings_of(table), *_made_of([table, *members]), tuple(notes),
    )  # fmt: skip


def _written(table: Mapping[str, Any], path: Path) -> Result:
    every = _metrics(table, path)
    whole = {name: metric for name, metric in every.items() if "." not in name}
    main = {name: whole[name] for name in MAIN_TEXT_METRICS if name in whole} or whole
    by_field: dict[str, dict[str, dict[str, float]]] = {"field": {}}
    count = _count(table, path)
    for name, metric in every.items():
        field_name, _, kind = name.rpartition(".")
        if field_name:
            bucket = by_field["field"].setdefault(field_name.replace("_", " "), {"num_samples": count})
            bucket[kind] = metric.value
    more = {"Further metrics": {name: metric for name, metric in whole.items() if name not in main}}
    more["Metrics of each field"] = {name: metric for name, metric in every.items() if "." in name}
    protocol = tuple(table.get(name) for name in ("test_task", "split", "prompt_lang"))
    if odd := [part for part in protocol if not isinstance(part, (str, type(None)))]:
        raise ValueError(
            f"{path}: test_task, split and prompt_lang must be words, one is {odd[0]!r:.80}. Evaluate again"
        )
    return Result(
        path, True, str(table.get("dataset") or OTHER), str(table.get("test_task") or OTHER), protocol, count, main,
        {name: part for name, part in more.items() if part}, by_field if by_field["field"] else {}, settings_of(table),
        *_made_of([table]),
    )  # fmt: skip


def _published(table: Mapping[str, Any], path: Path) -> Result:
    """A record of docs/results: one table a level instead of two, no predictions, no slices."""
    protocol = protocol_of(table, str(path))
    parts = {}
    for level in ("item", "sid"):
        rows = table.get(level) or {}
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise ValueError(f"{path}: {level} must be a table {{metric: {{mean, interval}}}}, is {rows!r:.80}")
        plain = {
            "mean": {name: row.get("mean") for name, row in rows.items()},
            "ends": {name: row["interval"] for name, row in rows.items() if row.get("interval")},
        }
        parts[level] = _metrics(plain, path, "mean", "ends")
    own, other = ("sid", "item") if protocol.hits == "sid" and parts["sid"] else ("item", "sid")
    titles = {"item": "Metrics of items", "sid": "Metrics of SIDs"}
    more = {titles[other]: parts[other]} if parts[other] else {}
    return Result(
        path, False, str(table.get("dataset") or OTHER), KIND.get(protocol.target or "", OTHER), protocol,
        _count(table, path), parts[own], more, {}, settings_of(table),
    )  # fmt: skip


# ---- parts -----------------------------------------------------------------------------------------------------------
def _metrics(
    table: Mapping[str, Any], path: Path, means: str = "mean_results", ends: str | None = "confidence_intervals"
) -> dict[str, Metric]:
    """Finite values and their intervals; what is not a number at all is an error."""
    values, intervals = table.get(means) or {}, (table.get(ends) or {}) if ends else {}
    if not isinstance(values, dict) or not isinstance(intervals, dict):
        raise ValueError(f"{path}: {means} and {ends} must be tables of metrics")
    found = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path}: {means} has {name} {value!r:.40}, which is no number. Evaluate again")
        pair = intervals.get(name)
        if pair is not None and not (isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))):
            raise ValueError(f"{path}: {ends} has {name} {pair!r:.40}, which are no two numbers. Evaluate again")
        if is_number(value):
            found[name] = Metric(float(value), None if pair is None else (float(pair[0]), float(pair[1])))
    return found


def _count(table: Mapping[str, Any], path: Path) -> int:
    count = table.get("num_samples", 0)
    if type(count) is not int or count < 0:
        raise ValueError(f"{path}: num_samples is {count!r:.40}, which is no number of samples. Evaluate again")
    return count


def _slices(table: Mapping[str, Any], path: Path) -> dict[str, dict[str, dict[str, float]]]:
    cuts = table.get("slices") or {}
    tables = [cuts, *cuts.values()] if isinstance(cuts, dict) else [cuts]
    if not all(isinstance(cut, dict) for cut in tables) or not all(
        isinstance(row, dict) and is_number(row.get("num_samples", 0)) for cut in tables[1:] for row in cut.values()
    ):
        raise ValueError(f"{path}: slices must be a table {{slice: {{bucket: {{metric: mean}}}}}}. Evaluate again")
    return cuts


def settings_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says beside its figures, flat."""
    found = flat({name: value for name, value in table.items() if name not in PARTS})
    return {name: value for name, value in found.items() if not name.startswith(OWN_PLACES + FIGURES)}


def flat(table: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """`{"config": {"seed": 1}}` -> `{"config.seed": 1}`."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{start}{name}.")
        else:
            found[f"{start}{name}"] = value
    return found


def _made_of(parts: list[Mapping[str, Any]]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Indexes and checkpoints that a file names, each once."""
    named = []
    for kind in ("index", "checkpoint"):
        places = [part[kind] for part in parts if isinstance(part.get(kind), str)]
        named.append(tuple(map(Path, dict.fromkeys(places))))
    return named[0], named[1]
