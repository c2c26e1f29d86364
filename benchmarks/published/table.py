"""The table "published / ours / difference / interval" as Markdown and as plain rows."""

from collections.abc import Mapping
from typing import Any

from benchmarks.published.rows import ROWS, Row

HEAD = (
    ("model", "protocol", "published", "ours", "difference", "95 % interval of hit@10", "of NDCG@10", "CPU time"),
    ("---",) * 8,
)
METRICS = ("hit@10", "ndcg@10")


def compared(row: Row, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """One row as plain values: published and our figures, difference and interval of each metric; None: not known."""
    published = None
    if row.published:
        published = dict(zip(METRICS, (row.published.hit_at_10, row.published.ndcg_at_10), strict=True))
    ours = None if record is None else {name: record[row.protocol.hits][name]["mean"] for name in METRICS}
    both = published is not None and ours is not None
    return {
        "name": row.name,
        "protocol": row.protocol.name,
        "published": published,
        "source": row.published.source if row.published else None,
        "ours": ours,
        "difference": {name: ours[name] - published[name] for name in METRICS} if both else None,
        "interval": None if record is None else {name: record[row.protocol.hits][name]["interval"] for name in METRICS},
        "seconds": None if record is None else record["seconds"],
        "cpu_seconds": None if record is None else record["cpu_seconds"],
        "resumed": record is not None and record["resumed"],
        "machine": None if record is None else record["machine"],
        "command": row.command,
    }


def pair(values: Mapping[str, float] | None, form: str = "{:.4f}") -> str:
    return "-" if values is None else " / ".join(form.format(values[name]) for name in METRICS)


def time_of(found: Mapping[str, Any]) -> str:
    """CPU time; where it was not measured, wall time in brackets; the least it can be where a run was resumed."""
    seconds = found["cpu_seconds"] or found["seconds"]
    if seconds is None:
        return "-"
    text = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    text = f"over {text}" if found["resumed"] else text
    return text if found["cpu_seconds"] else f"({text})"


def markdown(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A table a dataset, of all rows that were run or that a published figure waits for, and the sources below.

    Args:
        records: by the name of the row, as `read_records` gives them.
    """
    lines: list[str] = []
    dataset, sources = None, dict[str, int]()
    for row in ROWS.values():
        record = records.get(row.name)
        if record is None and row.published is None:
            continue
        if row.dataset != dataset:
            dataset = row.dataset
            lines += ["", f"**{dataset}**", "", *("| " + " | ".join(cells) + " |" for cells in HEAD)]
        found = compared(row, record)
        published = pair(found["published"])
        if row.published:
            published += f" [{sources.setdefault(row.published.source, len(sources) + 1)}]"
        ends = [found["interval"][name] if found["interval"] else None for name in METRICS]
        intervals = ["-" if pair is None else f"{pair[0]:.4f} to {pair[1]:.4f}" for pair in ends]
        title = row.title if record is not None else f"{row.title} (not run yet)"
        protocol = row.protocol.name.removeprefix("leave-one-out/test/")
        cells = [title, protocol, published, pair(found["ours"]), pair(found["difference"], "{:+.4f}"), *intervals]
        lines.append("| " + " | ".join([*cells, time_of(found)]) + " |")
    lines += ["", *(f"[{number}] {source}  " for source, number in sources.items())]
    return "\n".join(lines).strip()
