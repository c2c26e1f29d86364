"""Texts are cleaned, never cut, never emptied."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.dataset_files import write_items
from data_process.item_texts import UNCLEAN, clean, clean_column
from src.common.artifacts import DatasetPaths
from src.common.dataset_readers import ITEM_FIELDS, load_items

TEXTS = st.text(
    st.one_of(st.sampled_from("<>&;/b \n\t\"'\\\x00\xa0\u2028aé"), st.characters(codec="utf-8")), max_size=30
)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ('12" & <b>bold</b>&nbsp;text', '12" & bold text'),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("a &lt;br /&gt; b", "a b"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
        ("<Mario & Luigi>", "<Mario & Luigi>"),
        ("<p>one</p><script>var a = '<b>';</script> two", "one two"),
        ("<!-- note --> text", "text"),
        (" two\n\n lines\t", "two lines"),
        ("<br>", "<br>"),  # nothing else is in it
        ("a\x00b\x85c", "a b c"),
        ("“quotes” ‘stay’", "“quotes” ‘stay’"),
        ("", ""),
    ],
)
def test_examples(raw, wanted):
    assert clean(raw) == wanted


@settings(deadline=None)
@given(TEXTS)
def test_nothing_is_emptied_and_twice_is_as_once_for_blanks(text):
    cleaned = clean(text)
    assert bool(cleaned) == bool(text.split())
    assert cleaned == " ".join(cleaned.split())


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), min_size=1, max_size=8))
def test_columns_are_cleaned_as_single_texts_are(texts):
    column = pl.Series(texts, dtype=pl.String)
    assert clean_column(column).to_list() == [clean(text or "") for text in texts]
    untouched = column.filter(~column.str.contains(UNCLEAN)).drop_nulls().to_list()
    assert all(clean(text) == text for text in untouched)


@settings(deadline=None, max_examples=30)
@given(st.lists(TEXTS, min_size=4, max_size=4))
def test_any_text_survives_the_file(tmp_path_factory, texts):
    """Quotes, backslashes and every other character come back from item.json."""
    paths = DatasetPaths(tmp_path_factory.mktemp("data"), "D")
    paths.folder.mkdir()
    frame = pl.DataFrame({name: [text, "x"] for name, text in zip(ITEM_FIELDS, texts, strict=True)})
    write_items(paths.file("item.json"), frame.with_columns(pl.Series("image", [None, "images/x.jpg"])))
    items = load_items(paths)
    assert [items[0][name] for name in ITEM_FIELDS] == texts
    assert "image" not in items[0]
    assert items[1]["image"] == "images/x.jpg"
    assert list(json.loads(paths.file("item.json").read_text())) == ["0", "1"]
