"""Enriched items and texts about users: which of them train, validate and test, and what is wrong with a file."""

import json

import numpy as np
import pytest

from src.tasks.catalogue import load_catalogue
from src.tasks.task import KINDS, load_task
from src.tasks.texts import add_texts, hash_buckets
from tests.toy import (
    INDEX_FILE,
    NAME,
    NOT_ENRICHED,
    NUM_ITEMS,
    NUM_USERS,
    enriched_fields,
    item_fields,
    sequence,
    shared_model,
    toy_builder,
    toy_catalogue,
    toy_copy,
    user_texts,
)

SEARCH, LIKES, ENRICH = (load_task(name) for name in ("itemsearch", "preferenceobtain", "text_enrich"))
SPLITS = ("train", "valid", "test")


def loaded(data, *tasks):
    return add_texts(load_catalogue(data, NAME, INDEX_FILE), tasks)


def write(data, suffix: str, value) -> None:
    (data / NAME / f"{NAME}.{suffix}").write_text(value if isinstance(value, str) else json.dumps(value))


# ---- splits ----------------------------------------------------------------------------------------------------------
def test_files_are_read_only_where_a_task_needs_them(tmp_path):
    data = toy_copy(tmp_path)
    for suffix in ("user.json", "item_enriched_v2.json"):
        (data / NAME / f"{NAME}.{suffix}").unlink()
    plain = loaded(data, *(load_task(name) for name, kind in KINDS.items() if kind in ("next_item", "item")))
    assert not plain.enriched
    assert not plain.user_texts
    for task, fault in (
        (SEARCH, r"Toy\.user\.json does not exist\. .* make it with data_process/get_llm_output\.py"),
        (LIKES, r"Toy\.user\.json does not exist\. .* make it with data_process/get_llm_output\.py"),
        (ENRICH, r"Toy\.item_enriched_v2\.json does not exist\. .* make it with data_process/data_enricher\.py"),
    ):
        with pytest.raises(FileNotFoundError, match=fault):
            loaded(data, task)


def test_enriched_items_are_held_out_and_failures_left_out():
    catalogue = toy_catalogue()
    parts = [ENRICH.example_ids(catalogue, split).tolist() for split in SPLITS]
    assert [len(part) for part in parts] == [33, 3, 3]
    assert sorted(item for part in parts for item in part) == [
        item for item in range(NUM_ITEMS) if item != NOT_ENRICHED
    ]
    for split, part in zip(SPLITS, parts, strict=True):
        assert set(part) <= set(catalogue.item_split(split, holdout=True).tolist())
    assert catalogue.enriched[1] == enriched_fields(1)


def test_queries_train_validate_and_test():
    catalogue = toy_catalogue()
    texts = catalogue.user_texts["query"]
    given = user_texts()["user_vague_intention"]
    seen = {split: {} for split in SPLITS}
    for split in SPLITS:
        for row in SEARCH.example_ids(catalogue, split):
            seen[split].setdefault(catalogue.users[texts.users[row]], []).append(int(row))
    assert not seen["train"].keys() & seen["valid"].keys()
    assert seen["train"].keys() | seen["valid"].keys() == given["train"].keys()
    assert 0 < len(seen["valid"]) < len(seen["train"]) / 3
    assert seen["test"].keys() == given["test"].keys()
    for split, users in seen.items():
        for user, rows in users.items():
            search = given["test" if split == "test" else "train"][user]
            assert [texts.texts[row] for row in rows] == search["querys"]
            assert {int(texts.items[row]) for row in rows} == {search["item"]}
            assert [texts.histories[row].tolist() for row in rows] == [search["inters"]] * 2


def test_preferences_are_told_from_the_training_part():
    catalogue = toy_catalogue()
    texts = catalogue.user_texts["preference"]
    rows = [LIKES.example_ids(catalogue, split) for split in SPLITS]
    assert sorted(np.concatenate(rows)) == list(range(2 * NUM_USERS))
    users = [{int(texts.users[row]) for row in part} for part in rows]
    assert not users[0] & (users[1] | users[2])
    assert not users[1] & users[2]
    assert min(map(len, users[1:])) > 0
    for row, user in enumerate(texts.users.tolist()):
        items = sequence(user)
        assert texts.histories[row].tolist() == (items if len(items) < 3 else items[:-2])
        assert texts.items[row] == -1


def test_buckets_depend_on_names_only():
    names = [f"user {number}" for number in range(3000)]
    buckets = hash_buckets(names)
    assert hash_buckets(reversed(names)).tolist() == buckets[::-1].tolist()
    assert np.bincount(buckets).min() > 200


def test_training_queries_may_not_tell_what_tests(tmp_path, caplog):
    """An item that validates or tests, asked for in a training query, would be learnt as this user's."""
    data, table = toy_copy(tmp_path), user_texts()
    leak = table["user_vague_intention"]["train"]["u2"]
    leak["item"] = sequence(2)[-1]
    write(data, "user.json", table)
    catalogue = loaded(data, SEARCH)
    texts = catalogue.user_texts["query"]
    held = {catalogue.users[texts.users[row]] for split in ("train", "valid") for row in texts.rows(split)}
    assert held == table["user_vague_intention"]["train"].keys() - {"u2"}
    assert "1 training queries are for items that validate or test: left out" in caplog.text


def test_files_of_other_systems_are_read(tmp_path):
    """LC-Rec writes numbers as texts; a part may be absent, and a blank text is none."""
    data, table = toy_copy(tmp_path), user_texts()
    for rows in table["user_vague_intention"].values():
        for row in rows.values():
            row.update(item=str(row["item"]), inters=[str(item) for item in row["inters"]])
    write(data, "user.json", table)
    catalogue = loaded(data, SEARCH, LIKES)
    for slot, expected in toy_catalogue().user_texts.items():
        ours = catalogue.user_texts[slot]
        assert (ours.texts, ours.items.tolist()) == (expected.texts, expected.items.tolist())
    likes = {"u3": ["", "  ", "Likes drums"]}
    write(data, "user.json", {"user_explicit_preference": likes})
    assert loaded(data, LIKES).user_texts["preference"].texts == ["Likes drums"]
    assert loaded(data, SEARCH).user_texts["query"].texts == []


# ---- faults ----------------------------------------------------------------------------------------------------------
def intention(user: str = "u9", split: str = "test", **changes) -> dict:
    return {"user_vague_intention": {split: {user: {"item": 1, "inters": [2], "querys": ["x"]} | changes}}}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("[]", r"user\.json must be a table with user_explicit_preference and user_vague_intention"),
        ({"users": {}}, "must be a table with user_explicit_preference"),
        ({"user_explicit_preference": {"u9": "likes all"}}, "preference of user 'u9' must be a list of texts"),
        (intention(querys="x"), "the test intention of user 'u9' must be a list of texts, is 'x'"),
        (intention(item="one"), "the test intention of user 'u9' must hold item ids .* has 'one'"),
        (intention(inters="12"), "the test intention of user 'u9' must have a list of inters"),
        ({"user_vague_intention": {"train": 3}}, "train must be a table .user: ...., is 3"),
        (
            {"user_vague_intention": {}, "user_explicit_preference": ["likes"]},
            "explicit_preference must be a table",
        ),
        ({"user_vague_intention": {"train": {"u9": {"item": 1}}}}, "the train intention of user 'u9' must have item, "),
        (intention(item=77), r"user\.json has item 77, which .*Toy\.item\.json lacks"),
        (intention(inters=[77]), r"user\.json has item 77"),
        ({"user_explicit_preference": {"eve": ["x"]}}, r"has user 'eve', whom .*Toy\.inter\.json lacks"),
        (intention("eve", "train"), "has user 'eve'"),
    ],
)
def test_faults_of_texts_about_users(tmp_path, value, fault):
    data = toy_copy(tmp_path)
    write(data, "user.json", value)
    with pytest.raises(ValueError, match=fault):
        loaded(data, SEARCH, LIKES)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("[1]", r"item_enriched_v2\.json must be a table"),
        ({"one": {}}, "'one' is not a whole number from 0"),
        ({"1": "text"}, "'1' is not a whole number from 0 with a table"),
        ({"1": {"enhanced_title": ["x"]}}, r"enhanced_title of item 1 must be a text, is \['x'\]"),
        ({"1": {"enhanced_title": "x", "tags": "red"}}, "tags of item 1 must be a list of texts, is 'red'"),
        ({"1": {"enhanced_title": "x", "highlights": [3]}}, "highlights of item 1 must be a list of texts"),
        ({"1": {"enhanced_title": " "}}, "enriches no item of Toy: make it with"),
        ({"99": {"enhanced_title": "x"}}, "enriches no item of Toy"),
    ],
)
def test_faults_of_enriched_items(tmp_path, value, fault):
    data = toy_copy(tmp_path)
    write(data, "item_enriched_v2.json", value)
    with pytest.raises(ValueError, match=fault):
        loaded(data, ENRICH)


def test_own_fields_of_items_are_not_taken_for_enriched_ones(tmp_path):
    """An item.json may have tags of its own, of any type."""
    data = toy_copy(tmp_path)
    items = {str(item): item_fields(item) | {"tags": [1, 2]} for item in range(NUM_ITEMS)}
    write(data, "item.json", items)
    builder = toy_builder(shared_model("qwen2"), loaded(data))
    plain = toy_builder(shared_model("qwen2"))
    for template in load_task("item2index").templates:
        assert builder.sample(template, (), 3).ids.tolist() == plain.sample(template, (), 3).ids.tolist()
