"""LC-Rec from embeddings to results: done once, done again, and killed."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.baselines.lcrec import TASKS, USER_TASKS, build_lcrec_parser
from src.common.index_files import load_sid_index
from src.seqrec.results import predictions_path, read_predictions, read_results
from src.tasks.catalogue import load_catalogue
from tests.baselines.test_lcrec import toy_config
from tests.toy import NAME, NUM_ITEMS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path):
    return toy_config(tmp_path)


def words_of(config):
    """The command line of these settings."""
    words = [sys.executable, "-m", "src.baselines.lcrec"]
    for action in build_lcrec_parser(None)._actions:
        value = getattr(config, action.dest, None)
        if value not in (None, ()):
            many = action.nargs == "+"
            parts = map(str, value) if many else [",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
            words += [action.option_strings[-1], *parts]
    return words


def run(words):
    return subprocess.run(words, cwd=ROOT, env=quiet(), capture_output=True, text=True, timeout=280)


def quiet():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@pytest.mark.slow
def test_the_whole_way_and_again(config):
    config = replace(config, nproc=2, epochs=1.0, batch_size=16, filter_history=True)
    done = run(words_of(config))
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(1, 6):
        assert f"[{number}/5]" in done.stdout
    results = read_results(config.results_file)
    assert (results["model"], results["dataset"], results["num_samples"]) == ("lcrec", NAME, 48)
    assert (results["test_prompt_ids"], results["filter_history"], results["split"]) == ([0, 1], True, "test")
    assert results["settings"]["tasks"] == [*TASKS, *USER_TASKS]
    assert len(read_predictions(predictions_path(config.results_file))) == 2
    work = config.results_file.with_suffix(".model")
    index = load_sid_index(work / f"{NAME}.index_lcrec.json", load_catalogue(config.data_path, NAME).item_ids)
    assert len(np.unique(index.codes, axis=0)) == NUM_ITEMS

    again = run(words_of(replace(config, test_prompt_ids="1")))
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 4
    command = next(line for line in again.stdout.splitlines() if "src.seqrec.metric_ddp" in line)
    pasted = shlex.split(command)
    pasted[pasted.index("--results_file") + 1] = str(config.results_file.with_name("pasted.json"))
    assert run(pasted).returncode == 0
    mine, theirs = (read_results(config.results_file.with_name(name)) for name in ("lcrec.json", "pasted.json"))
    assert mine["mean_results"] == theirs["mean_results"] == results["all_prompt_results"][1]


@pytest.mark.slow
def test_a_kill_takes_the_commands_with_it_and_the_next_start_goes_on(config):
    config = replace(config, tasks=("seqrec",), epochs=8.0, test_prompt_ids="0")
    work = config.results_file.with_suffix(".model")
    process = subprocess.Popen(words_of(config), cwd=ROOT, env=quiet(), stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not any((work / "finetuned").glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    log = work / "finetuned" / "trainer_log.jsonl"
    time.sleep(3)
    size = log.stat().st_size
    time.sleep(2)
    assert log.stat().st_size == size  # nobody trains on
    again = run(words_of(config))
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 3
    assert "resuming from" in again.stdout
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    evaluated = [row["epoch"] for row in rows if "eval_loss" in row]
    assert evaluated == [float(epoch) for epoch in range(1, 9)]
