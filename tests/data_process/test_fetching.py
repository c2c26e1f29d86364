"""Which addresses are contacted, in any spelling and by any name, and by whose certificate."""

import asyncio
import shutil
import ssl
import subprocess

import httpcore
import pytest

from benchmarks.misbehaving_server import LocalServer, Pictures, picture
from data_process.addresses import CheckedBackend, RefusedAddress, is_public
from data_process.fetching import Fetcher, FetchLimits
from data_process.patience import Failure, seconds_to_wait


def test_the_address_that_was_checked_is_connected_to(monkeypatch):
    """A name that is public when it is looked at, and private a moment later, as in DNS rebinding."""
    answers = iter(["93.184.215.14", "127.0.0.1"])

    async def resolve(self, host, port, **_):
        return [(2, 1, 6, "", (next(answers), port))]

    connected = []

    async def connect(self, host, port, *_, **__):
        connected.append(host)
        raise httpcore.ConnectError("no network here")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    backend = CheckedBackend([])
    with pytest.raises(httpcore.ConnectError):
        asyncio.run(backend.connect_tcp("rebinding.example", 80))
    with pytest.raises(RefusedAddress, match=r"rebinding\.example is 127\.0\.0\.1, which is not a public address"):
        asyncio.run(backend.connect_tcp("rebinding.example", 80))
    assert connected == ["93.184.215.14"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:4700::6810:84e5", True),
        ("10.1.2.3", False),
        ("172.31.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address, expected):
    assert is_public(address) is expected


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_spelling_of_this_machine_passes(host):
    async def fetch():
        async with Fetcher(FetchLimits(attempts=1)) as fetcher:
            await fetcher.fetch(f"http://{host}:{server.port}/ok/1")

    server = LocalServer(Pictures())
    with server.running(), pytest.raises(Failure, match="is not a public address"):
        asyncio.run(fetch())
    assert server.connections == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there to make a certificate")
def test_certificates_are_checked_for_the_name(tmp_path, monkeypatch):
    """The connection goes to an address, but the certificate must be that of the host."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run([*command, *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def fetch(host: str) -> bytes:
        async with Fetcher(FetchLimits(attempts=1, allow_host=("localhost", "127.0.0.1"))) as fetcher:
            return (await fetcher.fetch(f"https://{host}:{server.port}/ok/5")).data

    server = LocalServer(Pictures(), tls=tls)
    with server.running():
        with pytest.raises(Failure, match=r"localhost: self.signed certificate") as unknown:
            asyncio.run(fetch("localhost"))
        assert (unknown.value.cause, unknown.value.passing) == ("certificate", False)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert asyncio.run(fetch("localhost")) == picture(5)
        with pytest.raises(Failure, match="IP address mismatch"):
            asyncio.run(fetch("127.0.0.1"))


def test_retry_after_is_read():
    assert seconds_to_wait({"retry-after": "17"}) == 17
    assert seconds_to_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert seconds_to_wait({"retry-after": "soon"}) is None
    assert seconds_to_wait({}) is None
