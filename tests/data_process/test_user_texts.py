"""Texts about users: what they hold, what they must not know, and that the tasks read them."""

import json
import re

import pytest

from benchmarks.misbehaving_server import Reply
from data_process import data_enricher
from data_process.get_llm_output import UserTextConfig, cases, make_user_texts, question_of
from data_process.llm_questions import PROMPT_DIR, load_prompts, names_item
from src.common.artifacts import DatasetPaths
from src.common.dataset_readers import load_user_texts
from src.tasks.catalogue import load_catalogue
from src.tasks.task import load_task
from src.tasks.texts import add_texts
from tests.data_process.llm_endpoint import GOOD, Model, completion, config, journal, prompt_of
from tests.toy import NAME, item_fields, sequence

FEW = 22  # users: two of each length


@pytest.fixture(autouse=True)
def _few_users(data):
    table = {f"u{user}": sequence(user) for user in range(FEW)}
    (data / NAME / f"{NAME}.inter.json").write_text(json.dumps(table))


def user_answers(item: int, count: int) -> Reply:
    return completion({"querys": ["something nice", "  ", f"the {item_fields(item)['title']}, please"]})


class UserModel(Model):
    async def __call__(self, request) -> Reply:
        asked = json.loads(request.body)
        if asked["response_format"]["json_schema"]["name"] == "Preferences":
            self.requests.append(asked)
            return completion({"preferences": ["Likes colours.", "Likes colours.", "Buys often."]})
        return await super().__call__(request)


def test_texts_about_users_serve_both_tasks(data, endpoint):
    endpoint(UserModel(user_answers))
    assert make_user_texts(config(data, UserTextConfig)) == 0
    found = load_user_texts(DatasetPaths(data, NAME))
    assert found.preferences == {f"u{user}": ["Likes colours.", "Buys often."] for user in range(FEW)}
    long = [user for user in range(FEW) if len(sequence(user)) > 2]
    assert found.searches["test"].keys() == {f"u{user}" for user in long}
    for user in range(FEW):
        items = sequence(user)
        train = items if len(items) < 3 else items[:-2]
        assert found.searches["train"][f"u{user}"] == (train[-1], train[:-1], ["something nice"])
        if user in long:
            assert found.searches["test"][f"u{user}"] == (items[-1], items[:-1], ["something nice"])
    catalogue = load_catalogue(data, NAME)
    catalogue = add_texts(catalogue, [load_task("itemsearch"), load_task("preferenceobtain")])
    queries = catalogue.user_texts["query"]
    assert len(queries.rows("train")) + len(queries.rows("valid")) == FEW  # none is left out as a leak
    assert len(queries.rows("test")) == len(long)
    assert len(catalogue.user_texts["preference"].texts) == 2 * FEW


def test_no_question_for_training_tells_of_later_items(data):
    """Neither a preference nor a training search may know what validates or tests, by word or by picture."""
    catalogue, prompts = load_catalogue(data, NAME, image_path="images"), load_prompts("en")
    settings = config(data, UserTextConfig, image=True)
    num_checked = 0
    for case in cases(catalogue):
        items = sequence(int(case.user.removeprefix("u")))
        train = items if len(items) < 3 else items[:-2]
        question = question_of(case, catalogue, prompts, settings)
        told = {int(number) for number in re.findall(r"number (\d+)", question.text)}
        if case.part == "test":
            assert told == set(items)  # this one may
            continue
        assert told == set(train)
        assert question.image in {None, *(catalogue.image_files.get(item) for item in train)}
        num_checked += len(train) < len(items)
    assert num_checked > 30


def test_parts_that_are_not_asked_for_now_stay(data, endpoint):
    model = endpoint(UserModel(user_answers))
    for part in ("preference", "train", "test"):
        assert make_user_texts(config(data, UserTextConfig, parts=[part])) == 0
    found = load_user_texts(DatasetPaths(data, NAME))
    assert len(found.preferences) == len(found.searches["train"]) == FEW
    before = len(model.requests)
    assert make_user_texts(config(data, UserTextConfig)) == 0
    assert len(model.requests) == before


def test_users_with_a_split_file(data):
    """A split by time: several items test, and the first of them is asked for; or none does."""
    splits = {f"u{user}": [len(sequence(user)), 0] for user in range(FEW)} | {"u9": [4, 2], "u10": [0, 3]}
    (data / NAME / f"{NAME}.split.json").write_text(json.dumps(splits))
    asked = {case.key: case for case in cases(load_catalogue(data, NAME))}
    assert {key for key in asked if key.startswith("test/")} == {"test/u9", "test/u10"}
    assert asked["test/u9"][2:] == (sequence(9)[:6], sequence(9)[6])
    assert asked["train/u9"][2:] == (sequence(9)[:3], sequence(9)[3])
    assert "train/u10" not in asked
    assert "preference/u10" not in asked


def test_searches_that_only_quote_the_title_are_asked_again(data, endpoint):
    endpoint(UserModel(lambda item, _: completion({"querys": [f"get me the {item_fields(item)['title'].upper()}!"]})))
    missing = make_user_texts(config(data, UserTextConfig, parts=("train",), limit=3))
    assert missing == 3
    rows = journal(data, "user_texts")
    assert all(row["reason"].startswith("every search quotes the title") for row in rows.values())
    assert not (data / NAME / f"{NAME}.user.json").exists()


def test_titles_in_searches():
    assert names_item("I want the Vivaldi-Dress now", "Vivaldi dress")
    assert names_item("我想要一个红色陶瓷马克杯", "红色陶瓷马克杯")
    assert not names_item("a dress for the summer", "Dress")
    assert not names_item("a long dress", "Vivaldi dress")


def test_prompts_of_both_languages_ask_for_the_same():
    tables = [json.loads((PROMPT_DIR / f"{name}.json").read_text()) for name in ("en", "zh")]
    slots = [
        {key: sorted(re.findall(r"\{\w*\}", json.dumps(value))) for key, value in table.items()} for table in tables
    ]
    assert slots[0] == slots[1]
    assert re.search("[一-鿿]", tables[1]["enrich"]["text"])


def test_chinese_prompts(data, endpoint):
    model = endpoint(Model(lambda item, count: completion(GOOD)))
    data_enricher.enrich(config(data, prompt_lang="zh", limit=1))
    assert "标题：" in prompt_of(model.requests[0])


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"parts": ("likes",)}, "--parts likes: choose of preference,train,test"),
        ({"num_texts": 0}, "--num_texts 0: it must be at least 1"),
        ({"timeout": 0}, "--timeout 0: it must be over 0"),
        ({"input_price": -1}, "--input_price -1: it must be at least 0"),
    ],
)
def test_faults(tmp_path, settings, fault):
    with pytest.raises(ValueError, match=fault):
        config(tmp_path, UserTextConfig, **settings)
