"""Fields of an answer: whatever order and spelling labels have, and nothing that is not there."""

import time

import pytest

from src.tasks.task import LANGUAGES, Template, load_task
from src.text_generation.parse import entries, labels_of, parse

LABELS = labels_of(load_task("text_enrich").templates[0])
WHOLE = {
    "enhanced_title": "Fine mug",
    "tags": "red; mug",
    "highlights": "made to last",
    "characteristics": "colour: red",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", ["text_enrich", "mmitemenrichwithoutid", "mmindex2item"])
def test_every_wording_is_read_back(task, language):
    """What a template writes is what the parser finds, for every wording of the labelled tasks."""
    for template in load_task(task, language).templates:
        labels = labels_of(template)
        assert len(labels) == 4
        fields = {slot: f"words: of {slot}" for slot in labels}
        assert parse(template.without(()).answer.format(**fields), labels) == fields


def test_answers_of_one_text_have_no_labels():
    for template in load_task("index2item").templates:
        assert labels_of(template) == {}
    assert labels_of(Template("", "{brand}: {title}")) == {}


@pytest.mark.parametrize(
    "text",
    [
        "Title: Fine mug\nTags: red; mug\nHighlights: made to last\nCharacteristics: colour: red",
        "Tags: red; mug\nCharacteristics: colour: red\nTitle: Fine mug\nHighlights: made to last",
        "Sure, here it is:\n\n**Enhanced Title**: Fine mug\n\n**tags:** red; mug\n### Highlights: made to last\n"
        "Attributes: colour: red\n\nI hope that this helps!",
        "1. Title - Fine mug\n2. Tags:\n- red\n- mug\n3) Highlights：made to last\n4. Characteristics:\ncolour: red",
        '```json\n{"enhanced_title": "Fine mug", "Tags": ["red", "mug"], "highlights": ["made to last"],'
        ' "characteristics": {"colour": "red"}}\n```',
        "Title: Fine mug\nTags: red; mug\nHighlights: made to last\nCharacteristics: colour: red\nTitle: Other\n- more",
    ],
)
def test_variants(text):
    assert parse(text, LABELS) == WHOLE


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("Fine mug, red, made to last", {}),
        ("Title:\nTags: red", {"tags": "red"}),
        ("Titles are: none\nTags : red", {"tags": "red"}),
        ("Tags: red\nTags: blue", {"tags": "red"}),
        ("Tags:\nTags: blue\nTags: red", {"tags": "blue"}),
        ("Title: (2-pack) mugs", {"enhanced_title": "(2-pack) mugs"}),
        ('{"title": null, "tags": []}', {}),
        ('{"tags": ["red", null, "big\\nmug"]}', {"tags": "red; big mug"}),
        ('{"title": "Fine', {}),
        ("word " * 10_000, {}),
    ],
)
def test_nothing_is_invented(text, fields):
    assert parse(text, LABELS) == fields


@pytest.mark.parametrize("text", ["* " * 20_000, "-" * 40_000, " " * 40_000 + "x", "Title" + "*" * 40_000])
def test_lines_without_an_end_are_read_at_once(text):
    """Each such line took minutes: the pattern tried every way to share the stars among its parts."""
    begun = time.process_time()
    assert parse(text, LABELS) == {}
    assert time.process_time() - begun < 1


def test_brackets_without_an_end_are_no_table():
    """They used to end the whole evaluation with a RecursionError."""
    assert parse('{"tags": ' + "[" * 100_000, LABELS) == {}


def test_entries_of_lists():
    assert entries("Red; blue , red\nbig mug") == {"red", "blue", "big mug"}
    assert entries("红；蓝，绿") == {"红", "蓝", "绿"}
