"""What every extractor of embeddings reads: the text and the picture of each item; and the flags to choose them by."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from src.common.artifacts import DatasetPaths, dataset_paths
from src.common.cli import add_switch
from src.common.dataset_readers import (
    ENRICHED_LISTS,
    ITEM_FIELDS,
    MAKE_ENRICHED,
    find_images,
    load_enriched_items,
    load_items,
)

ENHANCED_FIELDS = ("enhanced_title", *ENRICHED_LISTS)
MODES = {"orig": ITEM_FIELDS, "enhanced": ENHANCED_FIELDS, "orig_enhanced": ITEM_FIELDS + ENHANCED_FIELDS}


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Settings of every extractor: which items, which of their texts, and whether pictures count."""

    dataset: str
    data_path: Path = Path("data")
    out_dir: Path | None = None  # the dataset's folder
    name: str | None = None  # <dataset>.emb-<name>.npy
    mode: str = "orig"
    image: bool = True
    image_only: bool = False
    image_path: str = "images"
    skip_bad_images: bool = False

    def __post_init__(self):
        if self.image_only and not self.image:
            raise ValueError("--image-only and --no-image leave nothing to embed: drop one of them")
        if self.mode not in MODES:
            raise ValueError(f"unknown --mode {self.mode!r}: choose one of {', '.join(MODES)}")

    def output_path(self, default_name: str) -> Path:
        folder = self.out_dir or self.data_path / self.dataset
        return folder / f"{self.dataset}.emb-{self.name or default_name}.npy"


class EmbeddingInputs(NamedTuple):
    """Row i of every list is item `item_ids[i]`, in ascending order."""

    item_ids: list[int]
    texts: list[str]  # empty with --image-only
    images: list[Path | None]  # None where there is no picture, and everywhere with --no-image


def load_inputs(config: InputConfig) -> EmbeddingInputs:
    """Texts and picture files of all items, with a message where pictures are missing.

    Raises:
        FileNotFoundError: an enhanced mode, and no enriched items; or --image-only, and not one picture.
    """
    from src.common.log import logger

    paths = dataset_paths(config.data_path, config.dataset)
    items = load_items(paths)
    texts = _load_texts(paths, items, config.mode)
    item_ids = sorted(items)
    found = find_images(paths, items, config.image_path) if config.image else {}
    if config.image and len(found) < len(items):
        logger.warning(f"{len(items) - len(found)} of {len(items)} items have no picture in {paths.folder}")
    if config.image_only and not found:
        raise FileNotFoundError(f"--image-only: no item of {config.dataset} has a picture in {paths.folder}")
    return EmbeddingInputs(
        item_ids,
        ["" if config.image_only else texts[item] for item in item_ids],
        [found.get(item) for item in item_ids],
    )


def _load_texts(paths: DatasetPaths, items: Mapping[int, Mapping[str, Any]], mode: str) -> dict[int, str]:
    """The text of each item; items whose enrichment has failed keep their original one."""
    from src.common.log import logger

    if mode == "orig":
        return {item: item_text(fields, mode) for item, fields in items.items()}
    enriched = load_enriched_items(paths)
    missing = [item for item in items if item not in enriched]
    if len(missing) == len(items):
        raise ValueError(f"{paths.file('item_enriched_v2.json')} has no item of {paths.dataset}: {MAKE_ENRICHED}")
    if missing:
        logger.warning(f"{len(missing)} of {len(items)} items are not enriched and keep their original text")
    texts = {item: item_text({**items[item], **fields}, mode) for item, fields in enriched.items() if item in items}
    return {**{item: item_text(items[item], "orig") for item in missing}, **texts}


def item_text(fields: Mapping[str, Any], mode: str) -> str:
    """The fields of one item that `mode` names, one a line; empty ones are left out."""
    lines = []
    for field in MODES[mode]:
        value = fields.get(field) or ""
        value = ", ".join(map(str, value)) if isinstance(value, list) else str(value).strip()
        if value:
            lines.append(f"{field.replace('_', ' ').capitalize()}: {value}")
    return "\n".join(lines)


def add_input_flags(
    parser: argparse.ArgumentParser, texts: bool = True, pictures: bool = True, name: bool = True
) -> None:
    """The flags of `InputConfig`, with dashes and underscores alike, for an extractor of texts, of pictures or both.

    Args:
        name: the user may name the embeddings.
    """
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument(
        *("--data_path", "--data-path"), type=Path, default=InputConfig.data_path, help="folder that holds <dataset>/"
    )
    parser.add_argument(*("--out-dir", "--out_dir"), type=Path, help="folder to write to; default: the dataset's")
    if name:
        parser.add_argument("--name", help="<dataset>.emb-<name>.npy; default: after the extractor and its inputs")
    if texts:
        parser.add_argument("--mode", choices=MODES, default=InputConfig.mode, help="which texts of an item count")
    if texts and pictures:
        parser.add_argument(*("--no-image", "--no_image"), dest="image", action="store_false", help="texts only")
        parser.add_argument(*("--image-only", "--image_only"), action="store_true", help="pictures only")
    if pictures:
        parser.add_argument(
            *("--image_path", "--image-path"), default=InputConfig.image_path, help="the dataset's folder of pictures"
        )
        flags = ("--skip_bad_images", "--skip-bad-images")
        add_switch(parser, *flags, help="take pictures that do not decode for missing ones")


def name_of_inputs(config: InputConfig) -> str:
    """`-td` for title and description and so on, as in `emb-llama-td`; `-image` where pictures count."""
    text = {"orig": "td", "enhanced": "enhanced", "orig_enhanced": "td-enhanced"}[config.mode]
    if config.image_only:
        return "image"
    return f"{text}-image" if config.image else text
