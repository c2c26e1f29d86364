"""What differs between runs: the settings that do, a column a run; folded away what only some runs say."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from src.reporting import page
from src.reporting.page import Cell, data_table, shorten, text

ABSENT = "–"
LONGEST, LONGEST_TITLE = 44, 2000  # characters of a value that is shown, and of what the pointer shows
Row = list[Any]


class Settings(NamedTuple):
    """Settings sorted by what there is to see: values of all runs, None where a run says nothing."""

    differing: dict[str, Row]
    partial: dict[str, Row]  # equal in the runs that say it
    num_equal: int


def sort_settings(runs: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Each setting of any run as differing, said by some runs only, or equal in all."""
    differing, partial, num_equal = {}, {}, 0
    for key in dict.fromkeys(key for table in runs.values() for key in table):
        row = [table.get(key) for table in runs.values()]
        if len({str(value) for value in row if value is not None}) > 1:
            differing[key] = row
        elif None in row and any(value is not None for value in row):
            partial[key] = row
        else:
            num_equal += 1
    return Settings(differing, partial, num_equal)


def differing_settings(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of differences; a note where nothing differs."""
    if not runs:
        return ""
    if len(runs) == 1:
        (settings,) = runs.values()
        return page.settings_table("Settings", settings)
    found = sort_settings(runs)
    told = f"{found.num_equal} further settings are equal in all runs."
    parts = [page.note(f"Nothing that two runs say is unlike. {told}")]
    if found.differing:
        parts = [_table("What differs", runs, found.differing), f"<p><small>{told}</small></p>"]
    if found.partial:
        title = f"{len(found.partial)} settings that only some runs have"
        parts.append(page.details(title, _table(title, runs, found.partial)))
    return "".join(parts)


def _table(title: str, runs: Mapping[str, Any], rows: Mapping[str, Row]) -> str:
    lines = [[Cell(text(key)), *map(_cell, row)] for key, row in rows.items()]
    return f'<div class="values">{data_table(title, ["setting", *runs], lines, sortable=False)}</div>'


def _cell(value: Any) -> Cell:
    """A value; of a long path the end is shown, of another long one the start."""
    if value is None:
        return Cell(ABSENT)
    words = f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, (list, tuple)):
        words = ", ".join(map(str, value))
    shown = f"…{words[-LONGEST:]}" if "/" in words and len(words) > LONGEST else shorten(words, LONGEST)
    return Cell(f'<span title="{text(shorten(words, LONGEST_TITLE))}">{text(shown)}</span>')
