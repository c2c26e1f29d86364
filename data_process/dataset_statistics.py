"""What a dataset is like: a table to read, the same as JSON, and plots of lengths, popularity and time."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from data_process.interactions import Interactions, offsets_of
from src.common.artifacts import DatasetPaths, atomic_path, write_json
from src.common.dataset_readers import ITEM_FIELDS
from src.common.figures import save_figure
from src.common.log import logger

if TYPE_CHECKING:
    from data_process.preparation import Funnel


def measure(
    interactions: Interactions, items: pl.DataFrame | None, ticks: int, ends: np.ndarray | None
) -> dict[str, Any]:
    """Figures of interactions that are in order and hold ids."""
    lengths = np.diff(offsets_of(interactions.users))
    popularity = np.sort(np.bincount(interactions.items, minlength=0 if items is None else items.height))[::-1]
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
        from data_process.plots import draw_interactions

        with atomic_path(paths.file("statistics.png")) as temporary:
            save_figure(draw_interactions(paths.dataset, interactions, ticks), temporary, dpi=110)
