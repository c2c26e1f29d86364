"""Pictures from a server that misbehaves: what is fetched, tried again, refused and named; killed and resumed."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.misbehaving_server import LocalServer, Pictures, bomb, number_of
from data_process.download_images import DownloadConfig, download, main
from data_process.host_queue import HostQueue
from data_process.journal import Journal
from src.common.artifacts import UMASK, DatasetPaths
from src.common.dataset_readers import find_images, load_items

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"first_wait": 0.01, "timeout": 2, "attempts": 2, "allow_host": ["127.0.0.1"], "max_bytes": 1_000_000}


def write_dataset(folder: Path, urls: dict[int, list[str]] | None, **fields) -> Path:
    """A dataset `Shop` of items whose original ids are `B<item>`; gives the folder that holds it."""
    (folder / "Shop").mkdir(parents=True, exist_ok=True)
    num_items = max(urls) + 1 if urls else 1
    items = {str(item): {"title": f"item {item}", **fields} for item in range(num_items)}
    (folder / "Shop" / "Shop.item.json").write_text(json.dumps(items))
    (folder / "Shop" / "Shop.item2id").write_text("".join(f"B{item}\t{item}\n" for item in range(num_items)))
    if urls is not None:
        (folder / "Shop" / "Shop.image_urls.json").write_text(json.dumps(urls))
    return folder


def config(data: Path, **settings) -> DownloadConfig:
    return DownloadConfig(dataset="Shop", data_path=data, **{**QUICK, **settings})


def lines(data: Path) -> dict[int, dict]:
    """The last line of each item in the manifest."""
    text = (data / "Shop" / "Shop.images.jsonl").read_text()
    return {int(row["item"]): row for row in map(json.loads, text.splitlines())}


def shown(data: Path, item: int) -> int | None:
    return number_of(Image.open(data / "Shop" / "images" / f"B{item}.jpg"))


# ---- one address -----------------------------------------------------------------------------------------------------
GOOD = ("ok", "flaky500", "flaky429", "flakyreset", "flakycut", "flakystall", "moved")
BAD = {
    "missing": ("http 404", False, "the server answers 404 Some reason"),
    "error": ("http 500", True, "answers 500"),
    "busy": ("http 429", True, "asks to wait 3600 s"),
    "reset": ("connection", True, "the connection failed"),
    "cut": ("connection", True, "the connection failed"),
    "stall": ("timeout", True, "no whole answer within 4 s"),
    "dribble": ("timeout", True, "no whole answer within 4 s"),
    "html": ("no picture", False, r"24 bytes \(text/html\) hold no picture of a format of the web"),
    "empty": ("no picture", False, "0 bytes hold no picture"),
    "truncated": ("no picture", False, r"(?i)hold no whole picture \(.*truncated"),
    "pixel": ("too small", False, "1 x 1 pixels, below --min_side 10"),
    "gzip": ("compressed", False, "the answer is compressed"),
    "huge": ("too large", False, "10,000,000,000 bytes, over the limit of 1,000,000"),
    "endless": ("too large", False, "over the limit of 1,000,000 bytes"),
    "bomb": ("no picture", False, "9000 x 9000 pixels, over 64,000,000"),
    "loop": ("too many redirects", False, "over 5 redirects"),
    "private": ("refused address", True, "127.0.0.2 is not a public address: --allow_host 127.0.0.2"),
    "file": ("bad address", False, r"'file:/+etc/hostname' is no http or https address"),
}


def test_every_misbehaviour_is_overcome_or_named(tmp_path):
    """A redirect to a private address is refused without a connection: the second server sees none."""
    behaviours = [*GOOD, *BAD]
    bomb()  # the server keeps it: to make it takes a busy machine longer than the time-out
    private = LocalServer(Pictures(), "127.0.0.2")
    pictures = Pictures()
    server = LocalServer(pictures)
    with private.running() as secret, server.running() as address:
        pictures.private = secret
        urls = {item: [f"{address}/{behaviour}/{item}"] for item, behaviour in enumerate(behaviours)}
        urls |= {len(urls): ["nonsense"], len(urls) + 1: [], len(urls) + 2: ["http://no-such-host.invalid/x.jpg"]}
        urls |= {len(urls): ["http://[::1", f"{address}/html/7", f"{address}/ok/77"]}
        data = write_dataset(tmp_path, urls)
        counts = download(config(data, timeout=4))  # longer than a busy machine takes for a good answer
    assert private.connections == 0
    rows = lines(data)
    for item, behaviour in enumerate(behaviours):
        row = rows[item]
        if behaviour in GOOD:
            assert row["status"] == "ok", row
            assert shown(data, item) == item
            continue
        cause, passing, reason = BAD[behaviour]
        assert (row["status"], row["cause"], row["passing"]) == ("failed", cause, passing), row
        assert re.search(reason, row["reason"]), row
        assert not (data / "Shop" / "images" / f"B{item}.jpg").exists()
        asked = server.counts[f"/{behaviour}/{item}"]
        assert asked == (1 if not passing or behaviour in ("busy", "private") else 2) or behaviour == "loop", row
    last = len(behaviours)
    assert [rows[last + place].get("cause") for place in range(3)] == ["bad address", "no address", "unknown host"]
    assert shown(data, last + 3) == 77  # the third of its addresses
    assert counts.total() == len(urls)
    assert counts["ok"] == len(GOOD) + 1
    assert not list((data / "Shop" / "images").glob(".*"))
    paths = DatasetPaths(data, "Shop")
    assert set(find_images(paths, load_items(paths))) == {*range(len(GOOD)), last + 3}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (data / "Shop" / "images").iterdir()}
    assert modes == {0o666 & ~UMASK}  # many threads used to set each other's umask


def test_a_proxy_of_the_environment_is_not_used(monkeypatch, tmp_path):
    """Behind one, nobody would check the address."""
    proxy = LocalServer(Pictures(), "127.0.0.3")
    server = LocalServer(Pictures())
    with proxy.running() as proxy_address, server.running() as address:
        monkeypatch.setenv("http_proxy", proxy_address)
        data = write_dataset(tmp_path, {0: [f"{address}/ok/0"]})
        assert download(config(data)) == {"ok": 1}
    assert proxy.connections == 0


def test_idle_connections_are_used_again_and_bounded(tmp_path):
    servers = [LocalServer(Pictures(), f"127.0.0.{number}") for number in (5, 6, 7)]
    with ExitStack() as stack:
        addresses = [stack.enter_context(server.running()) for server in servers]
        urls = {item: [f"{addresses[item % 3]}/ok/{item}"] for item in range(30)}
        data = write_dataset(tmp_path, urls)
        hosts = [f"127.0.0.{number}" for number in (5, 6, 7)]
        assert download(config(data, allow_host=hosts, concurrency=3, per_host=1)) == {"ok": 30}
    assert [server.connections for server in servers] == [1, 1, 1]


def test_what_one_answer_asks_to_wait_holds_for_the_whole_host(tmp_path):
    times = []

    async def answer(request):
        times.append(time.monotonic())
        return await pictures(request)

    pictures = Pictures()
    with LocalServer(answer).running() as address:
        data = write_dataset(tmp_path, {0: [f"{address}/flaky429/0"], 1: [f"{address}/ok/1"], 2: [f"{address}/ok/2"]})
        assert download(config(data, per_host=1, timeout=3)) == {"ok": 3}
    assert times[1] - times[0] > 0.95


# ---- many ------------------------------------------------------------------------------------------------------------
def test_hosts_take_turns_and_none_is_asked_too_much():
    async def run():
        queue = HostQueue([("a", number) for number in range(20)] + [("b", 20), ("c", 21)], per_host=2)
        busy, order = Counter(), []

        async def work():
            while (taken := await queue.take()) is not None:
                host, job = taken
                busy[host] += 1
                assert busy[host] <= 2
                order.append(job)
                await asyncio.sleep(0)
                busy[host] -= 1
                await queue.done(host)

        await asyncio.gather(*(work() for _ in range(6)))
        return order

    order = asyncio.run(run())
    assert sorted(order) == list(range(22))
    assert {20, 21} <= set(order[:4])


def test_a_stalling_host_holds_up_its_own_pictures_only(tmp_path):
    """One queue for all would have all three workers wait for it first."""
    fast = LocalServer(Pictures())
    slow = LocalServer(Pictures(), "127.0.0.4")
    with fast.running() as good, slow.running() as bad:
        urls = {item: [f"{bad}/stall/{item}"] for item in range(3)}
        urls |= {item: [f"{good}/ok/{item}"] for item in range(3, 12)}
        data = write_dataset(tmp_path, urls)
        settings = {"concurrency": 3, "per_host": 2, "attempts": 1, "allow_host": ["127.0.0.1", "127.0.0.4"]}
        counts = download(config(data, **settings))
    assert counts == {"ok": 9, "timeout": 3}
    assert slow.most_at_once <= 2
    first = json.loads((data / "Shop" / "Shop.images.jsonl").read_text().splitlines()[0])
    assert first["status"] == "ok"


def test_what_is_done_is_not_asked_for_again(tmp_path):
    """Passing failures are tried by every run, others with --retry_failed or other addresses; pictures are kept."""
    server = LocalServer(Pictures())
    with server.running() as address:
        behaviours = ("ok", "missing", "error", "ok", "ok", "ok")
        urls = {item: [f"{address}/{behaviour}/{item}"] for item, behaviour in enumerate(behaviours)}
        data = write_dataset(tmp_path, urls)
        images = data / "Shop" / "images"
        images.mkdir()
        Image.new("RGB", (40, 30), "red").save(images / "B3.jpg")  # brought by the user
        (images / "B4.jpg").write_bytes(b"half a pict")
        assert download(config(data)) == {"ok": 3, "kept": 1, "http 404": 1, "http 500": 1}
        assert (server.counts["/ok/3"], server.counts["/ok/4"]) == (0, 1)
        before = server.counts.copy()
        download(config(data))
        assert server.counts - before == {"/error/2": 2}
        (images / "B5.jpg").unlink()
        before = server.counts.copy()
        download(config(data, retry_failed=True))
        assert server.counts - before == {"/error/2": 2, "/missing/1": 1, "/ok/5": 1}
        urls[1] = [f"{address}/ok/1"]
        write_dataset(data, urls)
        before = server.counts.copy()
        download(config(data, attempts=1))
        assert server.counts - before == {"/error/2": 1, "/ok/1": 1}
        assert Image.open(images / "B3.jpg").size == (40, 30)


def test_a_host_that_is_allowed_after_all(tmp_path):
    """What the message advises used to change nothing: the refusal was settled."""
    server = LocalServer(Pictures())
    with server.running() as address:
        data = write_dataset(tmp_path, {0: [f"{address}/ok/0", f"{address}/ok/1"]})
        assert download(config(data, allow_host=())) == {"refused address": 1}
        assert server.connections == 0
        assert download(config(data)) == {"ok": 1}


def command(data: Path) -> list[str]:
    flags = ["--data_path", str(data), "--dataset", "Shop", "--allow_host", "127.0.0.1", "--first_wait", "0.01"]
    return [sys.executable, str(ROOT / "data_process" / "download_images.py"), *flags, "--per_host", "4"]


def test_killed_runs_lose_nothing_and_repeat_nothing(tmp_path):
    server = LocalServer(Pictures(latency=0.03))
    with server.running() as address:
        urls = {item: [f"{address}/{'missing' if item % 10 == 7 else 'ok'}/{item}"] for item in range(60)}
        data = write_dataset(tmp_path, urls)
        for goal in (10, 30):
            process = subprocess.Popen(command(data), stdout=subprocess.DEVNULL)
            while server.counts.total() < goal and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with open(data / "Shop" / "Shop.images.jsonl", "a") as file:
            file.write('{"item": "5')  # a line that was cut off
        done = subprocess.run(command(data), capture_output=True, text=True)
        assert done.returncode == 1, done.stderr  # six are missing
        assert "60 items, each with a line in" in done.stdout
        assert "6  http 404" in done.stdout
    rows = lines(data)
    for item in range(60):
        expected = "failed" if item % 10 == 7 else "ok"
        assert rows[item]["status"].replace("kept", "ok") == expected
        assert expected == "failed" or shown(data, item) == item
    assert max(server.counts.values()) <= 3
    assert server.counts.total() <= 60 + 2 * 4  # at most what was under way at each kill
    assert sum(row["status"] == "kept" for row in rows.values()) <= 2 * 4


def test_exit_status(tmp_path, capsys):
    server = LocalServer(Pictures())
    with server.running() as address:
        data = write_dataset(tmp_path, {0: [f"{address}/ok/0"], 1: [f"{address}/missing/1"]})
        flags = ["--data_path", str(data), "--dataset", "Shop", "--allow_host", "127.0.0.1"]
        with pytest.raises(SystemExit) as failed:
            main(flags)
        assert failed.value.code == 1
        main([*flags, "--max_failed", "0.5"])
        assert "1  http 404" in capsys.readouterr().out
        with pytest.raises(SystemExit) as wrong, Journal(data / "Shop" / "Shop.images.jsonl", "item"):
            main(flags)
        assert wrong.value.code == 2
        assert "is being written by another process" in capsys.readouterr().err


# ---- where addresses stand -------------------------------------------------------------------------------------------
def test_addresses_come_from_a_file_or_a_field(tmp_path):
    with LocalServer(Pictures()).running() as address:
        for ids, prefix in (("item", ""), ("original", "B")):
            data = write_dataset(tmp_path / ids, {0: []})
            (tmp_path / "list.tsv").write_text(f"{prefix}0\t{address}/missing/0\n{prefix}0\t{address}/ok/5\n")
            assert download(config(data, urls=tmp_path / "list.tsv", ids=ids)) == {"ok": 1}
            assert shown(data, 0) == 5
        for name, value in (("photo", f"{address}/ok/6"), ("image", [f"{address}/ok/6"])):
            data = write_dataset(tmp_path / name, None, **{name: value if name == "photo" else value[0]})
            assert download(config(data, url_field=name)) == {"ok": 1}
            assert shown(data, 0) == 6


@pytest.mark.parametrize(
    ("settings", "urls", "fault"),
    [
        ({}, None, r"Shop\.image_urls\.json does not exist\. It holds .* name another with --urls"),
        ({}, {0: [], 1: []}, "has no address for any item of Shop"),
        ({}, {0: "http://x"}, "item 0 must have a list of addresses"),
        ({"url_field": "photo"}, None, "has no address for any item"),
        ({"urls": "x.tsv", "url_field": "photo"}, None, "--urls and --url_field both"),
        ({"max_failed": 2}, None, "--max_failed 2 is a share"),
        ({"timeout": 0}, None, "--timeout 0: it must be over 0"),
        ({"concurrency": 0}, None, "--concurrency 0: it must be at least 1"),
        ({"allow_host": ["http://x"]}, None, "--allow_host 'http://x': give the name"),
        ({"allow_host": ["x:80"]}, None, "--allow_host 'x:80': give the name"),
        ({"min_side": 600}, None, "--min_side 600 is over --max_side 512"),
    ],
)
def test_faults(tmp_path, settings, urls, fault):
    data = write_dataset(tmp_path, None)
    if urls is not None:
        (data / "Shop" / "Shop.image_urls.json").write_text(json.dumps(urls))
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        download(config(data, **settings))
    assert not (data / "Shop" / "images").exists()


def test_the_folder_may_be_above(tmp_path):
    """`--data_path ../data` used to be refused, as if an original id led out of the dataset's folder."""
    with LocalServer(Pictures()).running() as address:
        data = write_dataset(tmp_path / "data", {0: [f"{address}/ok/0"]})
        assert download(config(data / ".." / "data")) == {"ok": 1}


def test_a_picture_cannot_leave_the_folder(tmp_path):
    data = write_dataset(tmp_path, {0: ["http://x"]})
    (data / "Shop" / "Shop.item2id").write_text("../../../evil\t0\n")
    with pytest.raises(ValueError, match=r"Shop\.item2id: the image '\.\./\.\./\.\./evil\.jpg' of item 0 leaves"):
        download(config(data))


def test_broken_lines_of_a_journal_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"item": "1"}\nnonsense\n{"item": "2"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2 is no JSON line with 'item'.*delete that line"):
        Journal(path, "item")
    assert os.path.getsize(path) == len('{"item": "1"}\nnonsense\n{"item": "2"}\n')
