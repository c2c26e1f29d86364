"""Training and inference read the same ids; only the answer is learnt; pieces read as the whole would."""

from copy import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from src.collate import PromptCollator, TrainingCollator
from src.prompt import PromptBuilder, Sample
from src.prompt_settings import PromptSettings
from src.tasks.task import LANGUAGES, Template, load_task
from src.tasks.texts import LIST_SEPARATORS
from tests.toy import (
    ALL_FAMILIES,
    VISION_FAMILIES,
    WITHOUT_PICTURE,
    enriched_fields,
    fresh_model,
    item_fields,
    shared_model,
    toy_builder,
    toy_catalogue,
)
from tests.toy_prompts import HISTORY, SEEN, TEXT, example, templates_for


# ---- one assembly ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_training_begins_with_what_inference_feeds(family, language):
    builder = toy_builder(shared_model(family), prompt_lang=language)
    for template in templates_for(family, language):
        sample = builder.sample(template, **example(template))
        answer = builder.answer_ids(template, **example(template))
        question = builder.question(template, **example(template), reserve=len(answer))
        asked = len(question.ids)
        np.testing.assert_array_equal(sample.ids[:asked], question.ids)
        np.testing.assert_array_equal(sample.positions[..., :asked], question.positions)
        assert len(sample.images) == len(question.images)
        # What is learnt: the answer and the end of the turn, each from the token before it.
        np.testing.assert_array_equal(sample.targets, answer)
        np.testing.assert_array_equal(sample.predict, np.arange(asked - 1, asked - 1 + len(answer)))
        np.testing.assert_array_equal(sample.ids[asked:], answer[:-1])
        assert answer[-1] == builder.end_token
        assert (answer[:-1] != builder.end_token).all()
        if template.answers_with_item:
            row = builder.row_of[SEEN]
            np.testing.assert_array_equal(answer[:-1], builder.sids[row])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_pieces_read_as_the_whole_chat_would(family, language):
    """Tokenising the rendered chat at once gives the same ids, for every wording and way to write a history."""
    loaded = shared_model(family)
    for settings in ({}, {"his_sep": " ; ", "add_prefix": True}, {"his_sep": "", "max_his_len": 2}):
        builder = toy_builder(loaded, toy_catalogue(None), prompt_lang=language, **settings)
        index, items = builder.catalogue.sid_index, builder.catalogue.items
        history = HISTORY[-builder.settings.max_his_len :]

        def listed(texts, settings=builder.settings):
            numbered = [f"{n}. {text}" if settings.add_prefix else text for n, text in enumerate(texts, 1)]
            return settings.his_sep.join(numbered)

        slots = {
            "sid": "".join(index.tokens_of(SEEN)),
            "history": listed(["".join(index.tokens_of(item)) for item in history]),
            "history_titles": listed([items[item]["title"] for item in history]),
            **items[SEEN],
            **{name: fact if isinstance(fact, str) else LIST_SEPARATORS[language].join(fact)
               for name, fact in enriched_fields(SEEN).items()},
            **{name: texts.texts[TEXT] for name, texts in builder.catalogue.user_texts.items()},
        }  # fmt: skip
        for template in templates_for(family, language):
            template = template.without(())
            if {"image", "history_images"} & template.slots:
                template = Template(template.prompt_without_image, template.answer)
            ids, _ = builder.prompt_ids(template, **example(template))
            text = builder.chat.render(template.prompt.format(**slots))
            assert ids.tolist() == loaded.tokenizer(text, add_special_tokens=False)["input_ids"], text
            assert loaded.tokenizer.decode(ids) == text
            # The answer, too, reads as it would in a chat that holds it.
            chat = builder.chat.render(template.prompt.format(**slots), template.answer.format(**slots))
            whole = loaded.tokenizer(chat, add_special_tokens=False)["input_ids"]
            both = [*ids, *builder.answer_ids(template, **example(template))]
            assert [int(i) for i in both] == whole[: len(both)], chat


@pytest.mark.parametrize("family", ["qwen2", "llama", "llava_onevision"])
def test_empty_fields_go_with_their_labels(family):
    """An item without a brand used to be asked about as `Brand:` with nothing behind it."""
    loaded, catalogue = shared_model(family), toy_catalogue(None)
    fields = {**catalogue.items[SEEN], "description": "", "brand": " "}
    title, categories = fields["title"], fields["categories"]
    builder = toy_builder(loaded, replace(catalogue, items={**catalogue.items, SEEN: fields}))
    sid = "".join(catalogue.sid_index.tokens_of(SEEN))
    for task, number, prompt, answer in (
        ("item2index", 0, f"Which item is this? Title: {title}", sid),
        ("item2index", 2, f"Give the item with these details. Title: {title} Categories: {categories}", sid),
        ("item2index", 5, f"Which item does this description fit? {title}", sid),
        ("item2index", 6, f"Name the item that is described as follows: {title}", sid),
        ("item2index", 7, f"Product name: {title} Which item is meant?", sid),
        ("index2item", 2, f"Describe item {sid} in words.", title),
        ("index2item", 5, f"Tell the title and the description of item {sid}.", title),
        ("index2item", 6, f"Which brand makes {sid}, and what is it called?", title),
    ):
        template = load_task(task).templates[number]
        sample = builder.sample(template, (), SEEN)
        asked = builder.question(template, (), SEEN, len(sample.targets)).ids
        assert asked.tolist() == loaded.tokenizer(builder.chat.render(prompt), add_special_tokens=False)["input_ids"]
        np.testing.assert_array_equal(sample.ids[: len(asked)], asked)
        assert loaded.tokenizer.decode(sample.targets[:-1]) == answer


def test_learning_the_prompt_leaves_out_placeholders():
    builder = toy_builder(shared_model("qwen2_vl"))
    sample = builder.sample(load_task("mmitem2index").templates[0], (), SEEN)
    learnt = builder.learn_everything(sample)
    whole = [*sample.ids, sample.targets[-1]]
    assert builder.image_token_id not in learnt.targets
    assert builder.image_token_id in whole
    np.testing.assert_array_equal(learnt.targets, [whole[place + 1] for place in learnt.predict])
    assert len(learnt.targets) == sum(token != builder.image_token_id for token in whole[1:])


# ---- properties ------------------------------------------------------------------------------------------------------
@cache
def prepared(family: str, language: str, numbered: bool) -> PromptBuilder:
    ways = {"add_prefix": True, "his_sep": " ; ", "max_his_len": 4, "max_his_images": 2} if numbered else {}
    return toy_builder(shared_model(family), prompt_lang=language, **ways)


@st.composite
def questions(draw, family: str, language: str):
    """A wording and what it is asked about: any items, with pictures or without, and any history that suits it."""
    template = draw(st.sampled_from(templates_for(family, language)))
    asked = example(template)
    items = st.integers(0, 39)
    if asked["history"] or "query" in template.slots:
        shortest = 0 if "query" in template.slots else 1
        asked["history"] = draw(st.lists(items, min_size=shortest, max_size=9))
    if asked["item"] >= 0:
        asked["item"] = draw(items)
    if asked["text"] >= 0:
        asked["text"] = draw(st.integers(0, 60))
    return template, asked


def expected_prompt(whole: PromptBuilder, template: Template, asked: dict, room: int) -> tuple[np.ndarray, list] | None:
    """The prompt with as much of the latest history as fits in `room` tokens; None where no history makes it fit."""
    most = whole.settings.max_his_len or 99
    history = list(asked["history"])[-most:]
    for start in range(max(1, len(history))):
        ids, images = whole.prompt_ids(template, **{**asked, "history": history[start:]})
        if len(ids) <= room:
            return ids, images
    return None


@pytest.mark.parametrize("family", ALL_FAMILIES)
@effort(deadline=None, max_examples=20)
@given(data=st.data())
def test_any_batch_learns_its_answers_after_what_inference_reads(family, data):
    """For any wordings, items, histories, settings and lengths, however samples are laid out and padded."""
    language = data.draw(st.sampled_from(LANGUAGES))
    whole = prepared(family, language, data.draw(st.booleans()))
    builder = copy(whole)
    builder.settings = replace(whole.settings, model_max_length=data.draw(st.sampled_from([80, 160, 320, 2048])))
    samples: list[Sample] = []
    fed, answers = [], []
    for template, asked in data.draw(st.lists(questions(family, language), min_size=1, max_size=3)):
        answer = builder.answer_ids(template, **asked)
        room = builder.settings.model_max_length - len(answer)
        expected = expected_prompt(whole, template, asked, room)
        try:
            question = builder.question(template, **asked, reserve=len(answer))
        except ValueError:
            assert expected is None, "it does fit in --model_max_length"
            continue
        assert len(question.ids) <= room
        if expected is not None:  # else words were cut
            np.testing.assert_array_equal(question.ids, expected[0])
            assert len(question.images) == len(expected[1])
        if question.images:
            shown = [asked["item"]] if "image" in template.slots else list(asked["history"])
            blocks = {
                whole.items.image(item).ids.tobytes(): whole.items.image(item)
                for item in shown
                if whole.items.has_image(item)
            }
            sizes = {int((block.ids == builder.image_token_id).sum()) for block in blocks.values()}
            lengths = np.diff(np.flatnonzero(np.diff(np.pad(question.ids == builder.image_token_id, 1).astype(int))))
            assert set(lengths[::2].tolist()) <= sizes  # whole runs of placeholders
            assert len(lengths[::2]) == len(question.images)
        samples.append(builder.sample(template, **asked, task=len(samples)))
        fed.append(question)
        answers.append(answer)
    if not samples:
        return
    padding, mrope = builder.tokenizer.pad_token_id, builder.merge_size is not None
    left = PromptCollator(padding, mrope)(fed)
    right = TrainingCollator(padding, mrope, data.draw(st.sampled_from([1, 256])))(samples)
    places, owners = right["predict"].nonzero(), right["task_ids"]
    rest = torch.ones_like(right["predict"])  # what belongs to no sample
    for number, sample in enumerate(samples):
        asked_ids = left["input_ids"][number][left["attention_mask"][number].bool()]
        learnt = places[owners == number]
        row, first = learnt[0].tolist()
        begin = first - len(asked_ids) + 1
        assert torch.equal(right["input_ids"][row, begin : first + 1], asked_ids)
        assert torch.equal(learnt[:, 1], torch.arange(first, first + len(answers[number])))
        np.testing.assert_array_equal(right["labels"][owners == number].numpy(), answers[number])
        assert answers[number][-1] == builder.end_token
        rest[row, begin : begin + len(sample.ids)] = False
    assert (right["input_ids"][rest] == padding).all()
    assert rest.numel() - rest.sum() == sum(len(sample.ids) for sample in samples)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_onevision", "llama"])
def test_the_tokenizers_own_padding_side_does_not_matter(family, monkeypatch):
    loaded = shared_model(family)
    made = []
    for side in ("left", "right"):
        monkeypatch.setattr(loaded.tokenizer, "padding_side", side)
        builder = toy_builder(loaded)
        made.append([builder.sample(template, **example(template)).ids.tolist() for template in templates_for(family)])
    assert made[0] == made[1]


def test_long_answers_leave_room_for_the_prompt():
    """A description of more than --model_max_length tokens used to stop the run in the middle of an epoch."""
    loaded, catalogue = shared_model("qwen2"), toy_catalogue(None)
    fields = {**catalogue.items[SEEN], "description": "made to last " * 300}
    builder = toy_builder(
        loaded, replace(catalogue, items={**catalogue.items, SEEN: fields}), model_max_length=200, prompt_lang="en"
    )
    template = load_task("index2item").templates[5]
    sample = builder.sample(template, (), SEEN)
    assert len(sample.targets) == 100
    assert sample.targets[-1] == builder.end_token
    assert len(sample.ids) + 1 <= 200
    text = loaded.tokenizer.decode(sample.targets)
    assert text.startswith(f"{fields['title']}\nmade to last made")


# ---- histories -------------------------------------------------------------------------------------------------------
def test_settings_have_effect():
    loaded, template = shared_model("qwen2"), load_task("seqrec").templates[0]
    plain = toy_builder(loaded).question(template, HISTORY, SEEN, 4).ids
    texts = {loaded.tokenizer.decode(plain)}
    for settings in ({"add_prefix": True}, {"his_sep": "; "}, {"max_his_len": 2}):
        texts.add(loaded.tokenizer.decode(toy_builder(loaded, **settings).question(template, HISTORY, SEEN, 4).ids))
    assert len(texts) == 4
    assert any("1. <a_1>" in text and ", 2. <a_0>" in text for text in texts)
    assert any("<c_1>; <a_0>" in text for text in texts)
    whole = toy_builder(loaded, max_his_len=0).question(template, HISTORY * 9, SEEN, 4).ids
    assert len(whole) > 2 * len(plain)  # 0: all


@pytest.mark.parametrize("prefix", [False, True])
def test_numbers_stand_before_titles_with_one_space(prefix):
    """With --add_prefix, titles used to read `first:1.  red shirt`."""
    loaded = shared_model("qwen2")
    builder = toy_builder(loaded, add_prefix=prefix)
    text = loaded.tokenizer.decode(builder.question(load_task("fusionseqrec").templates[0], (1, 4), SEEN, 4).ids)
    first, second = (item_fields(item)["title"] for item in (1, 4))
    assert (f"first: 1. {first}, 2. {second}" if prefix else f"first: {first}, {second}") in text


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_long_prompts_lose_their_oldest_history(family):
    vision = family in VISION_FAMILIES
    loaded, template = shared_model(family), load_task("mmseqrec" if vision else "seqrec").templates[1]
    whole = toy_builder(loaded).sample(template, HISTORY, SEEN)
    shortest = None
    for length in range(len(whole.ids) + 1, 0, -1):
        builder = toy_builder(loaded, model_max_length=length)
        try:
            sample = builder.sample(template, HISTORY, SEEN)
        except ValueError:
            with pytest.raises(ValueError, match="does not fit in --model_max_length"):
                builder.sample(template, HISTORY, SEEN)
            break
        assert len(sample.ids) + 1 <= length
        text = loaded.tokenizer.decode(sample.ids)
        kept = [item for item in HISTORY if "".join(builder.catalogue.sid_index.tokens_of(item)) in text]
        assert kept == list(HISTORY[len(HISTORY) - len(kept) :])
        expected = toy_builder(loaded).sample(template, kept, SEEN)  # what a user with this history gets
        np.testing.assert_array_equal(sample.ids, expected.ids)
        np.testing.assert_array_equal(sample.targets, whole.targets)
        if vision:
            pictured = [item for item in kept if item not in WITHOUT_PICTURE]
            assert len(sample.images) == len(pictured)
            assert (sample.ids == builder.image_token_id).sum() == sum(
                (builder.items.image(item).ids == builder.image_token_id).sum() for item in pictured
            )
        shortest = len(kept)
    assert shortest == 1


@pytest.mark.parametrize("settings", [{}, {"add_prefix": True, "his_sep": " ; "}])
def test_the_longest_history_that_fits_is_kept_and_found_quickly(settings, monkeypatch):
    """Items used to be dropped one by one, and all of the rest measured again each time."""
    loaded = shared_model("qwen2")
    history = [7 * n % 40 for n in range(3000)]
    for task in ("seqrec", "fusionseqrec"):
        template = load_task(task).templates[0]
        whole = toy_builder(loaded, max_his_len=0, model_max_length=10**6, **settings)
        builder = toy_builder(loaded, max_his_len=0, model_max_length=700, **settings)
        fills = []
        fill = builder._fill
        monkeypatch.setattr(builder, "_fill", lambda *args, fill=fill, fills=fills: (fills.append(1), fill(*args))[1])
        ids, _ = builder.prompt_ids(template, history, SEEN, reserve=4)
        assert len(fills) < 15
        by_hand = [whole.prompt_ids(template, history[-n:], SEEN)[0] for n in range(1, 250)]
        np.testing.assert_array_equal(ids, [prompt for prompt in by_hand if len(prompt) <= 700 - 4][-1])
        assert len(by_hand[-1]) > 700


def test_long_words_are_cut_and_pictures_never():
    loaded, task = shared_model("qwen2_vl"), load_task("mmitem2index")
    whole = toy_builder(loaded).sample(task.templates[0], (), SEEN)
    placeholders = (whole.ids == toy_builder(loaded).image_token_id).sum()
    fitted = []
    for length in range(len(whole.ids) + 1, 0, -1):
        builder = toy_builder(loaded, model_max_length=length)
        try:
            sample = builder.sample(task.templates[0], (), SEEN)
        except ValueError:
            break
        assert len(sample.ids) + 1 <= length
        assert (sample.ids == builder.image_token_id).sum() == placeholders
        np.testing.assert_array_equal(sample.targets, whole.targets)
        assert loaded.tokenizer.decode(sample.ids).endswith("assistant\n" + loaded.tokenizer.decode(whole.targets[:-1]))
        fitted.append(length)
    assert len(fitted) > 2


@pytest.mark.parametrize("settings", [{}, {"add_prefix": True}])
def test_a_title_longer_than_the_prompt_is_cut(settings):
    """The latest title of a history used to end the run, hours in, where it was longer than `model_max_length`."""
    loaded, template = shared_model("qwen2"), load_task("fusionseqrec").templates[0]
    assert "history_titles" in template.slots
    title = "a lamp of brass " * 60
    catalogue = toy_catalogue()
    items = catalogue.items | {HISTORY[-1]: catalogue.items[HISTORY[-1]] | {"title": title}}

    def builder_for(length: int) -> PromptBuilder:
        given = PromptSettings(model_max_length=length, **settings)
        return PromptBuilder(replace(catalogue, items=items), loaded.tokenizer, None, given)

    whole, cut = (builder_for(length).sample(template, HISTORY[-1:], SEEN) for length in (2048, 128))
    assert len(whole.ids) > 300
    assert len(cut.ids) + 1 == 128
    np.testing.assert_array_equal(cut.ids, builder_for(128).sample(template, HISTORY, SEEN).ids)
    np.testing.assert_array_equal(cut.targets, whole.targets)
    begins, ends = (loaded.tokenizer.decode(cut.ids).split("a lamp of brass")[part] for part in (0, -1))
    assert loaded.tokenizer.decode(whole.ids).startswith(begins)
    assert ends.endswith(loaded.tokenizer.decode(whole.ids).rpartition("a lamp of brass")[2][-40:])


# ---- shared prefixes -------------------------------------------------------------------------------------------------
def test_only_wordings_with_a_tail_share_prefixes():
    """The first code is predicted from the prompt's last token, which must not be the history's."""
    chatting = toy_builder(shared_model("qwen2"))
    loaded = fresh_model("qwen2")
    loaded.tokenizer.chat_template = None
    for builder in (chatting, toy_builder(loaded)):
        assert builder.can_share_prefix(load_task("seqrec").templates[0])
        assert not builder.can_share_prefix(load_task("fusionseqrec").templates[0])
        assert not builder.can_share_prefix(load_task("fusionseqrec").templates[4])
        assert not builder.can_share_prefix(load_task("mmseqrec").templates[0])
