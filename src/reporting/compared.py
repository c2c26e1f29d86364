"""What is shown of results that compare: metrics with intervals, slices, and what differs between the runs."""

from collections.abc import Mapping, Sequence

from src.common.comparison import SIGNIFICANT
from src.reporting import charts, page
from src.reporting.groups import Group
from src.reporting.page import Cell, data_table, text
from src.reporting.results import Metric, Metrics, Result
from src.reporting.settings import differing_settings

TITLES = {
    "history_length": "By length of the history",
    "target_popularity": "By popularity of the target in training",
    "target": "Targets seen in training, and unseen ones",
    "field": "By field",
}


def metrics_section(group: Group, anchor: str) -> str:
    """Dots with whiskers, the table behind them, and further metrics folded away."""
    if not group.metrics:
        return page.section("Metrics", "", page.note("These results hold no metric."), anchor=anchor)
    lead = "Dots: mean over all samples. Whiskers: 95 % bootstrap intervals."
    if group.tests:
        owners = "sample by sample" if group.first.written else "user by user"
        lead += (
            f" Paired with {group.reference}, {owners}: difference, p of a sign-flip test, corrected for the number of"
            f" runs (Holm), effect (Cohen's d); bold: p < {SIGNIFICANT:g}."
        )
    panels = [f"<div>{dots_of(name, group.ordered)}</div>" for name in group.metrics]
    table = data_table("Metrics", ["run", "samples", *group.metrics], metric_rows(group))
    folded = [
        page.details(title, plain_table(title, [(r.name, r.more.get(title, {})) for r in group.ordered]))
        for title in dict.fromkeys(title for result in group.results for title in result.more)
    ]
    bare = [r.name for r in group.results if not any(metric.interval for metric in r.metrics.values())]
    notes = [*group.notes, *([f"No intervals in the file: {page.whose(bare, group.results)}."] if bare else [])]
    counts = {result.num_samples for result in group.results}
    if len(counts) > 1:
        notes.append("The runs were asked about unequal numbers of samples: only those with the same ones are paired.")
    dots = f'<div class="panels">{"".join(panels)}</div>'
    return page.section("Metrics", lead, dots, table, *folded, *map(page.note, notes), anchor=anchor)


def dots_of(name: str, results: Sequence[Result]) -> str:
    there = [charts.Dot(result.name, *result.metrics[name]) for result in results if name in result.metrics]
    return charts.dot_chart(name, there)


def metric_rows(group: Group) -> list[list[Cell]]:
    """A row a run, best first; the best value of a column is bold."""
    best = {name: max(r.metrics[name].value for r in group.results if name in r.metrics) for name in group.metrics}
    rows = []
    for result in group.ordered:
        cells = [Cell(text(result.name), result.name), Cell(f"{result.num_samples:,}", result.num_samples)]
        for name in group.metrics:
            metric = result.metrics.get(name)
            if metric is None:
                cells.append(Cell("–"))
                continue
            shown = charts.short(metric.value)
            shown = f"<b>{shown}</b>" if metric.value == best[name] and len(group.results) > 1 else shown
            cells.append(Cell(shown + spread(metric) + against(group, result, name), metric.value))
        rows.append(cells)
    return rows


def spread(metric: Metric) -> str:
    if metric.interval is None:
        return ""
    low, high = metric.interval
    return f"<small>[{charts.short(low)}, {charts.short(high)}]</small>"


def against(group: Group, result: Result, name: str) -> str:
    """The paired test of a cell; that it is the reference; or nothing."""
    if result.name == group.reference:
        return "<small>reference</small>"
    test = group.tests.get(result.name, {}).get(name)
    if test is None:
        return ""
    p = f"p {test.p_value:.3f}" if test.p_value >= 0.001 else "p &lt; .001"
    told = f"{test.difference:+.4f}, {p}, d {test.effect_size:+.2f}".replace("-", "−")
    return f"<small>{f'<b>{told}</b>' if test.p_value < SIGNIFICANT else told}</small>"


def plain_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> str:
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    lines = []
    for run, metrics in rows:
        cells = [Cell(text(run), run)]
        for name in names:
            metric = metrics.get(name)
            cells.append(Cell(charts.short(metric.value) + spread(metric), metric.value) if metric else Cell("–"))
        lines.append(cells)
    return data_table(title, ["run", *names], lines)


def slices_section(group: Group, anchor: str) -> str:
    """Small charts, one a run, on one scale for each slice."""
    metric = "hit@10" if "hit@10" in group.metrics else group.leading
    lead = f"{metric} over parts of the samples; pale where a part has fewer than {charts.FEW}. One scale in each row."
    able = [result for result in group.ordered if result.slices]
    lacking = [result.name for result in group.results if not result.slices]
    notes = [page.note(f"No slices in the file: {page.whose(lacking, group.results)}.")] if lacking else []
    parts = []
    for cut in dict.fromkeys(cut for result in able for cut in result.slices):
        bars = {result.name: bars_of(result.slices.get(cut, {}), str(metric)) for result in able}
        largest = max((value for rows in bars.values() for _, value, _ in rows), default=0)
        panels = "".join(f"<div>{charts.bar_panel(name, rows, largest)}</div>" for name, rows in bars.items() if rows)
        if panels:
            parts.append(f'<h3>{text(TITLES.get(cut, cut))}</h3><div class="small-multiples">{panels}</div>')
    return page.section("Slices", lead, *parts, *notes, anchor=anchor)


def bars_of(buckets: Mapping[str, Mapping[str, float]], metric: str) -> list[tuple[str, float, int]]:
    found = []
    for label, row in buckets.items():
        value = row.get(metric)
        if charts.is_number(value):
            found.append((label, float(value), int(row.get("num_samples", 0))))
    return found


def differences_section(group: Group, settings: Mapping[str, Mapping[str, object]], anchor: str) -> str:
    lead = "Settings, commits and hashes that are not the same in all runs, as the results files state them."
    return page.section("What differs", lead, differing_settings(settings), anchor=anchor)
