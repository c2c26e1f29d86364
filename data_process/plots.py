"""Pictures of datasets and of embeddings: figures to show, or to save, of numbers that others worked out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_process.interactions import Interactions, offsets_of
from src.common.figures import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from data_process.compare_embeddings import Share

WIDE = 10  # the longest history over the shortest, from which on their axis is logarithmic
SHOWN_CATEGORIES = 20


# ---- datasets --------------------------------------------------------------------------------------------------------
def draw_interactions(title: str, interactions: Interactions, ticks: int) -> "Figure":
    """Lengths of histories, popularity by rank, interactions over time."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

    lengths = np.diff(offsets_of(interactions.users))
    popularity = np.sort(np.bincount(interactions.items))[::-1]
    figure, panels = new_figure(1, 2 if interactions.times is None else 3, (13, 4))
    figure.suptitle(
        f"{title}: {len(lengths):,} users, {len(popularity):,} items, {interactions.num_rows:,} interactions"
    )
    edges = np.unique(np.geomspace(lengths.min(), lengths.max() + 1, 40).astype(int))
    panels[0].hist(lengths, bins=edges if len(edges) > 1 else 1)
    wide = lengths.max() > WIDE * lengths.min()
    panels[0].set(title="items of a user", xlabel="items", ylabel="users", yscale="log")
    panels[0].set_xscale("log" if wide else "linear")
    if not wide:
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].plot(np.arange(1, len(popularity) + 1), popularity)
    panels[1].set(title="popularity", xlabel="rank of the item", ylabel="interactions", xscale="log", yscale="log")
    for panel in panels[:2]:
        for axis in (panel.xaxis, panel.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
                axis.set_minor_formatter(NullFormatter())
    if interactions.times is not None:
        panels[2].hist((interactions.times // ticks).astype("datetime64[s]"), bins=60)
        locator = AutoDateLocator(minticks=3)
        panels[2].xaxis.set_major_locator(locator)
        panels[2].xaxis.set_major_formatter(ConciseDateFormatter(locator))
        panels[2].set(title="over time", ylabel="interactions")
    return figure


def draw_categories(counts: Mapping[str, tuple[int, int]]) -> "Figure":
    """Share of the items and of the interactions that the largest categories have.

    Args:
        counts: as `insight.category_counts` gives them.
    """
    shown = list(counts)[:SHOWN_CATEGORIES]
    all_items, all_sold = (sum(pair[place] for pair in counts.values()) for place in (0, 1))
    figure, (panel,) = new_figure(1, 1, (9, 1 + 0.34 * len(shown)))
    rows = np.arange(len(shown))
    panel.barh(rows - 0.2, [counts[name][0] / all_items for name in shown], 0.4, label="of the items")
    panel.barh(rows + 0.2, [counts[name][1] / max(1, all_sold) for name in shown], 0.4, label="of the interactions")
    panel.set_yticks(rows, [name or "(none)" for name in shown], parse_math=False)
    more = f", the {len(shown)} largest of {len(counts)}" if len(counts) > len(shown) else ""
    panel.set(title=f"categories{more}", xlabel="share in training", ylim=(len(shown) - 0.4, -0.6))
    panel.legend()
    return figure


def draw_steps(shares: "Mapping[str, Share]") -> "Figure":
    """What right answers have in common with the items before, as `insight.step_measures` gives it."""
    figure, (panel,) = new_figure(1, 1, (9, 1.2 + 0.5 * len(shares)))
    _found_and_chance(panel, shares, "right answers")
    panel.set(title="the item to predict", xlabel="share of the questions", xlim=(0, 1.1))
    _legend_below(figure, panel)
    return figure


# ---- embeddings ------------------------------------------------------------------------------------------------------
def draw_shares(table: "Mapping[str, Mapping[str, Share]]") -> "Figure":
    """Share of the nearest items that are related, for each of the embeddings: as `compare_embeddings` works it out."""
    relations = list(dict.fromkeys(relation for shares in table.values() for relation in shares))
    figure, panels = new_figure(1, len(relations), (4.6 * len(relations), 1.7 + 0.4 * len(table)))
    for panel, relation in zip(panels, relations, strict=True):
        named = {name: shares[relation] for name, shares in table.items() if relation in shares}
        _found_and_chance(panel, named, "found")
        panel.set(title=relation, xlabel="share of the 10 nearest")
        panel.set_xlim(0, 1.25 * max(max(share.found, share.chance) for share in named.values()) or 1)
    _legend_below(figure, panels[0])
    return figure


def draw_agreement(names: Sequence[str], shares: np.ndarray) -> "Figure":
    """(S, S) share of common nearest items, as `embedding_views.agreement` gives it."""
    size = 2.2 + 0.8 * len(names)
    figure, (panel,) = new_figure(1, 1, (size + 1, size))
    drawn = panel.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    panel.grid(False)
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            colour = "black" if value > 0.5 else "white"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    panel.set_xticks(range(len(names)), names, rotation=45, ha="right")
    panel.set_yticks(range(len(names)), names)
    panel.set_title("share of the 10 nearest that two have in common")
    figure.colorbar(drawn, ax=panel, shrink=0.8)
    return figure


def _found_and_chance(panel: Any, shares: "Mapping[str, Share]", label: str) -> None:
    """A bar for what was found, and a line across it where chance would end."""
    rows = np.arange(len(shares))
    found, chance = (np.array([getattr(share, name) for share in shares.values()]) for name in ("found", "chance"))
    panel.barh(rows, found, 0.7, color=PALETTE[5], label=label)
    panel.vlines(chance, rows - 0.35, rows + 0.35, color=PALETTE[3], linewidth=2.5, label="by chance")
    for row, ends in enumerate(zip(found, chance, strict=True)):
        place = (max(ends), row)
        panel.annotate(
            f"{ends[0]:.3f}", place, xytext=(5, 0), textcoords="offset points", va="center", fontsize="small"
        )
    panel.set_yticks(rows, list(shares))
    panel.set_ylim(len(shares) - 0.4, -0.6)
    panel.grid(False, axis="y")


def _legend_below(figure: "Figure", panel: Any) -> None:
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
