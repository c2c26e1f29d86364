"""Items, histories and splits of one dataset, checked once and held as integer arrays, in memory or mapped."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.common import artifacts, dataset_readers, index_files
from src.common.artifacts import DatasetPaths
from src.common.images import undecodable
from src.common.interactions import (
    UserSequences,
    blocks_of,
    interaction_inputs,
    interactions_path,
    leave_one_out_ends,
    load_sequences,
    split_ends,
)
from src.common.log import logger
from src.common.pictures import pictures_entry
from src.common.record import Entry
from src.common.sid import SidIndex, join_indexes
from src.tasks.task import Split
from src.tasks.texts import UserTexts, hash_buckets

WIDE = 100  # largest item id for each item above which it is said that ids have wide gaps


class Targets(NamedTuple):
    """Items to predict: the item at `positions[i]` of user `users[i]`'s sequence. Both (M,) int64."""

    users: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """One dataset.

    Attributes:
        users: name of each user; a list, or a sequence that reads them from disk.
        offsets: (U + 1,) int64; the sequence of user u is `sequence[offsets[u]:offsets[u + 1]]`, oldest item first.
        sequence: (T,) int64 item ids of all users, one after another.
        train_end, valid_end: (U,) int64; of a sequence, positions below train_end train, those from there to
            valid_end validate, the rest tests.
        item_ids: (N,) int64 ascending: the items that may be recommended.
        items: fields of each item id.
        sid_index: SIDs, one for every item; None where no index was asked for.
        image_files: picture of each item that has one.
        enriched: further fields of the items that were enriched (`texts.add_texts`).
        user_texts: queries and preferences of users, by slot (likewise).
        is_mapped: whether the arrays of users and sequences lie on disk, since they may not fit into memory.
    """

    paths: DatasetPaths
    users: Sequence[str]
    offsets: np.ndarray
    sequence: np.ndarray
    train_end: np.ndarray
    valid_end: np.ndarray
    item_ids: np.ndarray
    items: dict[int, dict[str, Any]]
    sid_index: SidIndex | None = None
    image_files: dict[int, Path] = field(default_factory=dict)
    enriched: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    user_texts: Mapping[str, UserTexts] = field(default_factory=dict)
    is_mapped: bool = False

    @property
    def name(self) -> str:
        return self.paths.dataset

    def input_files(self) -> dict[str, Path]:
        """The files that this was read from, by what they are; of pictures see `input_pictures`."""
        named = {"split": "split.json", "items": "item.json"}
        named |= {"enriched items": "item_enriched_v2.json"} if self.enriched else {}
        named |= {"texts about users": "user.json"} if self.user_texts else {}
        files = interaction_inputs(self.paths) | {name: self.paths.file(suffix) for name, suffix in named.items()}
        if self.sid_index is not None and self.sid_index.path is not None:
            files["index"] = self.sid_index.path
        return {name: path for name, path in files.items() if path.is_file()}

    def input_pictures(self, image_path: str) -> dict[str, Entry]:
        """All pictures of the items as one input of a record, broken ones too; nothing where there are none."""
        files = dataset_readers.find_images(self.paths, self.items, image_path)
        return pictures_entry(self.paths.folder, files.values(), image_path)

    @property
    def interactions_path(self) -> Path:
        """What messages name where a sequence is at fault."""
        return interactions_path(self.paths)

    @property
    def index(self) -> SidIndex:
        """The SIDs, where they are needed.

        Raises:
            ValueError: the dataset was read without an index.
        """
        if self.sid_index is None:
            raise ValueError(f"{self.name} was read without SIDs: give --index_file")
        return self.sid_index

    @property
    def num_users(self) -> int:
        return len(self.users)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def is_leave_one_out(self) -> bool:
        """Whether of every sequence of 3 items or more the last item tests and the one before it validates."""
        return np.array_equal((self.train_end, self.valid_end), leave_one_out_ends(self.lengths))

    def history(self, user: int, position: int, max_his_len: int = 0) -> np.ndarray:
        """Items of `user` before `position`, oldest first; the last `max_his_len` of them (0: all)."""
        start = max(0, position - max_his_len) if max_his_len else 0
        return self.sequence[self.offsets[user] + start : self.offsets[user] + position]

    def target(self, user: int, position: int) -> int:
        return int(self.sequence[self.offsets[user] + position])

    def next_item_targets(self, split: Split) -> Targets:
        """Every (user, position) of the split that has at least one item before it, users in order.

        `train` holds each position of the training part from the second on; `valid` and `test` hold, unless
        `<DS>.split.json` says otherwise, one position a user: the last item but one, and the last.
        """
        start, end = self.target_spans(split, slice(0, self.num_users))
        counts = np.maximum(end - start, 0)
        users = np.repeat(np.arange(self.num_users), counts)
        within = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Targets(users, start[users] + within)

    def target_spans(self, split: Split, users: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the targets of a split begin and end in the sequences of some users; none where that is no later."""
        if split == "train":
            end = self.train_end[users]
            return np.ones_like(end), end
        if split == "valid":
            return np.maximum(self.train_end[users], 1), self.valid_end[users]
        begins = self.offsets[:-1][users]
        return np.maximum(self.valid_end[users], 1), self.offsets[1:][users] - begins

    def num_targets(self, split: Split) -> int:
        """Length of `next_item_targets`, without making them."""
        spans = (self.target_spans(split, block) for block in blocks_of(self.num_users))
        return sum(int(np.maximum(end - start, 0).sum()) for start, end in spans)

    def sid_tokens(self, item_id: int) -> list[str]:
        """SID tokens of an item, coarsest level first."""
        return self.index.tokens_of(int(self.index.rows_of([item_id])[0]))

    @cached_property
    def popularity(self) -> np.ndarray:
        """(largest item id + 1,) int64: how often each item stands in the training parts."""
        counts = np.zeros(int(self.item_ids[-1]) + 1, np.int64)
        for block in blocks_of(self.num_users):
            offsets = self.offsets[block.start : block.stop + 1]
            lengths = np.diff(offsets)
            position = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
            training = position < np.repeat(self.train_end[block], lengths)
            np.add.at(counts, self.sequence[offsets[0] : offsets[-1]][training], 1)
        return counts

    def item_split(self, split: Split, holdout: bool) -> np.ndarray:
        """Items of a split of the item tasks.

        By a hash of the item id, 8:1:1, whatever the seed. Without `holdout` every item trains, and `valid` and `test`
        hold items that were seen in training.
        """
        if split == "train" and not holdout:
            return self.item_ids
        bucket = hash_buckets(self.item_ids)
        if not holdout:
            return self.item_ids if split == "test" else self.item_ids[bucket == 8]
        return self.item_ids[{"train": bucket < 8, "valid": bucket == 8, "test": bucket == 9}[split]]

    def enriched_split(self, split: Split) -> np.ndarray:
        """Enriched items of a split: those that validate and test never train."""
        items = self.item_split(split, holdout=True)
        return items[np.isin(items, list(self.enriched))]


def load_catalogue(
    data_path: str | Path,
    dataset: str,
    index_file: str | Path | None = None,
    image_path: str | None = None,
    needs_texts: bool = True,
) -> Catalogue:
    """Reads and checks a dataset.

    Args:
        data_path: folder that holds `<dataset>/`.
        index_file: SID index, as a path or a suffix; None leaves SIDs out.
        image_path: folder of pictures inside the dataset's; None leaves pictures out.
        needs_texts: False: where `<DS>.item.json` is absent, the items are those of the interactions, without texts.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, a sequence names an unknown item, an item lacks a
            SID; the message names the file and the remedy.
    """
    paths = artifacts.dataset_paths(data_path, dataset)
    sequences = load_sequences(paths)
    if needs_texts or paths.file("item.json").is_file():
        items = dataset_readers.load_items(paths)
    else:
        logger.info("%s is absent: the items are those of the interactions", paths.file("item.json"))
        items = dict.fromkeys(sequences.distinct.tolist(), dict.fromkeys(dataset_readers.ITEM_FIELDS, ""))
    if not items:
        raise ValueError(f"{paths.file('item.json')} holds no item")
    item_ids = np.array(sorted(items), np.int64)
    if item_ids[-1] > WIDE * len(item_ids) + 10**6:
        logger.warning(
            "%s: the largest id of %d items is %d. Tables are as long as that: number items from 0 to save memory and"
            " time", paths.file("item.json"), len(item_ids), item_ids[-1],
        )  # fmt: skip
    unknown = np.setdiff1d(sequences.distinct, item_ids, assume_unique=True)
    if len(unknown):
        _say_unknown(paths, sequences, unknown)
    train_end, valid_end = split_ends(paths, sequences)
    untitled = sum(not fields["title"].strip() for fields in items.values())
    if untitled and needs_texts:
        logger.warning("%s: %d of %d items have an empty title", paths.file("item.json"), untitled, len(items))
    users, offsets, num_users = sequences.users, sequences.offsets, len(sequences.users)
    short = sum(int((np.diff(offsets[b.start : b.stop + 1]) < 3).sum()) for b in blocks_of(num_users))
    if short:
        logger.info("%s: %d of %d users have fewer than 3 items: they train only", dataset, short, num_users)

    sid_index = None
    if index_file is not None:
        sid_index = index_files.load_sid_index(index_files.resolve_index_file(index_file, paths), item_ids)
        _doubt(sid_index, paths, len(item_ids))
    image_files = dataset_readers.find_images(paths, items, image_path) if image_path else {}
    return Catalogue(
        paths, users, offsets, sequences.items, train_end, valid_end, item_ids, items, sid_index, image_files,
        is_mapped=sequences.is_mapped,
    )  # fmt: skip


def whole_images(catalogue: Catalogue, items: Iterable[int], skip_bad: bool) -> Catalogue:
    """The catalogue without those pictures of `items` that do not decode; an item without a picture is passed over.

    Raises:
        ValueError: there is one, and `skip_bad` is False.
    """
    files = {item: catalogue.image_files[item] for item in items if item in catalogue.image_files}
    bad = undecodable(files.values())
    if bad and not skip_bad:
        raise ValueError(f"{len(bad)} of {len(files)} pictures are broken, the first: {next(iter(bad.values()))}")
    kept = {item: path for item, path in catalogue.image_files.items() if path not in bad}
    return replace(catalogue, image_files=kept)


def _doubt(index: SidIndex, paths: DatasetPaths, num_items: int) -> None:
    """Says where an index fits, and is perhaps of other items all the same."""
    made_of = index.meta.get("dataset", paths.dataset)
    if made_of != paths.dataset:
        logger.warning(
            "%s is of the dataset %s, not %s: right only if both number the same items alike",
            index.path, made_of, paths.dataset,
        )  # fmt: skip
    strangers = len(index.item_ids) - num_items
    if strangers and paths.file("item.json").is_file():  # else the items that somebody has, which may be fewer
        logger.warning(
            "%s has SIDs of %d items that %s lacks: if the dataset was made anew since, ids mean other items. Then make"
            " embeddings and index again", index.path, strangers, paths.file("item.json"),
        )  # fmt: skip


def _say_unknown(paths: DatasetPaths, sequences: UserSequences, unknown: np.ndarray) -> None:
    """Raises ValueError with the first entry of an item that the catalogue lacks, and their number."""
    first, count = -1, 0
    for block in blocks_of(len(sequences.items), 1 << 20):
        wrong = np.isin(sequences.items[block], unknown)
        count += int(wrong.sum())
        if first < 0 and wrong.any():
            first = block.start + int(wrong.argmax())
    user = sequences.users[int(np.searchsorted(sequences.offsets, first, side="right")) - 1]
    raise ValueError(
        f"{interactions_path(paths)}: user {user!r} has item {sequences.items[first]}, which"
        f" {paths.file('item.json')} lacks ({count} such entries). Add the item, or drop it"
    )


def join_catalogues(catalogues: Sequence[Catalogue]) -> tuple[SidIndex, dict[int, dict[str, Any]]]:
    """What datasets that train one model share: the grid of their SID tokens, and the items that these stand for.

    Returns:
        index: its grid has, at each level, the largest codebook; item ids are numbered on from dataset to dataset.
        items: fields of each of these items.

    Raises:
        ValueError: SIDs of unequal levels.
    """
    if len(catalogues) == 1:
        return catalogues[0].index, catalogues[0].items
    index, starts = join_indexes([catalogue.index for catalogue in catalogues])
    items: dict[int, dict[str, Any]] = {}
    for catalogue, start in zip(catalogues, starts, strict=True):
        items |= {start + item: fields for item, fields in catalogue.items.items()}
    return index, items
