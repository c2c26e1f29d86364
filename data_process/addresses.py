"""Which machines may be contacted: public ones only, unless a host is named, and just the address that was checked."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial

import httpcore
import httpx

KEEPALIVE_SECONDS = 15.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class RefusedAddress(Exception):
    """The host is, or resolves to, an address that is not public."""


class UnknownHost(Exception):
    """The name does not resolve. `passing` says whether it may do so later."""

    def __init__(self, message: str, passing: bool):
        super().__init__(message)
        self.passing = passing


def is_public(text: str) -> bool:
    """Whether an IP address is one of the internet: not private, loopback, link-local, multicast, reserved, ...

    An IPv6 address that stands for an IPv4 address (mapped, 6to4, Teredo, NAT64) is as public as that.
    """
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in NAT64 or int(address) >> 32 == 0:  # the latter is the long deprecated ::1.2.3.4
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = [part for part in inner if part is not None]
        if inner:
            return all(is_public(str(part)) for part in inner)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
    )


async def checked_addresses(host: str, port: int, allowed_hosts: Collection[str]) -> list[str]:
    """The addresses of a host, all of which may be contacted.

    Raises:
        RefusedAddress: one of them is not public, and the host is not among `allowed_hosts`.
        UnknownHost: the name does not resolve.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UnknownHost(f"{host} does not resolve ({error.strerror})", error.errno == socket.EAI_AGAIN) from error
    except UnicodeError as error:
        raise UnknownHost(f"{host!r:.80} is no host name ({error})", False) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if host.lower() not in allowed_hosts:
        for address in addresses:
            if not is_public(address):
                where = host if host == address else f"{host} is {address}, which"
                raise RefusedAddress(f"{where} is not a public address: --allow_host {host} would allow it")
    return addresses


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the very address that was checked: a name that resolves otherwise a moment later changes nothing."""

    def __init__(self, allowed_hosts: Collection[str]):
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout=None, local_address=None, socket_options=None
    ) -> httpcore.AsyncNetworkStream:
        error: Exception | None = None
        for address in await checked_addresses(host, port, self._allowed_hosts):
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, path: str, timeout=None, socket_options=None) -> httpcore.AsyncNetworkStream:
        raise RefusedAddress(f"{path} is a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    """The body of an answer; when it is closed, `after` gets the connection back."""

    def __init__(self, response: httpcore.Response, after: Callable[[], Awaitable[None]]):
        self._response, self._after = response, after

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()
        await self._after()


class CheckedTransport(httpx.AsyncBaseTransport):
    """A transport of httpx on a `CheckedBackend`. Errors are those of httpcore and the two above.

    It keeps idle connections by host and takes the one that was used last. (The pool of httpcore looks at all of its
    connections several times a request, which costs more than the request where there are many.)
    """

    def __init__(self, allowed_hosts: Collection[str], max_idle: int, tls: ssl.SSLContext):
        self._backend, self._tls, self._max_idle = CheckedBackend(allowed_hosts), tls, max_idle
        self._idle: dict[httpcore.AsyncHTTPConnection, str] = {}  # and the origin of each; the longest idle first
        self._of_origin: dict[str, list[httpcore.AsyncHTTPConnection]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        connection = await self._take(url.origin)
        try:
            response = await connection.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except BaseException:
            await connection.aclose()
            raise
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response, partial(self._give_back, connection, str(url.origin))),
            extensions=response.extensions,
        )

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        waiting = self._of_origin.get(str(origin), [])
        while waiting:
            connection = waiting[-1]
            self._forget(connection)
            if connection.is_available() and not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._tls, keepalive_expiry=KEEPALIVE_SECONDS, network_backend=self._backend
        )

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection, origin: str) -> None:
        if not connection.is_idle():  # closed, or in the middle of an answer that nobody reads
            await connection.aclose()
            return
        self._idle[connection] = origin
        self._of_origin.setdefault(origin, []).append(connection)
        if len(self._idle) > self._max_idle:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            await oldest.aclose()

    def _forget(self, connection: httpcore.AsyncHTTPConnection) -> None:
        origin = self._idle.pop(connection)
        self._of_origin[origin].remove(connection)
        if not self._of_origin[origin]:
            del self._of_origin[origin]

    async def aclose(self) -> None:
        for connection in list(self._idle):
            self._forget(connection)
            await connection.aclose()
