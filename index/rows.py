"""metrics.jsonl, the log of a training run: one JSON row an epoch, with more fields where it was evaluated."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from index.metrics import IndexMetrics


class Evaluation(NamedTuple):
    """The model on all items, each with the codes that an index would give it before collisions are broken."""

    loss: float
    reconstruction: float
    quantization: float
    measures: IndexMetrics

    @property
    def utilization(self) -> float:
        return sum(self.measures.utilization) / len(self.measures.utilization)


def evaluation_row(evaluation: Evaluation) -> dict[str, Any]:
    """The fields that only evaluated epochs have."""
    losses = {"eval_loss": evaluation.loss, "eval_reconstruction": evaluation.reconstruction}
    return {**losses, **evaluation.measures.table()}


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for wandb: lists become one value a level."""
    table: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            table |= {f"{name}/level_{level}": entry for level, entry in enumerate(value)}
        else:
            table[name] = value
    return table
