"""Draws the products of the demo dataset with Pillow: a silhouette in a colour, with a pattern, on a pale ground.

Everything is drawn larger and scaled down, for smooth edges. Place, size and the grain of the motif
vary a little from one drawing to the next, so that no two drawings of an item are equal, and none is special.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_process.demo_process import KINDS, PATTERNS, SIZES, TONES

DRAWN_SIZE = 224  # pixels per side of a drawing; more where the result is larger than half of this
INKS = {"light": (252, 249, 240), "dark": (38, 34, 52)}
# In the order of COLOURS: red, orange, yellow, lime, green, turquoise, blue, violet, pink, grey.
PAINTS = (
    (214, 40, 46),
    (243, 132, 24),
    (246, 206, 48),
    (160, 208, 50),
    (32, 140, 66),
    (44, 186, 182),
    (40, 92, 206),
    (128, 62, 186),
    (240, 130, 184),
    (140, 140, 146),
)
PERIODS = {"fine": 0.125, "coarse": 0.25}  # of the motif, in widths of the product


def draw_item(attributes: Sequence[int], image_size: int, rng: np.random.Generator) -> Image.Image:
    """One drawing, image_size x image_size RGB, of an item: kind, colour, pattern, size, tone."""
    kind, colour, pattern, size, tone = map(int, attributes)
    side = max(DRAWN_SIZE, 2 * image_size)
    paint, ink = PAINTS[colour], INKS[TONES[tone]]
    width = side * rng.uniform(0.72, 0.84)
    left, top = (rng.uniform(0.04, 0.96, 2) * (side - width)).tolist()
    ground = tuple(int(level) for level in rng.integers(228, 246, 3))

    silhouette = Image.new("L", (side, side), 0)
    shape = _Shape(ImageDraw.Draw(silhouette), left, top, width, 255)
    _SILHOUETTES[KINDS[kind]](shape)
    product = Image.new("RGB", (side, side), paint)
    _draw_motif(ImageDraw.Draw(product), PATTERNS[pattern], ink, width * PERIODS[SIZES[size]], width, left, top, rng)

    picture = Image.new("RGB", (side, side), ground)
    shadow = silhouette.filter(ImageFilter.BoxBlur(side / 40)).point(lambda level: level * 2 // 5)
    picture.paste(Image.new("RGB", (side, side), (90, 90, 100)), (side // 60, side // 40), shadow)
    outline = silhouette.filter(ImageFilter.BoxBlur(side / 110)).point(lambda level: 255 * (level > 20))
    picture.paste(Image.new("RGB", (side, side), tuple(level * 11 // 20 for level in paint)), (0, 0), outline)
    picture.paste(product, (0, 0), silhouette)
    return picture.resize((image_size, image_size), Image.Resampling.LANCZOS)


def _draw_motif(draw, pattern: str, ink, period: float, width: float, left: float, top: float, rng) -> None:
    """Covers the square of the product and a margin with the motif, at a random offset."""
    period *= rng.uniform(0.92, 1.08)
    x0, y0 = left - period * (1 + rng.random()), top - period * (1 + rng.random())
    steps = range(int(width / period) + 4)
    thick = period * 0.42
    if pattern == "stripes":
        for step in steps:
            draw.rectangle((left - width, y0 + step * period, left + 2 * width, y0 + step * period + thick), fill=ink)
    elif pattern == "bars":
        for step in steps:
            draw.rectangle((x0 + step * period, top - width, x0 + step * period + thick, top + 2 * width), fill=ink)
    elif pattern == "zigzag":
        for step in range(-2, len(steps) + 2):
            points = [
                (x0 + tooth * period / 2, y0 + (step + (tooth % 2) * 0.5) * period)
                for tooth in range(2 * len(steps) + 2)
            ]
            draw.line(points, fill=ink, width=round(period * 0.3), joint="curve")
    else:
        for row in steps:
            for column in steps:
                _draw_mark(draw, pattern, ink, x0 + column * period, y0 + row * period, period, row + column)


def _draw_mark(draw, pattern: str, ink, x: float, y: float, period: float, parity: int) -> None:
    if pattern == "checks":
        if parity % 2 == 0:
            draw.rectangle((x, y, x + period, y + period), fill=ink)
    elif pattern == "dots":
        draw.ellipse((x, y, x + period * 0.62, y + period * 0.62), fill=ink)
    else:
        arm, thick = period * 0.38, max(1, round(period * 0.2))
        draw.line((x - arm, y - arm, x + arm, y + arm), fill=ink, width=thick)
        draw.line((x - arm, y + arm, x + arm, y - arm), fill=ink, width=thick)


class _Shape:
    """Draws with coordinates from 0 to 1 inside the square of the product; `hole` takes away again."""

    def __init__(self, draw, left: float, top: float, width: float, fill: int):
        self.draw, self.left, self.top, self.width, self.fill = draw, left, top, width, fill

    def at(self, *values: float) -> list[float]:
        return [(self.left, self.top)[i % 2] + value * self.width for i, value in enumerate(values)]

    def polygon(self, *values: float, fill: int | None = None) -> None:
        self.draw.polygon(self.at(*values), fill=self.fill if fill is None else fill)

    def box(self, *values: float, radius: float = 0.0, fill: int | None = None) -> None:
        fill = self.fill if fill is None else fill
        self.draw.rounded_rectangle(self.at(*values), radius * self.width, fill=fill)

    def oval(self, *values: float, fill: int | None = None) -> None:
        self.draw.ellipse(self.at(*values), fill=self.fill if fill is None else fill)

    def slice(self, *values: float, start: float, end: float) -> None:
        self.draw.pieslice(self.at(*values), start, end, fill=self.fill)

    def ring(self, *values: float, thick: float) -> None:
        self.draw.ellipse(self.at(*values), outline=self.fill, width=round(thick * self.width))


def _shirt(shape: _Shape) -> None:
    shape.polygon(
        *(0.3, 0.06, 0.7, 0.06, 1.0, 0.28, 0.87, 0.5, 0.76, 0.42, 0.76, 0.97),
        *(0.24, 0.97, 0.24, 0.42, 0.13, 0.5, 0.0, 0.28),
    )
    shape.oval(0.37, -0.04, 0.63, 0.18, fill=0)


def _mug(shape: _Shape) -> None:
    shape.ring(0.55, 0.26, 1.0, 0.76, thick=0.09)
    shape.box(0.04, 0.1, 0.74, 0.94, radius=0.1)


def _bag(shape: _Shape) -> None:
    shape.ring(0.26, 0.0, 0.74, 0.6, thick=0.07)
    shape.polygon(0.1, 0.32, 0.9, 0.32, 1.0, 0.98, 0.0, 0.98)


def _cap(shape: _Shape) -> None:
    shape.slice(0.0, 0.12, 0.76, 1.16, start=180, end=360)
    shape.polygon(0.4, 0.6, 0.76, 0.6, 1.0, 0.74, 0.98, 0.82, 0.4, 0.74)
    shape.box(0.0, 0.6, 0.76, 0.74, radius=0.05)
    shape.oval(0.33, 0.06, 0.43, 0.16)


def _dress(shape: _Shape) -> None:
    shape.polygon(
        *(0.33, 0.0, 0.41, 0.0, 0.44, 0.14, 0.56, 0.14, 0.59, 0.0, 0.67, 0.0, 0.7, 0.26),
        *(0.62, 0.42, 0.94, 0.98, 0.06, 0.98, 0.38, 0.42, 0.3, 0.26),
    )


def _vase(shape: _Shape) -> None:
    shape.oval(0.1, 0.3, 0.9, 1.0)
    shape.box(0.37, 0.08, 0.63, 0.5)
    shape.box(0.26, 0.02, 0.74, 0.13, radius=0.05)
    shape.box(0.3, 0.9, 0.7, 1.0, radius=0.02)


def _bottle(shape: _Shape) -> None:
    shape.box(0.26, 0.34, 0.74, 1.0, radius=0.09)
    shape.polygon(0.4, 0.2, 0.6, 0.2, 0.72, 0.42, 0.28, 0.42)
    shape.box(0.39, 0.02, 0.61, 0.3, radius=0.03)


def _cushion(shape: _Shape) -> None:
    shape.box(0.06, 0.06, 0.94, 0.94, radius=0.14)
    for x, y in ((0.0, 0.0), (0.84, 0.0), (0.0, 0.84), (0.84, 0.84)):
        shape.oval(x, y, x + 0.16, y + 0.16)


def _umbrella(shape: _Shape) -> None:
    shape.slice(0.0, 0.04, 1.0, 1.04, start=180, end=360)
    for x in (0.0, 0.25, 0.5, 0.75):  # scallops of the rim
        shape.oval(x + 0.02, 0.48, x + 0.23, 0.6, fill=0)
    shape.box(0.47, 0.4, 0.53, 0.94)
    shape.ring(0.35, 0.8, 0.53, 0.98, thick=0.055)
    shape.box(0.34, 0.76, 0.46, 0.88, fill=0)


def _sock(shape: _Shape) -> None:
    shape.box(0.34, 0.02, 0.76, 0.7, radius=0.05)
    shape.box(0.04, 0.56, 0.76, 0.94, radius=0.19)


_SILHOUETTES = {
    "T-shirt": _shirt,
    "mug": _mug,
    "bag": _bag,
    "cap": _cap,
    "dress": _dress,
    "vase": _vase,
    "bottle": _bottle,
    "cushion": _cushion,
    "umbrella": _umbrella,
    "sock": _sock,
}
