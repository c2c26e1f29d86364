"""From raw files to a dataset that the whole pipeline reads; every format of one shop gives the same dataset."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals import plain_amazon
from data_process import (
    amazon18_data_process,
    amazon18_recbole_data_process,
    amazon23_data_process,
    raw_files,
    validate,
)
from src.baselines import popularity
from src.common.artifacts import dataset_paths
from src.common.dataset_readers import load_id_map, load_items, load_splits, load_times
from src.tasks.catalogue import load_catalogue
from tests.data_process.raw_shop import (
    BROKEN,
    WITHOUT_METADATA,
    files,
    metadata,
    ratings,
    refused,
    run,
    write_amazon18,
    write_amazon23,
    write_lines,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw18(tmp_path_factory):
    return write_amazon18(tmp_path_factory.mktemp("amazon18"))


@pytest.fixture(scope="module")
def raw23(tmp_path_factory):
    return write_amazon23(tmp_path_factory.mktemp("amazon23"))


@pytest.fixture(scope="module")
def shop(raw18, tmp_path_factory):
    """The dataset of the 2018 ratings."""
    output = tmp_path_factory.mktemp("data")
    run(amazon18_data_process, raw18, output)
    return dataset_paths(output, "Shop")


def sequences_of(paths) -> dict[str, list[tuple[str, int]]]:
    """(item, time) of each user, by original names."""
    interactions = json.loads(paths.file("inter.json").read_text())
    times = load_times(paths, interactions)
    users, items = ({n: name for name, n in load_id_map(paths.file(s)).items()} for s in ("user2id", "item2id"))
    return {
        users[int(user)]: [(items[item], time) for item, time in zip(sequence, times[user], strict=True)]
        for user, sequence in interactions.items()
    }


def expected_sequences(user_k: int = 5, item_k: int = 5) -> dict[str, list[tuple[str, int]]]:
    """Said plainly: known items, the first of each pair in time, then rows go until everybody has enough."""
    first = {}
    for row in sorted(ratings(), key=lambda row: row.time):
        first.setdefault((row.user, row.item), row)
    rows = [row for row in first.values() if row.item != WITHOUT_METADATA]
    while True:
        users, items = Counter(row.user for row in rows), Counter(row.item for row in rows)
        kept = [row for row in rows if users[row.user] >= user_k and items[row.item] >= item_k]
        if len(kept) == len(rows):
            break
        rows = kept
    return {user: [(r.item, r.time) for r in rows if r.user == user] for user in {row.user for row in rows}}


# ---- what comes out --------------------------------------------------------------------------------------------------
def test_dataset_is_what_was_asked_for(shop):
    found = sequences_of(shop)
    assert found == expected_sequences()
    assert any(a[1] == b[1] for row in found.values() for a, b in pairwise(row))  # ties are in it
    table = json.loads(shop.file("statistics.json").read_text())
    assert table["steps"]["read"] == len(ratings())
    assert table["steps"]["repeated_items"] == 1
    assert table["interactions"] == table["steps"]["kept"] == sum(map(len, found.values()))
    assert table["items_without"] == {"title": 0, "description": 0, "brand": 0, "categories": 0, "image_urls": 0}


def test_ids_are_numbered_as_the_input_names_them(shop):
    users, items = (load_id_map(shop.file(suffix)) for suffix in ("user2id", "item2id"))
    assert list(items) == [name for name in dict.fromkeys(row.item for row in ratings()) if name in items]
    assert list(users) == [name for name in dict.fromkeys(row.user for row in ratings()) if name in users]
    assert list(items.values()) == list(range(11))


def test_texts_are_whole_and_clean(shop):
    items, names = load_items(shop), load_id_map(shop.file("item2id"))
    for number in range(11):
        fields = items[names[f"B{number:02d}"]]
        assert fields["title"] == f'Cable & plug {number} , 12" & < 3 m'
        assert fields["brand"] == "Nor"
        assert fields["categories"] == "Home, Cables & plugs"
        assert fields["description"].startswith('First line. It\'s "good". Really good.')
        assert len(fields["description"]) > (8000 if number == 2 else 20)
    urls = json.loads(shop.file("image_urls.json").read_text())
    for number in (4, 5):
        assert urls[str(names[f"B{number:02d}"])] == metadata(number)["imageURLHighRes" if number % 2 else "imageURL"]


@pytest.mark.parametrize("large", [[None, ""], [""], None])
def test_blank_addresses_of_pictures_do_not_count(tmp_path, large):
    """A blank large picture used to stand in the way of the small one, and null made a file that no stage reads."""
    meta = write_lines(tmp_path / "meta_Shop.json", [json.dumps({**metadata(1), "imageURLHighRes": large})])
    (block,) = amazon18_data_process.item_blocks(raw_files.Tally(meta), image_urls=True)
    assert block["image_urls"].to_list() == [metadata(1)["imageURL"]]


def test_faults_of_the_input_are_reported(raw18, tmp_path, capsys):
    run(amazon18_data_process, raw18, tmp_path, plots=True)
    said = capsys.readouterr().out
    assert (
        f"Shop.csv: {BROKEN} of 703 lines are malformed and were left out, the first being line 6: 'half a line'"
        in said
    )
    assert "meta_Shop.json.gz: 1 of 13 lines are malformed" in said
    assert (tmp_path / "Shop" / "Shop.statistics.png").read_bytes().startswith(b"\x89PNG")


def test_pipeline_reads_it(shop, tmp_path):
    catalogue = load_catalogue(shop.data_path, "Shop")
    assert len(catalogue.next_item_targets("test").users) == catalogue.num_users == len(expected_sequences())
    result = tmp_path / "popularity.json"
    popularity.main(["--data_path", str(shop.data_path), "--dataset", "Shop", "--results_file", str(result)])
    assert json.loads(result.read_text())["num_samples"] == catalogue.num_users
    findings = validate.validate(validate.ValidateConfig(shop.folder))
    assert not findings.count("error"), [row.text() for row in findings.rows]


# ---- one shop, many formats ------------------------------------------------------------------------------------------
def test_reviews_hold_what_ratings_hold(raw18, shop, tmp_path):
    run(amazon18_data_process, raw18, tmp_path, "--interactions_file", str(raw18 / "reviews" / "Shop_5.json.gz"))
    assert files(tmp_path) == files(shop.data_path)


@pytest.mark.parametrize("place", ["whole", "parts", "reviews"])
def test_the_later_release(raw23, shop, tmp_path, place):
    run(amazon23_data_process, raw23 / place, tmp_path)
    assert files(tmp_path) == files(shop.data_path)
    wanted = {key: urls[:1] for key, urls in json.loads(shop.file("image_urls.json").read_text()).items()}
    assert json.loads((tmp_path / "Shop" / "Shop.image_urls.json").read_text()) == wanted


def test_short_names_stand_for_categories(tmp_path):
    raw = write_amazon18(tmp_path / "raw", "Video_Games")
    amazon18_data_process.main(
        ["--dataset", "Games", "--input_path", str(raw), "--output_path", str(tmp_path), "--plots", "False"]
    )
    assert (tmp_path / "Games" / "Games.inter.json").is_file()


def test_recbole_there_and_back(raw18, shop, tmp_path):
    run(amazon18_recbole_data_process, raw18, tmp_path / "one", "--max_his_len", "3")
    assert files(tmp_path / "one") == files(shop.data_path)
    folder = tmp_path / "one" / "Shop"
    catalogue = load_catalogue(shop.data_path, "Shop")
    for part in ("train", "valid", "test"):
        header, *lines = (folder / f"Shop.{part}.inter").read_text().splitlines()
        assert header == "user_id:token\titem_id_list:token_seq\titem_id:token"
        targets = catalogue.next_item_targets(part)
        assert lines == [
            f"{user}\t{' '.join(map(str, catalogue.history(user, place, 3)))}\t{catalogue.target(user, place)}"
            for user, place in zip(*targets, strict=True)
        ]
    run(amazon18_recbole_data_process, tmp_path / "one", tmp_path / "two", "--input_format", "recbole")
    back, numbers = sequences_of(dataset_paths(tmp_path / "two", "Shop")), load_id_map(shop.file("item2id"))
    users = load_id_map(shop.file("user2id"))
    assert back == {
        str(users[user]): [(str(numbers[item]), time) for item, time in row] for user, row in sequences_of(shop).items()
    }
    texts = load_items(dataset_paths(tmp_path / "two", "Shop"))
    assert sorted(fields["title"] for fields in texts.values()) == sorted(f["title"] for f in load_items(shop).values())


# ---- the same every time ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block_bytes", [300, 5000])
def test_blocks_change_nothing(raw18, shop, tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(raw_files, "MAX_BAD_SHARE", 1.0)  # a whole block may be broken
    run(amazon18_data_process, raw18, tmp_path)
    assert files(tmp_path) == files(shop.data_path)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_hash_seeds_change_nothing(raw18, shop, tmp_path, seed):
    command = [sys.executable, "data_process/amazon18_data_process.py", "--dataset", "Shop", "--plots", "False"]
    subprocess.run(
        [*command, "--input_path", raw18, "--output_path", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "POLARS_MAX_THREADS": seed},
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert files(tmp_path) == files(shop.data_path)


def test_the_plain_loop_agrees(raw18, shop, tmp_path):
    """The rival of the benchmark: the same users, items and texts, by other means. It stops at broken lines."""
    good = [
        line for line in (raw18 / "Shop.csv").read_text().splitlines() if line.count(",") == 3 and "yes" not in line
    ]
    csv = write_lines(tmp_path / "r.csv", [line for line in good if line[0] != ","])
    items = write_lines(tmp_path / "m.json.gz", [json.dumps(metadata(number)) for number in range(11)])
    plain_amazon.process(csv, items, tmp_path / "Shop", "Shop")
    theirs, ours = sequences_of(dataset_paths(tmp_path, "Shop")), sequences_of(shop)
    assert {u: {item for item, _ in row} for u, row in theirs.items()} == {
        u: {i for i, _ in row} for u, row in ours.items()
    }


# ---- splits ----------------------------------------------------------------------------------------------------------
def test_temporal_split(raw18, tmp_path):
    run(amazon18_data_process, raw18, tmp_path, "--split", "temporal", "--valid_share", ".2", "--test_share", ".2")
    paths = dataset_paths(tmp_path, "Shop")
    splits, sequences = load_splits(paths), list(sequences_of(paths).values())
    assert set(splits) == {str(user) for user in range(len(sequences))}
    parts = {"train": [], "valid": [], "test": []}
    for row, (train, valid) in zip(sequences, splits.values(), strict=True):
        times = [time for _, time in row]
        parts["train"] += times[:train]
        parts["valid"] += times[train : train + valid]
        parts["test"] += times[train + valid :]
    assert max(parts["train"]) < min(parts["valid"]) <= max(parts["valid"]) < min(parts["test"])
    assert len(parts["test"]) / sum(map(len, parts.values())) == pytest.approx(0.2, abs=0.05)
    assert load_catalogue(tmp_path, "Shop").train_end.sum() == len(parts["train"])
    run(amazon18_data_process, raw18, tmp_path, "--overwrite")  # leave-one-out again: the file of the former split goes
    assert load_splits(paths) is None


# ---- refused ---------------------------------------------------------------------------------------------------------
def test_a_dataset_is_not_overwritten_unasked(raw18, shop, capsys):
    before = files(shop.data_path)
    with pytest.raises(SystemExit):
        run(amazon18_data_process, raw18, shop.data_path)
    assert (
        "Shop.inter.json exists: choose another --dataset or --output_path, or pass --overwrite"
        in capsys.readouterr().err
    )
    assert files(shop.data_path) == before


def test_files_of_somebody_else_stay(raw18, tmp_path, capsys):
    theirs = write_lines(tmp_path / "Shop" / "Shop.item.json", ['{"0": {"title": "mine"}}'])
    assert "Shop.item.json exists: choose another --dataset" in refused(capsys, amazon18_data_process, raw18, tmp_path)
    assert "mine" in theirs.read_text()


def test_overwriting_tells_of_what_was_made_from_it(raw18, tmp_path, capsys):
    run(amazon18_data_process, raw18, tmp_path)
    np.save(tmp_path / "Shop" / "Shop.emb-x.npy", np.zeros((2, 2), np.float32))
    run(amazon18_data_process, raw18, tmp_path, "--overwrite", "--image_urls", "False")
    assert "Shop.emb-x.npy and 0 other files were made from the dataset that was here" in capsys.readouterr().out
    assert not (tmp_path / "Shop" / "Shop.image_urls.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--user_k", "0"], "--user_k 0: it must be at least 1"),
        (["--user_k", "60"], "no interaction of 700 is left: --user_k 60 --item_k 5 ask for more than there is"),
        (["--split", "temporal", "--valid_share", ".6", "--test_share", ".5"], "leave nothing to train"),
        (["--split", "temporal", "--valid_share", "0"], "--valid_share 0.0: it must lie between 0 and 1"),
        (["--dataset", "../Shop"], "--dataset '../Shop' must be a plain name"),
        (["--category", "Toys"], "hold none of Toys.csv, Toys.csv.gz, Toys.json.gz"),
        (["--interactions_file", "nowhere.csv"], "--interactions_file nowhere.csv does not exist"),
    ],
)
def test_settings_that_cannot_be(raw18, tmp_path, capsys, flags, message):
    assert message in refused(capsys, amazon18_data_process, raw18, tmp_path, *flags)


def test_metadata_of_another_category(raw18, tmp_path, capsys):
    other = write_lines(tmp_path / "meta.json", [json.dumps({"asin": "Z", "title": "?"})])
    said = refused(capsys, amazon18_data_process, raw18, tmp_path, "--metadata_file", str(other))
    assert "are both of the same category?" in said


def test_recbole_input_is_not_written_over(raw18, tmp_path, capsys):
    write_lines(tmp_path / "Shop" / "Shop.inter", ["user_id:token\titem_id:token", "u\ti"])
    said = refused(capsys, amazon18_recbole_data_process, tmp_path, tmp_path, "--input_format", "recbole")
    assert "would be read and written" in said
