"""Readable text out of what shops export: nothing is cut, nothing is emptied."""

import html
import re
from collections.abc import Iterable

import numpy as np
import polars as pl

from src.common.dataset_readers import ITEM_FIELDS

# Of HTML only: "a < b" and "<Mario & Luigi>" are text.
TAGS = (
    "a|abbr|acronym|address|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blockquote|body|br|button|canvas|caption"
    "|center|cite|code|col|colgroup|dd|del|details|dfn|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form"
    "|frame|frameset|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|meta|nav"
    "|noscript|object|ol|option|p|param|picture|pre|q|s|samp|script|section|select|small|source|span|strike|strong|style"
    "|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|var|video|wbr"
)
TAG = re.compile(rf"<!--.*?-->|</?(?:{TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE | re.DOTALL)
CODE = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
# What `clean` changes, for polars: the texts that it finds go through Python, the others stay.
UNCLEAN = r"[&<]|[\s&&[^ ]]|  |^ | $|\p{C}"
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` without HTML entities and tags, on one line, with single blanks. What is nothing but tags stays as it is.

    Quotes, and signs such as < that open no tag, stay; entities that were escaped twice are undone twice.
    """
    whole = text
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = TAG.sub(" ", CODE.sub(" ", text))
    if not text.isprintable():  # a line break, a control character or an odd blank
        text = CONTROL.sub(" ", text)
    return " ".join(text.split()) or " ".join(whole.split())


def clean_column(texts: pl.Series) -> pl.Series:
    """`clean` of every text of a column; what is missing becomes empty."""
    texts = texts.fill_null("")
    is_unclean = texts.str.contains(UNCLEAN)
    if not is_unclean.any():
        return texts
    cleaned = pl.Series(list(map(clean, texts.filter(is_unclean))), dtype=pl.String)
    return texts.scatter(is_unclean.arg_true(), cleaned)


class ItemTable:
    """Items that are wanted, gathered from frames with the columns item and those of `ITEM_FIELDS`, perhaps image
    (a path) and image_urls (a list of texts). Of an item that stands there twice the first row counts."""

    def __init__(self, names: pl.Series, wanted: np.ndarray):
        """`names`: of each code; `wanted`: codes."""
        wanted = np.unique(wanted)
        self.wanted = pl.DataFrame({"item": names.gather(wanted), "code": wanted})
        self.has_row = np.zeros(len(names), bool)
        self.frames: list[pl.DataFrame] = []
        self.repeats, self.first_repeat = 0, ""

    def read(self, blocks: Iterable[pl.DataFrame]) -> "ItemTable":
        for block in blocks:
            found = block.join(self.wanted, on="item", how="inner", maintain_order="left")
            is_new = found["code"].is_first_distinct() & ~pl.Series(self.has_row[found["code"].to_numpy()])
            once = found.filter(is_new).drop("item")
            if once.height < found.height and not self.repeats:
                self.first_repeat = found["item"][int(is_new.arg_min() or 0)]
            self.repeats += found.height - once.height
            self.has_row[once["code"].to_numpy()] = True
            self.frames.append(once.with_columns(clean_column(once[field]) for field in ITEM_FIELDS))
        return self

    def table(self, codes: np.ndarray) -> pl.DataFrame:
        """One row for each of the codes, in their order."""
        rows = pl.concat(self.frames)
        return pl.DataFrame({"code": codes}).join(rows, on="code", how="left", maintain_order="left").drop("code")
