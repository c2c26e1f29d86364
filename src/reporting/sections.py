"""The sections of the report, each a function of what was read; what is missing becomes a note."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.reporting import charts, page
from src.reporting.charts import is_number

Rows = Sequence[Mapping[str, Any]]


# ---- results ---------------------------------------------------------------------------------------------------------
def results_section(rows: Rows) -> str:
    """The table of models; the best value of each metric is bold. A bar shows the value, its whisker the interval."""
    lead = "Every model ranks the same targets under the same protocol. Whiskers: 95 % bootstrap intervals over users."
    metrics = list(
        dict.fromkeys(name for row in rows for name, value in row.items() if "@" in name and is_number(value))
    )
    if not rows or not metrics:
        return page.section("Results", lead, page.note("The summary has no rows with metrics."))
    largest = {}
    for name in metrics:
        ends = [row["ci"][name][1] for row in rows if name in (row.get("ci") or {})]
        largest[name] = max([row[name] for row in rows if is_number(row.get(name))] + ends)
    best = {name: max(row[name] for row in rows if is_number(row.get(name))) for name in metrics}
    lines = []
    for row in rows:
        cells = [f"<td>{page.text(row.get('model', '?'))}</td>"]
        for name in metrics:
            if not is_number(row.get(name)):
                cells.append("<td>–</td>")
                continue
            interval = (row.get("ci") or {}).get(name)
            shown = f"{row[name]:.4f}"
            shown = f"<b>{shown}</b>" if row[name] == best[name] else shown
            spread = f" <small>[{interval[0]:.4f}, {interval[1]:.4f}]</small>" if interval else ""
            bar = charts.interval_bar(row[name], interval, largest[name])
            cells.append(f'<td class="value">{shown}{spread}{bar}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{page.text(name)}</th>" for name in ["model", *metrics])
    body = page.scroll("Results", f"<table><tr>{heads}</tr>{''.join(lines)}</table>")
    return page.section("Results", lead, body)


# ---- pipeline --------------------------------------------------------------------------------------------------------
def pipeline_section(seconds: Mapping[str, float]) -> str:
    lead = "Wall-clock time of each stage of this run."
    times = {stage: float(value) for stage, value in seconds.items() if is_number(value)}
    if not times:
        return page.section("Pipeline", lead, page.note("The summary has no stage times."))
    lead += f" {page.duration(sum(times.values()))} in all."
    names = [f"{stage}: {page.duration(value)}" for stage, value in times.items()]
    return page.section("Pipeline", lead, charts.time_bar(times), page.legend(dict(enumerate(names))))
