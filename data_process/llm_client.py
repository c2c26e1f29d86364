"""Asks a language model behind an OpenAI-compatible endpoint, many questions at once, within a budget.

The endpoint is OPENAI_BASE_URL, the key OPENAI_API_KEY: both come from the environment only, and the key is written
nowhere.
"""

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import openai
from pydantic import BaseModel, ValidationError

from data_process.llm_config import ModelConfig
from data_process.patience import Failure, Pause, retrying, seconds_to_wait
from src.common.images import to_jpeg

PASSING_STATUS = (408, 409, 425, 429)  # and those from 500
STOP_AFTER = 50  # failures in a row: the endpoint, the model or the prompt is at fault, not the questions
CHARACTERS_PER_TOKEN = 3  # of Latin text, rather too few, so that estimates are rather too high; others count one each
PIXELS_PER_TOKEN = 28 * 28  # a patch of Qwen-VL; others are of this order


@cache
def schema_text(schema: type[BaseModel]) -> str:
    return json.dumps(schema.model_json_schema())


@dataclass(frozen=True)
class Question:
    """What is asked under a key of its own.

    Attributes:
        schema: what the answer must be.
        settle: turns an answer of that schema into what is kept; raises ValueError where it will not do.
    """

    key: str
    system: str
    text: str
    schema: type[BaseModel]
    image: Path | None = None
    settle: Callable[[Any], dict[str, Any]] = lambda answer: answer.model_dump()

    @cached_property
    def fingerprint(self) -> str:
        """With another text, picture or schema the question is another one."""
        picture = (self.image.name, self.image.stat().st_size) if self.image else None
        whole = json.dumps([self.system, self.text, schema_text(self.schema), picture])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Usage(NamedTuple):
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)

    def cost(self, config: ModelConfig) -> float:
        return (self.input_tokens * config.input_price + self.output_tokens * config.output_price) / 1e6


def estimate(question: Question, config: ModelConfig) -> Usage:
    """Tokens that a question takes at most, about."""
    text = question.system + question.text + schema_text(question.schema)
    latin = len(text.encode("ascii", "ignore"))
    tokens = latin // CHARACTERS_PER_TOKEN + len(text) - latin + 20
    if question.image:
        tokens += config.image_side**2 // PIXELS_PER_TOKEN
    return Usage(tokens, config.max_tokens)


def price(cost: float, config: ModelConfig, prefix: str = "") -> str:
    return f", {prefix}{cost:,.4f} in the currency of the prices" if config.input_price or config.output_price else ""


# ---- one after another -----------------------------------------------------------------------------------------------
class OutOfBudget(Exception):
    pass


class Endpoint(NamedTuple):
    key: str
    url: str | None  # None: the client's own

    def __repr__(self) -> str:
        return "Endpoint(***)"  # the key must not get into a log


def endpoint_of_environment() -> Endpoint:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise ValueError("OPENAI_API_KEY is not set: export the endpoint's key, or any word where it wants none")
    if not key.isascii():  # as a header must be
        raise ValueError("OPENAI_API_KEY has other signs than ASCII: export the endpoint's key, or `none`")
    return Endpoint(key, os.environ.get("OPENAI_BASE_URL"))


class Asker:
    """Workers that ask, each attempt within the budget.

    Args:
        before: lines of earlier runs about the same questions, by key.
        spent: what of the budget is spent already.
    """

    def __init__(self, config: ModelConfig, endpoint: Endpoint, before: Mapping[str, dict[str, Any]], spent: float):
        self.config, self.endpoint, self.before, self.spent = config, endpoint, before, spent
        self.reserved = 0.0
        self.changed = asyncio.Condition()
        self.pause = Pause()
        self.failed_in_a_row = 0

    async def run(self, questions: Sequence[Question], write: Callable[[dict[str, Any]], None]) -> None:
        """Asks until all are asked or the budget is used up; `write` gets the journal's line of each question."""
        config, waiting = self.config, iter(questions)

        async def work() -> None:
            for question in waiting:  # shared: each worker takes the next
                try:
                    row = await self._ask(question)
                except OutOfBudget:
                    return
                write(row)
                self.failed_in_a_row = self.failed_in_a_row + 1 if row["status"] == "failed" else 0
                if self.failed_in_a_row >= STOP_AFTER:
                    raise ValueError(f"{STOP_AFTER} questions in a row failed, the last by: {row['reason']}")

        key, url = self.endpoint
        with ThreadPoolExecutor(os.cpu_count()) as self.pool:
            async with openai.AsyncOpenAI(
                api_key=key, base_url=url, max_retries=0, timeout=config.timeout
            ) as self.client:
                await asyncio.gather(*(work() for _ in range(min(config.concurrency, len(questions)))))

    async def _ask(self, question: Question) -> dict[str, Any]:
        """The journal's line of a question. Tokens, cost and attempts are those of all runs together."""
        config, used, attempts = self.config, Usage(), 0
        line: dict[str, Any] = {"key": question.key, "fingerprint": question.fingerprint, **config.voice}
        try:
            message, line["has_image"] = await self._content(question)
            async for attempt in retrying(config.attempts, config.first_wait, config.max_wait):
                with attempt:
                    await self.pause.over()
                    reservation = estimate(question, config).cost(config)
                    await self._reserve(reservation)
                    spent = Usage()
                    try:
                        attempts += 1
                        text, spent, finish = await self._request(question, message)
                    finally:
                        used = used.plus(spent)
                        await self._settle(reservation, spent.cost(config))
                    line |= {"status": "ok", "answer": self._read(question, text, finish)}
        except Failure as error:
            line |= {"status": "failed", "cause": error.cause, "reason": self._clean(error)}
        except OutOfBudget:
            if not attempts:
                raise
            line |= {"status": "failed", "cause": "budget", "reason": "--max_cost left no further attempt"}
        before = self.before.get(question.key, {})
        numbers = {**used._asdict(), "cost": used.cost(config), "attempts": attempts}
        return line | {name: value + before.get(name, 0) for name, value in numbers.items()}

    # ---- budget ----
    async def _reserve(self, cost: float) -> None:
        """Waits until `cost` surely fits.

        Raises:
            OutOfBudget: it does not, even if nothing else is under way.
        """
        limit = self.config.max_cost
        async with self.changed:
            while limit is not None and self.spent + self.reserved + cost > limit:
                if not self.reserved:
                    raise OutOfBudget
                await self.changed.wait()
            self.reserved += cost

    async def _settle(self, reservation: float, cost: float) -> None:
        async with self.changed:
            self.reserved = max(0.0, self.reserved - reservation)
            if self.reserved < 1e-12:  # nothing but rounding
                self.reserved = 0.0
            self.spent += cost
            self.changed.notify_all()

    # ---- one request ----
    async def _content(self, question: Question) -> tuple[list[dict[str, Any]], bool]:
        """The parts of the user's message, and whether there is a picture among them."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
        if question.image is None:
            return parts, False
        try:
            data = await asyncio.to_thread(question.image.read_bytes)
            jpeg = await asyncio.get_running_loop().run_in_executor(
                self.pool, partial(to_jpeg, data, self.config.image_side)
            )
        except (OSError, ValueError) as error:
            if self.config.skip_bad_images:
                return parts, False
            raise Failure("bad picture", f"{question.image}: {error}; --skip_bad_images asks without it") from error
        uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.data).decode()
        return [{"type": "image_url", "image_url": {"url": uri}}, *parts], True

    def _format(self, question: Question) -> dict[str, Any]:
        if self.config.response_format == "json_schema":
            schema = question.schema.model_json_schema()
            named = {"name": question.schema.__name__, "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        if self.config.response_format == "json_object":
            return {"response_format": {"type": "json_object"}}
        return {}

    async def _request(self, question: Question, content: list[dict[str, Any]]) -> tuple[str, Usage, str]:
        """The text of an answer, its tokens, and why it ended.

        Raises:
            Failure: of this question.
            ValueError: what no question would survive.
        """
        config = self.config
        options: dict[str, Any] = {config.token_limit: config.max_tokens, **self._format(question)}
        if config.temperature is not None:
            options["temperature"] = config.temperature
        system = question.system
        if config.response_format != "json_schema":
            system += "\nJSON schema: " + schema_text(question.schema)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
        try:
            async with asyncio.timeout(config.timeout):  # of the whole: the client's own is between two bytes
                reply = await self.client.chat.completions.create(model=config.model, messages=messages, **options)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise Failure("timeout", f"no whole answer within {config.timeout:g} s", True) from error
        except openai.APIStatusError as error:
            raise self._failure_of(error) from error
        except (openai.APIConnectionError, json.JSONDecodeError, openai.APIError) as error:
            kind = type(error.__cause__ or error).__name__
            raise Failure("connection", f"{error} ({kind})", True) from error
        choices = getattr(reply, "choices", None)
        if not choices:
            raise Failure("no answer", f"the endpoint answers with no completion: {str(reply)[:100]!r}", True)
        usage = getattr(reply, "usage", None)
        if usage:
            spent = Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0)
        else:  # some servers do not count: then what was reserved for it is taken as spent
            spent = estimate(question, config)
        if refusal := getattr(choices[0].message, "refusal", None):
            return refusal, spent, "refusal"
        return choices[0].message.content or "", spent, choices[0].finish_reason or ""

    def _failure_of(self, error: openai.APIStatusError) -> Failure:
        config, status, text = self.config, error.status_code, self._clean(error)
        endpoint = self.client.base_url.copy_with(userinfo=b"", query=None)  # which may hold a key, too
        where = f"{endpoint} answers {status}: {text}"
        if status in (401, 402, 403) or error.code == "insufficient_quota":
            raise ValueError(f"{where}. Check OPENAI_API_KEY and the account that it belongs to")
        if status == 404:
            raise ValueError(f"{where}. Check OPENAI_BASE_URL (it often ends in /v1) and --model {config.model}")
        names_format = re.search(r"response_format|json_schema", text) and config.response_format != "text"
        if status in (400, 422) and names_format:
            raise ValueError(f"{where}. For servers without it: --response_format json_object, or text")
        if status in (400, 422) and config.token_limit in text:
            raise ValueError(f"{where}. The other name of that limit: --token_limit, see --help")
        wait = seconds_to_wait(error.response.headers)
        if wait is not None and wait > config.max_wait:
            raise ValueError(f"{where}. It asks to wait {wait:.0f} s, over --max_wait: run the same command again then")
        if wait is not None:
            self.pause.ask(wait)
        return Failure(f"http {status}", text, status in PASSING_STATUS or status >= 500, wait)

    def _read(self, question: Question, text: str, finish: str) -> dict[str, Any]:
        """What is kept of an answer.

        Raises:
            Failure: it is cut off, refused, no JSON, or not of the schema.
        """
        if finish == "length":
            raise Failure("cut off", f"the answer is longer than --max_tokens {self.config.max_tokens}")
        if finish in ("refusal", "content_filter"):
            raise Failure("refused", f"the model refuses: {text:.200}")
        if self.config.response_format == "text":
            text = text[text.find("{") : text.rfind("}") + 1]  # models without a format talk around their JSON
        try:
            return question.settle(question.schema.model_validate_json(text))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise Failure("schema", f"{place}: {first['msg']} in {self._clean(text)!r:.120}", True) from error
        except ValueError as error:
            raise Failure("schema", str(error), True) from error

    def _clean(self, value: object) -> str:
        """As text, on one line, without the key, which some endpoints repeat in their messages."""
        return " ".join(str(value).replace(self.endpoint.key, "***").split())[:300]
