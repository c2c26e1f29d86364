"""Training curves of one run, or of several over each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.reporting import charts, page
from src.reporting.charts import Points, is_number
from src.reporting.runs import Log
from src.reporting.settings import differing_settings

Rows = Sequence[Mapping[str, Any]]
RQVAE_CHARTS = {  # of metrics.jsonl: chart title -> keys
    "loss": ("loss", "eval_loss", "eval_reconstruction"),
    "collision rate": ("collision_rate",),
    "utilization": ("utilization",),
    "perplexity": ("perplexity",),
}
LABELS = {
    "loss": "training loss",
    "eval_loss": "validation loss",
    "learning_rate": "learning rate",
    "eval_reconstruction": "validation reconstruction",
    "collision_rate": "collision rate",
}


def label_of(key: str) -> str:
    """`eval_loss_seqrec` -> `validation loss seqrec`."""
    known = LABELS.get(key)
    return known or key.replace("eval_loss_", "validation loss ").replace("_", " ")


def curve(rows: Rows, key: str, x: str) -> dict[str, Points]:
    """The points of one key in the order of x, the last where x repeats; a key of lists gives a line a level."""
    lines: dict[str, dict[float, float]] = {}
    for row in rows:
        if not is_number(row.get(x)):
            continue
        value = row.get(key)
        for level, entry in enumerate(value if isinstance(value, list) else [value]):
            if is_number(entry):
                lines.setdefault(f"level {level}" if isinstance(value, list) else label_of(key), {})[row[x]] = entry
    return {name: sorted(points.items()) for name, points in lines.items()}


def drawn(titles: Mapping[str, Sequence[str]], runs: Mapping[str, Rows], x: str) -> list[str]:
    """Charts: of one run all keys of a title in one; of several a chart for each key and level, a line a run."""
    if len(runs) == 1:
        (rows,) = runs.values()
        cells = []
        for title, keys in titles.items():
            lines = {name: points for key in keys for name, points in curve(rows, key, x).items()}
            cells.append(charts.line_chart(title, lines, x, may_be_log=title == "loss"))
        return [cell for cell in cells if cell]
    cells = []
    for key in (key for keys in titles.values() for key in keys):
        by_line: dict[str, dict[str, Points]] = {}
        for name, rows in runs.items():
            for line, points in curve(rows, key, x).items():
                by_line.setdefault(line, dict.fromkeys(runs, ()))[name] = points
        for line, lines in by_line.items():
            title = f"{label_of(key)}, {line}" if line.startswith("level ") else line
            cells.append(charts.line_chart(title, lines, x, may_be_log="loss" in key or key == "eval_reconstruction"))
    return [cell for cell in cells if cell]


def rqvae_section(runs: Mapping[str, Log], subject: str = "", anchor: str = "") -> str:
    lead = "The RQ-VAE turns embeddings into codes; a level whose perplexity collapses carries nothing."
    if len(runs) > 1:
        lead += " Losses over other embeddings are on other scales."
    cells = drawn(RQVAE_CHARTS, {name: log.rows for name, log in runs.items()}, "epoch") if runs else []
    return _section(f"Training: semantic IDs{subject}", lead, runs, cells, "metrics.jsonl of an RQ-VAE run", anchor)


def sft_section(runs: Mapping[str, Log], subject: str = "", anchor: str = "") -> str:
    lead = "The language model learns to write the semantic ID of the next item, or what else its tasks ask for."
    keys = sorted({key for log in runs.values() for row in log.rows for key in row if key.startswith("eval_loss")})
    if len(keys) == 2:  # the mean over tasks, and the only task
        keys = keys[1:]
    titles = {"loss": ("loss", *keys), "learning rate": ("learning_rate",)}
    cells = drawn(titles, {name: log.rows for name, log in runs.items()}, "step") if runs else []
    return _section(f"Training: fine-tuning{subject}", lead, runs, cells, "trainer_log.jsonl of a run", anchor)


def _section(title: str, lead: str, runs: Mapping[str, Log], cells: list[str], file: str, anchor: str) -> str:
    if not cells:
        return page.section(title, lead, page.note(f"No {file} was found."), anchor=anchor)
    empty = [name for name, log in runs.items() if not log.rows]
    notes = page.note(f"Nothing logged yet: {', '.join(empty)}.") if empty else ""
    settings = differing_settings({name: log.settings for name, log in runs.items() if log.settings})
    heading = "<h3>What differs</h3>" if settings and len(runs) > 1 else ""
    return page.section(title, lead, page.grid(cells), notes, heading, settings, anchor=anchor)
