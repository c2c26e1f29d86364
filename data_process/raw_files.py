"""Raw files, plain or gzip, as frames of some megabytes each: memory does not grow with the file.

Lines that cannot be used are left out, counted and shown; a file that has many of them is refused.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from src.common.log import logger

BLOCK_BYTES = 1 << 24  # of text that is parsed at once
MAX_BAD_SHARE = 0.1  # of malformed lines: beyond, it is another format
GZIP_MAGIC, BYTE_ORDER_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
TOO_LONG = 1 << 28  # bytes without a line break: no text of lines


@dataclass
class Tally:
    """What reading one file has met so far."""

    path: Path
    lines: int = 0  # that are not blank
    malformed: int = 0
    first: str = ""  # the first malformed line
    remedy: str = "It is broken or of another format: check it, or download it again"

    def check(self) -> None:
        """Raises ValueError where the file is of another format."""
        if self.malformed > MAX_BAD_SHARE * self.lines:
            raise ValueError(
                f"{self.path}: {self.malformed:,} of the first {self.lines:,} lines are malformed, the first being"
                f" {self.first}. {self.remedy}"
            )

    def report(self) -> None:
        if self.malformed:
            shown = f"{self.malformed:,} of {self.lines:,} lines are malformed and were left out, the first being"
            logger.warning("%s: %s %s", self.path, shown, self.first)


def find_file(folder: Path, names: Sequence[str], flag: str, given: Path | None = None) -> Path:
    """The file that `flag` names, or the first of `names` in a folder or the folders in it.

    Raises:
        FileNotFoundError: there is none; the message lists the names tried.
    """
    if given is not None:
        if not given.is_file():
            raise FileNotFoundError(f"{flag} {given} does not exist")
        return given
    if not folder.is_dir():
        raise FileNotFoundError(f"--input_path {folder} is no folder")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = next((place / name for name in names for place in places if (place / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} and the folders in it hold none of {', '.join(names)}: download one of them, or name a file"
            f" by {flag}"
        )
    return found


def line_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file in blocks of whole lines, blank lines and carriage returns left out.

    Raises:
        ValueError: the gzip stream is cut off or damaged, or what is called .gz is something else.
    """
    with open(path, "rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    if not is_gzip and path.suffix == ".gz":
        raise ValueError(f"{path} is no gzip file, for all its name: unpacked, or the page of an error? Get it again")
    rest, is_first = b"", True
    with gzip.open(path) if is_gzip else open(path, "rb") as file:
        while block := _read(file, path):
            if is_first:
                block, is_first = block.removeprefix(BYTE_ORDER_MARK), False
            rest += block
            if end := rest.rfind(b"\n") + 1:
                yield from _tidy(rest[:end])
                rest = rest[end:]
            elif len(rest) > TOO_LONG:
                raise ValueError(f"{path} has no line break in {len(rest):,} bytes: it is no file of lines")
    yield from _tidy(rest)


def _tidy(block: bytes) -> Iterator[bytes]:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if b"\n\n" in block or block.startswith(b"\n"):
        block = re.sub(rb"\n+", b"\n", block).removeprefix(b"\n")
    if block:
        yield block


def _read(file: Any, path: Path) -> bytes:
    try:
        return file.read(BLOCK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}): download it again") from error


# ---- tables of separated values --------------------------------------------------------------------------------------
def csv_blocks(
    path: Path,
    columns: Mapping[str, int],
    tally: Tally,
    separator: str = ",",
    has_header: bool = False,
    types: Mapping[str, Any] | None = None,
    required: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """The wanted columns of a file without quoting, renamed.

    Args:
        columns: new name -> number of the column, from 0.
        required: columns without which a line is malformed; None: all.
        types: of the columns that hold no text.

    Raises:
        ValueError: it is not in UTF-8, or of another format.
    """
    order = sorted(columns, key=columns.__getitem__)
    schema: dict[str, Any] = {f"column {number}": pl.String for number in range(max(columns.values()) + 1)}
    for name, number in columns.items():
        schema[f"column {number}"] = (types or {}).get(name, pl.String)
    for block in line_blocks(path):
        if has_header:
            block, has_header = block.partition(b"\n")[2], False
            tally.lines += 1
            if not block:
                continue
        try:
            frame = pl.read_csv(
                block,
                has_header=False,
                schema=schema,
                columns=[columns[name] for name in order],
                separator=separator,
                quote_char=None,  # a stray quote must not swallow the lines after it
                ignore_errors=True,
                missing_columns="insert",
                extra_columns="ignore",
                truncate_ragged_lines=True,
            )
        except pl.exceptions.ComputeError as error:
            raise ValueError(f"{path} cannot be read ({error}): save it as UTF-8, or download it again") from error
        yield _usable(frame.rename(dict(zip(frame.columns, order, strict=True))), required or order, block, tally)


@dataclass(frozen=True)
class Header:
    """The column names of a file, without the types that RecBole writes after a colon."""

    path: Path
    names: tuple[str, ...]

    def of(self, name: str) -> int:
        """The number of a column; raises ValueError where there is none of that name, or several."""
        if self.names.count(name) != 1:
            raise ValueError(f"{self.path} must have one column {name!r}, its header has {', '.join(self.names)}")
        return self.names.index(name)


def header_columns(path: Path, separator: str) -> Header:
    line = next(line_blocks(path), b"").partition(b"\n")[0].decode("utf-8", "replace")
    return Header(path, tuple(field.partition(":")[0].strip() for field in line.split(separator)))


# ---- lines of JSON ---------------------------------------------------------------------------------------------------
def json_blocks(path: Path, schema: Mapping[str, Any], required: Sequence[str], tally: Tally) -> Iterator[pl.DataFrame]:
    """The wanted fields of a file of JSON tables, one a line; an absent field is null.

    Args:
        schema: type of each field. Where a value has another type (a text for a list of texts), it is made to fit.
        required: fields without which a line is malformed.
    """
    for block in line_blocks(path):
        try:
            frame = pl.read_ndjson(block, schema=schema)
        except pl.exceptions.PolarsError:  # a line is broken, or a value has another type: slowly, then
            rows = [_row(line, schema) for line in block.split(b"\n") if line.strip()]
            frame = pl.DataFrame(rows, schema=schema)
        yield _usable(frame, required, block, tally)


def _row(line: bytes, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted fields of one line; all are None where it is no JSON table."""
    try:
        table = json.loads(line)
    except ValueError:
        table = None
    table = table if isinstance(table, dict) else {}
    return {name: _fitted(table.get(name), kind) for name, kind in schema.items()}


def _fitted(value: Any, kind: Any) -> Any:
    """`value` as a polars type holds it; None where it cannot."""
    if isinstance(kind, pl.Struct):
        if isinstance(value, str):  # a table in a text
            try:
                value = json.loads(value)
            except ValueError:
                return None
        fields = value if isinstance(value, dict) else {}
        return {field.name: _fitted(fields.get(field.name), field.dtype) for field in kind.fields}
    if isinstance(kind, pl.List):
        values = value if isinstance(value, list) else [value]
        return [fitted for entry in values if (fitted := _fitted(entry, kind.inner)) is not None]
    if value is None or isinstance(value, dict):
        return None
    if kind == pl.String:
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        return text.encode("utf-8", "replace").decode()  # half of a surrogate pair has no place in UTF-8
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


# ---- both ------------------------------------------------------------------------------------------------------------
def _usable(frame: pl.DataFrame, required: Sequence[str], block: bytes, tally: Tally) -> pl.DataFrame:
    """The rows of a block that have all required fields; the others are counted.

    Raises:
        ValueError: too many are malformed.
    """
    good = frame.select(pl.all_horizontal(_is_given(name, frame.schema[name]) for name in required)).to_series()
    bad = frame.height - int(good.sum())
    if bad and not tally.malformed:
        row = int(good.arg_min())
        line = block.split(b"\n")[row]
        tally.first = f"line {tally.lines + row + 1}: {line[:80].decode('utf-8', 'replace')!r}"
    tally.lines += frame.height
    tally.malformed += bad
    tally.check()
    return frame.filter(good) if bad else frame


def _is_given(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    given = column != "" if kind == pl.String else column.is_finite() if kind.is_float() else column.is_not_null()
    return given.fill_null(False)
