"""Pictures of ranked lists and of beam searches: figures to show, of what tracing.py and calibration.py work out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from src.common.figures import PALETTE, new_figure
from src.seqrec.calibration import Promises, Reliability
from src.seqrec.tracing import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND = (0.1, 0.9)  # quantiles between which most lists lie


def draw_outcomes(outcomes: Sequence[Outcome]) -> "Figure":
    """What became of the right answers, and which of the lost ones the search alone lost."""
    figure, (panel,) = new_figure(1, 1, (9, 1.3 + 0.42 * len(outcomes)))
    total = max(1, sum(outcome.questions for outcome in outcomes))
    rows = np.arange(len(outcomes))
    by_search = np.array([outcome.search_lost for outcome in outcomes]) / total
    rest = np.array([outcome.questions for outcome in outcomes]) / total - by_search
    panel.barh(rows, rest, 0.7, label="as the scores of all items would have it")
    bars = panel.barh(
        rows, by_search, 0.7, left=rest, color=PALETTE[3], hatch="///", edgecolor="white",
        label="lost by the search: the scores of all items list it",
    )  # fmt: skip
    panel.bar_label(bars, [f"{outcome.questions / total:.1%}" for outcome in outcomes], padding=4)
    panel.set_yticks(rows, [outcome.name for outcome in outcomes])
    panel.set(title=f"the right answer, {total:,} questions", xlabel="share of the questions")
    panel.set_xlim(0, 1.15 * max(outcome.questions for outcome in outcomes) / total or 1)
    panel.set_ylim(len(outcomes) - 0.4, -0.6)
    panel.grid(False, axis="y")
    panel.legend(fontsize="small", loc="lower right")
    return figure


def draw_survival(shares: Mapping[int, np.ndarray], letters: Sequence[str]) -> "Figure":
    """Share of the questions whose right prefix is among the best beams, level by level.

    Args:
        shares: as `tracing.survival` gives them.
    """
    figure, (panel,) = new_figure(1, 1, (7, 4.2))
    levels = np.arange(len(letters) + 1)
    for marker, (width, values) in zip("os^Dvp*", sorted(shares.items(), reverse=True), strict=False):
        label = f"among the best {width}" if width > 1 else "the best"
        panel.plot(levels, np.r_[1, values], marker=marker, label=f"{label}: {values[-1]:.3f} at the end")
    panel.set_xticks(levels, ["start", *(f"level {letter}" for letter in letters)])
    panel.set(title="right prefixes that are still in the beam", ylabel="share of the questions", ylim=(0, 1.03))
    panel.legend(fontsize="small")
    return figure


def draw_promises(promises: Promises) -> "Figure":
    """Chances along the lists, and what whole lists have of all chance; lists with the right item and without."""
    from matplotlib.ticker import MaxNLocator

    figure, (along, whole) = new_figure(1, 2, (12, 4.2))
    length = promises.chances.shape[1]
    found = promises.ranks < length
    total = promises.chances.sum(1)
    places, edges = np.arange(1, length + 1), np.linspace(0, max(1.0, total.max()), 41)
    for number, (name, lists) in enumerate((("right item in the list", found), ("not in the list", ~found))):
        if not lists.any():
            continue
        chances = np.where(promises.chances[lists] > 0, promises.chances[lists], np.nan)
        low, middle, high = np.nanquantile(chances, (BAND[0], 0.5, BAND[1]), axis=0)
        label = f"{name} ({int(lists.sum()):,})"
        along.plot(places, middle, "o-" if number else "s-", color=PALETTE[number], markersize=4, label=label)
        along.fill_between(places, low, high, color=PALETTE[number], alpha=0.2, linewidth=0)
        heights = np.histogram(total[lists], edges)[0] / lists.sum()
        whole.stairs(heights, edges, color=PALETTE[number], linewidth=2, linestyle="--" if number else "-", label=label)
    along.set(title="chance of the item at each place: median, and 10 to 90 %", xlabel="place in the list")
    along.set(ylabel="chance", yscale="log")
    whole.axvline(total.mean(), color=PALETTE[3], linestyle=":", label=f"promised, on average {total.mean():.3f}")
    whole.axvline(found.mean(), color="black", linestyle="-.", label=f"share of lists with the item {found.mean():.3f}")
    whole.set(title="chance of the whole list", xlabel="sum of the chances", ylabel="share of the lists")
    along.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (along, whole):
        panel.legend(fontsize="small")
    return figure


def draw_reliability(named: Mapping[str, Reliability]) -> "Figure":
    """What came true of what was promised; on the diagonal chances are honest, above it too low.

    Of bins in which nothing came true, which have no place on a logarithmic axis, a triangle marks the upper end.
    """
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    figure, (panel,) = new_figure(1, 1, (6.4, 5.6))
    for number, (name, bins) in enumerate(named.items()):
        shown = bins.came_true > 0
        share = bins.came_true[shown]
        reach = np.stack([share - bins.low[shown], bins.high[shown] - share])
        panel.errorbar(
            bins.promised[shown], share, reach, fmt="os^D"[number % 4], capsize=3, color=PALETTE[number],
            label=f"{name}: mean error {bins.error:.4f}",
        )  # fmt: skip
        panel.plot(bins.promised[~shown], bins.high[~shown], "v", markerfacecolor="none", color=PALETTE[number])
    least = min(max(1e-6, bins.promised.min()) for bins in named.values())
    most = max(bins.promised.max() for bins in named.values())
    panel.plot((least, most), (least, most), color="black", linestyle="--", label="promised = came true")
    panel.set(title="does the promise hold?", xlabel="chance promised", ylabel="share that came true")
    panel.set(xscale="log", yscale="log")
    for axis in (panel.xaxis, panel.yaxis):  # by itself matplotlib labels 2 to 9 of a short range, one over the other
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(3, 3)))
    panel.legend(fontsize="small")
    return figure
