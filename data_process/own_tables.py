"""CSV and Parquet tables with columns of any name, a batch of rows at a time."""

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import polars as pl

from data_process.raw_files import GZIP_MAGIC, Tally
from src.common.dataset_readers import ITEM_FIELDS

BATCH_ROWS = 1 << 17
SEPARATORS = {";": "';'", "|": "'|'", "\t": r"$'\t'"}  # as a shell takes them
REMEDY = "What is None there is missing, or another kind than the flags say (dates in words: --time_unit text)"


class Table:
    """One table; its columns are known at once.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be read as what its name says.
    """

    def __init__(self, path: Path, flag: str, separator: str | None = None):
        if not path.is_file():
            raise FileNotFoundError(f"{flag} {path} does not exist or is a folder: name a table, CSV or Parquet")
        self.path, self.flag, self.tally = path, flag, Tally(path, remedy=REMEDY)
        with open(path, "rb") as file:
            start = file.read(2)
        is_gzip = start == GZIP_MAGIC
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # "Unicode text" of a spreadsheet
            raise ValueError(f"{flag} {path} is in UTF-16: iconv -f UTF-16 -t UTF-8 {path} > utf8.csv")
        if path.suffix == ".gz" and not is_gzip:
            raise ValueError(f"{flag} {path} is no gzip file, for all its name")
        if path.suffix == ".parquet":
            self.frame = pl.scan_parquet(path)
        else:
            default = "\t" if {".tsv", ".inter", ".item"} & set(path.suffixes) else ","
            self.frame = pl.scan_csv(path, separator=separator or default, infer_schema=False, encoding="utf8")
        try:
            self.columns = self.frame.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"{flag} {path} cannot be read ({_first_line(error)}): is it whole?") from error
        if any("\N{REPLACEMENT CHARACTER}" in name for name in self.columns):
            raise ValueError(
                f"{flag} {path} is not in UTF-8: iconv -f GB18030 -t UTF-8 {path} > utf8.csv where a Chinese program"
                f" wrote it, else -f LATIN1"
            )

    def check(self, wanted: Mapping[str, str]) -> None:
        """Raises ValueError where a column that a flag names is missing."""
        for flag, name in wanted.items():
            if name not in self.columns:
                single = next(iter(self.columns)) if len(self.columns) == 1 else ""
                hint = "".join(f". Give --separator {typed}" for mark, typed in SEPARATORS.items() if mark in single)
                raise ValueError(f"{flag} {name}: {self.path} has the columns {', '.join(self.columns)}{hint}")

    def batches(self, columns: Mapping[str, pl.Expr], required: list[str]) -> Iterator[pl.DataFrame]:
        """The columns made by the expressions; rows that lack a required one are left out and counted."""
        batches = self.frame.select(**columns).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
        while True:
            try:
                batch = next(batches, None)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise ValueError(
                    f"{self.flag} {self.path} cannot be read to its end ({_first_line(error)}): it is cut off, has"
                    f" a quote that is not closed, values that the flags do not fit, or is not in UTF-8 (then:"
                    f" iconv -f LATIN1 -t UTF-8 {self.path} > utf8.csv)"
                ) from error
            if batch is None:
                return
            good = batch.select(pl.all_horizontal(pl.col(required).is_not_null())).to_series()
            bad = batch.height - int(good.sum())
            if bad and not self.tally.malformed:
                row = int(good.arg_min())
                self.tally.first = f"row {self.tally.lines + row + 1}: {batch.row(row, named=True)}"
            self.tally.lines += batch.height
            self.tally.malformed += bad
            self.tally.check()
            yield batch.filter(good)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _text(column: str, kind: pl.DataType) -> pl.Expr:
    """A column as text; lists are joined by commas."""
    value = pl.col(column)
    value = value.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True) if isinstance(kind, pl.List) else value
    return value.cast(pl.String)


def _pictures(column: str, kind: pl.DataType) -> pl.Expr:
    """A column of paths or addresses, one or a list of them a row, as lists of texts."""
    value = pl.col(column)
    value = value if isinstance(kind, pl.List) else pl.concat_list(value)
    return value.cast(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())


def _name(column: str) -> pl.Expr:
    """An id; an empty one is null."""
    name = pl.col(column).cast(pl.String)
    return pl.when(name != "").then(name)


def interaction_blocks(
    table: Table, user: str, item: str, time: str | None, ticks_of_unit: float | None
) -> Iterator[pl.DataFrame]:
    """user, item and, where there is a column of times, time in milliseconds.

    Args:
        ticks_of_unit: milliseconds of one unit of time; None: times are dates in words.
    """
    columns = {"user": _name(user), "item": _name(item)}
    if time:
        columns["time"] = _milliseconds(time, table.columns[time], ticks_of_unit)
    yield from table.batches(columns, list(columns))


def _milliseconds(column: str, kind: pl.DataType, ticks_of_unit: float | None) -> pl.Expr:
    value = pl.col(column)
    if isinstance(kind, pl.Date | pl.Datetime):
        return value.dt.timestamp("ms")
    if not kind.is_numeric() and kind != pl.String:
        raise ValueError(f"--time_column {column} holds {kind}: times are numbers, texts, dates or date-times")
    if ticks_of_unit is None:
        return value.cast(pl.String).str.to_datetime(time_unit="ms", time_zone="UTC", strict=False).dt.timestamp("ms")
    farthest = 1 << 62  # a wrong unit must come out as a late time, not wrap around
    if kind.is_integer():
        value = value.cast(pl.Int64)
        if ticks_of_unit < 1:
            return value // round(1 / ticks_of_unit)
        return value.clip(-farthest // int(ticks_of_unit), farthest // int(ticks_of_unit)) * int(ticks_of_unit)
    ticks = (value.cast(pl.Float64, strict=False) * ticks_of_unit).round()
    return ticks.clip(-farthest, farthest).cast(pl.Int64, strict=False)


def item_blocks(table: Table, columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """The items in the form that `preparation.Source` asks for; `columns`: field -> name of its column."""
    wanted = {field: _text(column, table.columns[column]) for field, column in columns.items()}
    wanted["item"] = _name(columns["item"])
    if "image" in columns:
        wanted["image"] = _pictures(columns["image"], table.columns[columns["image"]])
    for block in table.batches(wanted, ["item"]):
        absent = [field for field in ITEM_FIELDS if field not in columns]
        block = block.with_columns(pl.lit("").alias(field) for field in absent)
        if "image" in columns:
            given = pl.element()
            is_url = given.str.contains(r"^(?i:https?)://")
            block = block.with_columns(
                pl.col("image").list.eval(given.filter(is_url)).alias("image_urls"),
                pl.col("image").list.eval(given.filter(~is_url & (given != ""))).list.first().alias("image"),
            )
            _check_images(table, block["image"])
        yield block


def _check_images(table: Table, images: pl.Series) -> None:
    for image in images.drop_nulls():
        if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
            raise ValueError(
                f"{table.path}: the image {image!r} must be a path below the dataset's folder, or an address"
            )
