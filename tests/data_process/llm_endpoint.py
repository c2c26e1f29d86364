"""A local endpoint that answers as a language model, in form and in faults; nothing leaves this machine."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

from benchmarks.misbehaving_server import Reply
from data_process.llm_config import ModelConfig
from tests.toy import NAME

KEY = "sk-secret-0123456789"
GOOD = {"enhanced_title": " A  good\ntitle ", "tags": ["a", "a", " "], "highlights": ["b"], "characteristics": []}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(answer, finish: str = "stop", usage=USAGE, **message) -> Reply:
    content = answer if isinstance(answer, str) else json.dumps(answer)
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def error(status: int, message: str, code: str | None = None, **headers) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}}).encode()
    return Reply(status, body, {"Content-Type": "application/json", **headers})


class Model:
    """Answers by the number of the item in the prompt; keeps what it was asked."""

    def __init__(self, answers=lambda item, count: completion(GOOD), latency: float = 0.0):
        self.answers, self.latency = answers, latency
        self.asked: Counter = Counter()
        self.requests: list[dict] = []
        self.headers: dict[str, str] = {}

    async def __call__(self, request) -> Reply:
        self.headers = request.headers
        asked = json.loads(request.body)
        self.requests.append(asked)
        found = re.search(r"Title: \w+ \w+ number (\d+)", prompt_of(asked))
        item = int(found[1]) if found else -1
        self.asked[item] += 1
        await asyncio.sleep(self.latency)
        return self.answers(item, self.asked[item])


def prompt_of(request: dict) -> str:
    return next(part["text"] for part in request["messages"][1]["content"] if part["type"] == "text")


def config(data: Path, kind=ModelConfig, **settings):
    quick = {"first_wait": 0.01, "timeout": 3, "attempts": 2, "model": "m", "dataset": NAME, "data_path": data}
    return kind(**{**quick, **settings})


def journal(data: Path, name: str = "enrich") -> dict[str, dict]:
    text = (data / NAME / f"{NAME}.{name}.jsonl").read_text()
    return {row["key"]: row for row in map(json.loads, text.splitlines())}
