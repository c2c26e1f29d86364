"""A small HTTP server on the loopback interface that stalls, cuts off, resets and lies as servers do, when asked to.

It serves pictures whose pixels say which they are; tests give it other answers. Nothing here leaves this machine.
    python -m benchmarks.misbehaving_server --latency 0.05    prints its address, and runs until its input ends
"""

import argparse
import asyncio
import io
import json
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
from PIL import Image

GRID, BLOCK = 8, 12  # a picture is a checkerboard of 8 x 8 black or white blocks: the bits of its number


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    count: int  # how often this path was asked for, this time included


@dataclass(frozen=True)
class Reply:
    """An answer. `act`: "cut" sends half of the body, "dribble" a byte now and then, "stall" nothing, "reset" drops."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    act: str = ""


Answer = Callable[[Request], Awaitable[Reply]]


class LocalServer:
    """Runs `answer` behind HTTP/1.1 in a thread. `counts` has how often each path was asked for."""

    def __init__(self, answer: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        self.answer, self.host, self.tls = answer, host, tls
        self.counts: Counter[str] = Counter()
        self.connections = self.most_at_once = self._at_once = 0
        self._ready = threading.Event()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Gives the address `http://host:port`."""
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        thread.start()
        self._ready.wait(10)
        try:
            yield f"http://{self.host}:{self.port}"
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, self.host, 0, backlog=1024, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()  # asyncio.run then cancels the connections that stall

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.counts[path] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = await self.answer(Request(path, headers, body, self.counts[path]))
        finally:
            self._at_once -= 1
        if reply.act == "stall":
            await asyncio.sleep(3600)
        if reply.act == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        fields = {"Content-Length": str(len(reply.body)), **reply.headers}
        if "Transfer-Encoding" in fields:
            del fields["Content-Length"]
        lines = [f"HTTP/1.1 {reply.status} Some reason", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if reply.act == "dribble":
            for byte in reply.body:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)
        writer.write(reply.body[: len(reply.body) // 2] if reply.act == "cut" else reply.body)
        await writer.drain()
        return reply.act != "cut"


# ---- pictures --------------------------------------------------------------------------------------------------------
@cache
def picture(number: int) -> bytes:
    """A JPEG of 96 x 96 pixels that holds a number below 2^32 and its checksum."""
    bits = np.unpackbits(np.frombuffer(struct.pack(">II", number, zlib.crc32(struct.pack(">I", number))), np.uint8))
    blocks = bits.reshape(GRID, GRID) * np.uint8(255)
    out = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((BLOCK, BLOCK), np.uint8))).convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


def number_of(image: Image.Image) -> int | None:
    """The number that a picture holds; None where the checksum is wrong."""
    pixels = np.asarray(image.convert("L").resize((GRID * BLOCK, GRID * BLOCK)))
    bits = (pixels[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK] > 127).ravel()
    number, checksum = struct.unpack(">II", np.packbits(bits).tobytes())
    return number if checksum == zlib.crc32(struct.pack(">I", number)) else None


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """A PNG of a few kilobytes that would be 9,000 x 9,000 pixels."""
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    return out.getvalue()


@dataclass
class Pictures:
    """Answers `/<behaviour>/<number>` after `latency` seconds; `/counts` tells how often each path was asked for."""

    latency: float = 0.0
    private: str = ""  # where `/private/...` redirects to
    counts: Counter[str] = field(default_factory=Counter)

    async def __call__(self, request: Request) -> Reply:
        if request.path == "/counts":
            return Reply(body=json.dumps(self.counts).encode())
        self.counts[request.path] += 1
        await asyncio.sleep(self.latency)
        _, behaviour, number = request.path.split("/")[:3]
        whole = picture(int(number))
        match behaviour:
            case "ok":
                return Reply(body=whole, headers={"Content-Type": "image/jpeg"})
            case "flaky500" if request.count < 2:
                return Reply(500)
            case "flaky429" if request.count < 2:
                return Reply(429, headers={"Retry-After": "1"})
            case "flakyreset" if request.count < 2:
                return Reply(act="reset")
            case "flakycut" if request.count < 2:
                return Reply(body=whole, act="cut")
            case "flakystall" if request.count < 2:
                return Reply(act="stall")
            case "flaky500" | "flaky429" | "flakyreset" | "flakycut" | "flakystall":
                return Reply(body=whole)
            case "moved":
                return Reply(302, headers={"Location": f"/ok/{number}"})
            case "loop":
                return Reply(302, headers={"Location": request.path})
            case "private":
                return Reply(302, headers={"Location": f"{self.private}/ok/{number}"})
            case "file":
                return Reply(302, headers={"Location": "file:///etc/hostname"})
            case "missing":
                return Reply(404, b"<html>gone</html>")
            case "error":
                return Reply(500)
            case "busy":
                return Reply(429, headers={"Retry-After": "3600"})
            case "reset" | "stall":
                return Reply(act=behaviour)
            case "cut" | "dribble":
                return Reply(body=whole, act=behaviour)
            case "html":
                return Reply(body=b"<html><img src=x></html>", headers={"Content-Type": "text/html"})
            case "empty":
                return Reply()
            case "truncated":
                return Reply(body=whole[: len(whole) * 3 // 4], headers={"Content-Type": "image/jpeg"})
            case "pixel":
                out = io.BytesIO()
                Image.new("RGB", (1, 1)).save(out, "GIF")
                return Reply(body=out.getvalue(), headers={"Content-Type": "image/gif"})
            case "gzip":
                return Reply(body=whole, headers={"Content-Encoding": "gzip"})
            case "huge":
                return Reply(body=whole, headers={"Content-Length": str(10**10)})
            case "endless":
                part = b"10000\r\n" + bytes(0x10000) + b"\r\n"
                return Reply(body=part * 100, headers={"Transfer-Encoding": "chunked"})
            case "bomb":
                return Reply(body=bomb(), headers={"Content-Type": "image/png"})
        return Reply(400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--private", default="", help="address that /private/... redirects to")
    args = parser.parse_args()
    with LocalServer(Pictures(args.latency, args.private)).running() as address:
        print(address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
