"""Generated texts of several runs side by side: the same items, each field as every run wrote it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from src.reporting.answers import SHOWN_HISTORY, field_block, number
from src.reporting.page import note
from src.reporting.people import choose_disputed
from src.reporting.tiles import Budget, Tiles, person, strip
from src.tasks.catalogue import Catalogue
from src.text_generation.results import SCORE

NUM_ITEMS = 8
OVERALL = f"{SCORE}rougeL"
FIELD = "reference:"


def first_wording(frame: pl.DataFrame) -> pl.DataFrame:
    """A row a sample: those of the first wording, named apart where a user has several."""
    part = frame.filter(pl.col("prompt_id") == frame["prompt_id"][0])
    return part.with_columns(pl.int_range(pl.len()).over("key", "item").alias("occurrence"))


def texts_of_runs(catalogue: Catalogue | None, runs: Mapping[str, pl.DataFrame], seed: int, budget: Budget) -> str:
    """Items on which runs differ most, and others at random. Without a catalogue there are no pictures."""
    frames = {name: first_wording(frame) for name, frame in runs.items()}
    lacking = [name for name, frame in frames.items() if OVERALL not in frame.columns]
    if lacking:
        return note(f"No ROUGE-L of single samples, so no texts to show: {', '.join(lacking)}.")
    on = ["key", "item", "occurrence"]
    shared = next(iter(frames.values())).select(on)
    for frame in frames.values():
        shared = shared.join(frame.select(on), on=on, how="semi")
    shared = shared.sort(on)
    if not len(shared):
        return note("The runs have no sample in common.")
    frames = {name: shared.join(frame, on=on, how="left", maintain_order="left") for name, frame in frames.items()}
    values = np.stack([frame[OVERALL].fill_null(0).to_numpy() for frame in frames.values()])
    tiles = Tiles(catalogue, budget) if catalogue else None
    parts = []
    titles = ("The runs differ most", "Drawn at random")
    for title, rows in zip(titles, choose_disputed(values, seed, NUM_ITEMS), strict=True):
        cards = "".join(card(frames, int(row), tiles) for row in rows)
        if cards:
            parts.append(f"<h3>{title} ({len(rows)} of {len(shared):,})</h3>{cards}")
    return "".join(parts)


def card(frames: Mapping[str, pl.DataFrame], row: int, tiles: Tiles | None) -> str:
    samples = {name: frame.row(row, named=True) for name, frame in frames.items()}
    first = next(iter(samples.values()))
    blocks = []
    for column in (name for name, value in first.items() if name.startswith(FIELD) and value is not None):
        name = column.removeprefix(FIELD)
        written = {}
        for run, sample in samples.items():
            value = sample.get(f"{SCORE}{name}.rougeL", sample[OVERALL])
            written[run] = (sample.get(f"generated:{name}") or "", float("nan") if value is None else value)
        blocks.append(field_block(name.replace("_", " "), first[column], written))
    scores = [sample[OVERALL] for sample in samples.values() if sample[OVERALL] is not None]
    verdict = f"ROUGE-L {number(min(scores))} to {number(max(scores))}" if scores else "no ROUGE-L"
    body = f'<div class="fields">{"".join(blocks)}</div>'
    shown = pictured(first, tiles)
    name = f"{'item' if first['item'] >= 0 else 'user'} {first['key']}"
    return person(name, verdict, False, f'<div class="answer">{shown}<div>{body}</div></div>' if shown else body)


def pictured(sample: Mapping[str, Any], tiles: Tiles | None) -> str:
    """The item, or the last items of the user; nothing where the dataset lacks them."""
    if tiles is None:
        return ""
    item, catalogue = int(sample["item"]), tiles.catalogue
    if item in catalogue.items:
        return strip({"picture": tiles.tile(item)})
    if sample["key"] not in catalogue.users:
        return ""
    user = catalogue.users.index(sample["key"])
    history = catalogue.history(user, int(catalogue.train_end[user]), SHOWN_HISTORY)
    return strip({"of the training part": "".join(map(tiles.tile, history.tolist()))})
