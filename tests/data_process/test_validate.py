"""A sound dataset passes; each fault is found, named, and told apart from what is only worth knowing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_process import validate
from data_process.validate import ValidateConfig
from src.common.artifacts import dataset_paths, save_embeddings
from tests.toy import NAME, NUM_ITEMS, NUM_USERS, sequence, toy_copy

ROOT = Path(__file__).resolve().parents[2]


def history(user: int) -> list[int]:
    """The toy's sequences go round in fours: as far as no item comes again."""
    return sequence(user)[:4]


@pytest.fixture
def toy(tmp_path):
    """The toy dataset with all files that a dataset may have, and nothing that gives an answer away."""
    paths = dataset_paths(toy_copy(tmp_path), NAME)
    users = {f"u{user}": history(user) for user in range(NUM_USERS)}
    write(paths, "inter.json", users)
    write(paths, "times.json", {user: [100 * place for place in range(len(row))] for user, row in users.items()})
    searches = {"train": {}, "test": {}}
    for user, row in users.items():
        for split, place in (("train", -3), ("test", -1)) if len(row) > 2 else ():
            searches[split][user] = {"item": row[place], "inters": row[:place], "querys": ["something"]}
    write(paths, "user.json", {"user_explicit_preference": {"u1": ["likes"]}, "user_vague_intention": searches})
    rows = np.random.default_rng(0).normal(size=(NUM_ITEMS, 4))
    save_embeddings(paths.file("emb-x.npy"), rows, range(NUM_ITEMS))
    paths.file("item2id").write_text("".join(f"{item}\t{item}\n" for item in range(NUM_ITEMS)))
    return paths


def read(paths, suffix):
    return json.loads(paths.file(suffix).read_text())


def write(paths, suffix, table):
    paths.file(suffix).write_text(json.dumps(table))


def change(paths, suffix, edit):
    table = read(paths, suffix)
    edit(table)
    write(paths, suffix, table)


def found(paths, level=None) -> str:
    findings = validate.validate(ValidateConfig(paths.folder))
    return "\n".join(row.text() for row in findings.rows if level in (None, row.level))


# ---- sound -----------------------------------------------------------------------------------------------------------
def test_a_sound_dataset_has_no_error(toy):
    assert found(toy, "error") == ""
    assert "7 users have one or two items" not in found(toy)
    said = found(toy, "warning")
    assert "users have one or two items: they only train" in said
    assert "1 items are not enriched, such as 7" in said
    assert "5 of 40 items have no picture, such as 3, 11, 19, ..." in said


def test_real_data_is_sound(tmp_path):
    from benchmarks.harness import real_data

    folder = real_data("Scientific")
    if folder is None:
        pytest.skip("Scientific is absent: set GREC_DATA to the folder of real data")
    assert found(dataset_paths(folder.parent, "Scientific"), "error") == ""


def test_exit_status_and_json(toy, tmp_path, capsys):
    report = tmp_path / "report.json"
    validate.main(["--dataset", str(toy.folder), "--json", str(report)])
    table = json.loads(report.read_text())
    assert table["errors"] == 0 < table["warnings"] == len(table["findings"])
    assert {f"{NAME}.inter.json", f"{NAME}.emb-x.npy", f"{NAME}.user.json"} <= set(table["checked"])
    change(toy, "inter.json", lambda table: table["u3"].append(99))
    change(toy, "times.json", lambda table: table["u3"].append(10**6))
    with pytest.raises(SystemExit) as ended:
        validate.main(["--dataset", str(toy.folder), "--json", str(report)])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert (
        f"error    {NAME}.inter.json: 1 items are not in {NAME}.item.json, such as 99\n         mend: add them" in said
    )
    assert json.loads(report.read_text())["findings"][0]["level"] == "error"  # errors first


def test_it_runs_inside_the_folder_and_refuses_none(toy, tmp_path):
    command = [sys.executable, str(ROOT / "data_process" / "validate.py"), "--dataset"]
    inside = subprocess.run([*command, "."], cwd=toy.folder, capture_output=True, text=True, timeout=120)
    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert inside.stdout.splitlines()[-1].startswith(f"{NAME}: 0 errors")
    absent = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, timeout=120)
    assert absent.returncode == 2
    assert "is no folder: name that of a dataset" in absent.stderr


def test_nothing_is_changed(toy):
    before = {path: path.read_bytes() for path in toy.folder.rglob("*") if path.is_file()}
    found(toy)
    assert {path: path.read_bytes() for path in toy.folder.rglob("*") if path.is_file()} == before


# ---- wrong on purpose: the contract ----------------------------------------------------------------------------------
def cut(paths, suffix):
    path = paths.file(suffix)
    path.write_bytes(path.read_bytes()[:-20])


def rename_folder_file(paths):
    paths.file("inter.json").rename(paths.folder / "Other.inter.json")


FAULTS = {
    "interactions cut": (lambda p: cut(p, "inter.json"), "inter.json: is not valid JSON"),
    "interactions named otherwise": (rename_folder_file, "mend: call the folder as Other.inter.json begins"),
    "items as texts": (
        lambda p: change(p, "inter.json", lambda t: t.update(u3=["1"])),
        "'u3' must have a list of item ids",
    ),
    "user without items": (
        lambda p: (
            change(p, "inter.json", lambda t: t.update(x=[])),
            change(p, "times.json", lambda t: t.update(x=[])),
        ),
        "1 users have no item, such as x",
    ),
    "a time too few": (lambda p: change(p, "times.json", lambda t: t["u3"].pop()), "user 'u3' has 3 times for 4 items"),
    "newest first": (
        lambda p: change(p, "times.json", lambda t: t["u3"].reverse()),
        "of 1 users a later item has an earlier",
    ),
    "milliseconds": (
        lambda p: change(p, "times.json", lambda t: t.update(u3=[n * 10**12 for n in range(1, 5)])),
        "the latest time, 4,000,000,000,000, lies after the year 2200",
    ),
    "times with fractions": (
        lambda p: change(p, "times.json", lambda t: t.update(u0=[0.5])),
        "times that are no whole numbers",
    ),
    "times in a list": (lambda p: write(p, "times.json", []), "must hold a table"),
    "split of few": (
        lambda p: write(p, "split.json", {"u0": [1, 0]}),
        "59 users lack [items that train, items that validate]",
    ),
    "split too long": (
        lambda p: write(p, "split.json", {f"u{user}": [9, 9] for user in range(NUM_USERS)}),
        "60 users lack [items that train, items that validate], or these are more than the user has",
    ),
    "item without title": (lambda p: change(p, "item.json", lambda t: t["4"].pop("title")), "item 4 has no title"),
    "image elsewhere": (
        lambda p: change(p, "item.json", lambda t: t["4"].update(image="../x.jpg")),
        "the image '../x.jpg' of item 4 leaves the dataset's folder",
    ),
    "picture of text": (
        lambda p: (p.folder / "images" / "4.jpg").write_text("<html>"),
        "1 pictures do not decode, such as 4.jpg",
    ),
    "id twice": (
        lambda p: p.file("item2id").write_text(p.file("item2id").read_text() + "again\t4\n"),
        "1 numbers stand for several names, such as 4",
    ),
    "broken id map": (lambda p: p.file("user2id").write_text("x\n"), "user2id:1: a line is `original<TAB>number`"),
    "NaN": (
        lambda p: save_embeddings(p.file("emb-x.npy"), np.full((NUM_ITEMS, 2), np.nan), range(NUM_ITEMS)),
        "emb-x.npy: has NaN or infinite values in 40 of 40 rows",
    ),
    "constant rows": (
        lambda p: save_embeddings(p.file("emb-x.npy"), np.ones((NUM_ITEMS, 2)), range(NUM_ITEMS)),
        "emb-x.npy: all rows are equal",
    ),
    "rows missing": (
        lambda p: save_embeddings(p.file("emb-x.npy"), np.eye(30), range(30)),
        "emb-x.npy: 10 items have no row, such as 30, 31, 32, ...",
    ),
    "rows of strangers": (
        lambda p: save_embeddings(p.file("emb-x.npy"), np.eye(50), range(50)),
        "emb-x.npy: has 10 of 50 items that ",
    ),
    "SIDs missing": (
        lambda p: change(p, "item.json", lambda t: t.update({"77": {"title": "new"}})),
        "index_simple.json: lacks 1 of 41 items",
    ),
    "enriched stranger": (
        lambda p: change(p, "item_enriched_v2.json", lambda t: t.update({"99": {"enhanced_title": "x"}})),
        "item_enriched_v2.json: 1 items are not in the catalogue, such as 99",
    ),
    "addresses in a text": (
        lambda p: write(p, "image_urls.json", {"1": "https://x"}),
        "image_urls.json: item 1 must have a list of addresses",
    ),
    "queries in a text": (
        lambda p: change(p, "user.json", lambda t: t["user_vague_intention"]["test"]["u5"].update(querys="one")),
        "must be a list of texts",
    ),
    "query for no item": (
        lambda p: change(p, "user.json", lambda t: t["user_vague_intention"]["test"]["u5"].update(item=99)),
        "user.json: 1 items are not in the catalogue, such as 99",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_errors(toy, fault):
    commit, message = FAULTS[fault]
    commit(toy)
    assert message in found(toy, "error")


# ---- wrong on purpose: leakage and doubts ----------------------------------------------------------------------------
def add_user(paths, name, items, times=None):
    change(paths, "inter.json", lambda table: table.update({name: items}))
    change(paths, "times.json", lambda table: table.update({name: times or [100 * n for n in range(len(items))]}))


DOUBTS = {
    "target seen": (
        lambda p: add_user(p, "x", [1, 2, 9, 1]),
        "1 users have an item twice; of 1 a target to test stands",
    ),
    "another item seen": (
        lambda p: add_user(p, "x", [1, 1, 9, 2]),
        "1 users have an item twice; of 0 a target to test",
    ),
    "user twice": (
        lambda p: [add_user(p, name, [9, 8, 7, 6, 5]) for name in "xy"],
        "2 users are 1 sequences told several times, such as x, y",
    ),
    "tied target": (
        lambda p: add_user(p, "x", [1, 2, 9], [1, 5, 5]),
        "of 1 users a target to test has the time of the item",
    ),
    "tied history": (
        lambda p: add_user(p, "x", [1, 2, 9], [1, 1, 5]),
        "of 0 users a target to test has the time of the item",
    ),
    "title twice": (
        lambda p: (
            change(p, "item.json", lambda t: t["3"].update(title="Number 0: RED shirt!", brand=t["0"]["brand"])),
            add_user(p, "x", [0, 8, 3]),
        ),
        "2 items are 1 titles of a brand told several times, such as items 0, 3; 1 targets to test have such a double",
    ),
    "no title": (
        lambda p: change(p, "item.json", lambda t: t["3"].update(title=" ")),
        "1 items have no title, such as 3",
    ),
    "HTML": (
        lambda p: change(p, "item.json", lambda t: t["3"].update(brand="A &amp; B")),
        "1 items have HTML or control",
    ),
    "item nobody had": (
        lambda p: (
            write(p, "inter.json", {"u0": [1, 9, 2], "u1": [9]}),
            write(p, "times.json", {"u0": [1, 2, 3], "u1": [4]}),
        ),
        "items stand in no sequence, such as 0, 3, 4, ...",
    ),
    "not by time": (
        lambda p: write(p, "split.json", {f"u{u}": [len(history(u)) - (u > 1), 0] for u in range(NUM_USERS)}),
        "interactions that train are not older than the first that tests: this is no split by time",
    ),
    "nothing tests": (
        lambda p: write(p, "split.json", {f"u{u}": [len(history(u)), 0] for u in range(NUM_USERS)}),
        "no interaction is left to test",
    ),
    "ids missing": (
        lambda p: p.file("item2id").write_text("0\t0\n"),
        "item2id: it lacks 39 of 40 ids, such as 1, 10, 11",
    ),
    "shared SIDs": (
        lambda p: share_sid(p),
        "items share SIDs: collision rate 2.50%",
    ),
    "answer given": (
        lambda p: change(
            p, "user.json", lambda t: t["user_vague_intention"]["test"]["u5"]["inters"].append(history(5)[-1])
        ),
        "of 1 searches the item is among the inters, such as users u5",
    ),
    "test item trains": (
        lambda p: change(p, "user.json", lambda t: t["user_vague_intention"]["test"]["u5"].update(item=history(5)[0])),
        "of 1 users the items searched for to test lie in the training part, such as u5",
    ),
    "train item tests": (
        lambda p: change(
            p, "user.json", lambda t: t["user_vague_intention"]["train"]["u5"].update(item=history(5)[-1])
        ),
        "of 1 users the items searched for to train lie outside the training part, such as u5",
    ),
    "unknown user": (
        lambda p: change(p, "user.json", lambda t: t["user_explicit_preference"].update(stranger=["likes"])),
        "user.json: 1 users have no sequence, such as stranger",
    ),
}


def share_sid(paths):
    path = paths.folder / "index" / "simple" / f"{NAME}.index_simple.json"
    table = json.loads(path.read_text())
    table["1"] = table["0"]
    path.write_text(json.dumps(table))


@pytest.mark.parametrize("doubt", DOUBTS)
def test_doubts_are_warnings(toy, doubt):
    commit, message = DOUBTS[doubt]
    assert message not in found(toy)
    commit(toy)
    assert message in found(toy, "warning")
    assert found(toy, "error") == ""


@pytest.mark.parametrize("name", ["../../secret", "/secret"])
def test_original_ids_that_lead_out_of_the_folder(toy, name):
    """Only the downloader refused them: other stages would have read, and sent to an endpoint, pictures elsewhere."""
    change(toy, "item.json", lambda table: table["4"].pop("image", None))
    toy.file("item2id").write_text(f"{name}\t4\n")
    assert f"the image '{name}.jpg' of item 4 leaves the dataset's folder" in found(toy, "error")


def test_items_that_nobody_trains_on_need_no_row(toy):
    """Collaborative embeddings leave them out, and used to be called an error with no way to mend it."""
    write(toy, "inter.json", {"a": [0, 1, 2, 3, 4], "b": [1, 2, 0, 5, 6]})
    toy.file("times.json").unlink()
    save_embeddings(toy.file("emb-x.npy"), np.eye(3), [0, 1, 2])
    assert "emb-x.npy: 37 items that nobody has in the training part have no row" in found(toy, "warning")
    assert "emb-x.npy" not in found(toy, "error")
    save_embeddings(toy.file("emb-x.npy"), np.eye(2), [0, 1])
    assert "emb-x.npy: 38 items have no row, such as 2, 3, 4" in found(toy, "error")


def test_embeddings_that_changed_after_the_index(toy):
    path = toy.folder / "index" / "simple" / f"{NAME}.index_simple.meta.json"
    meta = json.loads(path.read_text())
    meta["embeddings"] = [{"path": str(toy.file("emb-x.npy")), "sha256": "0" * 64}]
    path.write_text(json.dumps(meta))
    assert "emb-x.npy has changed since the index was made from it" in found(toy, "warning")


def test_pictures_are_left_closed_where_asked(toy):
    (toy.folder / "images" / "4.jpg").write_text("<html>")
    findings = validate.validate(ValidateConfig(toy.folder, decode_images=False))
    assert findings.count("error") == 0
