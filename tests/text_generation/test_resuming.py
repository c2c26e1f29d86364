"""Evaluation of texts is the same for any number of ranks and after any kill."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from src.common.artifacts import read_json, write_json
from src.text_generation.core import evaluate as run
from src.text_generation.core import run_key
from src.text_generation.generator import Generator
from src.text_generation.plan import check
from src.text_generation.results import predictions_path, read_predictions, read_results
from tests.seqrec.toy_runs import checkpoint
from tests.text_generation.toy_runs import TEST_ITEMS, config_for, flags_for


def test_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = run(config_for(tmp_path / "whole"))
    config = config_for(tmp_path / "killed")
    answer, calls = Generator.answer, []

    def fail_later(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return answer(self, *args)

    monkeypatch.setattr("src.common.parts.SAVE_SECONDS", -1)
    monkeypatch.setattr(Generator, "answer", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(config)
    assert not config.results_path.exists()
    asked = []
    monkeypatch.setattr(Generator, "answer", lambda self, *args: asked.extend(args[2]) or answer(self, *args))
    run(config)
    assert len(asked) == len(TEST_ITEMS) - 2
    frames = [read_predictions(predictions_path(path)) for path in (whole, config.results_path)]
    assert frames[0].equals(frames[1])


def test_ranks_are_joined_before_they_wait_for_each_other(tmp_path, monkeypatch):
    """Evaluation on several ranks used to end at its first barrier, in Parts, before there was a group."""
    done = []
    monkeypatch.setattr("src.text_generation.core.init_process_group", lambda device: done.append("joined"))
    monkeypatch.setattr("src.common.parts.barrier", lambda: done.append("waited"))
    run(config_for(tmp_path, sample_num=1))
    assert done[:2] == ["joined", "waited"]


def test_answers_of_another_processor_are_not_taken(tmp_path):
    """Pictures of another size, after a run that was killed for want of memory."""
    folder = shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "ckpt")
    config = config_for(tmp_path, ckpt_model=folder)
    before = run_key(config, check(config))
    assert run_key(replace(config, device="auto", page_items=1), check(config)) == before
    path = next(
        folder / name for name in ("preprocessor_config.json", "processor_config.json") if (folder / name).is_file()
    )
    write_json(path, read_json(path) | {"max_pixels": 99})
    assert run_key(config, check(config)) != before
    pictures = [run_key(config, check(config), {"pictures": {"sha256": digest}}) for digest in "ab"]
    assert pictures[0] != pictures[1]


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path):
    one = run(config_for(tmp_path / "one"))
    flags = flags_for(tmp_path / "two", checkpoint("qwen2_vl"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, "-m", "src.text_generation.evaluate", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    frames = [read_predictions(predictions_path(tmp_path / name / "results.json")) for name in ("one", "two")]
    assert frames[0].equals(frames[1])
    means = [read_results(path)["mean_results"] for path in (one, tmp_path / "two" / "results.json")]
    assert means[0] == means[1]
