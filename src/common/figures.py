"""How pictures of numbers look: colours that are told apart with any kind of colour vision, and a figure to draw on."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src.common.log import logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design (2008), its yellow left out, which is too light for lines on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
GREY = "#BBBBBB"
# Families with Chinese, Japanese and Korean characters, which matplotlib's own lack: of Linux, Windows, macOS.
WIDE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB", "Arial Unicode MS",
)  # fmt: skip


def new_figure(
    rows: int, columns: int, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> "tuple[Figure, list[Any]]":
    """A figure and its panels, row by row; without pyplot, which keeps figures and may ask for a display.

    Args:
        layout: engine that places the panels, which takes longer than all the drawing; None leaves it to the caller.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    add_wide_font()
    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels:
        panel.set_prop_cycle(color=PALETTE)
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    return figure, panels


def add_wide_font() -> None:
    """Titles may be Chinese: characters that matplotlib's font lacks come from the first of ours that is installed."""
    from matplotlib import font_manager, rcParams

    families = list(rcParams["font.family"])
    installed = {font.name for font in font_manager.fontManager.ttflist}
    font = next((name for name in WIDE_FONTS if name in installed), None)
    if font and font not in families:
        rcParams["font.family"] = [*families, font]


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """As PNG; says once, not of every character, that boxes stand for what no font has."""
    import matplotlib

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=dpi, format="png")
    for warning in caught:
        if not str(warning.message).startswith("Glyph "):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if any(str(warning.message).startswith("Glyph ") for warning in caught):
        logger.warning(
            "no font of this machine has all characters of a picture, boxes stand for them: install one such as"
            " fonts-noto-cjk, remove %s and draw it again",
            matplotlib.get_cachedir(),
        )
