"""A dataset whose right answers are known, and tiny models that read it. Made once a run; nobody writes to them.

Item i is always followed by item `successor(i)`. Five of the forty items have no picture, one could not be enriched.
Users have 1 to 11 items.
"""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scripts.make_tiny_model import TinyModelConfig, make_tiny_model
from src.common.artifacts import dataset_paths
from src.common.index_files import index_path, save_sid_index
from src.common.sid import SidIndex
from src.families import FAMILIES
from src.models import Loaded, add_sid_tokens, init_sid_rows, load_model
from src.prompt import PromptBuilder
from src.prompt_settings import PromptSettings
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import KINDS as KINDS_OF_TASKS
from src.tasks.task import load_task
from src.tasks.texts import add_texts

NAME, INDEX_FILE = "Toy", ".index_simple.json"
NUM_ITEMS, NUM_USERS = 40, 60
CODEBOOK_SIZES = (4, 6, 5)  # the last code of the last level belongs to no item
WITHOUT_PICTURE = (3, 11, 19, 27, 35)
NOT_ENRICHED = 7
VISION_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
TEXT_FAMILIES = ("qwen2", "qwen3", "llama")
ALL_FAMILIES = (*VISION_FAMILIES, *TEXT_FAMILIES)
MROPE_FAMILIES = tuple(name for name in VISION_FAMILIES if FAMILIES[name].mrope)

COLOURS = ("red", "green", "blue", "black", "white")
KINDS = ("shirt", "lamp", "kettle", "puzzle", "guitar", "scarf", "drum", "chair")


@cache
def scratch() -> Path:
    """A folder that goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="grec-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# ---- the dataset -----------------------------------------------------------------------------------------------------
def successor(item: int) -> int:
    return (3 * item + 1) % NUM_ITEMS


def sequence(user: int) -> list[int]:
    """Items of a user, 1 to 11 of them."""
    items = [7 * user % NUM_ITEMS]
    while len(items) < 1 + user % 11:
        items.append(successor(items[-1]))
    return items


def item_fields(item: int) -> dict[str, str]:
    colour, kind = COLOURS[item % 5], KINDS[item // 5]
    return {
        "title": f"{colour} {kind} number {item}",
        "description": f"A {kind} in {colour}, made to last.",
        "brand": f"Brand{item % 3}",
        "categories": f"Home, {kind}",
        "image": f"images/{item}.jpg",
    }


def enriched_fields(item: int) -> dict[str, object]:
    """Item 1 has no highlights, and a tag of two parts."""
    colour, kind = COLOURS[item % 5], KINDS[item // 5]
    return {
        "enhanced_title": "" if item == NOT_ENRICHED else f"Lovely {colour} {kind}",
        "tags": ["a; b", colour] if item == 1 else [colour, kind],
        "highlights": [] if item == 1 else [f"truly {colour}", "made to last"],
        "characteristics": [f"colour: {colour}", f"kind: {kind}"],
    }


def user_texts() -> dict[str, dict]:
    """What user.json holds: every user likes something; those with three items or more look for two of them."""
    likes, searches = {}, {"train": {}, "test": {}}
    for user in range(NUM_USERS):
        items = sequence(user)
        likes[f"u{user}"] = [f"Likes {COLOURS[items[0] % 5]} things", "Wants what lasts"]
        for split, place in (("train", -3), ("test", -1)) if len(items) >= 3 else ():
            queries = [f"a {COLOURS[items[place] % 5]} {KINDS[items[place] // 5]} please", "something like before"]
            searches[split][f"u{user}"] = {"item": items[place], "inters": items[:place], "querys": queries}
    return {"user_explicit_preference": likes, "user_vague_intention": searches}


def codes() -> np.ndarray:
    """(40, 3) int64, all different, in a grid of 120 SIDs."""
    item = np.arange(NUM_ITEMS)
    return np.stack([item % 4, item % 20 // 4 + item % 2, item // 20 + item % 20 % 3], 1)


def toy_index(path: Path | None = None) -> SidIndex:
    return SidIndex(np.arange(NUM_ITEMS), codes(), ("a", "b", "c"), CODEBOOK_SIZES, path)


def picture(item: int, shade: int = 0) -> Image.Image:
    """Square, wide or high; its colours tell the item."""
    size = [(60, 60), (110, 36), (36, 110)][item % 3]
    image = Image.new("RGB", size, (item * 37 % 256, item * 101 % 256, shade))
    image.paste((255 - item * 5, shade, item * 53 % 256), (0, 0, size[0] // 2, size[1] // 2))
    return image


def write_toy(data_path: Path) -> Path:
    """Writes the dataset `Toy` below `data_path`."""
    folder = data_path / NAME
    (folder / "images").mkdir(parents=True)
    for item in range(NUM_ITEMS):
        if item not in WITHOUT_PICTURE:
            picture(item).save(folder / "images" / f"{item}.jpg", quality=90)
    items = {str(item): item_fields(item) for item in range(NUM_ITEMS)}
    inter = {f"u{user}": sequence(user) for user in range(NUM_USERS)}
    enriched = {str(item): item_fields(item) | enriched_fields(item) for item in range(NUM_ITEMS)}
    (folder / f"{NAME}.item.json").write_text(json.dumps(items))
    (folder / f"{NAME}.item_enriched_v2.json").write_text(json.dumps(enriched))
    (folder / f"{NAME}.user.json").write_text(json.dumps(user_texts()))
    (folder / f"{NAME}.inter.json").write_text(json.dumps(inter))
    save_sid_index(index_path(dataset_paths(data_path, NAME), "simple"), toy_index(), {})
    return data_path


@cache
def toy_path() -> Path:
    return write_toy(scratch() / "data")


def toy_copy(folder: Path) -> Path:
    """A dataset that a test may break."""
    shutil.copytree(toy_path(), folder / "data")
    return folder / "data"


@cache
def toy_catalogue(image_path: str | None = "images") -> Catalogue:
    tasks = [load_task(name) for name in KINDS_OF_TASKS]
    return add_texts(load_catalogue(toy_path(), NAME, INDEX_FILE, image_path), tasks)


# ---- models ----------------------------------------------------------------------------------------------------------
@cache
def tiny_model(family: str, tied: bool = True) -> Path:
    """Folder of a model with 2 layers of width 32. Its weights are spread widely, so that no two scores are alike."""
    corpus = toy_path() / NAME / f"{NAME}.item.json"
    return make_tiny_model(
        TinyModelConfig(
            family,
            scratch() / "models" / f"{family}-{'tied' if tied else 'untied'}",
            corpus,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=64,
            vocab_size=600,
            init_std=0.2,
            tie_word_embeddings=tied,
        )
    )


def fresh_model(family: str, tied: bool = True, how: str = "random") -> Loaded:
    """A model of its own for a test that changes it, SID tokens added; not in training mode."""
    torch.manual_seed(0)
    loaded = load_model(tiny_model(family, tied), torch.float32)
    ids = add_sid_tokens(loaded, toy_index().all_tokens)
    init_sid_rows(loaded, ids, toy_index(), how, {i: item_fields(i)["title"] for i in range(NUM_ITEMS)})
    loaded.model.eval()
    return loaded


@cache
def shared_model(family: str, tied: bool = True) -> Loaded:
    """A model for all tests that only read it."""
    return fresh_model(family, tied)


def toy_builder(loaded: Loaded, catalogue: Catalogue | None = None, **settings) -> PromptBuilder:
    catalogue = toy_catalogue() if catalogue is None else catalogue
    return PromptBuilder(catalogue, loaded.tokenizer, loaded.processor, PromptSettings(**settings), loaded.merge_size)
