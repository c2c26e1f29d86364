"""What some tasks need beside items and sequences: enriched fields of items, and texts about users."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.common import dataset_readers
from src.common.log import logger
from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, USER_TEXTS, Task

if TYPE_CHECKING:
    from src.tasks.catalogue import Catalogue
    from src.tasks.task import Split

LIST_SEPARATORS = {"en": "; ", "zh": "；"}  # between the entries of a list, such as tags; an entry holds none


@dataclass(frozen=True)
class UserTexts:
    """M texts about users.

    Attributes:
        texts: what they search for, or like.
        users: (M,) int64 row of each text's user in `Catalogue.users`.
        histories: item ids that the user had then, oldest first.
        items: (M,) int64 item that was searched for; -1 where none was.
        splits: (M,) str.
    """

    texts: list[str]
    users: np.ndarray
    histories: list[np.ndarray]
    items: np.ndarray
    splits: np.ndarray

    def rows(self, split: "Split") -> np.ndarray:
        return np.flatnonzero(self.splits == split)


def hash_buckets(names: Iterable[object]) -> np.ndarray:
    """(M,) int64 in [0, 10) by a hash of each name: splits that depend on neither seed nor order."""
    return np.array([int(hashlib.sha256(str(name).encode()).hexdigest()[:8], 16) % 10 for name in names], np.int64)


def add_texts(catalogue: "Catalogue", tasks: Iterable[Task]) -> "Catalogue":
    """The catalogue with what the slots of `tasks` need: enriched items, texts about users.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken; the message names it and says how to make it.
    """
    slots = frozenset().union(*(task.slots for task in tasks))
    if slots & set(ENRICHED_TEXTS):
        catalogue = _with_enriched_items(catalogue)
    if slots & set(USER_TEXTS):
        table = dataset_readers.load_user_texts(catalogue.paths)
        makers = {"query": _queries, "preference": _preferences}
        texts = {slot: make(catalogue, table) for slot, make in makers.items() if slot in slots}
        catalogue = replace(catalogue, user_texts=texts)
    return catalogue


def _with_enriched_items(catalogue: "Catalogue") -> "Catalogue":
    table = dataset_readers.load_enriched_items(catalogue.paths)
    enriched = {item: table[item] for item in catalogue.items if item in table}
    path, total = catalogue.paths.file("item_enriched_v2.json"), len(catalogue.items)
    if not enriched:
        raise ValueError(f"{path} enriches no item of {catalogue.name}: {dataset_readers.MAKE_ENRICHED}")
    if len(enriched) < total:
        logger.warning("%s enriches %d of %d items: the others are left out", path, len(enriched), total)
    return replace(catalogue, enriched=enriched)


def text_of(catalogue: "Catalogue", slot: str, number: int, language: str) -> str:
    """The text that fills a slot: of item `number`, or of the text about a user in that row; lists are joined."""
    if slot in USER_TEXTS:
        return catalogue.user_texts[slot].texts[number]
    if slot in ITEM_TEXTS:
        return catalogue.items[number][slot]
    value = catalogue.enriched.get(number, {}).get(slot, "")
    if isinstance(value, str):
        return value
    separator = LIST_SEPARATORS[language]
    return separator.join(entry.replace(separator.strip(), ",") for entry in value if entry.strip())


# ---- users -----------------------------------------------------------------------------------------------------------
def _queries(catalogue: "Catalogue", table: dataset_readers.UserFile) -> UserTexts:
    """Every query. Those of `train` train, but for one user in ten, whose queries validate; those of `test` test.

    A training query for an item that validates or tests would tell the model what it will be asked, and is left out.
    """
    path = catalogue.paths.file("user.json")
    rows, dropped = [], 0
    for part, searches in table.searches.items():
        users = _rows_of_users(catalogue, searches, path)
        for user, bucket, search in zip(users, hash_buckets(searches), searches.values(), strict=True):
            _check_items(catalogue, [search.item, *search.history], path)
            if part == "train" and search.item not in catalogue.history(user, int(catalogue.train_end[user])):
                dropped += 1
                continue
            split = part if part == "test" else "valid" if bucket == 8 else "train"
            rows += [(query, user, search.history, search.item, split) for query in search.queries]
    if dropped:
        logger.warning("%s: %d training queries are for items that validate or test: left out", path, dropped)
    return _user_texts(rows)


def _preferences(catalogue: "Catalogue", table: dataset_readers.UserFile) -> UserTexts:
    """Every preference with the training part of its user's sequence; users train, validate and test 8:1:1."""
    users = _rows_of_users(catalogue, table.preferences, catalogue.paths.file("user.json"))
    rows = []
    for user, bucket, texts in zip(users, hash_buckets(table.preferences), table.preferences.values(), strict=True):
        history = catalogue.history(user, int(catalogue.train_end[user]))
        split = {8: "valid", 9: "test"}.get(int(bucket), "train")
        if len(history):
            rows += [(text, user, history, -1, split) for text in texts]
    return _user_texts(rows)


def _user_texts(rows: list[tuple]) -> UserTexts:
    texts, users, histories, items, splits = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    return UserTexts(
        list(texts), np.array(users, np.int64), [np.array(history, np.int64) for history in histories],
        np.array(items, np.int64), np.array(splits, str),
    )  # fmt: skip


def _rows_of_users(catalogue: "Catalogue", names: Iterable[str], path: Path) -> list[int]:
    row_of = {name: row for row, name in enumerate(catalogue.users)}
    for name in names:
        if name not in row_of:
            known = catalogue.paths.file("inter.json")
            raise ValueError(f"{path} has user {name!r}, whom {known} lacks: make it again")
    return [row_of[name] for name in names]


def _check_items(catalogue: "Catalogue", items: list[int], path: Path) -> None:
    for item in items:
        if item not in catalogue.items:
            raise ValueError(f"{path} has item {item}, which {catalogue.paths.file('item.json')} lacks: make it again")
