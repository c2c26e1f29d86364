"""Two machines, played by two torchrun agents on this one: they give what one process gives, and end together."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from src.common import machines as meeting
from src.common.artifacts import read_json, write_json
from src.finetune.core import finetune
from src.seqrec.core import evaluate
from src.seqrec.results import predictions_path, read_predictions
from src.text_generation.core import evaluate as write_texts
from tests.finetune.toy_runs import assert_equal_weights, log_of
from tests.finetune.toy_runs import config_for as training_of
from tests.seqrec.toy_runs import checkpoint
from tests.seqrec.toy_runs import config_for as ranking_of
from tests.text_generation.toy_runs import config_for as writing_of
from tests.toy import INDEX_FILE, NAME, tiny_model, toy_copy, toy_path

ROOT = Path(__file__).resolve().parents[1]
RANKING = ("-m", "src.seqrec.metric_ddp", "--dataset", NAME, "--index_file", INDEX_FILE, "--device", "cpu")
BATCHES = ("--num_beams", "10", "--test_batch_size", "8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def machines(*processes: int):
    """Gives `start(machine, *flags)`: an agent of the job on a machine that runs so many processes."""
    port, started = free_port(), []
    settings = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def start(machine: int, *command: object) -> subprocess.Popen:
        agent = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(processes)}", "--rdzv_id=job"]
        agent += ["--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}", f"--nproc_per_node={processes[machine]}"]
        started.append(
            subprocess.Popen(
                [*agent, *map(str, command)], cwd=ROOT, env={**os.environ, **settings}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run(processes: tuple[int, ...], *command: object) -> list[str]:
    """The same command on every machine; gives what each said."""
    with machines(*processes) as start:
        jobs = [start(machine, *command) for machine in range(len(processes))]
        said = [job.communicate(timeout=280)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(text[-3000:] for text in said)
    return said


def ranking_flags(folder: Path, data: Path | None = None) -> tuple:
    return (
        *(*RANKING, *BATCHES, "--data_path", data or toy_path(), "--ckpt_model", checkpoint("qwen2")),
        *("--results_file", folder / "results.json"),
    )


def training_flags(folder: Path, *more: object) -> tuple:
    return (
        *("-m", "src.finetune.train_ddp", "--base_model", tiny_model("qwen2"), "--model_type", "qwen2"),
        *("--dataset", NAME, "--index_file", INDEX_FILE, "--data_path", toy_path(), "--output_dir", folder),
        *("--learning_rate", "0.01", "--logging_step", "1", "--save_and_eval_strategy", "steps", "--device", "cpu"),
        *("--tasks", "seqrec", "--save_and_eval_steps", "2", *more),
    )


# ---- the same as one -------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [(1, 1), (1, 2)])
def test_ranking_on_two_machines_gives_what_one_process_gives(tmp_path, processes):
    """To the last digit, also where one machine has more GPUs; and one rank of all writes."""
    one = ranking_of(tmp_path / "one")
    evaluate(one)
    said = run(processes, *ranking_flags(tmp_path / "two"))
    results = [read_json(tmp_path / name / "results.json") for name in ("one", "two")]
    for name in ("mean_results", "confidence_intervals", "num_samples", "slices"):
        assert results[0][name] == results[1][name]
    lists = [read_predictions(predictions_path(tmp_path / name / "results.json")) for name in ("one", "two")]
    for ours, theirs in zip(*lists, strict=True):
        np.testing.assert_array_equal(ours.ranked, theirs.ranked)
    assert sum(text.count("results in") for text in said) == 1
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_on_two_machines_are_those_of_one_process(tmp_path):
    config = writing_of(tmp_path / "one")
    write_texts(config)
    flags = ("--dataset", NAME, "--data_path", toy_path(), "--index_file", INDEX_FILE, "--ckpt_model")
    flags += (config.ckpt_model, "--device", "cpu", "--max_new_tokens", "8", "--test_batch_size", "2")
    run((1, 2), "-m", "src.text_generation.evaluate", *flags, "--results_file", tmp_path / "two" / "results.json")
    results = [read_json(tmp_path / name / "results.json")["mean_results"] for name in ("one", "two")]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_on_two_machines_is_that_of_one_with_as_many_processes(tmp_path):
    """Losses and weights, bit for bit; and of one process with the whole batch, but for rounding."""
    flags = ("--max_steps", 4, "--per_device_batch_size", 4)
    run((2,), *training_flags(tmp_path / "one", *flags))
    run((1, 1), *training_flags(tmp_path / "two", *flags))
    assert_equal_weights(tmp_path / "two", tmp_path / "one", rtol=0, atol=0)
    losses = [
        [line[name] for line in log_of(tmp_path / run) for name in ("loss", "eval_loss") if name in line]
        for run in ("one", "two")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    changes = {"max_steps": 4, "save_and_eval_steps": 2, "per_device_batch_size": 8, "tasks": ("seqrec",)}
    alone = finetune(training_of(tmp_path / "alone", **changes))
    assert_equal_weights(tmp_path / "two", alone, rtol=0, atol=1e-5)


# ---- what goes wrong -------------------------------------------------------------------------------------------------
def wait_for(path: Path, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_dies_ends_the_job_which_then_goes_on(tmp_path):
    """Killed without a word after the first checkpoint; the run that goes on ends as one that was never killed."""
    flags = ("--per_device_batch_size", 4, "--max_steps")
    with machines(1, 1) as start:
        jobs = [start(machine, *training_flags(tmp_path / "two", *flags, 40)) for machine in (0, 1)]
        wait_for(tmp_path / "two" / "checkpoint-2" / "trainer_state.json")
        agent = psutil.Process(jobs[1].pid)
        for process in [*agent.children(recursive=True), agent]:  # ranks are no part of their agent's group
            process.kill()
        said, _ = jobs[0].communicate(timeout=200)
        assert jobs[0].returncode not in (0, None), said[-2000:]
    shutil.rmtree(tmp_path / "two" / "checkpoint-40", ignore_errors=True)
    again = ("--resume_from_checkpoint", tmp_path / "two" / "checkpoint-2")
    run((1, 1), *training_flags(tmp_path / "again", *flags, 40, *again))
    run((2,), *training_flags(tmp_path / "straight", *flags, 40))
    assert_equal_weights(tmp_path / "again", tmp_path / "straight", rtol=0, atol=0)


def test_ranks_that_have_read_other_data_end_everywhere(monkeypatch):
    def gathered(*values: str):
        return lambda mine: [(value, f"rank {number} on m{number}") for number, value in enumerate(values)]

    monkeypatch.setattr(meeting, "gather", gathered("same", "other", "same"))
    for mine in ("same", "other"):
        with pytest.raises(ValueError, match="rank 1 on m1 has read other data than rank 0"):
            meeting.check_same(mine, "data")
    monkeypatch.setattr(meeting, "gather", gathered("same", "same", "same"))
    meeting.check_same("same", "data")


def test_files_that_other_machines_wrote_are_waited_for(tmp_path, monkeypatch):
    """Network storage may show them late; without waiting, samples were missing and the advice was to begin anew."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    late, polls = tmp_path / "0-7.npz", []

    def gather(value):
        return [value, (["0-7.npz"], "m1")] if isinstance(value, tuple) else [value, []]

    def sleep(_):
        polls.append(1)
        if len(polls) == 3:
            late.touch()

    monkeypatch.setattr(meeting, "gather", gather)
    monkeypatch.setattr(meeting.time, "sleep", sleep)
    meeting.wait_until_seen(tmp_path, [])
    assert len(polls) == 3
    late.unlink()
    monkeypatch.setattr(meeting, "SEEN_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match=r"0-7.npz, written on m1, is not seen by rank 0 .*\(1 files\).*it goes on"):
        meeting.wait_until_seen(tmp_path, [])


def refused(processes: tuple[int, ...], *commands: tuple) -> list[str]:
    """A command for each machine; all must end with an error, soon."""
    with machines(*processes) as start:
        jobs = [start(machine, *command) for machine, command in enumerate(commands)]
        said = [job.communicate(timeout=280)[0] for job in jobs]
        assert all(job.returncode not in (0, None) for job in jobs), said
    return said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_lacks_a_file_ends_the_job_at_once(tmp_path):
    """The others used to wait for it, for as long as half an hour."""
    broken = toy_copy(tmp_path / "broken")
    (broken / NAME / f"{NAME}.inter.json").unlink()
    said = refused((1, 1), ranking_flags(tmp_path), ranking_flags(tmp_path, broken))
    assert re.search(r"error: .*rank \d on .* has ended: .*inter\.json", "".join(said)), said
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_with_other_data_is_named(tmp_path):
    other = toy_copy(tmp_path / "other")
    path = other / NAME / f"{NAME}.inter.json"
    write_json(path, {user: items[::-1] for user, items in read_json(path).items()})
    said = refused((1, 1), ranking_flags(tmp_path), ranking_flags(tmp_path, other))
    assert re.search(r"error: (\[rank 1\] )?rank 1 on .* has read other data, checkpoint or settings", "".join(said))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flags", [ranking_flags, training_flags])
def test_a_machine_that_does_not_see_the_output_is_named(tmp_path, flags):
    said = refused((1, 1), flags(tmp_path / "here"), flags(tmp_path / "there"))
    text = "".join(said)
    assert re.search(
        r"1 of 2 ranks do not see, the first being rank 1 on .*: give one --(results_file|output_dir)", text
    )
    assert not (tmp_path / "there" / "results.json").exists()
