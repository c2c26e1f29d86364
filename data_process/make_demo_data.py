"""Makes a small dataset with pictures whose best possible predictor is known, to prove what real data cannot.

    python3 data_process/make_demo_data.py --data_path data --dataset Demo

About ten items share every word, so only pictures tell them apart; habits lead from item to item, so only sequences
tell what comes next (demo_process.py says how). demo_oracle.py gives the figures to reach. `images/` and
`images_second/` are two drawings of every item: swap them to see whether a model looks, or only knows files by heart.
Enriched items say what text and picture tell, so that a generated listing can be judged field by field.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data_process.dataset_files import write_dataset_record
from data_process.demo_process import (
    COLOURS,
    FAMILIES,
    KINDS,
    PATTERNS,
    SIZES,
    TONES,
    Process,
    draw_users,
    make_process,
    save_process,
)
from src.common.artifacts import DatasetPaths, atomic_path, write_json
from src.common.cli import new_parser, user_errors
from src.common.folders import atomic_folder
from src.common.record import plain

IMAGE_SETS = ("images", "images_second")
MIN_IMAGE_SIZE = 32  # below, fine stripes are under two pixels
FIRST_DAY, DAYS, DAY = 1_640_995_200, 730, 86_400  # sequences start in 2022 or 2023
DEPARTMENTS = {
    "T-shirt": "Clothing, Tops",
    "mug": "Home, Kitchen",
    "bag": "Accessories, Bags",
    "cap": "Accessories, Hats",
    "dress": "Clothing, Dresses",
    "vase": "Home, Decoration",
    "bottle": "Home, Kitchen",
    "cushion": "Home, Decoration",
    "umbrella": "Accessories, Rainwear",
    "sock": "Clothing, Hosiery",
}
MATERIALS = {
    "T-shirt": "organic cotton",
    "mug": "stoneware",
    "bag": "canvas",
    "cap": "cotton twill",
    "dress": "viscose",
    "vase": "glazed ceramic",
    "bottle": "recycled glass",
    "cushion": "linen",
    "umbrella": "waterproof polyester",
    "sock": "merino wool",
}
FAMILY_WORDS = {"lines": "striped prints", "spots": "small repeated prints", "blocks": "geometric prints"}
WARMTH = {  # a tag of each colour
    **dict.fromkeys(("red", "orange", "yellow", "pink"), "warm"),
    **dict.fromkeys(("lime", "green", "turquoise", "blue", "violet"), "cool"),
    "grey": "neutral",
}
SYLLABLES = ("nor", "lan", "vik", "mir", "tos", "ber", "kar", "lun", "den", "ros", "sel", "fal")  # none begins another


@dataclass(frozen=True)
class DemoConfig:
    """Size, seed and place; then the process. Its defaults put the best predictor near hit@10 = 0.60."""

    data_path: Path = Path("data")
    dataset: str = "Demo"
    items: int = 300
    users: int = 4000
    image_size: int = 112
    images: bool = True
    seed: int = 42
    habit: float = 0.52
    taste_boost: float = 12.0
    popularity_spread: float = 0.75

    def __post_init__(self):
        if self.users < 1:
            raise ValueError(f"--users {self.users} must be at least 1")
        if self.image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"--image_size {self.image_size} must be at least {MIN_IMAGE_SIZE} to show the patterns")
        if not 0 <= self.habit < 1:
            raise ValueError(f"--habit {self.habit} is a probability below 1")


def make_demo_data(config: DemoConfig) -> Path:
    """Writes the dataset and returns its folder.

    Raises:
        FileExistsError: there is a dataset of that name which was not made here.
    """
    paths = DatasetPaths(config.data_path, config.dataset)
    if paths.file("inter.json").exists() and not paths.file("demo.json").exists():
        raise FileExistsError(f"{paths.folder} holds a dataset that was not made here: choose another --dataset")
    process = make_process(config.items, config.seed, config.habit, config.taste_boost, config.popularity_spread)
    histories, lengths, tastes = draw_users(process, config.users, config.seed)
    paths.folder.mkdir(parents=True, exist_ok=True)
    write_json(paths.file("demo.json"), plain(config), indent=2)
    item_names = [f"D{item:07d}" for item in range(config.items)]
    if config.images:
        for number, folder in enumerate(IMAGE_SETS):
            _draw_pictures(process, paths.folder / folder, item_names, config, number)
    _write_items(process, paths, item_names if config.images else None)
    _write_users(paths, histories, lengths, config.seed)
    _write_lines(paths.file("item2id"), (f"{name}\t{item}" for item, name in enumerate(item_names)))
    _write_lines(paths.file("user2id"), (f"U{user:07d}\t{user}" for user in range(config.users)))
    save_process(paths, process, tastes)
    write_dataset_record(paths, config, {}, more=("item_enriched_v2.json", "truth.npz"))
    return paths.folder


def _draw_pictures(process: Process, folder: Path, names: list[str], config: DemoConfig, number: int) -> None:
    """Draws into a folder that takes the place of an earlier run's, so that no picture of that stays."""
    from data_process.demo_pictures import draw_item

    with atomic_folder(folder) as fresh:
        for item, name in enumerate(names):
            rng = np.random.default_rng([config.seed, 2 + number, item])
            picture = draw_item(process.attributes[item], config.image_size, rng)
            picture.save(fresh / f"{name}.jpg", quality=95, subsampling=0)


# ---- texts -----------------------------------------------------------------------------------------------------------
def maker_name(number: int) -> str:
    """A pronounceable name, different for every number."""
    word = ""
    while True:
        number, place = divmod(number, len(SYLLABLES))
        word += SYLLABLES[place]
        if number == 0:
            return word.capitalize() + "a"


def class_texts(text_class: int) -> dict[str, str]:
    """What the shop says of the items of one class: kind and maker, and no word of colour or motif."""
    kind, maker, words = _kind_and_maker(text_class)
    article = "An" if kind[0] in "aeiou" else "A"
    return {
        "title": f"{maker} {kind} in {MATERIALS[kind]}",
        "description": f"{article} {kind} by {maker}, made of {MATERIALS[kind]}. {maker} is known for {words}.",
        "brand": maker,
        "categories": f"{DEPARTMENTS[kind]}, {kind.capitalize()}",
    }


def enriched_texts(text_class: int, attributes: Sequence[int] | None) -> dict[str, str | list[str]]:
    """What item_enriched_v2.json says of an item: a known function of its text and of what its picture shows.

    The tags tell the colour, which only the picture shows: a model that does not look cannot get them right. Of the
    pattern, which is in the other fields, the maker tells one half.

    Args:
        attributes: kind, colour, pattern, size and tone; None where there are no pictures: then texts decide alone.
    """
    kind, maker, words = _kind_and_maker(text_class)
    material = MATERIALS[kind]
    known = [f"material: {material}", f"maker: {maker}"]
    if attributes is None:
        return {
            "enhanced_title": f"{maker} printed {kind}, {material}",
            "tags": [kind, words],
            "highlights": [f"made of {material}", f"one of the {words} of {maker}"],
            "characteristics": known,
        }
    names = (COLOURS, PATTERNS, SIZES, TONES)
    colour, pattern, size, tone = (values[code] for values, code in zip(names, attributes[1:], strict=True))
    return {
        "enhanced_title": f"{colour.capitalize()} {kind} with {pattern}, {material}, by {maker}",
        "tags": [colour, WARMTH[colour]],
        "highlights": [f"{size} {pattern} in a {tone} ink", f"made of {material}"],
        "characteristics": [f"colour: {colour}", f"pattern: {pattern}", *known],
    }


def _kind_and_maker(text_class: int) -> tuple[str, str, str]:
    """Kind and maker of a class, and what the maker is known for."""
    kind, number = KINDS[text_class % len(KINDS)], text_class // len(KINDS)
    return kind, maker_name(number), FAMILY_WORDS[FAMILIES[number % len(FAMILIES)]]


def _write_items(process: Process, paths: DatasetPaths, names: list[str] | None) -> None:
    """The plain and the enriched items; `names` where there are pictures."""

    @cache  # many items share their texts: a million items stay cheap
    def encoded(text_class: int, attributes: tuple[int, ...] | None, enriched: bool) -> str:
        texts: dict[str, Any] = dict(class_texts(text_class))
        if enriched:
            texts.update(enriched_texts(text_class, attributes))
            texts["has_image"] = names is not None
        return json.dumps(texts, ensure_ascii=False)[:-1]

    def rows(enriched: bool) -> Iterator[str]:
        for item, text_class in enumerate(process.text_class.tolist()):
            image = f', "image": "images/{names[item]}.jpg"' if names else ""
            attributes = tuple(process.attributes[item].tolist()) if names and enriched else None
            yield f'"{item}": {encoded(text_class, attributes, enriched)}{image}}}'

    _write_table(paths.file("item.json"), rows(False))
    _write_table(paths.file("item_enriched_v2.json"), rows(True))


# ---- users -----------------------------------------------------------------------------------------------------------
def _write_users(paths: DatasetPaths, histories: np.ndarray, lengths: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng([seed, 1, 1])
    start = FIRST_DAY + rng.integers(DAYS * DAY, size=len(histories))
    gaps = 60 + rng.exponential(14 * DAY, histories.shape).astype(np.int64)  # two weeks on average, never none
    times = start[:, None] + gaps.cumsum(1)
    for suffix, values in (("inter.json", histories), ("times.json", times)):
        _write_table(
            paths.file(suffix),
            (f'"{user}": {values[user, :length].tolist()}' for user, length in enumerate(lengths)),
        )


# ---- files -----------------------------------------------------------------------------------------------------------
def _write_table(path: Path, rows: Iterable[str]) -> None:
    """A JSON table, one entry a line, written as it is made."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(("{\n" if number == 0 else ",\n") + row)
        file.write("\n}\n")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--data_path", type=Path, default=DemoConfig.data_path, help="folder to hold <dataset>/")
    parser.add_argument("--dataset", default=DemoConfig.dataset, help="name of the dataset")
    parser.add_argument("--items", type=int, default=DemoConfig.items, help="items, ten to a text")
    parser.add_argument("--users", type=int, default=DemoConfig.users, help="users, of 5 to 15 items each")
    parser.add_argument("--image_size", type=int, default=DemoConfig.image_size, help="pixels per side of a picture")
    parser.add_argument("--no_images", dest="images", action="store_false", help="no pictures: texts and users only")
    parser.add_argument("--seed", type=int, default=DemoConfig.seed, help="seed of everything")
    parser.add_argument(
        "--habit", type=float, default=DemoConfig.habit, help="how often the last item decides on the next"
    )
    parser.add_argument(
        "--taste_boost", type=float, default=DemoConfig.taste_boost, help="weight of items in the colours of a taste"
    )
    parser.add_argument(
        "--popularity_spread",
        type=float,
        default=DemoConfig.popularity_spread,
        help="deviation of the logarithm of the items' weights",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        print(make_demo_data(DemoConfig(**vars(args))))


if __name__ == "__main__":
    main()
