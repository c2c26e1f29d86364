"""Codebooks of one index, or of several side by side: how evenly codewords are used, how many items share a SID."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from src.common.sid import SidIndex
from src.reporting import charts, page
from src.reporting.charts import is_number
from src.reporting.page import Cell, data_table, text

LEAD = "Bars: items a codeword, most used first; dashed: even use. Strip: the same in code order; gaps: unused."


class Level(NamedTuple):
    """A level of an index."""

    letter: str
    size: int
    counts: np.ndarray  # (K,) items of each codeword
    perplexity: float
    collisions: float  # 1 - distinct prefixes up to this level / items

    @property
    def utilization(self) -> float:
        return float((self.counts > 0).mean())


def levels_of(index: SidIndex) -> list[Level]:
    levels = []
    for level, (letter, size) in enumerate(zip(index.letters, index.codebook_sizes, strict=True)):
        counts = np.bincount(index.codes[:, level], minlength=size)
        share = counts[counts > 0] / counts.sum()
        prefixes = len(np.unique(index.codes[:, : level + 1], axis=0))
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        levels.append(Level(letter, size, counts, perplexity, 1 - prefixes / len(index.codes)))
    return levels


def before_repair(index: SidIndex) -> float | None:
    before = index.meta.get("collisions_before")
    rate = before.get("collision_rate") if isinstance(before, Mapping) else None
    return rate if is_number(rate) else None


def usage(levels: list[Level]) -> str:
    cells = (
        f"<h3>Level {place} ({text(level.letter)})</h3>{charts.usage_chart(level.counts)}"
        f"<small>{int((level.counts > 0).sum())} of {level.size} codewords used ({level.utilization:.1%}),"
        f" perplexity {level.perplexity:.1f}</small>"
        for place, level in enumerate(levels)
    )
    return page.grid(cells)


def codebook_section(indexes: Mapping[str, SidIndex], subject: str = "", anchor: str = "") -> str:
    """One index as figures and charts; several as a table, a row a level, with the charts of each folded below."""
    title = f"Semantic IDs{subject}"
    if not indexes:
        missing = page.note("No SID index, or several: name one with --index_file.")
        return page.section(title, LEAD, missing, anchor=anchor)
    if len(indexes) > 1:
        return page.section(title, *_several(indexes), anchor=anchor)
    (index,) = indexes.values()
    before = before_repair(index)
    pairs: dict[str, Any] = {
        "items": f"{len(index.item_ids):,}",
        "levels": index.num_levels,
        "codewords a level": ", ".join(map(str, dict.fromkeys(index.codebook_sizes))),
        "collision rate": f"{index.collision_rate():.2%}",
    }
    if before is not None:
        pairs["collision rate before repair"] = f"{before:.2%}"
    explained = f"Item {index.item_ids[0]} is {''.join(index.tokens_of(0))}. {LEAD}"
    return page.section(title, explained, usage(levels_of(index)), page.facts(pairs), anchor=anchor)


def _several(indexes: Mapping[str, SidIndex]) -> tuple[str, str]:
    lead = (
        "A level is used well where its perplexity is near its number of codewords. Prefix collisions: items less"
        " distinct SIDs up to this level, by items; at the last level that is the collision rate of the index."
    )
    rows, dots, charts_of = [], [], []
    for name, index in indexes.items():
        before, levels = before_repair(index), levels_of(index)
        charts_of.append(page.details(f"{name}: use of every codeword", f"<p><small>{LEAD}</small></p>", usage(levels)))
        dots.append(charts.Dot(name, before if before is not None else index.collision_rate(), None))
        for place, level in enumerate(levels):
            last = place == len(levels) - 1
            repaired = f"{before:.1%}" if last and before is not None else "–"
            rows.append(
                [
                    Cell(text(name), name),
                    Cell(f"{place} ({text(level.letter)})", place),
                    Cell(f"{len(index.item_ids):,}", len(index.item_ids)),
                    Cell(f"{int((level.counts > 0).sum()):,} of {level.size:,}", level.size),
                    Cell(_share(level.utilization), level.utilization),
                    Cell(f"{level.perplexity:.1f}", level.perplexity),
                    Cell(_share(level.collisions), level.collisions),
                    Cell(repaired, before if last else None),
                ]
            )
    heads = [
        "index",
        "level",
        "items",
        "codewords used",
        "utilization",
        "perplexity",
        "prefix collisions",
        "before repair",
    ]
    table = data_table("Codebooks", heads, rows)
    panels = [charts.dot_chart("collision rate, before repair where it is known", dots)]
    for place in range(max(index.num_levels for index in indexes.values())):
        there = {name: levels_of(i)[place] for name, i in indexes.items() if place < i.num_levels}
        dots = [charts.Dot(name, level.utilization, None) for name, level in there.items()]
        panels.append(charts.dot_chart(f"utilization, level {place}", dots))
    return lead, page.grid(panels) + table + "".join(charts_of)


def _share(value: float) -> str:
    """A share with a bar beneath."""
    return f"{value:.1%}{charts.share_bar(value)}"
