"""The sections of the report, each a function of what was read; what is missing becomes a note."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.common.sid import SidIndex
from src.reporting import charts, page

Rows = Sequence[Mapping[str, Any]]
RQVAE_CHARTS = {  # of metrics.jsonl: chart title -> keys
    "loss": ("loss", "eval_loss", "eval_reconstruction"),
    "collision rate": ("collision_rate",),
    "utilization": ("utilization",),
    "perplexity": ("perplexity",),
}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
    body = f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'
    return page.section("Results", lead, body)


# ---- training --------------------------------------------------------------------------------------------------------
def curve(rows: Rows, key: str, x: str) -> dict[str, list[tuple[float, float]]]:
    """The points of one key; a key that holds a list gives a line a level."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not is_number(row.get(x)):
            continue
        value = row.get(key)
        for level, entry in enumerate(value if isinstance(value, list) else [value]):
            if is_number(entry):
                lines.setdefault(f"level {level}" if isinstance(value, list) else key, []).append((row[x], entry))
    return lines


def rqvae_section(rows: Rows | None, settings: Mapping[str, Any] | None) -> str:
    lead = "The RQ-VAE turns embeddings into codes; a level whose perplexity collapses carries nothing."
    if not rows:
        return page.section("Training: semantic IDs", lead, page.note("No metrics.jsonl of an RQ-VAE run was found."))
    cells = []
    for title, keys in RQVAE_CHARTS.items():
        lines = {name: points for key in keys for name, points in curve(rows, key, "epoch").items()}
        cells.append(charts.line_chart(title, lines, "epoch", may_be_log=title == "loss"))
    folded = page.settings_table("Settings of the RQ-VAE", settings) if settings else ""
    return page.section("Training: semantic IDs", lead, page.grid(cell for cell in cells if cell), folded)


def sft_section(rows: Rows | None, settings: Mapping[str, Any] | None) -> str:
    lead = "The language model learns to write the semantic ID of the next item."
    if not rows:
        return page.section("Training: fine-tuning", lead, page.note("No trainer_log.jsonl of a run was found."))
    losses = {"training": curve(rows, "loss", "step").get("loss", [])}
    tasks = sorted({key for row in rows for key in row if key.startswith("eval_loss")})
    for key in tasks:
        task = key.removeprefix("eval_loss").strip("_")
        losses[f"validation {task}".strip()] = curve(rows, key, "step").get(key, [])
    rates = {"learning rate": curve(rows, "learning_rate", "step").get("learning_rate", [])}
    cells = [charts.line_chart("loss", losses, "step"), charts.line_chart("learning rate", rates, "step")]
    folded = page.settings_table("Settings of the fine-tuning", settings) if settings else ""
    return page.section("Training: fine-tuning", lead, page.grid(cell for cell in cells if cell), folded)


# ---- codebooks -------------------------------------------------------------------------------------------------------
def codebook_section(index: SidIndex | None) -> str:
    lead = "Bars: items a codeword, most used first; dashed: even use. Strip: the same in code order; gaps: unused."
    if index is None:
        return page.section("Semantic IDs", lead, page.note("No SID index, or several: name one with --index_file."))
    cells = []
    for level, (letter, size) in enumerate(zip(index.letters, index.codebook_sizes, strict=True)):
        counts = np.bincount(index.codes[:, level], minlength=size)
        share = counts[counts > 0] / counts.sum()
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        cells.append(
            f"<h3>Level {level} ({page.text(letter)})</h3>{charts.usage_chart(counts)}"
            f"<small>{int((counts > 0).sum())} of {size} codewords used ({(counts > 0).mean():.1%}),"
            f" perplexity {perplexity:.1f}</small>"
        )
    before, after = index.meta.get("collisions_before"), index.collision_rate()
    pairs = {
        "items": f"{len(index.item_ids):,}",
        "levels": index.num_levels,
        "codewords a level": ", ".join(map(str, dict.fromkeys(index.codebook_sizes))),
        "collision rate": f"{after:.2%}",
    }
    if isinstance(before, Mapping) and is_number(before.get("collision_rate")):
        pairs["collision rate before repair"] = f"{before['collision_rate']:.2%}"
    explained = f"Item {index.item_ids[0]} is {''.join(index.tokens_of(0))}. {lead}"
    return page.section("Semantic IDs", explained, page.grid(cells), page.facts(pairs))


# ---- pipeline --------------------------------------------------------------------------------------------------------
def pipeline_section(seconds: Mapping[str, float]) -> str:
    lead = "Wall-clock time of each stage of this run."
    times = {stage: float(value) for stage, value in seconds.items() if is_number(value)}
    if not times:
        return page.section("Pipeline", lead, page.note("The summary has no stage times."))
    lead += f" {page.duration(sum(times.values()))} in all."
    names = [f"{stage}: {page.duration(value)}" for stage, value in times.items()]
    return page.section("Pipeline", lead, charts.time_bar(times), page.legend(names))
