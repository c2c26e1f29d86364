"""Chains of commands: nothing is done twice, what is printed can be pasted, and nobody runs beside another."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.common import stages as common_stages
from src.common.stages import STAMP, Stages, hold_lock, run_process


def run_stage(folder, settings, work, name="one"):
    stages = Stages(folder / "record.json", total=1)
    stages.run(name, settings, lambda: [folder / "made"], work)
    return stages


def test_a_finished_stage_is_skipped_until_its_settings_or_outputs_change(tmp_path):
    calls = []

    def work():
        calls.append(1)
        (tmp_path / "made").write_text("x")

    run_stage(tmp_path, {"a": 1}, work)
    run_stage(tmp_path, {"a": 1}, work)
    assert len(calls) == 1
    run_stage(tmp_path, {"a": 2}, work)
    assert len(calls) == 2
    (tmp_path / "made").unlink()
    run_stage(tmp_path, {"a": 2}, work)
    assert len(calls) == 3


def test_a_change_early_on_makes_all_later_stages_anew(tmp_path):
    calls = []

    def go(first):
        stages = Stages(tmp_path / "record.json", total=2)
        (tmp_path / "made").write_text("x")
        stages.run("one", first, lambda: [tmp_path / "made"], lambda: calls.append("one"))
        stages.run("two", "same", lambda: [tmp_path / "made"], lambda: calls.append("two"))

    go(1)
    go(1)
    go(2)
    assert calls == ["one", "two", "one", "two"]


def test_a_stage_that_fails_is_not_remembered(tmp_path):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_stage(tmp_path, {}, fail)
    assert not (tmp_path / "record.json").exists()
    with pytest.raises(RuntimeError, match="ended without"):
        run_stage(tmp_path, {}, lambda: None)


def test_half_a_stage_is_kept_for_the_same_settings_only(tmp_path):
    """What a killed stage left is there for its next start, and gone for another's."""
    folder = tmp_path / "half"

    def start(settings):
        def work():
            stages.claim(folder)
            found.append(sorted(path.name for path in folder.iterdir() if path.name != STAMP))
            (folder / "checkpoint").touch()
            raise KeyboardInterrupt

        stages = Stages(tmp_path / "record.json", total=1)
        with pytest.raises(KeyboardInterrupt):
            stages.run("one", settings, list, work)

    found = []
    for settings in (1, 1, 2):
        start(settings)
    assert found == [[], ["checkpoint"], []]


def test_only_one_holds_a_lock(tmp_path):
    lock = hold_lock(tmp_path / "new" / ".lock", "busy")
    with pytest.raises(SystemExit, match="busy"):
        hold_lock(tmp_path / "new" / ".lock", "busy")
    lock.close()
    hold_lock(tmp_path / "new" / ".lock", "busy").close()


def test_a_command_that_fails_ends_the_chain(monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(common_stages.subprocess, "run", run)
    with pytest.raises(SystemExit, match=r"index\.main failed with status 2"):
        run_process("index.main")


def test_commands_can_be_pasted(monkeypatch, capsys):
    odd = ["--name", "two words", "$HOME", Path("a b"), 0.5]
    calls = []
    monkeypatch.setattr(common_stages.importlib, "import_module", lambda name: SimpleNamespace(main=calls.append))
    common_stages.run_here("index.main", *odd)
    monkeypatch.setattr(
        common_stages.subprocess, "run", lambda command, **_: calls.append(command) or SimpleNamespace(returncode=0)
    )
    common_stages.run_process("src.finetune.train_ddp_vl", *odd)
    common_stages.run_process("src.finetune.train_ddp_vl", *odd, ranks=2, OMP_NUM_THREADS="1", WORD="a b")
    words = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert words[0][1:3] == ["-m", "index.main"]
    assert words[0][3:] == calls[0] == [str(word) for word in odd]
    assert words[1] == calls[1]
    assert calls[1][1:3] == ["-m", "src.finetune.train_ddp_vl"]
    assert words[2] == ["OMP_NUM_THREADS=1", "WORD=a b", *calls[2]]
    assert "--nproc_per_node=2" in calls[2]
    assert Path(words[0][0]).resolve() == Path(words[1][0]).resolve() == Path(sys.executable).resolve()
