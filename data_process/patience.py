"""How jobs over a network wait: for the next attempt, as long as a server asks to, and how long the whole will take."""

import asyncio
import email.utils
import time
from collections.abc import Mapping

import tenacity

REPORT_SECONDS = 10.0


class Failure(Exception):
    """What went wrong with one request.

    Attributes:
        cause: a word or two to count by, such as "timeout" or "http 404".
        passing: whether the next attempt may go well.
        wait: seconds that the server asked to wait, or None.
    """

    def __init__(self, cause: str, reason: str, passing: bool = False, wait: float | None = None):
        super().__init__(reason)
        self.cause, self.passing, self.wait = cause, passing, wait


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for, in seconds or as a date; None where it is absent or unreadable."""
    text = (headers.get("retry-after") or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def retrying(attempts: int, first_wait: float, max_wait: float) -> tenacity.AsyncRetrying:
    """Tries again after a passing Failure, waiting twice as long each time and up to a `first_wait` more by chance.

    What the server asks to wait counts instead, unless it is over `max_wait`: then there is no further attempt.
    """
    back_off = tenacity.wait_exponential(multiplier=first_wait, max=max_wait) + tenacity.wait_random(0, first_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, Failure) else None
        return back_off(state) if asked is None else max(asked, first_wait)

    def is_worth_it(error: BaseException) -> bool:
        return isinstance(error, Failure) and error.passing and (error.wait or 0) <= max_wait

    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        retry=tenacity.retry_if_exception(is_worth_it),
        reraise=True,
    )


class Pause:
    """A time before which no request goes to a server: what it told one of them holds for all."""

    def __init__(self) -> None:
        self.until = 0.0

    def ask(self, seconds: float) -> None:
        self.until = max(self.until, time.monotonic() + seconds)

    async def over(self) -> None:
        while (left := self.until - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Progress:
    """Says every ten seconds how much of a job is done and when it will be."""

    def __init__(self, total: int, unit: str):
        self.total, self.unit = total, unit
        self.done = 0
        self.started = self.said = time.monotonic()

    def step(self, note: str) -> None:
        """Counts one more; `note` goes with the line, where it is time for one."""
        self.done += 1
        now = time.monotonic()
        if now - self.said < REPORT_SECONDS:
            return
        from src.common.log import duration, logger

        self.said = now
        speed = self.done / (now - self.started)
        left = duration((self.total - self.done) / speed)
        logger.info(
            f"{self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%}), {note};"
            f" {speed:.3g} a second, {left} left"
        )
