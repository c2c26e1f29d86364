"""Enriched items and texts about users from a language model that misbehaves: asked again, refused, paid, resumed."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.misbehaving_server import Reply
from data_process import data_enricher
from data_process.get_llm_output import UserTextConfig, make_user_texts
from src.common.artifacts import DatasetPaths
from src.common.dataset_readers import load_enriched_items
from tests.data_process.llm_endpoint import GOOD, KEY, Model, completion, config, error, journal, prompt_of
from tests.toy import NAME, NUM_ITEMS, WITHOUT_PICTURE, item_fields, toy_copy

ROOT = Path(__file__).resolve().parents[2]


# ---- items -----------------------------------------------------------------------------------------------------------
def test_items_are_enriched_from_text_and_picture(data, endpoint, caplog):
    model = endpoint(Model())
    assert data_enricher.enrich(config(data)) == 0
    path = data / NAME / f"{NAME}.item_enriched_v2.json"
    table = json.loads(path.read_text())
    assert list(table) == [str(item) for item in range(NUM_ITEMS)]
    fields = {"enhanced_title": "A good title", "tags": ["a"], "highlights": ["b"], "characteristics": []}
    assert table["4"] == {**item_fields(4), **fields, "has_image": True}
    assert {int(item) for item, row in table.items() if not row["has_image"]} == set(WITHOUT_PICTURE)
    assert len(load_enriched_items(DatasetPaths(data, NAME))) == NUM_ITEMS
    record = json.loads(path.with_suffix(".run.json").read_text())
    assert record["inputs"]["pictures"]["pictures"] == NUM_ITEMS - len(WITHOUT_PICTURE)
    request = next(request for request in model.requests if "number 4\n" in prompt_of(request))
    assert all(text in prompt_of(request) for text in item_fields(4).values() if not text.startswith("images/"))
    uri = request["messages"][1]["content"][0]["image_url"]["url"]
    shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == Image.open(data / NAME / "images" / "4.jpg").size
    schema = request["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == set(fields)
    assert model.headers["authorization"] == f"Bearer {KEY}"
    assert f"{100 * NUM_ITEMS:,} input and {10 * NUM_ITEMS:,} output tokens" in caplog.text


def misbehave(item: int, count: int) -> Reply:
    """Items 0 to 9 recover at the second attempt; 10 to 19 never do."""
    if item < 20 and (item >= 10 or count == 1):
        return {
            0: error(500, "oops"),
            1: error(429, "slow down", **{"Retry-After": "1"}),
            2: Reply(act="reset"),
            3: Reply(body=b"{" * 200, act="cut"),
            4: Reply(act="stall"),
            5: Reply(body=b"<html>a proxy</html>", headers={"Content-Type": "text/html"}),
            6: completion('{"enhanced_title": "x"'),
            7: completion({**GOOD, "tags": "red"}),
            8: completion({**GOOD, "enhanced_title": " "}),
            9: completion({**GOOD, "extra": 1}),
            10: error(400, "this item is too long"),
            11: completion("", "length"),
            12: completion("", refusal="I will not"),
            13: completion({**GOOD, "tags": [1]}),
            14: Reply(body=b'{"choices": []}', headers={"Content-Type": "application/json"}),
            15: Reply(body=b"nonsense", headers={"Content-Type": "application/json"}),
            16: error(500, f"the key {KEY} is fine"),
            17: completion({}),
            18: completion("", "content_filter"),
            19: completion("[1]"),
        }[item]
    return completion(GOOD)


def test_every_misbehaviour_is_overcome_or_named(data, endpoint, caplog):
    model = endpoint(Model(misbehave))
    assert data_enricher.enrich(config(data)) == 10
    rows = journal(data)
    causes = {item: rows[str(item)].get("cause") for item in range(NUM_ITEMS)}
    assert [item for item, cause in causes.items() if cause] == list(range(10, 20))
    assert [causes[item] for item in range(10, 20)] == [
        *("http 400", "cut off", "refused", "schema", "no answer", "connection"),
        *("http 500", "schema", "refused", "schema"),
    ]
    assert rows["13"]["reason"].startswith("tags.0: Input should be a valid string")
    assert rows["16"]["reason"].endswith("the key *** is fine")
    assert [model.asked[item] for item in range(10, 20)] == [1, 1, 1, 2, 2, 2, 2, 2, 1, 2]
    assert (rows["13"]["input_tokens"], rows["13"]["output_tokens"], rows["13"]["attempts"]) == (200, 20, 2)
    table = json.loads((data / NAME / f"{NAME}.item_enriched_v2.json").read_text())
    assert table.keys() == {str(item) for item in range(NUM_ITEMS)} - {str(item) for item in range(10, 20)}
    everything = "".join(path.read_text() for path in (data / NAME).glob("*.json*")) + caplog.text
    assert KEY not in everything
    assert "Bearer" not in everything
    # The next run asks the ten again, and only them.
    again = endpoint(Model())
    assert data_enricher.enrich(config(data)) == 0
    assert again.asked == dict.fromkeys(range(10, 20), 1)
    assert journal(data)["13"]["attempts"] == 3


def test_a_password_in_the_address_of_the_endpoint_is_not_shown(data, endpoint, capsys, monkeypatch):
    endpoint(Model(lambda item, count: error(404, "no model m")))
    address = os.environ["OPENAI_BASE_URL"].replace("http://", "http://me:hidden@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(SystemExit):
        data_enricher.main(["--data_path", str(data), "--dataset", NAME, "--model", "m", "--concurrency", "1"])
    message = capsys.readouterr().err
    assert "/v1/ answers 404: " in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (error(401, f"wrong key {KEY}"), r"answers 401: .*wrong key \*\*\*.*Check OPENAI_API_KEY"),
        (error(429, "pay first", "insufficient_quota"), "Check OPENAI_API_KEY and the account"),
        (error(404, "no model m"), r"no model m.* Check OPENAI_BASE_URL .* and --model m"),
        (error(400, "response_format json_schema is unknown"), "For servers without it: --response_format json_object"),
        (error(400, "max_tokens is not supported"), "--token_limit"),
        (error(429, "come back", **{"Retry-After": "7200"}), "It asks to wait 7200 s, over --max_wait"),
    ],
)
def test_what_no_question_would_survive_ends_the_run(data, endpoint, capsys, reply, fault):
    model = endpoint(Model(lambda item, count: reply))
    flags = ["--data_path", str(data), "--dataset", NAME, "--model", "m", "--concurrency", "1"]
    with pytest.raises(SystemExit) as end:
        data_enricher.main(flags)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert re.search(fault, message), message
    assert KEY not in message
    assert model.asked.total() == 1
    assert not (data / NAME / f"{NAME}.item_enriched_v2.json").exists()


def test_a_row_of_failures_ends_the_run(data, endpoint, monkeypatch):
    monkeypatch.setattr("data_process.llm_client.STOP_AFTER", 5)
    model = endpoint(Model(lambda item, count: error(503, "down")))
    with pytest.raises(ValueError, match=r"5 questions in a row failed, the last by: .*down"):
        data_enricher.enrich(config(data, concurrency=1, attempts=1))
    assert model.asked.total() == 5
    assert len(journal(data)) == 5


def test_the_other_ways_to_ask_for_json(data, endpoint):
    chatty = completion("Sure! ```json\n" + json.dumps(GOOD) + "\n``` Anything else?")
    model = endpoint(Model(lambda item, count: chatty))
    assert data_enricher.enrich(config(data, response_format="text", limit=3, token_limit="max_completion_tokens")) == 0
    for request in model.requests:
        assert "response_format" not in request
        assert "max_tokens" not in request
        assert request["max_completion_tokens"] == 1024
        assert '"enhanced_title"' in request["messages"][0]["content"]
    model = endpoint(Model())
    data_enricher.enrich(config(data, response_format="json_object", temperature=0.5, image=False, limit=1))
    assert model.requests[0]["response_format"] == {"type": "json_object"}
    assert model.requests[0]["temperature"] == 0.5
    assert [part["type"] for part in model.requests[0]["messages"][1]["content"]] == ["text"]
    strict = endpoint(Model(lambda item, count: chatty))  # no falling back in silence
    data_enricher.enrich(config(data, limit=1))
    assert strict.asked.total() == 2


def test_the_budget_holds_over_all_runs(data, endpoint, caplog):
    """A question costs 100 x 1 + 10 x 10 per million tokens, and is taken to cost more before it is asked."""
    model = endpoint(Model())
    prices = {"input_price": 1.0, "output_price": 10.0, "max_tokens": 20, "image": False}
    assert data_enricher.enrich(config(data, max_cost=0.004, **prices)) == NUM_ITEMS - model.asked.total()
    spent = sum(row["cost"] for row in journal(data).values())
    assert spent == pytest.approx(model.asked.total() * 200 / 1e6)
    assert 0.003 < spent <= 0.004
    assert "--max_cost 0.004 is used up" in caplog.text
    before = model.asked.total()
    data_enricher.enrich(config(data, max_cost=0.004, **prices))
    assert model.asked.total() == before
    assert data_enricher.enrich(config(data, max_cost=0.1, **prices)) == 0
    assert model.asked.total() == NUM_ITEMS
    with pytest.raises(ValueError, match="--max_cost needs --input_price"):
        config(data, max_cost=1.0)


def test_a_dry_run_asks_and_writes_nothing(data, monkeypatch, caplog):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = sorted(path.name for path in (data / NAME).iterdir())
    assert data_enricher.enrich(config(data, dry_run=True, input_price=1.0, output_price=2.0)) == 0
    found = re.search(
        r"40 questions, about ([\d,]+) input tokens, at most 40,960 output tokens, at most about", caplog.text
    )
    assert 40 * 300 < int(found[1].replace(",", "")) < 40 * 1500
    assert sorted(path.name for path in (data / NAME).iterdir()) == before
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        data_enricher.enrich(config(data))
    monkeypatch.setenv("OPENAI_API_KEY", "密钥")  # used to end in a traceback of the client
    with pytest.raises(ValueError, match="OPENAI_API_KEY has other signs than ASCII"):
        data_enricher.enrich(config(data))


def test_changed_items_are_asked_again(data, endpoint):
    model = endpoint(Model())
    data_enricher.enrich(config(data))
    path = data / NAME / f"{NAME}.item.json"
    items = json.loads(path.read_text())
    items["5"]["brand"] = "Other"
    path.write_text(json.dumps(items))
    Image.new("RGB", (30, 30)).save(data / NAME / "images" / "3.jpg")
    model.asked.clear()
    assert data_enricher.enrich(config(data)) == 0
    assert model.asked == {3: 1, 5: 1}
    model.asked.clear()
    for other in ({"model": "other"}, {"prompt_lang": "zh"}):
        with pytest.raises(ValueError, match=r"enrich\.jsonl holds answers of --\w+ (m|en): pass that, or move"):
            data_enricher.enrich(config(data, **other))
    assert not model.asked


def test_pictures_that_do_not_decode(data, endpoint):
    (data / NAME / "images" / "4.jpg").write_bytes(b"no picture")
    endpoint(Model())
    assert data_enricher.enrich(config(data)) == 1
    assert journal(data)["4"]["cause"] == "bad picture"
    assert "--skip_bad_images asks without it" in journal(data)["4"]["reason"]
    assert data_enricher.enrich(config(data, skip_bad_images=True)) == 0
    assert not json.loads((data / NAME / f"{NAME}.item_enriched_v2.json").read_text())["4"]["has_image"]


def test_files_of_others_are_not_replaced(tmp_path, endpoint):
    data, model = toy_copy(tmp_path), endpoint(Model())
    with pytest.raises(ValueError, match=r"item_enriched_v2\.json exists, and .*enrich\.jsonl does not"):
        data_enricher.enrich(config(data))
    with pytest.raises(ValueError, match=r"user\.json exists, and .*user_texts\.jsonl does not"):
        make_user_texts(config(data, UserTextConfig))
    assert not model.requests


def test_killed_runs_lose_nothing_and_repeat_nothing(data, endpoint):
    model = endpoint(Model(latency=0.05))
    flags = ["--data_path", str(data), "--dataset", NAME, "--model", "m", "--concurrency", "2"]
    command = [sys.executable, str(ROOT / "data_process" / "data_enricher.py"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    while model.asked.total() < 12 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    answered = len(journal(data))
    assert answered >= 8
    assert subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ).returncode == 0
    assert model.asked.total() <= NUM_ITEMS + 2  # what was under way
    assert len(load_enriched_items(DatasetPaths(data, NAME))) == NUM_ITEMS
