"""What an evaluation of texts leaves: predictions, results, and a row a model in a table that many runs may write."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from src.common.artifacts import atomic_path, read_json
from src.common.uncertainty import bootstrap_intervals
from src.text_generation import metrics as text_metrics
from src.text_generation.questions import LIST_FIELDS

SCORE = "score:"  # in front of the names of columns that hold sample metrics
ROW_KEY = (
    "model",
    "dataset",
    "task",
    "split",
    "prompts",
    "pictures",
)  # a row of the table is replaced where these agree


@dataclass(frozen=True)
class Answered:
    """The answers of one system under one wording.

    Attributes:
        keys: M names of items or users.
        items: (M,) int64, -1 where a sample is about a user.
        answers: M texts as they were written, control tokens left out.
        fields: what was found in each answer: field -> text.
        references: the right fields of each.
        prompt_id: which wording.
        extra: further sample metrics, name -> (M,): grounding, likeness of meaning.
    """

    keys: Sequence[str]
    items: np.ndarray
    answers: Sequence[str]
    fields: Sequence[Mapping[str, str]]
    references: Sequence[Mapping[str, str]]
    prompt_id: int = 0
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Metrics of one system under one wording; names of metrics of a field are `field.metric`.

    Attributes:
        samples: (M,) values of each sample metric, NaN where the reference lacks the field.
        corpus: value and interval of each corpus metric.
        signatures: sacrebleu's, of each of its metrics.
    """

    samples: Mapping[str, np.ndarray]
    corpus: Mapping[str, text_metrics.Corpus]

    def means(self) -> dict[str, float]:
        means = {name: float(np.nanmean(values)) for name, values in self.samples.items()}
        return {**{name: value.value for name, value in self.corpus.items()}, **means}


def whole(fields: Mapping[str, str], order: Sequence[str]) -> str:
    """All fields of an answer, one a line, without labels: what overall metrics compare."""
    return "\n".join(fields[name] for name in order if name in fields)


def score(answered: Answered, language: str, num_resamples: int = 0) -> Scores:
    """Every metric, overall and of each field, where there are several.

    Args:
        num_resamples: of the intervals of corpus metrics; 0: none.
    """
    order = list(dict.fromkeys(name for fields in answered.references for name in fields))
    samples: dict[str, np.ndarray] = {}
    corpus: dict[str, text_metrics.Corpus] = {}
    parts = {"": None} | ({name: name for name in order} if len(order) > 1 else {})
    for prefix, name in parts.items():
        there = [row for row, fields in enumerate(answered.references) if name is None or name in fields]
        mine, right = (
            [whole(rows[row], order) if name is None else rows[row].get(name, "") for row in there]
            for rows in (answered.fields, answered.references)
        )
        is_list = (name or (order[0] if len(order) == 1 else "")) in LIST_FIELDS
        start = f"{prefix}." if prefix else ""
        for metric, values in text_metrics.sample_metrics(mine, right, language, is_list).items():
            column = np.full(len(answered.keys), np.nan)
            column[there] = values
            samples[start + metric] = column
        corpus_metrics = text_metrics.corpus_metrics(mine, right, language, num_resamples)
        corpus |= {start + metric: c for metric, c in corpus_metrics.items()}
    wanted = [set(fields) for fields in answered.references]
    found = [set(fields) for fields in answered.fields]
    samples["parsed"] = np.array([float(right <= mine) for mine, right in zip(found, wanted, strict=True)])
    for name in order if len(order) > 1 else ():
        written = [float(name in mine) if name in right else np.nan for mine, right in zip(found, wanted, strict=True)]
        samples[f"{name}.parsed"] = np.array(written)
    return Scores({**samples, **answered.extra}, corpus)


def intervals(all_scores: Sequence[Scores], keys: Sequence[str]) -> dict[str, list[float]]:
    """95 % intervals of the means over wordings, samples drawn anew; of corpus metrics that of the first wording."""
    found = {name: list(value.interval) for name, value in all_scores[0].corpus.items() if value.interval}
    by_gap: dict[bytes, dict[str, np.ndarray]] = {}  # metrics of one field lack values for the same samples
    for name in all_scores[0].samples:
        if any(name not in scores.samples for scores in all_scores):
            continue
        values = np.mean([scores.samples[name] for scores in all_scores], axis=0)
        by_gap.setdefault(np.isnan(values).tobytes(), {})[name] = values
    for columns in by_gap.values():
        kept = ~np.isnan(next(iter(columns.values())))
        owners = [key for key, keep in zip(keys, kept, strict=True) if keep]
        ends = bootstrap_intervals({name: values[kept] for name, values in columns.items()}, owners)
        found |= {name: list(pair) for name, pair in ends.items()}
    return found


# ---- files -----------------------------------------------------------------------------------------------------------
def predictions_path(results_file: str | Path) -> Path:
    return Path(results_file).with_suffix(".predictions.parquet")


def write_predictions(path: Path, parts: Sequence[tuple[Answered, Scores]]) -> None:
    """One row a sample and wording: key, item, prompt_id, the answer, and of each field what was written and is right,
    then the sample metrics."""
    frames = []
    for answered, scores in parts:
        names = list(dict.fromkeys(name for fields in answered.references for name in fields))
        columns: dict[str, Any] = {
            "key": pl.Series(list(answered.keys), dtype=pl.String),
            "item": pl.Series(answered.items),
            "prompt_id": pl.Series([answered.prompt_id] * len(answered.keys), dtype=pl.Int64),
            "answer": pl.Series(list(answered.answers), dtype=pl.String),
        }
        for name in names:
            for kind, rows in (("generated", answered.fields), ("reference", answered.references)):
                columns[f"{kind}:{name}"] = pl.Series([row.get(name) for row in rows], dtype=pl.String)
        columns |= {SCORE + name: pl.Series(values).fill_nan(None) for name, values in scores.samples.items()}
        frames.append(pl.DataFrame(columns))
    with atomic_path(path) as temporary:
        pl.concat(frames, how="diagonal").write_parquet(temporary)


def read_predictions(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: it is written beside the results of src.text_generation.evaluate"
        )
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}). Run the evaluation again") from error
    if not {"key", "item", "prompt_id", "answer"} <= set(table.columns) or not len(table):
        raise ValueError(f"{path} holds no generated texts: it is not of src.text_generation.evaluate")
    return table


def read_results(results_file: Path) -> dict[str, Any]:
    results = read_json(results_file, "It is the --results_file of python -m src.text_generation.evaluate")
    if not isinstance(results, dict) or "mean_results" not in results or "model_name" not in results:
        raise ValueError(f"{results_file} is no results file of src.text_generation.evaluate")
    return results


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV table of models; both empty where it does not exist yet.

    Raises:
        ValueError: `path` is a table of something else.
    """
    if not path.is_file():
        return [], []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names, rows = list(reader.fieldnames or ()), list(reader)
    if names and not set(ROW_KEY) <= set(names):
        raise ValueError(f"{path} is a table of something else, without {', '.join(ROW_KEY)}: give --table_file")
    return names, rows


def upsert(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Puts rows into a CSV table, each in place of the one with the same `ROW_KEY`.

    Other runs may do so at the same time: a lock beside the table makes them wait for each other, and no row is lost.
    Columns that a table has not had are added.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        names, there = read_table(path)
        table: dict[tuple[str, ...], Mapping[str, Any]] = {tuple(row[name] for name in ROW_KEY): row for row in there}
        for row in rows:
            table[tuple(str(row[name]) for name in ROW_KEY)] = row
        names = list(dict.fromkeys([*ROW_KEY, *names, *(name for row in rows for name in row)]))
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.values())
