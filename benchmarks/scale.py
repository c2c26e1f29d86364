"""How memory and time grow with users and items: batches from tables of interactions, indexes of ten million items.

python -m benchmarks.scale --quick
python -m benchmarks.scale --json results/benchmarks/scale.json

Memory is anonymous memory (RssAnon), which belongs to the process alone and must stay. Pages of mapped files are left
out: the system takes them back when anything else needs the place. Each figure is of a process of its own.
"""

import gc
import hashlib
import json
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.harness import Row, cpu_seconds, run

NAME, NUM_ITEMS, CODEBOOK_SIZES = "Scale", 10_000, (256, 256, 256, 256)
SHARD = 1_000_000  # users of a shard
BATCH_SIZE, NUM_BATCHES = 64, 1000
FLAT = 1.1  # how far memory may grow with the number of users
TABLE, JSON = "inter.parquet", "inter.json"


# ---- measuring -------------------------------------------------------------------------------------------------------
class Measured(NamedTuple):
    before: float  # MB of anonymous memory once everything is imported
    peak: float  # MB
    seconds: float  # CPU
    result: Any


def anonymous_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measured(work: Callable[..., Any], *given: Any) -> Measured:
    """Peak of anonymous memory and CPU seconds of `work(*given)`; the peak is looked at every 2 ms."""
    gc.collect()
    peaks, over = [anonymous_megabytes()], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peaks.append(anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = cpu_seconds()
    try:
        result = work(*given)
        seconds = cpu_seconds() - began
    finally:
        over.set()
        watcher.join()
    return Measured(peaks[0], max(peaks), seconds, result)


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """`work(*given)` in a new process, which imports everything first."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


# ---- users -----------------------------------------------------------------------------------------------------------
def write_users(folder: Path, num_users: int) -> int:
    """A dataset of users with 3 to 13 items each, drawn at random; gives the number of interactions."""
    from src.common.artifacts import dataset_paths
    from src.common.index_files import save_sid_index

    (folder / NAME / f"{NAME}.{TABLE}").mkdir(parents=True)
    paths, rng, total = dataset_paths(folder, NAME), np.random.default_rng(0), 0
    for start in range(0, num_users, SHARD):
        lengths = rng.integers(3, 14, min(SHARD, num_users - start))
        users = pl.Series(np.arange(start, start + len(lengths)).repeat(lengths)).cast(pl.String)
        frame = pl.DataFrame({"user": "user-" + users, "item": rng.integers(0, NUM_ITEMS, len(users))})
        frame.write_parquet(paths.file(TABLE) / f"part-{start:09d}.parquet")
        total += len(users)
    items = {item: {"title": f"Item {item}"} for item in range(NUM_ITEMS)}
    paths.file("item.json").write_text(json.dumps(items))
    save_sid_index(folder / "index.npz", random_index(NUM_ITEMS), {})
    return total


def random_index(num_items: int):
    from src.common.sid import SidIndex, level_letters

    rng = np.random.default_rng(1)
    codes = np.stack([rng.integers(0, size, num_items) for size in CODEBOOK_SIZES], 1)
    return SidIndex(np.arange(num_items), codes, level_letters(len(CODEBOOK_SIZES)), CODEBOOK_SIZES)


def as_json(folder: Path) -> Path:
    """The same dataset with `inter.json` instead of the table."""
    copy = folder.with_name(f"{folder.name}-json")
    (copy / NAME).mkdir(parents=True)
    frame = pl.read_parquet(folder / NAME / f"{NAME}.{TABLE}" / "*.parquet")
    users = frame.group_by("user", maintain_order=True).agg("item")
    (copy / NAME / f"{NAME}.{JSON}").write_text(json.dumps(dict(users.iter_rows())))
    for file in (f"{NAME}/{NAME}.item.json", "index.npz", "index.meta.json"):
        (copy / file).symlink_to(folder / file)
    return copy


def map_users(folder: Path) -> Measured:
    """The first load, which maps the table."""
    from src.common import table_reader  # noqa: F401 imported before memory is looked at
    from src.common.artifacts import dataset_paths
    from src.common.interactions import load_sequences

    return measured(lambda: len(load_sequences(dataset_paths(folder, NAME)).items))


def read_batches(folder: Path) -> Measured:
    """Loads and splits the dataset and reads batches; their hash is the result."""
    import torch

    from scripts.make_tiny_model import TinyModelConfig
    from scripts.tiny_families import chatml_tokenizer
    from src.collate import TrainingCollator
    from src.dataset import Mixture, ShuffledSampler, TaskDataset
    from src.prompt import PromptBuilder, PromptSettings
    from src.tasks.catalogue import load_catalogue
    from src.tasks.task import load_task

    torch.set_num_threads(1)
    tokenizer = chatml_tokenizer(TinyModelConfig("qwen2", Path(), Path(), vocab_size=600), ["Item 1, Item 2"] * 100)
    tokenizer.add_tokens(random_index(NUM_ITEMS).all_tokens)

    def work() -> dict[str, Any]:
        catalogue = load_catalogue(folder, NAME, folder / "index.npz")
        builder = PromptBuilder(catalogue, tokenizer, None, PromptSettings())
        train, valid = (TaskDataset(load_task("seqrec"), builder, split) for split in ("train", "valid"))
        mixture, digest = Mixture([train]), hashlib.sha256()
        loader = torch.utils.data.DataLoader(
            mixture, BATCH_SIZE, sampler=ShuffledSampler(mixture, 42),
            collate_fn=TrainingCollator(tokenizer.pad_token_id, mrope=False),
        )  # fmt: skip
        began = cpu_seconds()
        for _, batch in zip(range(NUM_BATCHES), loader, strict=False):
            digest.update(batch["input_ids"].numpy().tobytes() + batch["labels"].numpy().tobytes())
        seconds = cpu_seconds() - began
        return {"batches": digest.hexdigest(), "sizes": (len(train), len(valid)), "seconds": seconds}

    return measured(work)


def user_rows(quick: bool) -> Iterator[Row]:
    sizes = (20_000, 200_000, 2_000_000) if quick else (100_000, 1_000_000, 10_000_000)
    mapped, read = {}, {}
    for number, size in enumerate(sizes):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "table"
            rows = write_users(folder, size)
            mapped[size], read[size] = alone(map_users, folder), alone(read_batches, folder)
            what = f"{size:,} users, {rows:,} interactions"
            yield Row(f"{what}: mapping the table, once", mapped[size].seconds, "s", higher_is_better=False)
            yield memory_row(f"{what}: mapping", mapped[size])
            yield memory_row(f"{what}: loading, splitting, {NUM_BATCHES:,} batches", read[size])
            seconds = read[size].result["seconds"]
            yield Row(f"{what}: loading and splitting", read[size].seconds - seconds, "s", higher_is_better=False)
            yield Row(f"{what}: a batch of {BATCH_SIZE}", 1000 * seconds / NUM_BATCHES, "ms", higher_is_better=False)
            if number < 2:
                yield from rival_rows(what, read[size], alone(read_batches, as_json(folder)))
    for what, runs, small in (  # a small table is smaller than the batches in which a large one is read
        ("mapping", mapped, sizes[1]),
        (f"loading, splitting, {NUM_BATCHES:,} batches", read, sizes[0]),
    ):
        large = sizes[-1]
        yield Row(
            f"{what}: memory at {large:,} / {small:,} users",
            runs[large].peak / runs[small].peak,
            "x",
            higher_is_better=False,
            goal=FLAT,
            rival="the same with fewer users",
            note=f"{runs[small].peak:.0f} -> {runs[large].peak:.0f} MB, imports included",
        )


def memory_row(name: str, run: Measured) -> Row:
    note = f"{run.before:.0f} MB of them imports"
    return Row(f"{name}: peak", run.peak, "MB", higher_is_better=False, note=note)


def rival_rows(what: str, ours: Measured, rival: Measured) -> Iterator[Row]:
    is_equal = all(ours.result[name] == rival.result[name] for name in ("batches", "sizes"))
    above = [run.peak - run.before for run in (rival, ours)]
    common = {"rival": f"the same from {JSON}", "equal": is_equal}
    yield Row(
        f"{what}: memory of {JSON} / of the table", above[0] / above[1], "x",
        note=f"{above[0]:.0f} against {above[1]:.0f} MB above the imports", **common,
    )  # fmt: skip
    yield Row(
        f"{what}: CPU time of {JSON} / of the table", rival.seconds / ours.seconds, "x",
        note=f"{rival.seconds:.1f} against {ours.seconds:.1f} s, mapping not included", **common,
    )  # fmt: skip


# ---- items -----------------------------------------------------------------------------------------------------------
def load_index(path: Path) -> Measured:
    """Loads an index and builds the trie of its items; the result tells the codes, and what each of the two took."""
    import torch

    from src.common.index_files import load_sid_index
    from src.trie import Trie

    torch.set_num_threads(1)

    def work() -> dict[str, Any]:
        began, before = cpu_seconds(), anonymous_megabytes()
        index = load_sid_index(path)
        loaded, held = cpu_seconds(), anonymous_megabytes() - before
        trie = Trie(index.codes)
        built = cpu_seconds()
        tables = (*trie.pointer, *trie.token, trie.leaf_of, trie.rows, trie.leaf_pointer)
        return {
            "codes": hashlib.sha256(np.ascontiguousarray(index.codes, np.int64)).hexdigest(),
            "leaves": trie.num_leaves,
            "load": loaded - began,
            "held": held,
            "build": built - loaded,
            "bytes": sum(table.nbytes for table in tables) / len(index.item_ids),
        }

    return measured(work)


def item_rows(quick: bool) -> Iterator[Row]:
    from src.common.index_files import save_sid_index

    for number, size in enumerate((10_000, 100_000, 1_000_000) if quick else (100_000, 1_000_000, 10_000_000)):
        with tempfile.TemporaryDirectory() as name:
            compact, text = Path(name) / "index.npz", Path(name) / "index.json"
            index = random_index(size)
            distinct = len(np.unique(np.ravel_multi_index(tuple(index.codes.T), CODEBOOK_SIZES)))
            save_sid_index(compact, index, {})
            ours, what = alone(load_index, compact), f"{size:,} items"
            result = ours.result
            common = {"higher_is_better": False, "equal": result["leaves"] == distinct}
            yield Row(f"{what}: loading the .npz", result["load"], "s", **common)
            yield Row(f"{what}: memory that it keeps", result["held"], "MB", note="its codes are mapped", **common)
            yield Row(f"{what}: building the trie", result["build"], "s", **common)
            yield Row(f"{what}: the trie", result["bytes"], "bytes an item", **common)
            peak, note = ours.peak - ours.before, f"{ours.before:.0f} MB of imports not included"
            yield Row(f"{what}: peak of both", peak, "MB", note=note, **common)
            if number < 2:
                save_sid_index(text, index, {})
                rival = alone(load_index, text).result
                yield Row(
                    f"{what}: time to load .json / .npz",
                    rival["load"] / result["load"],
                    "x",
                    rival="the same as .json",
                    equal=rival["codes"] == result["codes"],
                    note=f"{rival['load']:.3g} against {result['load']:.3g} s",
                )


PARTS = {"users": user_rows, "items": item_rows}

if __name__ == "__main__":
    run(PARTS, __doc__)
