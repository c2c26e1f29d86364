"""Every template file is sound, and what is unknown is an error."""

import json
import re
from itertools import combinations

import pytest

from src.tasks import task as tasks
from src.tasks.task import ITEM_TEXTS, KINDS, SLOT, SLOTS, Template, load_task


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("name", KINDS)
def test_templates_are_sound(name):
    task = load_task(name)
    assert len(set(task.templates)) == len(task.templates) >= 4
    for template in task.templates:
        assert template.slots <= SLOTS
        assert SLOT.search(template.answer)
        assert not {"image", "history_images", "history", "history_titles"} & set(SLOT.findall(template.answer))
        own = {"history", "history_titles", "history_images"} & template.slots
        assert bool(own) == (task.kind == "next_item")  # an item task has no history to show
        in_prompt = set(SLOT.findall(template.prompt)) | set(SLOT.findall(template.prompt_without_image or ""))
        answer = set(SLOT.findall(template.answer))
        assert not in_prompt & answer, "the prompt holds its answer"
        if task.kind == "next_item":
            assert not in_prompt & {"sid", "image", *ITEM_TEXTS}, "the prompt tells of the target"
        if {"image", "history_images"} & template.slots:
            without = template.prompt_without_image
            assert without
            assert "image}" not in without
            assert "images}" not in without
            assert not {"picture", "pictures", "photograph", "photographs", "pictured", "image"} & words_of(without)


@pytest.mark.parametrize("name", KINDS)
def test_slots_of_words_stand_alone(name):
    """A literal between two slots, so that pieces tokenised one by one read as the whole would."""
    for template in load_task(name).templates:
        assert "}{" not in template.prompt.replace("{image}", "").replace("{history_images}", "")


@pytest.mark.parametrize("name", KINDS)
def test_no_label_stands_without_its_words(name):
    for template in load_task(name).templates:
        for number in range(len(ITEM_TEXTS) + 1):
            for empty in combinations(ITEM_TEXTS[1:], number):
                whole = template.without(empty)
                for text in (whole.prompt, whole.answer, whole.prompt_without_image or ""):
                    assert not set("[]") & set(text)
                    assert text == text.strip()
                    assert not {"brand", "description"} & set(SLOT.findall(text)) & set(empty)
                    assert text == whole.answer or "categories" not in set(SLOT.findall(text)) & set(empty)
                assert SLOT.findall(whole.answer)


def test_parts_go_with_their_field():
    template = Template(
        "{image}Find this.[ Title: {title}][ Text: {description}]", "[{brand}: ]{description}", "[a {brand}]"
    )
    assert template.without(()) == Template(
        "{image}Find this. Title: {title} Text: {description}", "{brand}: {description}", "a {brand}"
    )
    assert template.without({"description", "brand"}) == Template("{image}Find this. Title: {title}", "{title}", "")


@pytest.mark.parametrize("part", ["[and so on]", "[{sid}]", "[{title} of {brand}]"])
def test_a_part_that_may_go_has_one_field(part, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "TEMPLATE_DIR", tmp_path)
    (tmp_path / "item2index.json").write_text(json.dumps([{"prompt": f"Find {part}", "answer": "{sid}"}]))
    with pytest.raises(ValueError, match="must hold one slot of title, "):
        load_task("item2index")


def test_first_wording_of_ranked_tasks_asks_for_an_item():
    for name in ("seqrec", "mmseqrec", "fusionseqrec", "item2index", "mmitem2index"):
        assert load_task(name).templates[0].answers_with_item
    assert not load_task("index2item").item_templates


def test_unknown_task_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match=r"unknown task 'seqrek': --tasks takes seqrec, mmseqrec"):
        load_task("seqrek")


def test_unknown_slot_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "TEMPLATE_DIR", tmp_path)
    row = {"prompt": "Guess: {historie}", "answer": "{sid}"}
    (tmp_path / "seqrec.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=r"seqrec\.json: there is no slot 'historie'; there are brand, "):
        load_task("seqrec")
