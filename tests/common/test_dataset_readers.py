"""Readers of a dataset's files name the file and the fault."""

import json

import pytest

from src.common import dataset_readers
from src.common.artifacts import DatasetPaths, dataset_paths
from src.tasks.catalogue import load_catalogue
from tests.common.conftest import edit
from tests.toy import NAME, NUM_ITEMS


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda items: items["7"].pop("title"), "item 7 has no title"),
        (lambda items: items.update(x={"title": "t"}), "item id 'x' is not a whole number"),
        (lambda items: items.update({"7": "a shirt"}), "item 7 has no title"),
        (lambda items: items["7"].update(image="../../secret.jpg"), r"'../../secret.jpg' of item 7 leaves"),
        (lambda items: items["7"].update(image="/etc/x.jpg"), r"'/etc/x.jpg' of item 7 leaves"),
        (lambda items: items.clear(), "holds no item"),
    ],
)
def test_faults_of_items(data, change, fault):
    edit(data / NAME / f"{NAME}.item.json", change)
    with pytest.raises(ValueError, match=fault):
        load_catalogue(data, NAME, image_path="images")


def test_absent_fields_are_empty_and_lists_are_joined(data):
    path = data / NAME / f"{NAME}.item.json"
    edit(path, lambda items: items.update({"7": {"title": "", "categories": ["Home", "Lamp"], "brand": None}}))
    item = load_catalogue(data, NAME).items[7]
    assert [item[name] for name in dataset_readers.ITEM_FIELDS] == ["", "", "", "Home, Lamp"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda users: users["u5"].append(4711), r"user 'u5' has item 4711, which .*item\.json lacks \(1 such"),
        (lambda users: users["u5"].append("3"), "user 'u5' must have a list of item ids"),
        (lambda users: users["u5"].append(True), "user 'u5' must have a list of item ids"),
        (lambda users: users["u5"].append(-1), "user 'u5' must have a list of item ids"),
        (lambda users: users.update(u5=3), "user 'u5' must have a list of item ids"),
        (lambda users: users.clear(), "at least one user"),
    ],
)
def test_faults_of_interactions(data, change, fault):
    edit(data / NAME / f"{NAME}.inter.json", change)
    with pytest.raises(ValueError, match=fault):
        load_catalogue(data, NAME)


def test_times_must_have_the_shape_of_the_interactions(data):
    sequences = json.loads((data / NAME / f"{NAME}.inter.json").read_text())
    times = {user: list(range(len(items))) for user, items in sequences.items()}
    path = data / NAME / f"{NAME}.times.json"
    path.write_text(json.dumps(times))
    load_catalogue(data, NAME)
    path.write_text(json.dumps({**times, "u5": [1]}))
    with pytest.raises(ValueError, match="user 'u5' has 1 times for 6 items"):
        load_catalogue(data, NAME)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("B001 3\n", r"item2id:1: a line is"),
        ("B001\t3\nB002\tx\n", r"item2id:2: a line is"),
        ("B001\t3\nB001\t4\n", r"item2id:2: 'B001' stands there twice"),
    ],
)
def test_faults_of_id_maps(tmp_path, text, fault):
    path = tmp_path / "T.item2id"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault):
        dataset_readers.load_id_map(path)


def test_pictures_are_found_through_the_id_map_and_in_another_folder(data):
    folder = data / NAME
    edit(folder / f"{NAME}.item.json", lambda items: [fields.pop("image") for fields in items.values()])
    (folder / f"{NAME}.item2id").write_text("".join(f"B{i}\t{i}\n" for i in range(NUM_ITEMS)))
    paths = dataset_paths(data, NAME)
    assert not dataset_readers.find_images(paths, dataset_readers.load_items(paths))
    (folder / "images" / "4.jpg").rename(folder / "images" / "B4.jpg")
    assert dataset_readers.find_images(paths, dataset_readers.load_items(paths)) == {4: folder / "images" / "B4.jpg"}
    (folder / "images").rename(folder / "other")
    assert dataset_readers.find_images(paths, dataset_readers.load_items(paths), "other") == {
        4: folder / "other" / "B4.jpg"
    }


def test_another_set_of_pictures_needs_names_that_differ(tmp_path):
    """Two items whose pictures differ in their folders only used to show one picture."""
    paths = DatasetPaths(tmp_path, NAME)
    items = {1: {"image": "images/red/1.jpg"}, 2: {"image": "images/blue/1.jpg"}, 3: {"image": "images/red/1.jpg"}}
    assert len(set(dataset_readers.image_places(paths, items).values())) == 2
    with pytest.raises(ValueError, match=r"the images 'images/red/1.jpg' and 'images/blue/1.jpg' are one file"):
        dataset_readers.image_places(paths, items, "images_second")
