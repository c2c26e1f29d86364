"""Fetches files from anywhere on the web: few at once from one host, again after passing failures, within limits."""

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from data_process.addresses import CheckedTransport, RefusedAddress, UnknownHost
from data_process.patience import Failure, Pause, retrying, seconds_to_wait
from src.common.cli import check_at_least

PASSING_STATUS = (408, 425, 429)  # and those from 500: the server asks for, or may do with, another attempt
MAX_URL = 8000


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one file may cost. `timeout` is of a whole answer, in seconds; `max_wait` the longest of pauses."""

    concurrency: int = 64
    per_host: int = 16
    attempts: int = 4
    timeout: float = 30.0
    first_wait: float = 0.5
    max_wait: float = 60.0
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    allow_host: Collection[str] = ()
    user_agent: str = "GRec/0.1 (pictures of products, for research)"

    def __post_init__(self):
        check_at_least(self, concurrency=1, per_host=1, attempts=1, max_bytes=1, max_redirects=0)
        for name in ("timeout", "first_wait", "max_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} {getattr(self, name)}: it must be over 0 seconds")
        for host in self.allow_host:
            if not host or set(host) & set("/@[]") or host.count(":") == 1:
                raise ValueError(f"--allow_host {host!r}: give the name or the IP address of a host, and nothing else")


class _Host:
    def __init__(self, at_once: int):
        self.slots, self.pause = asyncio.Semaphore(at_once), Pause()


@dataclass
class Fetched:
    """The content of an address, how many attempts it took, and what the server called it."""

    data: bytes
    attempts: int
    content_type: str


@dataclass
class Fetcher:
    """`async with Fetcher(limits) as fetcher: await fetcher.fetch(url)`.

    Attributes:
        slots: how many requests at once a host gets; by default `per_host` of the limits.
    """

    limits: FetchLimits
    slots: Callable[[str], int] | None = None
    _hosts: dict[str, _Host] = field(init=False)

    async def __aenter__(self) -> "Fetcher":
        limits = self.limits
        self._hosts = {}
        self._client = httpx.AsyncClient(
            transport=CheckedTransport(limits.allow_host, limits.concurrency, httpx.create_ssl_context()),
            headers={"User-Agent": limits.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"},
            timeout=limits.timeout,
            trust_env=False,  # through a proxy of the environment no address could be checked
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def fetch(self, url: str) -> Fetched:
        """The content of `url`, after as many redirects and attempts as the limits allow.

        Raises:
            Failure: of the last attempt.
        """
        limits, attempts = self.limits, 0
        async for attempt in retrying(limits.attempts, limits.first_wait, limits.max_wait):
            with attempt:
                attempts += 1
                data, content_type = await self._follow(url)
        return Fetched(data, attempts, content_type)

    async def _follow(self, url: str) -> tuple[bytes, str]:
        for _ in range(self.limits.max_redirects + 1):
            parsed = _parse(url)
            if (host := self._hosts.get(parsed.host)) is None:
                at_once = self.slots(parsed.host) if self.slots else self.limits.per_host
                host = self._hosts[parsed.host] = _Host(at_once)
            async with host.slots:
                await host.pause.over()
                answer = await self._ask(parsed, host)
            if not isinstance(answer, str):
                return answer
            url = answer
        raise Failure("too many redirects", f"over {self.limits.max_redirects} redirects, the last to {url:.200}")

    async def _ask(self, url: httpx.URL, host: _Host) -> tuple[bytes, str] | str:
        """One request: the content and its type, or the address that the server points to."""
        limits = self.limits
        try:
            async with asyncio.timeout(limits.timeout), self._client.stream("GET", url) as response:
                if response.has_redirect_location:
                    return _join(url, response.headers["location"])
                if response.status_code != 200:
                    wait = seconds_to_wait(response.headers)
                    if wait is not None and wait <= limits.max_wait:
                        host.pause.ask(wait)
                    asked = f", and asks to wait {wait:.0f} s" if wait is not None else ""
                    status = response.status_code
                    raise Failure(
                        f"http {status}",
                        f"the server answers {status} {response.reason_phrase}{asked}",
                        status in PASSING_STATUS or status >= 500,
                        wait,
                    )
                return await self._body(response), response.headers.get("content-type", "")
        except RefusedAddress as error:
            raise Failure("refused address", str(error)) from error
        except UnknownHost as error:
            raise Failure("unknown host", str(error), error.passing) from error
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise Failure("timeout", f"no whole answer within {limits.timeout:g} s", True) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise Failure("certificate", f"{url.host}: {error.__cause__.verify_message}") from error
            text = str(error) or type(error).__name__
            raise Failure("connection", f"the connection failed ({text:.200})", True) from error

    async def _body(self, response: httpx.Response) -> bytes:
        """The bytes of the answer as sent; never more than the limit is held."""
        limit = self.limits.max_bytes
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise Failure("compressed", f"the answer is compressed ({encoding:.40}), which was not asked for")
        size = response.headers.get("content-length", "")
        if size.isdecimal() and int(size) > limit:
            raise Failure("too large", f"{int(size):,} bytes, over the limit of {limit:,}")
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > limit:
                raise Failure("too large", f"over the limit of {limit:,} bytes")
        return bytes(data)


def _parse(url: str) -> httpx.URL:
    if len(url) > MAX_URL:
        raise Failure("bad address", f"the address has {len(url):,} characters")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Failure("bad address", f"{url!r:.200} is no address ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Failure("bad address", f"{url!r:.200} is no http or https address")
    return parsed


def _join(url: httpx.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise Failure("bad address", f"redirected to {location!r:.200}, which is no address") from error
