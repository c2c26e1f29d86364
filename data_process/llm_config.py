"""Settings of the jobs that ask a language model, and their flags."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_process.cluster import add_engine_flags, check_engine
from src.common.cli import add_dataset_flags, add_switch, check_at_least, user_errors
from src.tasks.task import LANGUAGES

RESPONSE_FORMATS = ("json_schema", "json_object", "text")
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which questions and which model, and what they may cost. Prices are of a million tokens, in any currency."""

    dataset: str
    model: str
    data_path: Path = Path("data")
    prompt_lang: str = "en"
    image: bool = True
    image_side: int = 512
    skip_bad_images: bool = False
    max_chars: int = 2000
    response_format: str = "json_schema"
    max_tokens: int = 1024
    token_limit: str = "max_tokens"
    temperature: float | None = None
    concurrency: int = 16
    attempts: int = 5
    timeout: float = 120.0
    first_wait: float = 1.0
    max_wait: float = 120.0
    input_price: float = 0.0
    output_price: float = 0.0
    max_cost: float | None = None
    limit: int = 0
    dry_run: bool = False
    engine: str = "local"  # this process, or "ray"
    workers: int = 0  # of Ray; 0: one a node

    def __post_init__(self):
        check_at_least(
            self, image_side=28, max_chars=0, max_tokens=1, concurrency=1, attempts=1, limit=0, input_price=0,
            output_price=0,
        )  # fmt: skip
        check_engine(self)
        for name in ("timeout", "first_wait", "max_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} {getattr(self, name)}: it must be over 0 seconds")
        if self.max_cost is not None and not (self.input_price or self.output_price):
            raise ValueError("--max_cost needs --input_price and --output_price, the prices of a million tokens")

    @property
    def voice(self) -> dict[str, str]:
        """Whose words the answers are: those of one journal are all of one voice."""
        return {"model": self.model, "prompt_lang": self.prompt_lang}


def add_model_flags(parser: argparse.ArgumentParser, default: type[ModelConfig]) -> None:
    """The flags of `ModelConfig`, with the defaults of the job's own settings."""
    add_dataset_flags(parser)
    what = parser.add_argument_group("the model")
    what.add_argument("--model", required=True, help="name of the model at the endpoint OPENAI_BASE_URL")
    what.add_argument("--prompt_lang", choices=LANGUAGES, default=default.prompt_lang, help="language of the texts")
    add_switch(what, "--image", default=default.image, help="show the picture of the item")
    what.add_argument("--image_side", type=int, default=default.image_side, help="its longer side, in pixels, at most")
    add_switch(what, "--skip_bad_images", help="ask without a picture that does not decode")
    what.add_argument("--max_chars", type=int, default=default.max_chars, help="of a description, 0: all of it")
    what.add_argument(
        "--response_format",
        choices=RESPONSE_FORMATS,
        default=default.response_format,
        help="how the endpoint is told the form of answers; the others put the schema into the prompt",
    )
    what.add_argument("--max_tokens", type=int, default=default.max_tokens, help="tokens of an answer, at most")
    what.add_argument(
        "--token_limit", choices=TOKEN_LIMITS, default=default.token_limit, help="how it calls that limit"
    )
    what.add_argument("--temperature", type=float, help="default: the endpoint's")
    how = parser.add_argument_group("speed and cost")
    how.add_argument("--concurrency", type=int, default=default.concurrency, help="questions at once")
    how.add_argument("--attempts", type=int, default=default.attempts, help="at a question, after passing failures")
    how.add_argument("--timeout", type=float, default=default.timeout, help="seconds that one answer may take")
    how.add_argument("--first_wait", type=float, default=default.first_wait, help="seconds between first attempts")
    how.add_argument("--max_wait", type=float, default=default.max_wait, help="seconds between attempts, at most")
    how.add_argument("--input_price", type=float, default=default.input_price, help="of a million input tokens")
    how.add_argument("--output_price", type=float, default=default.output_price, help="of a million output tokens")
    how.add_argument("--max_cost", type=float, help="stop before all runs together cost more; default: no limit")
    how.add_argument("--limit", type=int, default=default.limit, help="ask so many questions, a sample; 0: all")
    add_engine_flags(how, "this process", "one for each node")
    add_switch(how, "--dry_run", help="estimate tokens and cost, ask nothing, write nothing")


def run_entry(job: Callable[[], int]) -> None:
    """Runs `job`, which gives how many questions have no answer, and ends with an exit status that says how it went."""
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        try:
            num_missing = job()
        except KeyboardInterrupt:
            print("stopped: the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None
    if num_missing:
        raise SystemExit(1)
