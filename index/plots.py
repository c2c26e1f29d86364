"""Pictures of training runs, from the rows of their metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common.artifacts import atomic_path


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws loss, collision rate, utilization and perplexity over epochs; one line a run, or a level of a single run.

    Args:
        runs: name of each run -> rows of its metrics.jsonl.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8))
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).ravel()
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.07, top=0.95, hspace=0.25, wspace=0.15)
    names = ("loss", "collision_rate", "utilization", "perplexity")
    for panel, name in zip(panels, names, strict=True):
        for run, rows in runs.items():
            points = [row for row in rows if name in row]
            epochs = [row["epoch"] for row in points]
            if name in ("utilization", "perplexity"):
                for level in range(len(points[0][name]) if points else 0):
                    label = f"{run} level {level}" if len(runs) > 1 else f"level {level}"
                    panel.plot(epochs, [row[name][level] for row in points], label=label)
            else:
                panel.plot(epochs, [row[name] for row in points], label=run)
        panel.set(title=name.replace("_", " "), xlabel="epoch")
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small")
    panels[0].set_yscale("log")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
