"""Charts as inline SVG that takes its colours from the page, and so follows light and dark."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from src.reporting.page import legend, text

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 8, 32
MAX_POINTS = 400  # more than a line of this width can show
LOG_FROM = 30  # ratio of the largest to the smallest value
HEAT_CELLS = 256
HEAT_SHADES = (0.25, 0.45, 0.7, 1.0)

Points = Sequence[tuple[float, float]]


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high]."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    return [step * tick for tick in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents, with 2 and 5 times them where there are few."""
    factors = (1,) if high - low > 3 else (1, 2, 5)
    ticks = (
        exponent + math.log10(factor) for exponent in range(math.floor(low), math.ceil(high) + 1) for factor in factors
    )
    return [tick for tick in ticks if low <= tick <= high]


def line_chart(title: str, series: Mapping[str, Points], x_label: str, may_be_log: bool = False) -> str:
    """Lines over a shared x axis; where that may be, logarithmic in y if all values are above 0 and far apart.

    Points that are not finite are left out; no point at all gives no chart.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    values = [y for points in finite.values() for _, y in points]
    log = may_be_log and bool(values) and min(values) > 0 and max(values) > LOG_FROM * min(values)
    drawn: dict[str, Points] = {}
    for name, points in finite.items():
        kept = [(x, math.log10(y) if log else y) for x, y in points]
        if kept:
            drawn[name] = [*kept[:: max(1, math.ceil(len(kept) / MAX_POINTS))], kept[-1]]
    if not drawn:
        return ""
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    x_high += (x_high == x_low) * 1.0
    margin = (y_high - y_low) * 0.06 or abs(y_high) * 0.05 or 0.05
    y_low, y_high = y_low - margin, y_high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in _log_ticks(y_low, y_high) if log else _ticks(y_low, y_high):
        _, y = place(x_low, tick)
        label = f"{10**tick if log else tick:.4g}"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.6g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{text(x_label)}</text>')
    for row, curve in enumerate(drawn.values()):
        places = [place(x, y) for x, y in curve]
        colour = f"var(--c{row % 6})"
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>')
        if len(set(curve)) <= 12:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in places]
    body = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'
    return f"<h3>{text(title)}{' (log scale)' if log else ''}</h3>{body}{legend(list(drawn)) if len(drawn) > 1 else ''}"


def usage_chart(counts: np.ndarray) -> str:
    """How often each codeword of a level is used: from most to least against even use, and a strip in code order."""
    width, height, strip = 256, 70, 14
    size, total = len(counts), counts.sum()
    even = total / size
    top = float(max(counts.max(), 1))
    ordered = np.sort(counts)[::-1]
    chosen = np.unique(np.linspace(0, size - 1, min(size, width)).astype(int))
    steps = "".join(
        f"L{code / size * width:.1f} {height * (1 - ordered[code] / top):.1f}"
        f"H{min(width, (code + math.ceil(size / width)) / size * width):.1f}"
        for code in chosen
    )
    dashes = height * (1 - even / top)
    parts = [
        f'<path d="M0 {height}{steps}V{height}Z" fill="var(--c0)" opacity=".85"/>',
        f'<line x1="0" x2="{width}" y1="{dashes:.1f}" y2="{dashes:.1f}" stroke="var(--c1)" stroke-dasharray="4 3"/>',
        f'<rect y="{height + 6}" width="{width}" height="{strip}" fill="var(--line)"/>',
    ]
    cells = np.array([part.mean() for part in np.array_split(counts, min(size, HEAT_CELLS))])
    shade = np.minimum(len(HEAT_SHADES) - 1, (cells / (2 * even) * len(HEAT_SHADES)).astype(int))
    cell = width / len(cells)
    for level, opacity in enumerate(HEAT_SHADES):
        squares = "".join(
            f"M{place * cell:.2f} {height + 6}h{cell:.2f}v{strip}h-{cell:.2f}z"
            for place in np.flatnonzero((shade == level) & (cells > 0))
        )
        parts.append(f'<path d="{squares}" fill="var(--c0)" opacity="{opacity}"/>' if squares else "")
    label = f"use of {size} codewords"
    return f'<svg viewBox="0 0 {width} {height + 6 + strip}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def interval_bar(value: float, interval: Sequence[float] | None, largest: float) -> str:
    """A bar of `value`, with a whisker for its interval, on a scale that ends at `largest`."""
    width, height = 130, 18
    scale = (width - 2) / largest if largest > 0 else 0
    parts = [
        f'<rect y="4" width="{width}" height="10" rx="3" fill="var(--line)" opacity=".6"/>',
        f'<rect y="4" width="{value * scale:.1f}" height="10" rx="3" fill="var(--c0)" opacity=".75"/>',
    ]
    if interval:
        low, high = (end * scale for end in interval)
        parts.append(
            f'<path d="M{low:.1f} 9H{high:.1f}M{low:.1f} 5v8M{high:.1f} 5v8" stroke="var(--ink)" stroke-width="1.2"/>'
        )
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'


def time_bar(seconds: Mapping[str, float]) -> str:
    """Stages as parts of one bar, as wide as they took."""
    parts = (
        f'<div style="flex:{max(value, 1e-9):.6f};background:var(--c{place % 6})" title="{text(stage)}"></div>'
        for place, (stage, value) in enumerate(seconds.items())
    )
    return f'<div class="bar">{"".join(parts)}</div>'
