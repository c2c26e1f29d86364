"""Pictures of training runs, from the rows of their metrics.jsonl, and of the measures of codes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.metrics import all_prefix_groups
from index.neighbours import NUM_NEIGHBOURS
from src.common.artifacts import atomic_path
from src.common.figures import GREY, PALETTE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from index.codebook_map import Meaning


# ---- training runs ---------------------------------------------------------------------------------------------------
def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws loss, collision rate, utilization and perplexity over epochs.

    One run has a line for each level; of several runs, each has the mean of its levels and, dashed, the worst of them.

    Args:
        runs: name of each run -> rows of its metrics.jsonl.
    """
    titles = {
        "loss": "training loss",
        "collision_rate": "collision rate (1 - distinct SIDs / items)",
        "utilization": "utilization (used codewords / codewords)",
        "perplexity": "perplexity of codeword use",
    }
    figure, panels = _figure(2, 2, (12, 8))
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        for number, (run, rows) in enumerate(runs.items()):
            points = [row for row in rows if name in row]
            epochs, values = [row["epoch"] for row in points], [row[name] for row in points]
            marker = "." if len(points) < 30 else None
            if not points or not isinstance(values[0], list):
                panel.plot(epochs, values, color=_colour(number), marker=marker, label=run)
            elif len(runs) == 1:
                for level, of_level in enumerate(zip(*values, strict=True)):
                    panel.plot(epochs, of_level, marker=marker, label=f"level {level}")
            else:
                color, mean = _colour(number), [float(np.mean(levels)) for levels in values]
                panel.plot(epochs, mean, color=color, marker=marker, label=f"{run}, mean of levels")
                panel.plot(epochs, list(map(min, values)), color=color, linestyle="--", label=f"{run}, worst level")
        panel.set(title=title, xlabel="epoch")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small")
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    panels[2].set_ylim(0, 1.03)
    panels[3].set_ylim(bottom=0)
    _save(figure, path)


# ---- measures of codes -----------------------------------------------------------------------------------------------
def plot_evaluation(
    codes: np.ndarray, codebook_sizes: Sequence[int], measures: Mapping[str, Any], title: str, path: Path
) -> None:
    """Saves what `draw_evaluation` draws."""
    _save(draw_evaluation(codes, codebook_sizes, measures, title), path)


def draw_evaluation(
    codes: np.ndarray, codebook_sizes: Sequence[int], measures: Mapping[str, Any], title: str
) -> "Figure":
    """Draws how codewords and prefixes are used, and what prefixes mean; a panel without measures says so.

    Args:
        codes: (N, L) int.
        codebook_sizes: codewords of each level.
        measures: as `index.semantics.measure_all` gives them.
    """
    figure, panels = _figure(2, 3, (16, 9))
    figure.subplots_adjust(top=0.88, hspace=0.33, wspace=0.33)
    figure.suptitle(
        f"{title}\n{measures['num_items']:,} items, {measures['num_sids']:,} SIDs, collision rate"
        f" {measures['collision_rate']:.2%}"
    )
    _draw_usage(panels[0], codes, codebook_sizes)
    _draw_groups(panels[1], codes)
    needs: tuple[tuple[str, str, Callable[[Any, Mapping[str, Any]], None]], ...] = (
        ("purity_top", "categories", _draw_purity),
        ("neighbour_share", "embeddings", _draw_neighbours),
        ("sequence_share", "sequences", _draw_sequences),
    )
    for panel, (name, what, drawing) in zip(panels[2:5], needs, strict=True):
        if name in measures:
            drawing(panel, measures)
            lengths = range(1, codes.shape[1] + 1)
            panel.set(xticks=lengths, xlabel="leading codes", xlim=(0.75, len(lengths) + 0.25))
        else:
            _say(panel, f"no {what}, not measured")
    _draw_recalls(panels[5], measures)
    return figure


def _draw_usage(panel: Any, codes: np.ndarray, codebook_sizes: Sequence[int]) -> None:
    for level, (column, size) in enumerate(zip(codes.T, codebook_sizes, strict=True)):
        counts = np.sort(np.bincount(column, minlength=size))[::-1]
        panel.plot(np.arange(1, size + 1), counts, label=f"level {level}")
    panel.set(title="use of the codewords of each level", xlabel="codewords, most used first", ylabel="items")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize="small")


def _draw_groups(panel: Any, codes: np.ndarray) -> None:
    for level, groups in enumerate(all_prefix_groups(codes)):
        counts = np.sort(np.bincount(groups))[::-1]
        ranks = np.unique(np.geomspace(1, len(counts), 400).astype(np.int64))  # enough for a curve of any length
        panel.loglog(ranks, counts[ranks - 1], label=f"first {level + 1}" if level else "first code")
    panel.set(title="items that share their leading codes", xlabel="prefixes, most crowded first", ylabel="items")
    panel.set_ylim(bottom=0.9)
    panel.legend(fontsize="small", title="prefix")


def _draw_purity(panel: Any, measures: Mapping[str, Any]) -> None:
    lengths = range(1, len(measures["purity_top"]) + 1)
    for number, name in enumerate(("top", "full")):
        label = f"{name} category, {measures[f'{name}_categories']:,} of them"
        panel.plot(lengths, measures[f"purity_{name}"], "o-", color=_colour(number), label=label)
        panel.plot(
            lengths,
            measures[f"purity_{name}_shuffled"],
            "o--",
            color=_colour(number),
            alpha=0.5,
            label="items shuffled",
        )
    panel.set(title="purity: items of their prefix's main category", ylabel="share of items", ylim=(0, 1.03))
    panel.legend(fontsize="small")


def _draw_neighbours(panel: Any, measures: Mapping[str, Any]) -> None:
    lengths = range(1, len(measures["neighbour_share"]) + 1)
    for name, style, label in (
        ("neighbour_share", "o-", f"{NUM_NEIGHBOURS} nearest neighbours"),
        ("random_share", "o--", "any two items"),
    ):
        panel.semilogy(lengths, [value or np.nan for value in measures[name]], style, label=label)
    panel.set(title="neighbours in embedding space that share codes", ylabel="share of pairs")
    panel.legend(fontsize="small")


def _draw_sequences(panel: Any, measures: Mapping[str, Any]) -> None:
    lengths = range(1, len(measures["sequence_share"]) + 1)
    lifts = [value or np.nan for value in measures["sequence_lift"]]
    panel.semilogy(lengths, lifts, "o-", label="consecutive items / chance")
    for length, lift in zip(lengths, lifts, strict=True):
        if np.isfinite(lift):
            panel.annotate(f"{lift:.3g}", (length, lift), xytext=(0, 6), textcoords="offset points", ha="center")
    panel.margins(0.1, 0.15)
    panel.axhline(1, color="grey", linestyle=":", label="chance")
    panel.set(title="lift: do consecutive items of a user share codes", ylabel="times as often as by chance")
    panel.legend(fontsize="small")


def _draw_recalls(panel: Any, measures: Mapping[str, Any]) -> None:
    bars = {
        "neighbours by\nreconstruction": "reconstruction_recall",
        "neighbours by\nshared codes": "neighbour_recall",
        "next item by\nshared codes": "sequence_recall",
    }
    values = [measures.get(name, 0) for name in bars.values()]
    labels = [f"{measures[name]:.4f}" if name in measures else "not measured" for name in bars.values()]
    panel.bar_label(panel.barh(list(bars), values, height=0.5), labels, padding=4)
    panel.set(title="ranking all items by the codes alone", xlabel=f"recall@{NUM_NEIGHBOURS}")
    panel.set_xlim(0, 1.25 * max(values) or 1)
    panel.invert_yaxis()


# ---- codebooks -------------------------------------------------------------------------------------------------------
def draw_codebooks(maps: Sequence[np.ndarray], meanings: "Sequence[Sequence[Meaning]]") -> "Figure":
    """The codewords of each level in the plane: a dot is as large as its items are many, coloured by their main label.

    Args:
        maps: (K, 2) of each level, as `codebook_map.flat_map` gives it.
        meanings: of each codeword of each level.
    """
    size: Counter[str] = Counter()
    for meaning in chain.from_iterable(meanings):
        size[meaning.label] += meaning.num_items
    named = [label for label, _ in size.most_common() if label][: len(PALETTE) - 1]
    colours = dict(zip(named, PALETTE, strict=False))
    figure, panels = new_figure(1, len(maps), (4.6 * len(maps), 5.3))
    largest = max(meaning.num_items for meaning in chain.from_iterable(meanings))
    for level, (panel, places, of_level) in enumerate(zip(panels, maps, meanings, strict=True)):
        areas = np.array([meaning.num_items for meaning in of_level]) / max(1, largest) * 260
        shown = [colours.get(meaning.label, GREY) for meaning in of_level]
        used = areas > 0
        panel.scatter(*places[used].T, s=areas[used] + 4, c=np.array(shown)[used], alpha=0.75, linewidths=0)
        panel.scatter(*places[~used].T, s=14, c="black", marker="x", linewidths=0.8)
        pure = np.average([meaning.share for meaning in of_level], weights=areas) if areas.any() else 0
        panel.set(title=f"level {level}: {int(used.sum())} of {len(areas)} codewords used\npurity {pure:.2f}")
        panel.set(xticks=[], yticks=[])
    handles = [panels[0].scatter([], [], s=60, c=colour, label=label) for label, colour in colours.items()]
    if any(size[label] for label in size.keys() - set(named)):
        handles.append(panels[0].scatter([], [], s=60, c=GREY, label="others"))
    handles.append(panels[0].scatter([], [], s=20, c="black", marker="x", linewidths=0.8, label="unused"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names of categories
    figure.suptitle("codewords by t-SNE: colour by the main category of their items, area by their number")
    return figure


# ---- figures ---------------------------------------------------------------------------------------------------------
def _figure(num_rows: int, num_columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure and its panels, placed by hand."""
    figure, panels = new_figure(num_rows, num_columns, size, layout=None)
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.07, top=0.95, hspace=0.27, wspace=0.15)
    return figure, panels


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _say(panel: Any, text: str) -> None:
    panel.axis("off")
    panel.text(0.5, 0.5, text, ha="center", va="center", color="grey", transform=panel.transAxes)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        save_figure(figure, temporary, dpi=100)
