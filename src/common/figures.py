"""How pictures of numbers look: colours that are told apart with any kind of colour vision, and a figure to draw on."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design (2008), its yellow left out, which is too light for lines on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
GREY = "#BBBBBB"


def new_figure(
    rows: int, columns: int, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> "tuple[Figure, list[Any]]":
    """A figure and its panels, row by row; without pyplot, which keeps figures and may ask for a display.

    Args:
        layout: engine that places the panels, which takes longer than all the drawing; None leaves it to the caller.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels:
        panel.set_prop_cycle(color=PALETTE)
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    return figure, panels
