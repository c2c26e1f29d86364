"""Downloading pictures: nothing lost, wrong or repeated on the way through faults and kills; speed beside a plain loop.

python -m benchmarks.data_download --quick
python -m benchmarks.data_download --json results/benchmarks/data_download.json

All traffic stays on the loopback interface. Speed is in seconds of the clock, not of the CPU: waiting is what costs.
"""

import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from benchmarks.harness import Row, cpu_seconds, median, run
from benchmarks.misbehaving_server import LocalServer, Pictures, number_of

LATENCY = 0.05
ROOT = Path(__file__).resolve().parents[1]
GOOD = {"ok": 700, "moved": 40, "flaky500": 20, "flakyreset": 20, "flakycut": 20, "flaky429": 2, "flakystall": 2}
BAD = {  # share of a thousand, and the cause that the manifest must give
    "missing": (60, "http 404"),
    "html": (30, "no picture"),
    "truncated": (30, "no picture"),
    "empty": (10, "no picture"),
    "pixel": (20, "too small"),
    "private": (16, "refused address"),
    "loop": (6, "too many redirects"),
    "huge": (4, "too large"),
    "endless": (4, "too large"),
    "bomb": (4, "no picture"),
    "gzip": (4, "compressed"),
    "error": (2, "http 500"),
    "reset": (2, "connection"),
    "cut": (2, "connection"),
    "stall": (2, "timeout"),
}
PASSING = ("error", "reset", "cut", "stall")  # every start tries them again


@contextmanager
def server(private: str = "") -> Iterator[str]:
    """The misbehaving server in a process of its own, so that it takes no time of this one."""
    command = [sys.executable, "-m", "benchmarks.misbehaving_server", "--latency", str(LATENCY), "--private", private]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def write_dataset(folder: Path, urls: dict[int, str]) -> None:
    (folder / "Shop").mkdir()
    (folder / "Shop" / "Shop.item.json").write_text(json.dumps({str(item): {"title": "x"} for item in urls}))
    (folder / "Shop" / "Shop.image_urls.json").write_text(json.dumps({item: [url] for item, url in urls.items()}))


def manifest(folder: Path) -> dict[int, dict]:
    path = folder / "Shop" / "Shop.images.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return {int(row["item"]): row for row in map(json.loads, lines)}


# ---- faults and kills ------------------------------------------------------------------------------------------------
def fault_rows(quick: bool) -> Iterator[Row]:
    num_items = 300 if quick else 5000
    shares = GOOD | {name: share for name, (share, _) in BAD.items()}
    behaviours = [name for name, share in shares.items() for _ in range(share * num_items // 1000 or 1)][:num_items]
    behaviours += ["ok"] * (num_items - len(behaviours))
    random.Random(0).shuffle(behaviours)
    hidden = LocalServer(Pictures(), "127.0.0.2")
    with hidden.running() as private, server(private) as address, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder, {item: f"{address}/{name}/{item}" for item, name in enumerate(behaviours)})
        flags = ["--data_path", temporary, "--dataset", "Shop", "--allow_host", "127.0.0.1", "--per_host", "64"]
        flags += ["--timeout", "5", "--first_wait", "0.1", "--max_bytes", "1000000"]
        command = [sys.executable, str(ROOT / "data_process" / "download_images.py"), *flags]
        started, repeated, num_killed = time.perf_counter(), 0, []
        before: dict[str, int] = {}
        for share in (0.3, 0.6, None):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while process.poll() is None and (share is None or len(manifest(folder)) < share * num_items):
                time.sleep(0.05)
            if share is None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(1)  # what was asked for arrives at the server
            counts = json.load(urllib.request.urlopen(f"{address}/counts"))
            done = [f"/{behaviours[item]}/{item}" for item, row in manifest(folder).items()]
            done = [path for path in done if path.split("/")[1] not in PASSING]
            num_killed.append(len(done))
            repeated += sum(counts[path] - before[path] for path in before)
            before = {path: counts[path] for path in done}
        counts = json.load(urllib.request.urlopen(f"{address}/counts"))
        repeated += sum(counts[path] - before[path] for path in before)
        seconds = time.perf_counter() - started
        rows = manifest(folder)
        lost = wrong = unnamed = 0
        for item, name in enumerate(behaviours):
            row = rows.get(item, {"status": "none"})
            picture = folder / "Shop" / "images" / f"{item}.jpg"
            if name in GOOD:
                lost += row["status"] not in ("ok", "kept") or not picture.is_file()
                wrong += picture.is_file() and number_of(Image.open(picture)) != item
            else:
                wrong += picture.is_file()
                unnamed += row.get("cause") != BAD[name][1] or not row.get("reason")
    title = f"{num_items:,} pictures, a misbehaving server, killed twice"
    num_good = sum(name in GOOD for name in behaviours)
    notes = {
        "lost": (lost, f"of {num_good:,} that can be had"),
        "wrong": (wrong, "each looked at"),
        "failures without their cause": (unnamed, f"of {num_items - num_good:,}"),
        "requests for what was done before a kill": (
            repeated,
            f"{' and '.join(map(str, num_killed))} were done; exit status {process.returncode}, {seconds:.0f} s in all",
        ),
        "connections to the private address": (hidden.connections, f"{behaviours.count('private')} redirects to it"),
    }
    for name, (value, note) in notes.items():
        yield Row(f"{title}: {name}", value, "", higher_is_better=False, goal=0, note=note)


# ---- speed -----------------------------------------------------------------------------------------------------------
def plain_loop(urls: dict[int, str], folder: Path) -> None:
    """The usual script: one picture after the other, over one session."""
    import requests

    session = requests.Session()
    folder.mkdir()
    for item, url in urls.items():
        response = session.get(url, timeout=30)
        response.raise_for_status()
        Image.open(io.BytesIO(response.content)).convert("RGB").save(folder / f"{item}.jpg", quality=90)


def speed_rows(quick: bool) -> Iterator[Row]:
    from data_process.download_images import DownloadConfig, download

    num_ours, num_rival, runs = (400, 60, 1) if quick else (2000, 200, 3)
    ours, rival, cpu, rival_cpu, equal = [], [], [], [], True
    with server() as address:
        for number in range(runs):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                urls = {item: f"{address}/ok/{item}" for item in range(num_ours)}
                write_dataset(folder, urls)
                config = DownloadConfig(
                    dataset="Shop", data_path=folder, allow_host=("127.0.0.1",), per_host=64, timeout=60
                )

                def run_ours(config: DownloadConfig = config) -> None:
                    start, busy = time.perf_counter(), cpu_seconds()
                    download(config)
                    ours.append((time.perf_counter() - start) / num_ours)
                    cpu.append((cpu_seconds() - busy) / num_ours)

                def run_rival(folder: Path = folder, urls: dict[int, str] = urls) -> None:
                    start, busy = time.perf_counter(), cpu_seconds()
                    plain_loop({item: urls[item] for item in range(num_rival)}, folder / "rival")
                    rival.append((time.perf_counter() - start) / num_rival)
                    rival_cpu.append((cpu_seconds() - busy) / num_rival)

                for side in (run_ours, run_rival) if number % 2 == 0 else (run_rival, run_ours):
                    side()
                for item in range(num_rival):
                    pictures = [folder / "Shop" / "images" / f"{item}.jpg", folder / "rival" / f"{item}.jpg"]
                    equal &= [number_of(Image.open(picture)) for picture in pictures] == [item, item]
    ratios = [theirs / mine for mine, theirs in zip(ours, rival, strict=True)]
    yield Row(
        "download at 50 ms latency: pictures a second",
        median(ratios),
        "x",
        goal=10,
        rival="sequential requests loop, on a subset",
        equal=bool(equal),
        runs=runs,
        spread=(min(ratios), max(ratios)),
        note=f"{1 / median(ours):.0f} against {1 / median(rival):.1f} a second, by the clock",
    )
    yield Row(
        "download: CPU of a picture",
        1000 * median(cpu),
        "ms",
        higher_is_better=False,
        rival="sequential requests loop",
        runs=runs,
        spread=(1000 * min(cpu), 1000 * max(cpu)),
        note=f"the loop takes {1000 * median(rival_cpu):.2f} ms",
    )


PARTS = {"faults": fault_rows, "speed": speed_rows}

if __name__ == "__main__":
    run(PARTS, __doc__)
