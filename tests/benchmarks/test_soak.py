"""The soak: it kills where it says, and its comparison sees what a kill can do to files."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.soak.__main__ import main, share_out, table_lines
from benchmarks.soak.attempts import Attempt, Kill, draw_kill, processes_of
from benchmarks.soak.child import Orders
from benchmarks.soak.comparison import differences
from benchmarks.soak.stages import STAGES
from src.common.record import write_record

ROOT = Path(__file__).resolve().parents[2]


# ---- what it compares ------------------------------------------------------------------------------------------------
def write_work(folder: Path, stamp: str = "2026-01-01_10-00-00", seconds: float = 1.0) -> Path:
    run = folder / "index" / stamp
    run.mkdir(parents=True)
    torch.save({"state_dict": {"w": torch.arange(4.0)}, "epoch": 3}, run / f"{stamp[-2:]}.pth")
    (run / f"{stamp[-2:]}.pth").rename(run / "last.pth")  # torch writes the file's name into the file
    write_record(folder / "meta.json", {"seconds": seconds, "checkpoint": str(run.name), "loss": 0.5})
    pl.DataFrame({"user": ["a", "b"], "target": [1, 2]}).write_parquet(folder / "x.predictions.parquet")
    np.save(folder / "e.npy", np.ones((2, 3), np.float32))
    (folder / "S.images.jsonl").write_text('{"item": "0", "status": "ok", "bytes": 7, "url": "u", "attempts": 1}\n')
    (folder / "train.log").write_text(f"it took {seconds} s")
    return folder


def test_work_done_at_another_time_is_the_same(tmp_path):
    straight = write_work(tmp_path / "a")
    killed = write_work(tmp_path / "b", "2026-01-02_11-11-11", 2.0)
    kept = '{"item": "0", "status": "kept", "bytes": 7, "width": 1}\n'
    lines = (killed / "S.images.jsonl").read_text()
    (killed / "S.images.jsonl").write_text(lines + lines)  # done again after a kill: the last line counts
    assert differences(straight, killed) == []
    (killed / "S.images.jsonl").write_text(lines + kept.replace("7", "8"))
    assert "differs: S.images.jsonl" in differences(straight, killed)[0]


FAULTS = {
    "left over: .meta.json.0.json": lambda folder: (folder / ".meta.json.0.json").touch(),
    "left over: x.parts": lambda folder: (folder / "x.parts").mkdir(),
    "lost: e.npy": lambda folder: (folder / "e.npy").unlink(),
    "differs: meta.json: cannot be read": lambda folder: os.truncate(folder / "meta.json", 9),
    "differs: meta.json: loss is '0.5', now '0.6'": lambda folder: (folder / "meta.json").write_text(
        (folder / "meta.json").read_text().replace("0.5", "0.6")
    ),
    "differs: x.predictions.parquet: user has 2 entries, now 3": lambda folder: pl.DataFrame(
        {"user": ["a", "b", "b"], "target": [1, 2, 2]}
    ).write_parquet(folder / "x.predictions.parquet"),
    "differs: index/RUN/last.pth: state_dict.w differs in 1 of 4": lambda folder: torch.save(
        {"state_dict": {"w": torch.tensor([0.0, 1, 2, 4])}, "epoch": 3}, next(folder.rglob("last.pth"))
    ),
    "differs: e.npy: it has shape": lambda folder: np.save(folder / "e.npy", np.ones((3, 3), np.float32)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(tmp_path, fault):
    straight, killed = write_work(tmp_path / "a"), write_work(tmp_path / "b")
    FAULTS[fault](killed)
    (found,) = differences(straight, killed)
    assert found.startswith(fault)


# ---- how it kills ----------------------------------------------------------------------------------------------------
DEMO = ["data_process.make_demo_data", "--items", "40", "--users", "9", "--no_images"]


def run_child(folder: Path, **orders) -> tuple[int, list[list[str]]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = folder.parent / "notes.tsv"
    log.unlink(missing_ok=True)
    told = Orders(str(log), "test", unit="data_process.demo_process:make_process", **orders)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak.child", *DEMO], cwd=folder, capture_output=True,
        env={**os.environ, **told.environment(), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, [line.split("\t") for line in log.read_text().splitlines()]


def test_a_child_dies_at_the_write_that_it_was_told(tmp_path):
    status, notes = run_child(tmp_path / "work")
    writes = [text for kind, _, text in notes if kind == "write"]
    assert status == 0
    assert [kind for kind, *_ in notes].count("unit") == 1
    assert "os.rename data/Demo/.Demo.inter.json.0.json" in writes
    place = writes.index("os.rename data/Demo/.Demo.inter.json.0.json") + 1
    status, notes = run_child(tmp_path / "work", die_at=place)
    assert status == -signal.SIGKILL
    assert notes[-1][2] == f"before {writes[place - 1]}"
    folder = tmp_path / "work" / "data" / "Demo"
    assert (folder / ".Demo.inter.json.0.json").is_file()
    assert not (folder / "Demo.inter.json").exists()
    status, notes = run_child(tmp_path / "work", die_at=place - 1, in_middle=True)
    assert status == -signal.SIGKILL
    assert notes[-1][2].startswith("in the middle of open data/Demo/.Demo.inter.json")
    assert not processes_of("test")


def test_moments_are_drawn_by_the_seed():
    straight = Attempt(0, "", 40, 0, 10.0, "")
    kills = [draw_kill(random.Random(seed), straight) for seed in range(200)]
    assert kills == [draw_kill(random.Random(seed), straight) for seed in range(200)]
    assert {bool(kill.at_write) for kill in kills} == {True, False}
    assert all(1 <= kill.at_write <= 40 if kill.at_write else 0.5 <= kill.seconds <= 10 for kill in kills)
    assert Kill(at_write=1).sooner() == Kill(at_write=1)
    assert Kill(seconds=4.0).sooner() == Kill(seconds=2.0)
    counts = share_out(30, STAGES, random.Random(0))
    assert sum(counts) == 30
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("argv", [["--kills", "0"], ["--stages", "nothing"], ["--work_dir", str(ROOT)]])
def test_bad_input_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as refused:
        main(argv)
    assert refused.value.code == 2
    assert argv[0] in capsys.readouterr().err


# ---- the whole -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_kills_lose_nothing(tmp_path, capsys):
    main(["--kills", "3", "--warm", "--stages", "pictures", "embeddings", "SASRec", "--json", str(tmp_path / "a.json")])
    assert "3 kills, 0 faults" in capsys.readouterr().out
    rows = {row["stage"]: row for row in json.loads((tmp_path / "a.json").read_text())["stages"]}
    assert sum(len(row["kills"]) for row in rows.values()) == 3
    assert all(row["repeated"] <= row["allowed"] for row in rows.values())
    assert table_lines([])[0].startswith("stage")
