"""Synthetic raw data in the exact formats of Amazon 2018: ratings as CSV, metadata as JSON lines in gzip."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

DAY, FIRST_DAY, DAYS = 86_400, 1_104_537_600, 5_000  # times of the release are whole days
LETTERS = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
WORDS = (
    *("wireless", "controller", "premium", "game", "console", "classic", "edition", "adapter", "cable", "battery"),
    *("charger", "headset", "keyboard", "mouse", "screen", "travel", "case", "stereo", "cover", "portable", "digital"),
    *("compact", "silver", "black", "white", "red", "blue", "gold", "mini", "large", "small", "sturdy", "durable"),
    *("comfortable", "easy", "fast", "quiet", "bright", "soft", "hard", "light", "heavy", "new", "original", "with"),
    *("for", "and", "the", "of", "in", "to", "a", "by", "your", "our", "best"),
)
MARKS = ("&amp;", "<br />", "&quot;quoted&quot;", "<b>", "</b>", "&#39;", "\n", '12"', "\u00e9t\u00e9")
CHUNK = 1 << 20


class RawFiles(NamedTuple):
    ratings: Path
    metadata: Path


def names(prefix: str, numbers: np.ndarray, width: int) -> pl.Series:
    """One name for each number, scattered so that neighbours do not look alike."""
    scattered = numbers.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(36**width)
    columns = [LETTERS[(scattered // np.uint64(36**place)) % np.uint64(36)] for place in range(width)]
    return (
        prefix
        + pl.DataFrame([pl.Series(str(place), column) for place, column in enumerate(columns)])
        .select(pl.concat_str(pl.all()))
        .to_series()
    )


def write_raw(folder: Path, category: str, num_ratings: int, num_items: int, seed: int = 7) -> RawFiles:
    """Ratings whose items follow a power law, of users with few and many; metadata of all items but 2 %.

    Three users in ten have one rating, seven in ten less than five; 1 % of the ratings repeat a pair.
    """
    rng = np.random.default_rng(seed)
    num_users = max(num_ratings // 6, 1)
    weights = np.cumsum(np.arange(1, num_items + 1) ** -0.8)
    activity = np.cumsum(rng.pareto(1.3, num_users) + 0.25)
    item_names = names("B0", np.arange(num_items), 8)
    user_names = names("A", np.arange(num_users), 12)
    folder.mkdir(parents=True, exist_ok=True)
    files = RawFiles(folder / f"{category}.csv", folder / f"meta_{category}.json.gz")
    with open(files.ratings, "wb") as file:
        for start in range(0, num_ratings, CHUNK):
            size = min(CHUNK, num_ratings - start)
            items = np.searchsorted(weights, weights[-1] * rng.random(size))
            users = np.searchsorted(activity, activity[-1] * rng.random(size))
            again = rng.random(size) < 0.01
            items[1:][again[1:]], users[1:][again[1:]] = items[:-1][again[1:]], users[:-1][again[1:]]
            days = FIRST_DAY + DAY * rng.integers(DAYS, size=size)
            stars = rng.integers(1, 6, size)
            rows = {"item": item_names.gather(items), "user": user_names.gather(users)}
            rows |= {"stars": pl.Series(stars).cast(pl.String) + ".0", "time": days}
            pl.DataFrame(rows).write_csv(file, include_header=False)
    with gzip.open(files.metadata, "wt", compresslevel=6) as file:
        file.writelines(_metadata_lines(rng, item_names.to_list()))
    return files


def _metadata_lines(rng: np.random.Generator, item_names: list[str]) -> Iterator[str]:
    """All fields of the release, of which a dataset takes five."""
    for number, name in enumerate(item_names):
        if number % 50 == 49:
            continue
        others = rng.integers(len(item_names), size=24)
        yield (
            json.dumps(
                {
                    "category": ["Video Games", "Accessories", _text(rng, 2), "</span></span></span>"],
                    "tech1": "",
                    "description": [_text(rng, 45), _text(rng, 30)],
                    "fit": "",
                    "title": _text(rng, 9),
                    "also_buy": [item_names[other] for other in others[:12]],
                    "image": [],
                    "tech2": "",
                    "brand": f"by\n    {WORDS[number % 40].title()}",
                    "feature": [_text(rng, 8) for _ in range(3)],
                    "rank": [">#67,231 in Video Games (See Top 100 in Video Games)"],
                    "also_view": [item_names[other] for other in others[12:]],
                    "main_cat": "Video Games",
                    "similar_item": "",
                    "date": "",
                    "price": "$19.99",
                    "asin": name,
                    "imageURL": [f"https://images.example/I/{name}._SR38,50_.jpg"],
                    "imageURLHighRes": [f"https://images.example/I/{name}.jpg"],
                }
            )
            + "\n"
        )


def _text(rng: np.random.Generator, length: int) -> str:
    words = [WORDS[place] for place in rng.integers(len(WORDS), size=length)]
    if rng.random() < 0.4:
        words[int(rng.integers(length))] = MARKS[int(rng.integers(len(MARKS)))]
    return " ".join(words)
