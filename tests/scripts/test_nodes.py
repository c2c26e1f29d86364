"""Launchers on several machines: the command of each, what is refused, and Slurm, played by two small scripts."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("scripts/*/*.sh"))
    if re.search(r"launch_ranks|source .*/(metric_ddp|evaluate)\.sh", path.read_text())
]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("SLURM_")
    and name not in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC", "FOREGROUND", "DRY_RUN", "LOG_FILE")
}


def bash(*words: str, **settings: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**CLEAN, "PATH": path, "GREC_PYTHON": sys.executable, **settings}
    return subprocess.run(["bash", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def torchrun_flags(line: str):
    """What torchrun makes of a printed command."""
    from torch.distributed.run import get_args_parser

    words = shlex.split(line)
    assert words[0] == "torchrun"
    return get_args_parser().parse_args(words[1:])


def test_there_are_launchers_of_every_kind():
    folders = {Path(launcher).parent.name for launcher in LAUNCHERS}
    assert folders == {"baselines", "data", "finetune", "seqrec", "text_generate"}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_of_torchrun_runs_on_several_machines(launcher):
    settings = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "node0", "NPROC": "4", "DRY_RUN": "1"}
    done = bash(launcher, "--one_more", **settings)
    assert done.returncode == 0, done.stderr
    flags = torchrun_flags(done.stdout)
    assert (flags.nnodes, flags.node_rank, flags.master_addr, flags.nproc_per_node) == ("3", 2, "node0", "4")
    assert flags.training_script_args[-1] == "--one_more"


def test_one_machine_has_the_documented_command():
    done = bash("scripts/seqrec/metric_ddp.sh", DRY_RUN="1", NPROC="4")
    assert done.stdout.startswith("torchrun --nproc_per_node=4 --master_port=33326 -m src.seqrec.metric_ddp --dataset ")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NNODES=2 machines need NODE_RANK from 0 to one less.* here it is ''"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "here it is '2'"),
        ({"NNODES": "two", "NODE_RANK": "0", "MASTER_ADDR": "a"}, "NNODES=two machines"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "need MASTER_ADDR"),
    ],
)
def test_machines_that_could_not_meet_are_refused(settings, fault):
    done = bash("scripts/finetune/train_ddp.sh", DRY_RUN="1", **settings)
    assert done.returncode == 2
    assert re.search(fault, done.stderr)
    assert not done.stdout


def test_machines_write_logs_of_their_own(tmp_path):
    (tmp_path / "torchrun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    script = f'source scripts/launch.sh; NPROC=1 MASTER_PORT=9; launch_ranks "{tmp_path}/a.log" -m x'
    for rank in "01":
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"NNODES": "2", "NODE_RANK": rank, "MASTER_ADDR": "a", "FOREGROUND": "1", "PATH": path}
        done = bash("-euc", script, **settings)
        assert done.returncode == 0, done.stderr
        assert f"--node_rank={rank}" in (tmp_path / f"a_node{rank}.log").read_text()


# ---- Slurm -----------------------------------------------------------------------------------------------------------
SRUN = """#!/usr/bin/env bash
# Two machines, one after the other; options come before the command.
while [[ "$1" == --* ]]; do echo "$1" >> "$SAID"; shift; done
echo "cpus ${SRUN_CPUS_PER_TASK:-}" >> "$SAID"
status=0
for node in 0 1; do SLURM_NODEID=$node "$@" || status=$?; done
exit $status
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs scripts/slurm.sh as sbatch does: a copy of it, elsewhere, with what Slurm sets."""
    for name, text in {
        "srun": SRUN,
        # A long list, of which a reader that leaves early would be told by a signal.
        "scontrol": '#!/bin/sh\n[ "$1 $2 $3" = "show hostnames gpu[7-8]" ] && seq -f gpu%.0f 7 30000\n',
        "torchrun": '#!/bin/sh\necho "ran $@"\nexit "${STATUS:-0}"\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").mkdir()
    copy = tmp_path / "job" / "slurm_script"
    copy.write_text((ROOT / "scripts" / "slurm.sh").read_text())
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "data" / "Toy").mkdir(parents=True)
    (tmp_path / "index.json").touch()

    def run(*words: str, **settings: str) -> subprocess.CompletedProcess:
        values = {
            "SLURM_JOB_ID": "4321", "SLURM_JOB_NODELIST": "gpu[7-8]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "16", "SLURM_SUBMIT_DIR": str(ROOT),
            "DATASET": "Toy", "DATA_PATH": str(tmp_path / "data"),
            "SAID": str(tmp_path / "said"), "LOG_FILE": str(tmp_path / "logs" / "x.log"),
            "CKPT_MODEL": str(tmp_path / "ckpt"), "BASE_MODEL": str(tmp_path / "ckpt"),
            "INDEX_FILE": str(tmp_path / "index.json"),
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        return bash(str(copy), *words, **{**values, **settings})

    return run


@pytest.mark.parametrize("launcher", ["scripts/finetune/train_ddp_vl.sh", "scripts/text_generate/evaluate_lora.sh"])
def test_slurm_runs_one_torchrun_a_machine(slurm, tmp_path, launcher):
    done = slurm(launcher, "--seed", "7")
    assert done.returncode == 0, done.stderr
    commands = [torchrun_flags(line) for line in done.stdout.splitlines() if line.startswith("torchrun ")]
    assert [flags.node_rank for flags in commands] == [0, 1]
    for flags in commands:
        assert (flags.nnodes, flags.nproc_per_node, flags.master_addr) == ("2", "4", "gpu7")
        assert flags.master_port == 24321
        assert flags.training_script_args[-2:] == ["--seed", "7"]
    assert commands[0].training_script_args == commands[1].training_script_args  # the name of a new run, too
    assert sum(line.startswith("ran ") for line in done.stdout.splitlines()) == 2
    said = (tmp_path / "said").read_text()
    assert "--kill-on-bad-exit=1" in said
    assert "cpus 16" in said  # else each machine would have one
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"x_node0.log", "x_node1.log"}


def test_slurm_returns_the_status_of_a_machine_that_failed(slurm):
    assert slurm("scripts/finetune/train_ddp_vl.sh", STATUS="3").returncode == 3


def test_without_slurm_it_prints_what_each_machine_would_run():
    done = bash("scripts/slurm.sh", "scripts/seqrec/metric_mmseqrec.sh", "--num_beams", "5", NNODES="3")
    assert done.returncode == 0, done.stderr
    commands = [torchrun_flags(line) for line in done.stdout.splitlines()]
    assert [flags.node_rank for flags in commands] == [0, 1, 2]
    assert "mmseqrec" in commands[0].training_script_args


@pytest.mark.parametrize("words", [[], ["scripts/none.sh"], ["scripts/data/enrich.sh"], ["scripts/test.sh"]])
def test_what_is_no_launcher_of_torchrun_is_refused(words):
    done = bash("scripts/slurm.sh", *words)
    assert done.returncode == 2
    assert "usage: sbatch scripts/slurm.sh LAUNCHER" in done.stderr
