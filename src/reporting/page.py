"""The HTML around the report: style, sections, tables. Every text that comes from data passes through `text`."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from src.reporting.style import DASHES, STYLE

LONGEST = 240  # characters of a value in a table; a command would make it as wide as ten screens


class Cell(NamedTuple):
    """A cell of a table: HTML, and what it is sorted by (None: last)."""

    html: str
    sort: float | str | None = None


def text(value: Any) -> str:
    """`value` as text that is safe inside an element or a quoted attribute."""
    return escape(str(value).encode("utf-8", "replace").decode(), quote=True)  # a lone surrogate cannot be written


def shorten(value: Any, longest: int = LONGEST) -> str:
    words = str(value)
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def note(message: str) -> str:
    return f'<p class="note">{text(message)}</p>'


def section(title: str, lead: str, *parts: str, anchor: str = "") -> str:
    place = f' id="{text(anchor)}"' if anchor else ""
    return f'<section{place}><h2>{text(title)}</h2><p class="lead">{text(lead)}</p>{"".join(parts)}</section>'


def facts(pairs: Mapping[str, Any]) -> str:
    cards = (f'<div class="fact"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in pairs.items())
    return f'<div class="facts">{"".join(cards)}</div>'


def grid(cells: Iterable[str]) -> str:
    return '<div class="grid">' + "".join(f"<div>{cell}</div>" for cell in cells) + "</div>"


def details(title: str, *parts: str) -> str:
    """What is looked up rather than read."""
    return f"<details><summary>{text(title)}</summary>{''.join(parts)}</details>"


def legend(names: Mapping[int, str], lines: bool = False) -> str:
    """Names beside the colour of their place, or beside colour and dashes."""
    marks = []
    for place, name in names.items():
        colour = f"var(--c{place % 6})"
        mark = f'<i style="background:{colour}"></i>'
        if lines:
            line = f'<path d="M0 5H26" stroke="{colour}" stroke-width="2.4" {dashes(place)}/>'
            mark = f'<svg viewBox="0 0 26 10" aria-hidden="true">{line}</svg>'
        marks.append(f"<span>{mark}{text(name)}</span>")
    return f'<div class="legend">{"".join(marks)}</div>'


def dashes(place: int) -> str:
    """The attribute that tells the line of this place from others, also where colours are not seen."""
    pattern = DASHES[place % len(DASHES)]
    return f'stroke-dasharray="{pattern}"' if pattern else ""


# ---- tables ----------------------------------------------------------------------------------------------------------
def scroll(label: str, table: str) -> str:
    """A table that scrolls rather than the page, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{table}</div>'


def data_table(label: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], sortable: bool = True) -> str:
    """A table whose first column names the rows; a page with `SORT` in it sorts it by a click on a head."""
    columns = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    lines = []
    for first, *rest in rows:
        cells = [f'<th scope="row"{_sort(first)}>{first.html}</th>', *(f"<td{_sort(c)}>{c.html}</td>" for c in rest)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    table = f"<table{kind}><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return scroll(label, table)


def _sort(cell: Cell) -> str:
    return "" if cell.sort is None else f' data-sort="{text(cell.sort)}"'


def settings_table(title: str, settings: Mapping[str, Any]) -> str:
    """Settings folded away: they are looked up, not read."""
    rows = "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in settings.items())
    return details(title, scroll(title, f'<table class="settings">{rows}</table>'))


# ---- the page --------------------------------------------------------------------------------------------------------
def whole_page(title: str, body: str, script: str = "", wide: bool = False) -> str:
    """The file. Its policy lets nothing be fetched, and no script run but the one given here; `wide` is for tables."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    kind = ' class="wide"' if wide else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body{kind}><main>{body}</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )
