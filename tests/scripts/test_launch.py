"""launch(): what it prints, runs, leaves behind and returns."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = [
    str(path.relative_to(ROOT))
    for path in sorted([*ROOT.glob("index/*.sh"), *ROOT.glob("scripts/*/*.sh")])
    if re.search(r"source (scripts/launch|.*/metric_ddp)\.sh", path.read_text())
]
ODD = ["plain", "two words", "", "it's", 'say "hi"', "$HOME", "*", "a;b", "<a_12>", "--x=1,2"]


@pytest.fixture
def launch(tmp_path):
    """Runs `launch LOG COMMAND...` as a launcher would, in a folder with a space in its name."""
    folder = tmp_path / "run folder"
    folder.mkdir()
    (folder / "launcher.sh").write_text(
        f'set -euo pipefail\nsource {shlex.quote(str(ROOT / "scripts" / "launch.sh"))}\nlaunch "$@"\necho launched\n'
    )

    def run(*command: str, **environment: str) -> tuple[subprocess.CompletedProcess, Path]:
        # GREC_PYTHON: this Python as it is, so that no test can start an installation
        settings = {"GREC_PYTHON": sys.executable, "DRY_RUN": "", "FOREGROUND": "", **environment}
        done = subprocess.run(
            ["bash", str(folder / "launcher.sh"), "new logs/run.log", *command],
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, folder / "new logs"

    return run


def wait_until(true, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_dry_run_prints_a_command_that_reads_back_the_same_and_does_nothing(launch):
    done, logs = launch("printf", *ODD, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout.splitlines()[0]) == ["printf", *ODD]
    assert not logs.exists()


@pytest.mark.parametrize("status", [0, 3])
def test_foreground_waits_and_returns_the_status(launch, status):
    done, logs = launch("bash", "-c", f"echo out; echo err >&2; exit {status}", FOREGROUND="1")
    assert done.returncode == status
    assert ("launched" in done.stdout) == (status == 0)
    assert sorted((logs / "run.log").read_text().split()) == ["err", "out"]
    assert {"out", "err"} <= set(done.stdout.split())
    assert not (logs / "run.pid").exists()


def test_arguments_arrive_as_they_were_given(launch):
    done, logs = launch("printf", "[%s]", *ODD, FOREGROUND="1")
    assert done.returncode == 0, done.stderr
    assert (logs / "run.log").read_text() == "".join(f"[{argument}]" for argument in ODD)


def test_an_unknown_command_fails_in_the_foreground(launch):
    done, _ = launch("no-such-command-here", FOREGROUND="1")
    assert done.returncode == 127


def test_background_returns_at_once_and_one_kill_stops_everything(launch):
    done, logs = launch("bash", "-c", "sleep 60 & echo child $!; wait")
    assert done.returncode == 0, done.stderr
    assert "launched" in done.stdout
    pid = int((logs / "run.pid").read_text())
    try:
        log = logs / "run.log"
        wait_until(lambda: log.read_text().strip())
        child = int(log.read_text().split()[1])
        assert running(pid)
        assert running(child)
        stop = next(line for line in done.stdout.splitlines() if "stop:" in line)
        assert shlex.split(stop)[1:] == ["kill", "--", f"-{pid}"]
        follow = next(line for line in done.stdout.splitlines() if "follow:" in line)
        assert shlex.split(follow)[1:] == ["tail", "-f", "new logs/run.log"]
    finally:
        os.killpg(pid, signal.SIGTERM)
    wait_until(lambda: not running(pid) and not running(child))


@pytest.mark.parametrize("status", [0, 3])
def test_what_ends_at_once_is_told_at_once(launch, status):
    """A wrong path used to be told in the log of the background job only, and the launcher ended with 0."""
    done, logs = launch("bash", "-c", f"echo why; exit {status}")
    assert done.returncode == status
    assert ("launched" in done.stdout) == (status == 0)
    assert ("why" in done.stderr.split()) == (status != 0)
    assert (logs / "run.log").read_text() == "why\n"
    assert not (logs / "run.pid").exists()


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (("--dataset", "Toy", "--data_path", "here"), "here/Toy"),
        (("--data_path=here", "--dataset=Toy"), "here/Toy"),
        (("--data_path", "here", "--data_path", "here/Toy.emb-x.npy"), "here/Toy.emb-x.npy"),
        (("--dataset", "Toy", "--ckpt_model", "none"), "none"),
        (("--dataset", "Shop", "--data_path", "here"), None),
        (("--dataset", "Toy"), None),
        (("--index_file", "here/x.json"), "here/x.json"),
        (("--index_file", ".index_x.json"), None),
        (("--index_file", "here/x.json,here/y.json"), None),
        (("--base_model", "./none"), "./none"),
        (("--model=../none",), "../none"),
        (("--base_model", "./none", "--lora", "False"), None),
        (("--base_model", "./none", "--lora=false"), None),
        (("--model", "Qwen/Qwen2-VL-2B-Instruct"), None),
    ],
)
def test_data_that_is_not_there_is_noticed_before_the_start(launch, tmp_path, flags, missing):
    (tmp_path / "run folder" / "here" / "Shop").mkdir(parents=True)
    done, logs = launch("true", *flags)
    assert done.returncode == (1 if missing else 0), done.stderr
    assert logs.exists() == (not missing)
    if missing:
        assert f"{missing} does not exist: set the variables at the top of launcher.sh" in done.stderr


def test_a_dataset_without_a_model_is_told_how_to_get_one(launch):
    """It used to say that ./output/Shop/none-yet does not exist, a folder that nobody had named."""
    done, _ = launch("true", "--ckpt_model", "./output/Shop/none-yet")
    assert done.returncode == 1
    assert "no fine-tuned model in ./output/Shop: train one with bash scripts/finetune/train_ddp_vl.sh" in done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_of_a_launcher_is_its_header_and_the_flags(launcher, tmp_path):
    settings = {"GREC_PYTHON": sys.executable, "LOG_FILE": str(tmp_path / "x.log"), "LOG_DIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", Path(launcher).name, "--help"],
        cwd=(ROOT / launcher).parent,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first = (ROOT / launcher).read_text().splitlines()[1].removeprefix("# ")
    assert done.stdout.startswith(first)
    assert done.stdout.count("usage:") == 1
    assert "show this help" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_leaves_the_choice_to_wait_to_its_user(launcher):
    """scripts/baselines/run.sh used to wait by default, and README said that launchers run in the background."""
    assert "FOREGROUND:=" not in (ROOT / launcher).read_text()


@pytest.mark.parametrize("word", ["1", "true", "yes"])
@pytest.mark.parametrize("launcher", ["index/generate.sh", "index/evaluate.sh"])
def test_a_dry_run_by_any_word_needs_no_run(launcher, word):
    """These two took only 1 for an answer where launch() takes all but 0, and ended with status 1."""
    environment = {**os.environ, "DRY_RUN": word, "DATASET": "Nowhere"}
    done = subprocess.run(["bash", launcher], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--ckpt_path ./data/Nowhere/index/llama-td/NEWEST_RUN" in done.stdout


@pytest.mark.parametrize(("word", "asked"), [("True", True), ("true", True), ("1", True), ("False", False)])
def test_zero_shot_takes_the_words_of_every_switch(word, asked):
    """Any but True used to mean False, without a word."""
    environment = {**os.environ, "DRY_RUN": "1", "ZERO_SHOT": word}
    command = ["bash", "scripts/text_generate/evaluate.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ("--zero_shot" in done.stdout) == asked
    assert ("--index_file" in done.stdout) != asked


@pytest.mark.parametrize("script", ["setup.sh", "scripts/test.sh"])
def test_help_installs_nothing(script, tmp_path):
    """A copy elsewhere, where nothing is installed and nothing could be."""
    (tmp_path / script).parent.mkdir(exist_ok=True)
    (tmp_path / script).write_text((ROOT / script).read_text())
    done = subprocess.run(["bash", script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"bash {script}" in done.stdout
    assert "set -e" not in done.stdout


@pytest.mark.parametrize("foreground", ["", "1"])
def test_what_a_rank_said_is_not_buried_by_torchrun(launch, tmp_path, foreground):
    """Its traceback of thirty lines used to be all that was shown of a wrong flag. A stub stands for torchrun."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "torchrun"
    trace = "E1125 22:38:12.525000 7 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 2)"
    stub.write_text(f"#!/bin/sh\necho 'error: no such index'\necho 'Tried: x'\necho '{trace}'\nseq 40\nexit 2\n")
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    done, _ = launch("torchrun", "-m", "src.seqrec.metric_ddp", FOREGROUND=foreground, PATH=path)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-2:]
    assert [said[0].removeprefix("it ended with status 2: "), said[1]] == ["error: no such index", "Tried: x"]


def test_launch_needs_a_log_and_a_command(launch):
    done, _ = launch()
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_without_torch_the_environment_of_env_sh_is_used(tmp_path):
    """A stub copy of setup.sh stands for the installation."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("launch.sh", "env.sh"):
        (scripts / name).write_text((ROOT / "scripts" / name).read_text())
    prefix = tmp_path / "the environment"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python3").write_text("#!/bin/sh\necho python of the environment\n")
    (prefix / "bin" / "python3").chmod(0o755)
    (tmp_path / "setup.sh").write_text(f'[ "$1" = --prefix ] && echo {shlex.quote(str(prefix))}\n')
    bare = tmp_path / "bare"  # a python3 without torch
    bare.mkdir()
    (bare / "python3").write_text("#!/bin/sh\nexit 1\n")
    (bare / "python3").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("GREC_PYTHON", "DRY_RUN")}
    done = subprocess.run(
        ["bash", "-euc", "source scripts/launch.sh; launch log/x.log python3 anything"],
        cwd=tmp_path,
        env={**environment, "FOREGROUND": "1", "PATH": f"{bare}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "python of the environment" in done.stdout


@pytest.mark.parametrize("task", ["mmseqrec", "fusionseqrec", "item2index", "mmitem2index", "itemsearch"])
def test_launchers_of_a_task_are_metric_ddp_with_that_task(task):
    def printed(launcher: str, *flags: str, **environment: str) -> str:
        return subprocess.run(
            ["bash", launcher, *flags],
            cwd=ROOT / "scripts" / "seqrec",
            env={**os.environ, "DRY_RUN": "1", "DATASET": "Games", **environment},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    ours = printed(f"metric_{task}.sh", "--num_beams", "50")
    assert ours == printed("metric_ddp.sh", "--num_beams", "50", TEST_TASK=task)
    assert f"--test_task {task} " in ours
    assert f"results/Games/{task}-" in ours  # results of tasks do not overwrite each other
