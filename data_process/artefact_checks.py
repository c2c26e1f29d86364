"""Every file of a dataset against its contract (docs/data_format.md), through the readers that the stages use."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_process.findings import Findings, some
from data_process.item_texts import clean
from data_process.preparation import YEAR_2200
from src.common import artifacts, dataset_readers, index_files
from src.common.artifacts import DatasetPaths
from src.common.images import undecodable
from src.tasks.catalogue import leave_one_out_ends

MAKE_AGAIN = "make it again from the raw data, together with the files beside it"


@dataclass
class Contents:
    """What could be read of a dataset; empty or None where a file is absent or broken."""

    paths: DatasetPaths
    interactions: dict[str, list[int]] = field(default_factory=dict)
    times: dict[str, list[int]] | None = None
    items: dict[int, dict[str, Any]] = field(default_factory=dict)
    splits: dict[str, list[int]] | None = None

    @property
    def item_ids(self) -> set[int]:
        """The catalogue, as far as it is known."""
        return set(self.items) or set().union(*self.interactions.values())

    @property
    def trained_items(self) -> set[int]:
        """The items of the training parts."""
        return set().union(*(sequence[: self.ends(user)[0]] for user, sequence in self.interactions.items()))

    def ends(self, user: str) -> tuple[int, int]:
        """Where the training and the validation part of a user end."""
        if self.splits is not None:
            train, valid = self.splits[user]
            return train, train + valid
        ends = leave_one_out_ends(np.array(len(self.interactions[user])))
        return int(ends[0]), int(ends[1])


def check_files(paths: DatasetPaths, findings: Findings, decode_images: bool) -> Contents:
    """Reads everything there is; gives what could be read, for the checks that need several files."""
    contents = Contents(paths)
    _check_interactions(contents, findings)
    if contents.interactions:
        _check_times(contents, findings)
        _check_splits(contents, findings)
    _check_items(contents, findings)
    _check_id_maps(contents, findings)
    if contents.items:
        _check_images(contents, findings, decode_images)
        _check_image_urls(contents, findings)
        _check_enriched(contents, findings)
    for path in sorted(paths.folder.glob(f"{paths.dataset}.emb-*.npy")):
        _check_embeddings(path, contents, findings)
    places = (f"{paths.dataset}.index*", f"index/*/{paths.dataset}.index*")
    for path in sorted(path for place in places for path in paths.folder.glob(place)):
        if path.suffix in (".json", ".npz") and not path.name.endswith(".meta.json"):
            _check_index(path, contents, findings)
    return contents


# ---- sequences -------------------------------------------------------------------------------------------------------
def _check_interactions(contents: Contents, findings: Findings) -> None:
    path = contents.paths.file("inter.json")
    if not path.is_file():
        others = some(other.name for other in sorted(contents.paths.folder.glob("*.inter.json")))
        hint = f"call the folder as {others} begins" if others else "make it with data_process/csv_data_process.py"
        findings.error(path, "it does not exist, and every stage needs it", hint)
        return
    contents.interactions = findings.read(path, lambda: dataset_readers.load_interactions(contents.paths)) or {}
    empty = [user for user, sequence in contents.interactions.items() if not sequence]
    if empty:
        findings.error(path, f"{len(empty):,} users have no item, such as {some(empty)}", "leave them out")
    short = sum(0 < len(sequence) < 3 for sequence in contents.interactions.values())
    if short and not contents.paths.file("split.json").is_file():
        findings.warn(path, f"{short:,} users have one or two items: they only train")


def _check_times(contents: Contents, findings: Findings) -> None:
    path = contents.paths.file("times.json")
    if not path.is_file():
        return
    times = findings.read(path, lambda: dataset_readers.load_times(contents.paths, contents.interactions))
    if times is None:
        return
    whole = {user: times[user] for user in contents.interactions}
    odd = [user for user, row in whole.items() if not all(type(time) is int for time in row)]
    if odd:
        findings.error(path, f"users such as {some(odd)} have times that are no whole numbers", "write unix seconds")
        return
    contents.times = whole
    unsorted = [user for user, row in whole.items() if any(a > b for a, b in pairwise(row))]
    if unsorted:
        findings.error(
            path,
            f"of {len(unsorted):,} users a later item has an earlier time, such as {some(unsorted)}: then the items of"
            f" {contents.paths.file('inter.json').name} are not oldest first, and the target is not the latest",
            "sort both files by time",
        )
    latest = max(max(row, default=0) for row in whole.values())
    if latest > YEAR_2200:
        findings.error(path, f"the latest time, {latest:,}, lies after the year 2200", "divide milliseconds by 1000")
    extra = len(set(times) - set(whole))
    if extra:
        findings.warn(path, f"it has {extra:,} users that the interactions lack", MAKE_AGAIN)


def _check_splits(contents: Contents, findings: Findings) -> None:
    path = contents.paths.file("split.json")
    if not path.is_file():
        return
    splits = findings.read(path, lambda: dataset_readers.load_splits(contents.paths))
    if splits is None:
        return
    wrong = [
        user
        for user, sequence in contents.interactions.items()
        if not _is_split(splits.get(user) if isinstance(splits, dict) else None, len(sequence))
    ]
    if wrong:
        findings.error(
            path,
            f"{len(wrong):,} users lack [items that train, items that validate], or these are more than the user has,"
            f" such as {some(wrong)}",
            MAKE_AGAIN,
        )
        return
    contents.splits = splits
    train, valid = np.array([splits[user] for user in contents.interactions]).sum(0).tolist()
    test = sum(map(len, contents.interactions.values())) - train - valid
    for part, count in (("train", train), ("validate", valid), ("test", test)):
        if not count:
            findings.warn(path, f"no interaction is left to {part}", "choose other shares")


def _is_split(row: Any, length: int) -> bool:
    is_pair = isinstance(row, list) and [type(number) for number in row] == [int, int]
    return is_pair and min(row) >= 0 and sum(row) <= length


# ---- items -----------------------------------------------------------------------------------------------------------
def _check_items(contents: Contents, findings: Findings) -> None:
    path, inter = contents.paths.file("item.json"), contents.paths.file("inter.json")
    if not path.is_file():
        findings.warn(path, "it does not exist: nothing but the baselines works without texts of the items")
        return
    contents.items = findings.read(path, lambda: dataset_readers.load_items(contents.paths)) or {}
    if not contents.items:
        return
    used = Counter(item for sequence in contents.interactions.values() for item in sequence)
    unknown = sorted(used.keys() - contents.items.keys())
    if unknown:
        findings.error(
            inter, f"{len(unknown):,} items are not in {path.name}, such as {some(unknown)}", "add them, or drop them"
        )
    unused = sorted(contents.items.keys() - used.keys())
    if unused and contents.interactions:
        findings.warn(path, f"{len(unused):,} items stand in no sequence, such as {some(unused)}")
    for name in ("title", "description"):
        empty = [item for item, fields in contents.items.items() if not fields[name].strip()]
        if empty:
            findings.warn(path, f"{len(empty):,} items have no {name}, such as {some(empty)}")
    raw = [
        item
        for item, fields in contents.items.items()
        if any(clean(fields[name]) != " ".join(fields[name].split()) for name in dataset_readers.ITEM_FIELDS)
    ]
    if raw:
        findings.warn(path, f"{len(raw):,} items have HTML or control characters in their texts, such as {some(raw)}")


def _check_id_maps(contents: Contents, findings: Findings) -> None:
    users = set(contents.interactions)
    for suffix, known in (("item2id", set(map(str, contents.item_ids))), ("user2id", users)):
        path = contents.paths.file(suffix)
        if not path.is_file():
            continue
        table = findings.read(path, partial(dataset_readers.load_id_map, path))
        if table is None or not known:
            continue
        twice = [number for number, count in Counter(table.values()).items() if count > 1]
        if twice:
            findings.error(path, f"{len(twice):,} numbers stand for several names, such as {some(twice)}", MAKE_AGAIN)
        missing = sorted(known - set(map(str, table.values())))
        if missing:
            findings.warn(path, f"it lacks {len(missing):,} of {len(known):,} ids, such as {some(missing)}", MAKE_AGAIN)


def _check_images(contents: Contents, findings: Findings, decode: bool) -> None:
    path, folder = contents.paths.file("item.json"), contents.paths.folder / "images"
    found = findings.read(folder, lambda: dataset_readers.find_images(contents.paths, contents.items))
    if found is None:
        return
    expected = len(contents.items) if found else sum(bool(fields.get("image")) for fields in contents.items.values())
    if expected > len(found):
        missing = sorted(contents.items.keys() - found.keys())
        findings.warn(
            path,
            f"{expected - len(found):,} of {len(contents.items):,} items have no picture, such as {some(missing)}",
            "fetch them again, or leave it: these items are asked about in words only",
        )
    bad = undecodable(sorted(set(found.values()))) if decode else {}
    if bad:
        names = some(file.name for file in bad)
        findings.error(folder, f"{len(bad):,} pictures do not decode, such as {names}", "delete or fetch them again")


def _check_image_urls(contents: Contents, findings: Findings) -> None:
    path = contents.paths.file("image_urls.json")
    if not path.is_file():
        return
    table = findings.read(path, lambda: dataset_readers.load_image_urls(path))
    if table is None:
        return
    unknown = sorted(set(table) - set(map(str, contents.items)))
    if unknown:
        findings.warn(path, f"{len(unknown):,} items are not in the catalogue, such as {some(unknown)}", MAKE_AGAIN)


def _check_enriched(contents: Contents, findings: Findings) -> None:
    path = contents.paths.file("item_enriched_v2.json")
    if not path.is_file():
        return
    enriched = findings.read(path, lambda: dataset_readers.load_enriched_items(contents.paths))
    if enriched is None:
        return
    unknown = sorted(enriched.keys() - contents.items.keys())
    if unknown:
        findings.error(path, f"{len(unknown):,} items are not in the catalogue, such as {some(unknown)}", MAKE_AGAIN)
    missing = sorted(contents.items.keys() - enriched.keys())
    if missing:
        findings.warn(
            path, f"{len(missing):,} items are not enriched, such as {some(missing)}", dataset_readers.MAKE_ENRICHED
        )


# ---- embeddings and SIDs ---------------------------------------------------------------------------------------------
def _check_embeddings(path: Path, contents: Contents, findings: Findings) -> None:
    loaded = findings.read(path, lambda: artifacts.load_embeddings(path))
    if loaded is None:
        return
    array, ids = loaded
    if len(array) > 1 and (array == array[0]).all():
        findings.error(path, "all rows are equal", "look at what the encoder was given, and make it again")
    missing, unknown = sorted(contents.item_ids - set(ids)), sorted(set(ids) - contents.item_ids)
    if missing and contents.trained_items.isdisjoint(missing):  # cf_embeddings.py leaves them out
        findings.warn(
            path,
            f"{len(missing):,} items that nobody has in the training part have no row, such as {some(missing)}",
            "leave it to --cf_path and fuse_embeddings.py --missing mean; an index of it alone would lack these items",
        )
    elif missing:
        findings.error(path, f"{len(missing):,} items have no row, such as {some(missing)}", "make it again")
    if unknown:
        findings.warn(path, f"{len(unknown):,} rows are of items outside the catalogue, such as {some(unknown)}")


def _check_index(path: Path, contents: Contents, findings: Findings) -> None:
    remedy = "bash index/generate.sh"
    index = findings.read(path, lambda: index_files.load_sid_index(path, sorted(contents.item_ids)))
    if index is None:
        return
    rate = index.collision_rate()
    if rate:
        findings.warn(path, f"items share SIDs: collision rate {rate:.2%}", f"{remedy}, without --dedup none")
    for entry in index.meta.get("embeddings", ()):
        source = Path(entry["path"])
        if source.is_file() and artifacts.file_hash(source) != entry["sha256"]:
            findings.warn(path, f"{source} has changed since the index was made from it", remedy)
