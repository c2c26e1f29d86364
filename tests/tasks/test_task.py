"""Every template file is sound, and what is unknown is an error."""

import json
import re
from dataclasses import replace
from itertools import combinations

import pytest

from src.tasks import task as tasks
from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, KINDS, LANGUAGES, SLOT, SLOTS, Template, load_task

TASKS = [pytest.param(name, language, id=f"{name}-{language}") for name in KINDS for language in LANGUAGES]
MANY = {"seqrec", "item2index", "index2item", "text_enrich"}  # tasks that everybody trains on
PROMPT_MAY_TELL = {  # what a prompt may hold of the example
    "next_item": {"history", "history_titles", "history_images"},
    "item": {"sid", "image", *ITEM_TEXTS},
    "enriched_item": {"sid", "image", *ITEM_TEXTS},
    "query": {"query", "history"},
    "preference": {"history"},
}
PICTURE_WORDS = {
    "en": re.compile(r"picture|photograph|\bimage|\bsee\b|\babove\b", re.IGNORECASE),
    "zh": re.compile("图|照片|上面|看到"),
}


@pytest.mark.parametrize(("name", "language"), TASKS)
def test_templates_are_sound(name, language):
    task = load_task(name, language)
    assert len(set(task.templates)) == len(task.templates) >= (10 if name in MANY else 4)
    for template in task.templates:
        assert template.slots <= SLOTS
        in_prompt = set(SLOT.findall(template.prompt)) | set(SLOT.findall(template.prompt_without_image or ""))
        answer = set(SLOT.findall(template.answer))
        assert answer
        assert in_prompt <= PROMPT_MAY_TELL[task.kind], "the prompt tells of the target"
        assert not in_prompt & answer, "the prompt holds its answer"
        assert not {"image", *PROMPT_MAY_TELL["next_item"]} & answer
        assert task.kind not in ("next_item", "preference") or in_prompt & PROMPT_MAY_TELL["next_item"]
        assert ("query" in in_prompt) == (task.kind == "query")
        if {"image", "history_images"} & template.slots:
            assert template.prompt.startswith(("{image}", "{history_images}"))
            without = template.prompt_without_image
            assert without
            assert not {"image", "history_images"} & set(SLOT.findall(without))
            assert not PICTURE_WORDS[language].search(without), without
            assert set(SLOT.findall(template.prompt)) - {"image", "history_images"} <= set(SLOT.findall(without))


@pytest.mark.parametrize("name", KINDS)
def test_both_languages_ask_alike(name):
    """Wording k of one language is wording k of the other: slots, in prompt and answer, and so --test_prompt_ids."""
    for english, chinese in zip(*(load_task(name, language).templates for language in LANGUAGES), strict=True):
        for part in ("prompt", "answer", "prompt_without_image"):
            slots = [sorted(SLOT.findall(getattr(template, part) or "")) for template in (english, chinese)]
            assert slots[0] == slots[1], english.prompt
        text = SLOT.sub("", "".join((chinese.prompt, chinese.answer, chinese.prompt_without_image or "")))
        assert not re.search(r"[A-Za-z]|[,.:;?!]", text), f"not Chinese: {text}"


@pytest.mark.parametrize(("name", "language"), TASKS)
def test_slots_of_words_stand_alone(name, language):
    """A literal between two slots, so that pieces tokenised one by one read as the whole would."""
    for template in load_task(name, language).templates:
        assert "}{" not in template.prompt.replace("{image}", "").replace("{history_images}", "")


@pytest.mark.parametrize(("name", "language"), TASKS)
def test_no_label_stands_without_its_words(name, language):
    for template in load_task(name, language).templates:
        for number in range(4):
            for empty in combinations(("description", "brand", "categories", *ENRICHED_TEXTS[1:], "history"), number):
                if "history" in empty and KINDS[name] != "query":
                    continue  # only who searches may have no history
                whole = template.without(empty)
                for text in (whole.prompt, whole.answer, whole.prompt_without_image or ""):
                    assert not set("[]") & set(text)
                    assert text == text.strip()
                    lacking = set(SLOT.findall(text)) & set(empty)
                    assert not lacking or (text == whole.answer and lacking == {"categories"})
                assert SLOT.findall(whole.answer)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mmindex2item", {"en": "Title|Brand|Categories|Description", "zh": "标题|品牌|类目|描述"}),
        ("text_enrich", {"en": "Title|Tags|Highlights|Characteristics", "zh": "标题|标签|亮点|特点"}),
        ("mmitemenrichwithoutid", {"en": "Title|Tags|Highlights|Characteristics", "zh": "标题|标签|亮点|特点"}),
    ],
)
def test_answers_of_fields_have_one_fixed_form(name, form):
    """Label, colon, words; a field a line: docs/data_format.md."""
    for language, colon in (("en", ": "), ("zh", "：")):
        for template in load_task(name, language).templates:
            lines = template.without(()).answer.split("\n")
            labels, slots = zip(*(line.split(colon) for line in lines), strict=True)
            assert "|".join(labels) == form[language]
            expected = ENRICHED_TEXTS if "enrich" in name else ("title", "brand", "categories", "description")
            assert slots == tuple(f"{{{slot}}}" for slot in expected)


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
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "item2index.json").write_text(json.dumps([{"prompt": f"Find {part}", "answer": "{sid}"}]))
    with pytest.raises(ValueError, match="must hold one slot of title, "):
        load_task("item2index")


def test_first_wording_of_ranked_tasks_asks_for_an_item():
    ranked = {"seqrec", "mmseqrec", "fusionseqrec", "item2index", "mmitem2index", "itemsearch"}
    for name in KINDS:
        assert load_task(name).templates[0].answers_with_item == (name in ranked)
        assert bool(load_task(name).item_templates) == (name in ranked)


def test_unknown_task_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match=r"unknown task 'seqrek': --tasks takes seqrec, mmseqrec"):
        load_task("seqrek")
    with pytest.raises(ValueError, match="no wordings in 'fr': --prompt_lang takes en, zh"):
        load_task("seqrec", "fr")


def test_alias():
    assert load_task("mmitemenrich") == load_task("text_enrich")


def test_unknown_slot_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "TEMPLATE_DIR", tmp_path)
    row = {"prompt": "Guess: {historie}", "answer": "{sid}"}
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "seqrec.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=r"seqrec\.json: there is no slot 'historie'; there are brand, "):
        load_task("seqrec")


def test_the_hash_of_the_wordings_tells_every_change():
    task = load_task("seqrec")
    first, *others = task.templates
    changed = [
        others,
        [*others, first],
        [replace(first, prompt=first.prompt + " "), *others],
        [replace(first, prompt_without_image="x"), *others],
    ]
    hashes = {replace(task, templates=tuple(templates)).templates_sha256 for templates in changed}
    assert len(hashes | {task.templates_sha256}) == 5
    assert load_task("seqrec").templates_sha256 == task.templates_sha256 != load_task("seqrec", "zh").templates_sha256
