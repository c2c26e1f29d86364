"""From raw ratings and metadata to a dataset: against the usual loop, and how cost grows with size.

Every run is a process of its own, so that peaks of memory can be told apart; CPU seconds are those of the job, imports
left out on both sides. polars gets one thread.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.subject import RawFiles, write_raw
from benchmarks.harness import Row, Timings, peak_megabytes, timed

DATASET = "Bench"
FILES = ("inter.json", "times.json", "item.json", "item2id", "user2id")
RATINGS_PER_ITEM = 36  # of Amazon 2018's larger categories
RIVAL = "loop over lines, sets and dictionaries"


class Run(NamedTuple):
    seconds: float  # CPU
    megabytes: float  # peak of the process


def run_side(side: str, files: RawFiles, folder: Path) -> Run:
    """One job; in a process of its own."""
    if side == "rival":
        from benchmarks.rivals.plain_amazon import process

        seconds, _ = timed(lambda: process(*files, folder / DATASET, DATASET))
    else:
        from data_process import dataset_files, dataset_statistics, interactions, item_texts, raw_files  # noqa: F401
        from data_process.amazon18_data_process import open_source
        from data_process.amazon_files import AmazonConfig
        from data_process.preparation import prepare

        config = AmazonConfig(
            dataset=DATASET, input_path=files.ratings.parent, output_path=folder, image_urls=False, plots=False
        )
        seconds, _ = timed(lambda: prepare(config, open_source(config)))
    return Run(seconds, peak_megabytes())


def in_own_process(side: str, files: RawFiles, folder: Path, hash_seed: int) -> Run:
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_side, side, files, folder).result()


# ---- what was written ------------------------------------------------------------------------------------------------
def original_sets(folder: Path) -> dict[str, frozenset[str]]:
    """The items of each user, all by their original names."""

    def names(suffix: str) -> dict[str, str]:
        lines = (folder / DATASET / f"{DATASET}.{suffix}").read_text().splitlines()
        return {number: name for name, number in (line.split("\t") for line in lines)}

    users, items = names("user2id"), names("item2id")
    sequences = json.loads((folder / DATASET / f"{DATASET}.inter.json").read_text())
    return {users[user]: frozenset(items[str(item)] for item in sequence) for user, sequence in sequences.items()}


def is_same_data(ours: Path, theirs: Path) -> bool:
    """Do both have the same users, of each the same items, and as many texts?"""
    tables = [json.loads((folder / DATASET / f"{DATASET}.item.json").read_text()) for folder in (ours, theirs)]
    return len(tables[0]) == len(tables[1]) and original_sets(ours) == original_sets(theirs)


def differing_files(one: Path, other: Path) -> list[str]:
    places = [(folder / DATASET / f"{DATASET}.{suffix}" for folder in (one, other)) for suffix in FILES]
    return [suffix for suffix, (a, b) in zip(FILES, places, strict=True) if a.read_bytes() != b.read_bytes()]


# ---- rows ------------------------------------------------------------------------------------------------------------
def rows(quick: bool) -> Iterator[Row]:
    sizes = [(200_000, 1)] if quick else [(1_000_000, 1), (5_000_000, 1)]
    for num_ratings, runs in sizes:
        with tempfile.TemporaryDirectory() as name:
            yield from size_rows(Path(name), num_ratings, runs)


def size_rows(folder: Path, num_ratings: int, runs: int) -> Iterator[Row]:
    """Both sides at one size, in turn; ours once more, under another hash seed, to compare the bytes."""
    num_items = num_ratings // RATINGS_PER_ITEM
    files = write_raw(folder / "raw", DATASET, num_ratings, num_items)
    ours, rival = [], []
    for number in range(runs):
        for side, results in ((("ours", ours), ("rival", rival)), (("rival", rival), ("ours", ours)))[number % 2]:
            results.append(in_own_process(side, files, folder / f"{side}{number}", number))
    ours.append(in_own_process("ours", files, folder / "again", 12345))
    is_equal = is_same_data(folder / "ours0", folder / "rival0")
    differing = differing_files(folder / "ours0", folder / "again")
    name, is_large = f"{num_ratings:,} ratings, {num_items:,} items", num_ratings >= 5_000_000
    timings = Timings([run.seconds for run in ours[:runs]], [run.seconds for run in rival], None, None)
    yield timings.ratio(f"{name}: CPU time", RIVAL, goal=10 if is_large else None, equal=is_equal)
    peaks = [max(run.megabytes for run in side) for side in (ours, rival)]
    yield Row(
        f"{name}: peak memory, share of the rival's",
        peaks[0] / peaks[1],
        "",
        higher_is_better=False,
        goal=1 / 3 if is_large else None,
        rival=RIVAL,
        equal=is_equal,
        runs=runs,
        note=f"{peaks[0]:.0f} MB against {peaks[1]:.0f} MB",
    )
    yield Row(
        f"{name}: files that differ between two runs",
        len(differing),
        "files",
        higher_is_better=False,
        goal=0,
        runs=2,
        note=", ".join(differing) or f"{', '.join(FILES)} are equal byte for byte",
    )


def growth_rows(quick: bool) -> Iterator[Row]:
    """Ours alone, from small to large."""
    for num_ratings, goal in [(100_000, None)] if quick else [(1_000_000, None), (5_000_000, None), (20_000_000, 4096)]:
        with tempfile.TemporaryDirectory() as name:
            files = write_raw(Path(name) / "raw", DATASET, num_ratings, num_ratings // RATINGS_PER_ITEM)
            run = in_own_process("ours", files, Path(name) / "ours", 0)
        yield Row(f"{num_ratings:,} ratings: CPU time", run.seconds, "s", higher_is_better=False)
        yield Row(f"{num_ratings:,} ratings: peak", run.megabytes, "MB", higher_is_better=False, goal=goal)
