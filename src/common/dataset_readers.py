"""The files of one dataset: users and items, what was written about them, their ids and pictures.

docs/data_format.md shows them all. Readers name the file, the entry at fault and the remedy.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.common.artifacts import DatasetPaths, read_json, read_text

ITEM_FIELDS = ("title", "description", "brand", "categories")
ENRICHED_LISTS = ("tags", "highlights", "characteristics")
MAKE_ENRICHED = "make it with data_process/data_enricher.py"
MAKE_USER_TEXTS = "make it with data_process/get_llm_output.py"


# ---- users and items -------------------------------------------------------------------------------------------------
def load_interactions(paths: DatasetPaths) -> dict[str, list[int]]:
    """`<DS>.inter.json`: item ids of each user, oldest first."""
    path = paths.file("inter.json")
    table = read_json(path, "It holds {user: [item, ...]}, oldest item first")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path} must be a table {{user: [item, ...]}} with at least one user")
    for user, items in table.items():
        if not isinstance(items, list) or not all(type(item) is int and item >= 0 for item in items):
            raise ValueError(
                f"{path}: user {user!r} must have a list of item ids (whole numbers from 0), has {items!r:.80}"
            )
    return table


def load_times(paths: DatasetPaths, interactions: Mapping[str, Sequence[int]]) -> dict[str, list[int]] | None:
    """`<DS>.times.json`: unix seconds in the shape of the interactions; None where the file is absent."""
    path = paths.file("times.json")
    if not path.is_file():
        return None
    table = read_json(path)
    for user, items in interactions.items():
        if len(table.get(user, ())) != len(items):
            raise ValueError(f"{path}: user {user!r} has {len(table.get(user, ()))} times for {len(items)} items")
    return table


def load_items(paths: DatasetPaths) -> dict[int, dict[str, Any]]:
    """`<DS>.item.json`: title, description, brand, categories and perhaps image of each item id.

    Fields other than the title may be absent and are then empty; a list (Amazon's categories) is joined by commas.
    """
    path = paths.file("item.json")
    table = read_json(path, "It holds {item: {title, description, brand, categories, image?}}")
    items: dict[int, dict[str, Any]] = {}
    for key, fields in table.items():
        if not str(key).isdecimal():
            raise ValueError(f"{path}: item id {key!r} is not a whole number from 0")
        if not isinstance(fields, dict) or "title" not in fields:
            raise ValueError(f"{path}: item {key} has no title. Give it one (it may be empty)")
        item = dict(fields)
        for field in ITEM_FIELDS:
            value = fields.get(field) or ""
            item[field] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        items[int(key)] = item
    return items


def load_id_map(path: str | Path) -> dict[str, int]:
    """`<DS>.item2id` / `<DS>.user2id`: `original<TAB>int` a line."""
    table: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        original, _, value = line.rpartition("\t")
        if not original or not value.strip().isdecimal():
            raise ValueError(f"{path}:{number}: a line is `original<TAB>number`, this one is {line!r:.80}")
        if original in table:
            raise ValueError(f"{path}:{number}: {original!r} stands there twice")
        table[original] = int(value)
    return table


def load_splits(paths: DatasetPaths) -> dict[str, list[int]] | None:
    """`<DS>.split.json`: {user: [n_train, n_valid]} where a split by time was made; None where it is absent."""
    path = paths.file("split.json")
    return read_json(path) if path.is_file() else None


# ---- texts that a language model wrote -------------------------------------------------------------------------------
def load_enriched_items(paths: DatasetPaths) -> dict[int, dict[str, Any]]:
    """`<DS>.item_enriched_v2.json`: enhanced_title (str), tags, highlights and characteristics (lists of str).

    Items without an enhanced title, whose enrichment has failed, are left out. An absent list is empty.
    """
    path = paths.file("item_enriched_v2.json")
    table = read_json(path, f"Enriched items are needed: {MAKE_ENRICHED}")
    if not isinstance(table, dict):
        raise ValueError(f"{path} must be a table {{item: {{enhanced_title, tags, ...}}}}: {MAKE_ENRICHED}")
    items: dict[int, dict[str, Any]] = {}
    for key, fields in table.items():
        if not key.isdecimal() or not isinstance(fields, dict):
            raise ValueError(f"{path}: {key!r} is not a whole number from 0 with a table of fields: {MAKE_ENRICHED}")
        title = fields.get("enhanced_title") or ""
        lists = {field: fields.get(field) or [] for field in ENRICHED_LISTS}
        for field, value in {"enhanced_title": [title], **lists}.items():
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                kind = "a text" if field == "enhanced_title" else "a list of texts"
                raise ValueError(f"{path}: {field} of item {key} must be {kind}, is {fields[field]!r:.80}")
        if title.strip():
            items[int(key)] = {"enhanced_title": title, **lists}
    return items


class Search(NamedTuple):
    """What a user asked for, in several wordings, and what they had before."""

    item: int
    history: list[int]
    queries: list[str]


class UserFile(NamedTuple):
    """`<DS>.user.json`."""

    preferences: dict[str, list[str]]  # of each user
    searches: dict[str, dict[str, Search]]  # "train" and "test" -> of each user


def load_user_texts(paths: DatasetPaths) -> UserFile:
    """`<DS>.user.json`: what users like and search for. Blank texts are left out, and a part may be absent."""
    path = paths.file("user.json")
    table = read_json(path, f"Texts about users are needed: {MAKE_USER_TEXTS}")
    parts = ("user_explicit_preference", "user_vague_intention")
    if not isinstance(table, dict) or not any(isinstance(table.get(part), dict) for part in parts):
        raise ValueError(f"{path} must be a table with {' and '.join(parts)}: {MAKE_USER_TEXTS}")

    def texts(value: Any, what: str) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ValueError(f"{path}: {what} must be a list of texts, is {value!r:.80}")
        return [text for text in value if text.strip()]

    def item_id(value: Any, what: str) -> int:
        if isinstance(value, bool) or not str(value).isdecimal():
            raise ValueError(f"{path}: {what} must hold item ids (whole numbers from 0), has {value!r:.80}")
        return int(value)

    preferences = {
        user: texts(value, f"the preference of user {user!r}") for user, value in (table.get(parts[0]) or {}).items()
    }
    searches: dict[str, dict[str, Search]] = {}
    for split in ("train", "test"):
        searches[split] = {}
        for user, row in ((table.get(parts[1]) or {}).get(split) or {}).items():
            what = f"the {split} intention of user {user!r}"
            if not isinstance(row, dict) or not {"item", "inters", "querys"} <= row.keys():
                raise ValueError(f"{path}: {what} must have item, inters and querys, is {row!r:.80}")
            if not isinstance(row["inters"], list):
                raise ValueError(f"{path}: {what} must have a list of inters, has {row['inters']!r:.80}")
            history = [item_id(item, what) for item in row["inters"]]
            searches[split][user] = Search(item_id(row["item"], what), history, texts(row["querys"], what))
    return UserFile(preferences, searches)


# ---- pictures --------------------------------------------------------------------------------------------------------
def find_images(
    paths: DatasetPaths, items: Mapping[int, Mapping[str, Any]], image_path: str = "images"
) -> dict[int, Path]:
    """The image file of each item that has one; see `image_places`."""
    return {item: place for item, place in image_places(paths, items, image_path).items() if place.is_file()}


def image_places(
    paths: DatasetPaths, items: Mapping[int, Mapping[str, Any]], image_path: str = "images"
) -> dict[int, Path]:
    """Where the image of each item lies, or would lie.

    The path that an item gives in `image` (relative to the dataset's folder) wins, unless `image_path` is not the
    default `images`: then another set of pictures is wanted, and a file of the same name there is taken. Otherwise it
    is `<image_path>/<original item id>.jpg`, through `<DS>.item2id`. An `image` that is a web address says where the
    picture comes from, and counts as none.

    Raises:
        ValueError: an `image` or an original id is a path that leaves the dataset's folder; or two images are told
            apart by their folders alone, and `image_path` is not the default.
    """
    folder = paths.folder / image_path
    images: dict[str, str] = {}  # by the name of the file
    original = {}
    if paths.file("item2id").is_file():
        original = {number: name for name, number in load_id_map(paths.file("item2id")).items()}
    places: dict[int, Path] = {}
    for item_id, fields in items.items():
        given = str(fields.get("image") or "")
        if given.startswith(("http://", "https://")):
            given = ""
        name = given or f"{original.get(item_id, item_id)}.jpg"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            source = paths.file("item.json" if given else "item2id")
            raise ValueError(f"{source}: the image {name!r} of item {item_id} leaves the dataset's folder")
        if given and image_path == "images":
            places[item_id] = paths.folder / given
        elif given:
            places[item_id] = folder / Path(given).name
            if (other := images.setdefault(Path(given).name, given)) != given:
                raise ValueError(
                    f"{paths.file('item.json')}: the images {other!r} and {given!r} are one file in {folder}, where"
                    f" only names count: give them names of their own, or leave --image_path out"
                )
        else:
            places[item_id] = folder / name
    return places


def load_image_urls(path: str | Path) -> dict[str, list[str]]:
    """`<DS>.image_urls.json`: where the picture of each item may be fetched, best first.

    A `.tsv` is read as well: `item<TAB>address` a line, no header, an item on several lines where it has several.
    """
    path = Path(path)
    remedy = 'It holds {item: ["https://...", ...]}: make it, or name another with --urls or a field with --url_field'
    if path.suffix != ".tsv":
        table = read_json(path, remedy)
        if not isinstance(table, dict):
            raise ValueError(f"{path} must be a table {{item: [address, ...]}}")
        for item, urls in table.items():
            if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
                raise ValueError(f"{path}: item {item} must have a list of addresses, has {urls!r:.80}")
        return table
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. It holds a line item<TAB>address for each picture")
    table = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        item, tab, url = line.partition("\t")
        if not tab or not item.strip() or not url.strip():
            raise ValueError(f"{path}:{number}: a line is `item<TAB>address`, this one is {line!r:.80}")
        table.setdefault(item.strip(), []).append(url.strip())
    return table
