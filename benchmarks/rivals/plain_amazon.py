"""The rival of the data stage: the usual loop over lines, sets of tuples and dictionaries, as public code does it."""

import gzip
import html
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

Rating = tuple[str, str, float, int]  # user, item, rating, time


def read_ratings(path: Path) -> set[Rating]:
    """A ratings file, `item,user,rating,timestamp` a line."""
    ratings = set()
    with open(path) as file:
        for line in file:
            item, user, rating, time = line.strip().split(",")
            ratings.add((user, item, float(rating), int(time)))
    return ratings


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    items = {}
    with gzip.open(path, "rt") as file:
        for line in file:
            data = json.loads(line)
            items[data["asin"]] = {
                "title": clean_text(data["title"]),
                "description": clean_text(data["description"]),
                "brand": data["brand"].replace("by\n", "").strip(),
                "categories": ", ".join(text.strip() for text in data["category"] if "</span>" not in text),
            }
    return items


def clean_text(raw: Any) -> str:
    if isinstance(raw, list):
        raw = " ".join(raw)
    text = html.unescape(raw).strip()
    text = re.sub(r"<[^>]+>", " ", text)
    text = re.sub(r"[\n\t]", " ", text)
    return re.sub(r" +", " ", text).strip()


def k_core(ratings: list[Rating], user_k: int, item_k: int) -> list[Rating]:
    """Counts and filters until nothing changes."""
    while True:
        users: dict[str, int] = defaultdict(int)
        items: dict[str, int] = defaultdict(int)
        for user, item, _, _ in ratings:
            users[user] += 1
            items[item] += 1
        kept = [row for row in ratings if users[row[0]] >= user_k and items[row[1]] >= item_k]
        if len(kept) == len(ratings):
            return kept
        ratings = kept


def sequences(ratings: list[Rating]) -> list[Rating]:
    """By user and time, the first of each pair of user and item."""
    of_user: dict[str, list[Rating]] = defaultdict(list)
    for row in ratings:
        of_user[row[0]].append(row)
    ordered = []
    for rows in of_user.values():
        rows.sort(key=lambda row: row[3])
        seen = set()
        for row in rows:
            if row[1] not in seen:
                seen.add(row[1])
                ordered.append(row)
    return ordered


def write_json(path: Path, table: Any) -> None:
    with open(path, "w") as file:
        json.dump(table, file, indent=4)


def write_map(path: Path, table: dict[str, int]) -> None:
    with open(path, "w") as file:
        for name, number in table.items():
            file.write(f"{name}\t{number}\n")


def process(
    ratings_path: Path, metadata_path: Path, folder: Path, dataset: str, user_k: int = 5, item_k: int = 5
) -> None:
    """Writes inter, times, item, item2id and user2id as docs/data_format.md has them."""
    ratings = read_ratings(ratings_path)
    metadata = read_metadata(metadata_path)
    rows = [row for row in ratings if row[1] in metadata]
    rows = k_core(sequences(rows), user_k, item_k)
    user2id: dict[str, int] = {}
    item2id: dict[str, int] = {}
    interactions: dict[int, list[int]] = {}
    times: dict[int, list[int]] = {}
    for user, item, _, time in rows:
        user_id = user2id.setdefault(user, len(user2id))
        item_id = item2id.setdefault(item, len(item2id))
        interactions.setdefault(user_id, []).append(item_id)
        times.setdefault(user_id, []).append(time)
    items = {item_id: metadata[item] for item, item_id in item2id.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{dataset}.inter.json", interactions)
    write_json(folder / f"{dataset}.times.json", times)
    write_json(folder / f"{dataset}.item.json", items)
    write_map(folder / f"{dataset}.item2id", item2id)
    write_map(folder / f"{dataset}.user2id", user2id)
