"""A small shop in the raw formats: 40 users, 12 items, times of whole days with ties, odd texts, a few broken lines."""

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

DAY, FIRST_DAY = 86_400, 1_356_998_400
WITHOUT_METADATA = "B11"
BROKEN = 3  # lines of the ratings
SUFFIXES = ("inter.json", "times.json", "item.json", "item2id", "user2id")


class Rating(NamedTuple):
    item: str
    user: str
    time: int


def ratings() -> list[Rating]:
    """In the order of the input; a user rates an item twice here and there."""
    rng = random.Random(3)
    return [
        Rating(f"B{rng.randrange(12):02d}", f"A{rng.randrange(40)}", FIRST_DAY + DAY * rng.randrange(60))
        for _ in range(700)
    ]


def metadata(number: int) -> dict:
    """Amazon 2018's fields of an item."""
    return {
        "asin": f"B{number:02d}",
        "title": f'Cable &amp;amp; plug <b>{number}</b>, 12" & < 3 m',
        "description": ["First<br />line.", "It's &quot;good&quot;.\n\tReally  good. " * (400 if number == 2 else 1)],
        "brand": "by\n    Nor",
        "category": ["Home", "Cables &amp; plugs", "</span></span>"],
        "imageURL": [f"https://images.example/{number}-small.jpg"],
        "imageURLHighRes": [f"https://images.example/{number}.jpg"] if number % 2 else [],
        "price": "$3",
    }


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), 1) if path.suffix == ".gz" else text.encode())
    return path


def write_amazon18(folder: Path, category: str = "Shop") -> Path:
    rows = [f"{row.item},{row.user},4.0,{row.time}" for row in ratings()]
    rows[5:5] = ["half a line", "", "B01,A1,5.0,yesterday", ",A1,5.0,1"]
    write_lines(folder / f"{category}.csv", rows)
    reviews = (
        {"overall": 4.0, "reviewerID": row.user, "asin": row.item, "reviewText": "{" * 50, "unixReviewTime": row.time}
        for row in ratings()
    )
    write_lines(folder / "reviews" / f"{category}_5.json.gz", map(json.dumps, reviews))
    items = [json.dumps(metadata(number)) for number in range(11)]
    items += ['{"asin": "B01", "title": "the second row of an item"}', '{"asin": ']
    write_lines(folder / f"meta_{category}.json.gz", items)
    return folder


def write_amazon23(folder: Path, category: str = "Shop") -> Path:
    """The same shop in the later release: times in milliseconds, images as tables, brands in the details."""
    rows = [f"{row.user},{row.item},4.0,{row.time}000" for row in ratings()]
    header = "user_id,parent_asin,rating,timestamp"
    write_lines(folder / "whole" / f"{category}.csv.gz", [header, *rows])
    for part, share in (("train", rows[:500]), ("valid", rows[500:600]), ("test", rows[600:])):
        with_history = [f"{row},B01 B02" for row in share]
        write_lines(folder / "parts" / f"{category}.{part}.csv", [f"{header},history", *with_history])
    reviews = (
        {"rating": 4.0, "user_id": r.user, "asin": "X", "parent_asin": r.item, "timestamp": r.time * 1000, "images": []}
        for r in ratings()
    )
    write_lines(folder / "reviews" / f"{category}.jsonl.gz", map(json.dumps, reviews))
    items = []
    for number in range(11):
        old = metadata(number)
        images = [{"thumb": "t", "large": url, "variant": "MAIN", "hi_res": None} for url in old["imageURL"]]
        if old["imageURLHighRes"]:
            images[0]["hi_res"] = old["imageURLHighRes"][0]
        new = {"parent_asin": old["asin"], "title": old["title"], "description": old["description"], "images": images}
        new |= {"categories": old["category"][:2], "store": "A store", "details": {"Brand": "Nor"}}
        if number == 3:
            new |= {
                "details": json.dumps({"Brand": "Nor", "Weight": "1 g"}),
                "description": " ".join(old["description"]),
            }
        items.append(json.dumps(new))
    for place in ("whole", "parts", "reviews"):
        write_lines(folder / place / f"meta_{category}.jsonl.gz", items)
    return folder


# ---- entries ---------------------------------------------------------------------------------------------------------
def run(entry, raw: Path, output: Path, *flags: str, plots: bool = False) -> None:
    common = ["--dataset", "Shop", "--input_path", str(raw), "--output_path", str(output), "--plots", str(plots)]
    entry.main([*common, *flags])


def files(output: Path, suffixes=SUFFIXES) -> dict[str, bytes]:
    return {suffix: (output / "Shop" / f"Shop.{suffix}").read_bytes() for suffix in suffixes}


def refused(capsys, entry, raw, output, *flags) -> str:
    with pytest.raises(SystemExit) as ended:
        run(entry, raw, output, *flags)
    assert ended.value.code == 2
    assert not (output / "Shop" / "Shop.inter.json").exists()
    return capsys.readouterr().err
