"""Raw files of all kinds of brokenness: read, counted, or refused with a reason."""

import gzip
import json

import polars as pl
import pytest

from data_process import raw_files
from data_process.raw_files import Tally, csv_blocks, find_file, header_columns, json_blocks, line_blocks
from tests.data_process.raw_shop import write_lines

COLUMNS, TIME = {"item": 0, "user": 1, "time": 3}, {"time": pl.Int64}
SCHEMA = {"asin": pl.String, "title": pl.String, "description": pl.List(pl.String), "count": pl.Int64}


def csv_rows(path, tally=None, **more):
    blocks = csv_blocks(path, COLUMNS, tally or Tally(path), types=TIME, **more)
    return [row for block in blocks for row in block.select("item", "user", "time").rows()]


def json_rows(path, tally=None):
    return [row for block in json_blocks(path, SCHEMA, ["asin"], tally or Tally(path)) for row in block.rows()]


@pytest.mark.parametrize("block_bytes", [1 << 24, 50, 7])
def test_csv_with_faults(tmp_path, monkeypatch, block_bytes):
    """Broken lines go, whatever stands around them stays; where blocks end changes nothing."""
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(raw_files, "MAX_BAD_SHARE", 0.5)
    path = tmp_path / "r.csv"
    lines = [
        b"\xef\xbb\xbfI1,U1,5.0,10",
        b'I2,"U2,4.0,20',
        b"",
        b"I3,U3,1.0,x",
        b"I4",
        b"I5,U5,1.0,30,more",
        b"I6,,1.0,4",
    ]
    path.write_bytes(b"\r\n".join(lines) + b"\r\n\r\nI7,U7,2.0,40")
    tally = Tally(path)
    assert csv_rows(path, tally) == [("I1", "U1", 10), ("I2", '"U2', 20), ("I5", "U5", 30), ("I7", "U7", 40)]
    assert (tally.lines, tally.malformed) == (7, 3)
    assert tally.first == "line 3: 'I3,U3,1.0,x'"


def test_headers_name_columns(tmp_path):
    path = write_lines(
        tmp_path / "t.inter", ["item_id:token\tuser_id:token\trating:float\ttimestamp:float", "i\tu\t1\t2"]
    )
    header = header_columns(path, "\t")
    assert header.names == ("item_id", "user_id", "rating", "timestamp")
    with pytest.raises(ValueError, match=r"t\.inter must have one column 'day', its header has item_id, user_id"):
        header.of("day")
    tally = Tally(path)
    assert csv_rows(path, tally, separator="\t", has_header=True) == [("i", "u", 2)]
    assert tally.lines == 2


def test_json_fields_of_other_types_are_made_to_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "MAX_BAD_SHARE", 0.5)
    tables = [
        {"asin": "a", "title": "T", "description": ["one", "two"], "count": 3, "other": {"x": [1]}},
        {"asin": "b", "title": None, "description": "a text", "count": "4"},
        {"asin": 5, "title": ["t", "u"], "description": None, "count": 7.0},
        {"asin": "c", "title": "half \ud83d", "description": [], "count": "many"},
        {"title": "no id"},
    ]
    path = write_lines(tmp_path / "m.json", [*map(json.dumps, tables), "{'asin': 'python'}", "[1]", "{cut"])
    tally = Tally(path)
    assert json_rows(path, tally) == [
        ("a", "T", ["one", "two"], 3),
        ("b", None, ["a text"], 4),
        ("5", "t u", [], 7),
        ("c", "half ?", [], None),
    ]
    assert (tally.lines, tally.malformed) == (8, 4)
    assert tally.first.startswith('line 5: \'{"title"')


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_fast_and_slow_ways_give_the_same(tmp_path, monkeypatch, suffix):
    tables = [{"asin": f"a{n}", "title": f"é {n}", "description": ["x", "y"][: n % 3], "count": n} for n in range(500)]
    path = write_lines(tmp_path / f"m{suffix}", map(json.dumps, tables))
    fast = json_rows(path)
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", 100)
    assert json_rows(path) == fast
    monkeypatch.setattr(
        raw_files.pl, "read_ndjson", lambda *_, **__: (_ for _ in ()).throw(pl.exceptions.ComputeError(""))
    )
    assert json_rows(path) == fast == [tuple(table.values()) for table in tables]


# ---- refused ---------------------------------------------------------------------------------------------------------
def test_another_format_is_refused_at_once(tmp_path):
    path = write_lines(tmp_path / "r.csv", ["user;item;time"] * 10)
    with pytest.raises(
        ValueError, match=r"r\.csv: 10 of the first 10 lines are malformed, the first being line 1: 'user;"
    ):
        csv_rows(path)


def test_another_encoding_is_refused(tmp_path):
    """It used to end in a traceback of polars."""
    path = tmp_path / "r.csv"
    path.write_bytes("caf\xe9,u,5.0,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"r\.csv cannot be read \(invalid utf-8 sequence\): save it as UTF-8"):
        csv_rows(path)


def test_cut_gzip_is_refused(tmp_path):
    path = write_lines(tmp_path / "m.json.gz", (json.dumps({"asin": f"{n * 7919}"}) for n in range(5000)))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ValueError, match=r"m\.json\.gz is cut off or damaged .* download it again"):
        json_rows(path)


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "m.json.gz"
    packed = bytearray(gzip.compress(b'{"asin": "a"}\n' * 5000))
    packed[30:60] = bytes(30)
    path.write_bytes(packed)
    with pytest.raises(ValueError, match="is cut off or damaged"):
        json_rows(path)


def test_page_of_an_error_is_no_gzip(tmp_path):
    path = tmp_path / "m.json.gz"
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"m\.json\.gz is no gzip file, for all its name"):
        list(line_blocks(path))


def test_bytes_without_line_breaks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(raw_files, "TOO_LONG", 1000)
    path = tmp_path / "x.csv"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="no line break in"):
        list(line_blocks(path))


def test_files_are_found_by_name(tmp_path):
    write_lines(tmp_path / "Review" / "Games_5.json.gz", ["{}"])
    write_lines(tmp_path / "Games.json.gz", ["{}"])
    names = ["Games.csv", "Games.json.gz", "Games_5.json.gz"]
    assert find_file(tmp_path, names, "--f") == tmp_path / "Games.json.gz"
    assert find_file(tmp_path, names[2:], "--f") == tmp_path / "Review" / "Games_5.json.gz"
    with pytest.raises(FileNotFoundError, match=r"hold none of Toys\.csv: download one of them, or name a file by --f"):
        find_file(tmp_path, ["Toys.csv"], "--f")
    with pytest.raises(FileNotFoundError, match=r"--f .*nowhere does not exist"):
        find_file(tmp_path, names, "--f", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"--input_path .*none is no folder"):
        find_file(tmp_path / "none", names, "--f")
