"""Rows of items as one picture, each row with a name: for notebooks, and for pictures in documents."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from src.common.figures import PALETTE, new_figure
from src.common.images import open_image
from src.seqrec.cases import SHOWN_HISTORY, Case
from src.tasks.catalogue import Catalogue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = (1.15, 1.55)  # inches
NAME_WIDTH, TITLE_WIDTH = 22, 18  # characters of a line; Chinese ones count twice
TITLE_LINES = 2
PIXELS = (200, 200)
PLAIN: dict[str, Any] = {"parse_math": False}  # a dollar is a price


def draw_items(
    catalogue: Catalogue, rows: Mapping[str, Sequence[int]], marked: Mapping[str, int] | None = None
) -> "Figure":
    """Each row: its name, then its items, picture above title; an item without a picture is its title alone.

    Args:
        rows: item ids by the name of the row, which may have several lines.
        marked: the item that gets a frame, by the name of its row.
    """
    widest = max(1, *map(len, rows.values()))
    size = (CELL[0] * (widest + 1.5), CELL[1] * len(rows))
    figure, panels = new_figure(len(rows), widest + 1, size)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for panel in panels:
        panel.axis("off")
    for number, (name, items) in enumerate(rows.items()):
        first, *others = panels[number * (widest + 1) : (number + 1) * (widest + 1)]
        lines = [line for part in name.split("\n") for line in lines_of(part, NAME_WIDTH)]
        first.text(1, 0.5, "\n".join(lines), ha="right", va="center", fontsize=8, transform=first.transAxes, **PLAIN)
        for panel, item in zip(others, items, strict=False):
            _draw_item(panel, catalogue, int(item), (marked or {}).get(name) == item)
    return figure


def draw_cases(catalogue: Catalogue, cases: Sequence[Case], top_k: int = 5) -> "Figure":
    """Of each case two rows: the history with the right answer in a frame behind it, and what the model ranks."""
    rows, marked = {}, {}
    for number, case in enumerate(cases, 1):  # a user may ask several times
        had, shown = f"{number}. {case.name} had, then", f"{number}. {case.name} is shown\n({case.verdict})"
        rows[had] = [*case.history[-SHOWN_HISTORY + 1 :], case.target]
        rows[shown] = case.items[:top_k]
        marked[had] = marked[shown] = case.target
    return draw_items(catalogue, rows, marked)


def lines_of(text: str, width: int, most: int | None = None) -> list[str]:
    """`text` in at most so many lines of `width` characters; wide ones, which no blanks part, count twice."""
    second = "\0"  # of a wide character
    lines = wrap("".join(sign + second * (east_asian_width(sign) in "WF") for sign in text), width)
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: width - 2].rstrip() + " …"]
    return [line.replace(second, "") for line in lines]


def _draw_item(panel: Any, catalogue: Catalogue, item: int, is_marked: bool) -> None:
    title = "\n".join(lines_of(catalogue.items[item]["title"].strip() or f"item {item}", TITLE_WIDTH, TITLE_LINES))
    path = catalogue.image_files.get(item)
    if path is None:
        panel.text(0.5, 0.5, title, ha="center", va="center", fontsize=7, **PLAIN)
        return
    image = open_image(path)
    image.thumbnail(PIXELS)
    panel.imshow(image)
    panel.set_title(title, fontsize=7, y=-0.05, va="top", pad=0, **PLAIN)
    if is_marked:
        panel.axis("on")
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set(color=PALETTE[3], linewidth=2.5)
