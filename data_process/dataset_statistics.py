"""What a dataset is like: a table to read, the same as JSON, and plots of lengths, popularity and time."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from data_process.interactions import Interactions, offsets_of
from src.common.artifacts import DatasetPaths, atomic_path, write_json
from src.common.dataset_readers import ITEM_FIELDS
from src.common.log import logger

if TYPE_CHECKING:
    from data_process.preparation import Funnel

WIDE = 10  # the longest history over the shortest, from which on their axis is logarithmic


def measure(
    interactions: Interactions, items: pl.DataFrame | None, ticks: int, ends: np.ndarray | None
) -> dict[str, Any]:
    """Figures of interactions that are in order and hold ids."""
    lengths = np.diff(offsets_of(interactions.users))
    popularity = np.sort(np.bincount(interactions.items))[::-1]
    figures: dict[str, Any] = {
        "users": len(lengths),
        "items": len(popularity),
        "interactions": interactions.num_rows,
        "density": interactions.num_rows / (len(lengths) * len(popularity)),
        "items_of_a_user": _spread(lengths),
        "users_of_an_item": _spread(popularity),
        "share_of_the_top_tenth_of_items": float(popularity[: -(-len(popularity) // 10)].sum() / popularity.sum()),
    }
    if interactions.times is not None:
        seconds = interactions.times // ticks
        same_user = interactions.users[1:] == interactions.users[:-1]
        ties = same_user & (seconds[1:] == seconds[:-1])
        last = offsets_of(interactions.users)[1:] - 2  # the step to each user's last item
        figures["first_day"], figures["last_day"] = (_day(second) for second in (seconds.min(), seconds.max()))
        figures["steps_without_time"] = float(ties.sum() / max(same_user.sum(), 1))
        figures["users_whose_last_two_items_have_one_time"] = int(ties[last[lengths > 1]].sum())
    if ends is not None:
        train, valid = ends.sum(0).tolist()
        figures["interactions_to_train"], figures["to_validate"] = train, valid
        figures["to_test"] = interactions.num_rows - train - valid
    if items is not None:
        figures["items_without"] = {name: int((items[name] == "").sum()) for name in ITEM_FIELDS}
        if "image_urls" in items.columns:
            figures["items_without"]["image_urls"] = int((items["image_urls"].list.len().fill_null(0) == 0).sum())
        if "image" in items.columns:
            figures["items_without"]["image"] = items["image"].null_count()
        figures["characters_of_a_title"] = _spread(items["title"].str.len_chars().to_numpy())
        figures["characters_of_a_description"] = _spread(items["description"].str.len_chars().to_numpy())
    return figures


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "least": int(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "most": int(values.max()),
    }


def _day(second: int) -> str:
    try:
        return datetime.fromtimestamp(int(second), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"second {second}"  # beyond the calendar: validate.py says so


def lines_of(figures: dict[str, Any]) -> list[str]:
    """The figures as a table of two columns."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_number(entry)}" for key, entry in value.items())
        lines.append(f"  {name.replace('_', ' '):42} {_number(value)}")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_statistics(
    paths: DatasetPaths,
    interactions: Interactions,
    items: pl.DataFrame | None,
    ticks: int,
    funnel: "Funnel",
    ends: np.ndarray | None,
    plots: bool,
) -> None:
    """`<DS>.statistics.json`, the table on the screen and, where wanted, `<DS>.statistics.png`."""
    figures = measure(interactions, items, ticks, ends)
    write_json(paths.file("statistics.json"), {**figures, "steps": asdict(funnel)}, indent=2)
    logger.info("%s: interactions after each step, then what is left", paths.folder)
    for line in [*lines_of(asdict(funnel)), *lines_of(figures)]:
        logger.info("%s", line)
    paths.file("statistics.png").unlink(missing_ok=True)  # never that of another run
    if plots:
        plot(paths.file("statistics.png"), paths.dataset, interactions, ticks)


def plot(path: Path, title: str, interactions: Interactions, ticks: int) -> None:
    """Lengths of histories, popularity by rank, interactions over time."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

    lengths = np.diff(offsets_of(interactions.users))
    popularity = np.sort(np.bincount(interactions.items))[::-1]
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 2 if interactions.times is None else 3)
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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
