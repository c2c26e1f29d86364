"""Tables of anybody's own: column names, units of time, pictures, and what is refused."""

import json
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from pathlib import Path

import polars as pl
import pytest

from data_process import amazon18_data_process, csv_data_process
from src.common.artifacts import dataset_paths
from src.common.dataset_readers import load_id_map, load_image_urls, load_items
from src.tasks.catalogue import load_catalogue
from tests.data_process.raw_shop import files, metadata, ratings, refused, run, write_amazon18, write_lines


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The dataset of Amazon 2018's ratings of the same shop."""
    output = tmp_path_factory.mktemp("data")
    run(amazon18_data_process, write_amazon18(output / "raw"), output)
    return dataset_paths(output, "Shop")


def write_own_tables(folder: Path, kind: str) -> list[str]:
    """The shop as somebody's own tables; gives the flags that name their columns."""
    rows = pl.DataFrame([row._asdict() for row in ratings()]).rename({"item": "sku", "user": "who", "time": "at"})
    old = [metadata(number) for number in range(11)]
    items = pl.DataFrame(
        {
            "sku": [item["asin"] for item in old],
            "name": [item["title"] for item in old],
            "description": [" ".join(item["description"]) for item in old],
            "brand": ["Nor" for _ in old],
            "kinds": [item["category"][:2] for item in old],
            "shot": ["images/a.jpg" if n == 1 else "https://x/2.jpg" if n == 2 else "" for n in range(11)],
        }
    )
    moment = pl.from_epoch("at", "s")
    if kind == "csv":
        rows.with_columns(at=moment.dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(folder / "rows.csv", separator=";")
        items.with_columns(pl.col("kinds").list.join(", ")).write_csv(folder / "items.csv", separator=";")
        more = ["--separator", ";", "--time_unit", "text"]
    elif kind == "csv.gz":
        text = rows.with_columns(pl.col("at") * 1_000_000).write_csv()
        write_lines(folder / "rows.csv.gz", text.splitlines())
        items.write_parquet(folder / "items.parquet")
        more = ["--time_unit", "us"]
    else:
        rows.with_columns(at=moment).write_parquet(folder / "rows.parquet")
        items.write_parquet(folder / "items.parquet")
        more = []
    items_file = folder / ("items.csv" if kind == "csv" else "items.parquet")
    flags = ["--user_column", "who", "--item_column", "sku", "--time_column", "at", "--title_column", "name"]
    return [*flags, "--items_file", str(items_file), "--categories_column", "kinds", "--image_column", "shot", *more]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_own_tables(shop, tmp_path, kind):
    flags = write_own_tables(tmp_path, kind)
    run(csv_data_process, tmp_path / f"rows.{kind}", tmp_path, *flags)
    same = ("inter.json", "times.json", "item2id", "user2id")
    assert files(tmp_path, same) == files(shop.data_path, same)
    ours, theirs = load_items(dataset_paths(tmp_path, "Shop")), load_items(shop)
    numbers = load_id_map(shop.file("item2id"))
    assert ours[numbers["B01"]].pop("image") == "images/a.jpg"
    assert ours == theirs
    urls = json.loads((tmp_path / "Shop" / "Shop.image_urls.json").read_text())
    assert urls == {str(numbers["B02"]): ["https://x/2.jpg"]}


def write_rows_and_items(folder: Path, images: list) -> list[str]:
    """Five items that six users have each, and the pictures of these items; gives the flags for them."""
    rows = [f"u{user},i{item}" for user in range(6) for item in range(5)]
    write_lines(folder / "r.csv", ["user_id,item_id", *rows])
    items = {"item_id": [f"i{item}" for item in range(5)], "title": ["t"] * 5, "image": images}
    pl.DataFrame(items).write_parquet(folder / "i.parquet")
    return ["--items_file", str(folder / "i.parquet"), "--image_column", "image"]


def test_lists_of_pictures(tmp_path):
    """They used to become one address with commas in it."""
    images = [["http://x/1.jpg", " HTTPS://x/2.jpg "], ["", "images/b.jpg"], ["http://x/3.jpg", None], [], None]
    run(csv_data_process, tmp_path / "r.csv", tmp_path, *write_rows_and_items(tmp_path, images))
    paths = dataset_paths(tmp_path, "Shop")
    urls = {"0": ["http://x/1.jpg", "HTTPS://x/2.jpg"], "2": ["http://x/3.jpg"]}
    assert load_image_urls(paths.file("image_urls.json")) == urls
    assert {item: fields.get("image") for item, fields in load_items(paths).items() if "image" in fields} == {
        1: "images/b.jpg"
    }


def test_paths_of_pictures_make_no_file_of_addresses(tmp_path):
    """It used to hold a closing bracket and nothing else."""
    run(csv_data_process, tmp_path / "r.csv", tmp_path, *write_rows_and_items(tmp_path, ["images/a.jpg"] * 5))
    assert not (tmp_path / "Shop" / "Shop.image_urls.json").exists()
    assert load_items(dataset_paths(tmp_path, "Shop"))[4]["image"] == "images/a.jpg"


def test_own_tables_without_times_and_items(tmp_path):
    """The order of the rows counts; no texts are made up."""
    rows = [f"u{user},i{item}" for user in range(6) for item in range(5)]
    write_lines(tmp_path / "r.csv", ["user_id,item_id", *rows])
    run(csv_data_process, tmp_path / "r.csv", tmp_path)
    paths = dataset_paths(tmp_path, "Shop")
    assert json.loads(paths.file("inter.json").read_text()) == {str(user): list(range(5)) for user in range(6)}
    assert not paths.file("times.json").exists()
    assert not paths.file("item.json").exists()
    assert load_catalogue(tmp_path, "Shop", needs_texts=False).num_users == 6


@pytest.mark.parametrize(
    ("time", "unit", "seconds"),
    [
        ("2024-05-01 12:30:00", "text", 1_714_566_600),  # without a zone: UTC
        ("2024-05-01T12:30:00Z", "text", 1_714_566_600),
        ("2024-05-01 14:30:00+02:00", "text", 1_714_566_600),
        ("2024-05-01", "text", 1_714_521_600),
        ("1714566600.75", "s", 1_714_566_600),
        (1_714_566_600_123_456_789, "ns", 1_714_566_600),
        (1_714_566_600_999, "ms", 1_714_566_600),
        (datetime(2024, 5, 1, 12, 30), "ns", 1_714_566_600),
        (datetime(2024, 5, 1, 14, 30, tzinfo=timezone(timedelta(hours=2))), "s", 1_714_566_600),
        (date(2024, 5, 1), "s", 1_714_521_600),
    ],
)
def test_times_of_all_kinds(tmp_path, time, unit, seconds):
    rows = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["i", "j"], "t": [time, time]})
    rows.write_parquet(tmp_path / "r.parquet")
    flags = ["--time_column", "t", "--time_unit", unit, "--user_k", "1", "--item_k", "1"]
    run(csv_data_process, tmp_path / "r.parquet", tmp_path, *flags)
    paths = dataset_paths(tmp_path, "Shop")
    assert json.loads(paths.file("times.json").read_text()) == {"0": [seconds, seconds]}


def test_a_time_of_the_day_is_no_time(tmp_path, capsys):
    pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "t": [clock(12, 30)]}).write_parquet(tmp_path / "r.parquet")
    said = refused(capsys, csv_data_process, tmp_path / "r.parquet", tmp_path, "--time_column", "t")
    assert "--time_column t holds Time: times are numbers, texts, dates or date-times" in said


# ---- refused ---------------------------------------------------------------------------------------------------------
def test_ids_that_no_id_map_can_hold(tmp_path, capsys):
    rows = [{"user_id": f"u{user}", "item_id": f"i\t{item}"} for user in range(6) for item in range(5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "r.parquet")
    said = refused(capsys, csv_data_process, tmp_path / "r.parquet", tmp_path)
    assert "5 item ids hold a tab, a line break or blanks at an end, the first being 'i\\t0'" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--user_column user_id: "),
        (["--user_column", "who", "--item_column", "sku", "--time_column", "when"], "--time_column when: "),
        (["--user_column", "who", "--item_column", "sku", "--time_column", "at", "--time_unit", "text"], "malformed"),
        (["--user_column", "who", "--item_column", "sku", "--time_column", "day"], "dates in words: --time_unit text"),
        (["--user_column", "who", "--item_column", "sku", "--split", "temporal"], "--split temporal needs times"),
        (["--image_column", "x"], "--image_column is a column of --items_file"),
        (["--separator", ";;"], "--separator ';;' must be one character"),
    ],
)
def test_own_tables_that_cannot_be(tmp_path, capsys, flags, message):
    rows = (f"{row.user},{row.item},{row.time},2024-05-01" for row in ratings())
    write_lines(tmp_path / "r.csv", ["who,sku,at,day", *rows])
    assert message in refused(capsys, csv_data_process, tmp_path / "r.csv", tmp_path, *flags)


@pytest.mark.parametrize(("suffix", "factor"), [("csv", 10**3), ("csv", 10**9), ("parquet", 10**3), ("parquet", 10**9)])
def test_finer_units_taken_for_seconds(tmp_path, capsys, suffix, factor):
    rows = pl.DataFrame([{"user_id": row.user, "item_id": row.item, "t": row.time * factor} for row in ratings()])
    rows.write_csv(tmp_path / "r.csv")
    rows.write_parquet(tmp_path / "r.parquet")
    said = refused(capsys, csv_data_process, tmp_path / f"r.{suffix}", tmp_path, "--time_column", "t")
    assert "after the year 2200: times are in a finer unit than was thought" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b'user_id,item_id\n"u,i\n' * 3, "cannot be read to its end"),
        ("r.csv", b"user_id;item_id\nu;i\n", "has the columns user_id;item_id. Give --separator ';'"),
        ("r.csv", b"user_id\titem_id\nu\ti\n", "has the columns user_id\titem_id. Give --separator $'\\t'"),
        ("r.csv", "user_id,item_id\nu,i\n".encode("utf-16"), "r.csv is in UTF-16: iconv -f UTF-16 -t UTF-8"),
        ("r.csv", b"", "cannot be read"),
        ("r.parquet", b"no parquet", "cannot be read"),
        ("r.csv.gz", b"user_id,item_id\n", "is no gzip file, for all its name"),
        # Two items with one character each that is no UTF-8 used to become one item.
        ("r.csv", "用户,物品\nu,i\n".encode("gb18030"), "r.csv is not in UTF-8: iconv -f GB18030 -t UTF-8"),
        ("r.csv", "user_id,item_id\nu,\xe9\nu,\xe8\n".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
    ],
)
def test_broken_tables(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(capsys, csv_data_process, tmp_path / name, tmp_path)


@pytest.mark.parametrize("image", ["/etc/x.jpg", "../../x.jpg"])
def test_images_outside_the_dataset(tmp_path, capsys, image):
    flags = write_rows_and_items(tmp_path, [image] * 5)
    said = refused(capsys, csv_data_process, tmp_path / "r.csv", tmp_path, *flags)
    assert f"the image '{image}' must be a path below the dataset's folder, or an address" in said
