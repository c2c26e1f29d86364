"""A run that was stopped or killed ends where a straight one does."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from src.finetune import resuming, training
from src.finetune.config import FinetuneConfig
from src.finetune.core import check, finetune
from src.finetune.resuming import FREE_TO_DIFFER, NO_FLAGS
from tests.finetune.toy_runs import assert_equal_weights, config_for, log_of


@pytest.mark.parametrize(
    ("family", "lora"), [("qwen2", True), ("qwen2", False), ("qwen2_vl", True), ("qwen2_vl", False)]
)
def test_resumed_run_ends_where_a_straight_one_does(tmp_path, family, lora):
    """From the middle of the second epoch, with dropout, several tasks and wordings of its own each epoch."""
    config = config_for(
        tmp_path / "straight", family, tasks=("seqrec", "item2index"), train_data_sample_num=(14, 6), use_lora=lora,
        lora_r=4, per_device_batch_size=4, max_steps=12, save_and_eval_steps=4, save_total_limit=9, learning_rate=0.005,
    )  # fmt: skip
    straight = finetune(config)
    killed = tmp_path / "killed"
    shutil.copytree(straight, killed, ignore=shutil.ignore_patterns("checkpoint-12", "*.safetensors", "run.json"))
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-8", dirs_exist_ok=True)
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-10")  # half-written: killed while it was saved
    (killed / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 10')
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-11")
    (killed / "checkpoint-11" / "optimizer.pt").unlink()
    (killed / "trainer_log.jsonl").open("a").write('{"step": 12, "lo')
    assert core_newest(killed) == killed / "checkpoint-8"
    record = json.loads((killed / "checkpoint-8" / "run.json").read_text())
    assert 0 < record["seconds"] <= json.loads((straight / "run.json").read_text())["seconds"]
    record["seconds"] = 5000.0
    (killed / "checkpoint-8" / "run.json").write_text(json.dumps(record))
    resumed = finetune(replace(config, output_dir=killed, resume_from_checkpoint="True"))
    assert json.loads((resumed / "run.json").read_text())["seconds"] > 5000  # the time before the kill counts
    assert_equal_weights(resumed / "checkpoint-12", straight / "checkpoint-12")
    assert_equal_weights(resumed, straight)
    curves = [
        [(line["step"], line[kind]) for line in log_of(folder) for kind in ("loss", "eval_loss") if kind in line]
        for folder in (straight, resumed)
    ]
    assert curves[0] == curves[1]


def test_runs_do_not_share_a_folder(tmp_path):
    """The second's whole model used to lie beside the first's adapter, and the adapter was evaluated; and a killed run
    went on from a checkpoint of the run before it."""
    config = config_for(tmp_path / "out", use_lora=True, lora_r=4, max_steps=1, save_and_eval_steps=1)
    folder = finetune(config)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for changes in ({}, {"use_lora": False}, {"use_lora": False, "resume_from_checkpoint": "True"}):
        with pytest.raises(ValueError, match=r"--output_dir .*out holds (checkpoint-1 of|a LoRA adapter to)"):
            finetune(replace(config, **changes))
    elsewhere = replace(config, resume_from_checkpoint=str(folder / "checkpoint-1"), output_dir=tmp_path / "other")
    assert check(elsewhere)
    (tmp_path / "other" / "config.json").touch()
    with pytest.raises(ValueError, match=r"other holds config\.json of an earlier run: go on with that one by"):
        check(elsewhere)
    with pytest.raises(ValueError, match="other holds a whole model to go on with: leave out --use_lora"):
        check(replace(elsewhere, resume_from_checkpoint="True"))
    assert check(replace(config, preflight=2))  # which writes nothing
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


SLOWLY = """
import time
from pathlib import Path, PosixPath
from src.finetune.config import FinetuneConfig
from src.finetune.config import FinetuneConfig
from src.finetune.core import finetune
from src.finetune.resuming import FREE_TO_DIFFER, NO_FLAGS
from src.finetune.trainer import AnswerTrainer
losses = AnswerTrainer.token_losses
AnswerTrainer.token_losses = lambda *arguments: time.sleep(0.1) or losses(*arguments)
"""


@pytest.mark.slow
def test_run_killed_at_any_moment_goes_on_with_the_same_curve(tmp_path):
    """By SIGKILL, some steps after a checkpoint."""
    config = config_for(tmp_path / "straight", tasks=("seqrec", "item2index"), train_data_sample_num=(30, 10),
                        use_lora=True, lora_r=4, max_steps=16, save_and_eval_steps=5, max_valid_samples=8)  # fmt: skip
    straight = finetune(config)
    config = replace(config, output_dir=tmp_path / "killed", resume_from_checkpoint="True")
    log, root = config.output_dir / "trainer_log.jsonl", Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SLOWLY}\nfinetune({config!r})"], cwd=root, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (log.is_file() and '"step": 7' in log.read_text()):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert core_newest(config.output_dir) == config.output_dir / "checkpoint-5"
    assert not (config.output_dir / "adapter_model.safetensors").exists()
    resumed = finetune(config)
    assert_equal_weights(resumed, straight)
    curves = [
        [(line["step"], line[kind]) for line in log_of(folder) for kind in ("loss", "eval_loss") if kind in line]
        for folder in (straight, resumed)
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 15, 15, 16, 16]


def core_newest(folder: Path) -> Path | None:
    from src.finetune.trainer import newest_whole_checkpoint

    return newest_whole_checkpoint(folder)


def test_a_run_killed_after_its_last_step_trains_no_further(tmp_path):
    """Each new start used to train one step more; and a checkpoint without its records could not be evaluated."""
    config = config_for(tmp_path / "out", train_data_sample_num=(30,), max_steps=5, save_and_eval_steps=2)
    config = replace(config, resume_from_checkpoint="True", save_total_limit=1)
    straight = shutil.copytree(finetune(config), tmp_path / "straight")
    for name in ("run.json", "token_meta.json"):
        (config.output_dir / "checkpoint-5" / name).unlink()  # killed between the weights and what belongs to them
        (config.output_dir / name).unlink()
    (config.output_dir / "model.safetensors").unlink()
    resumed = finetune(config)
    assert_equal_weights(resumed, straight)
    assert json.loads((resumed / "run.json").read_text())["steps"] == 5
    for folder in (resumed, resumed / "checkpoint-5"):
        assert json.loads((folder / "token_meta.json").read_text()) == json.loads(
            (straight / "token_meta.json").read_text()
        )
    assert sorted(path.name for path in resumed.iterdir()) == sorted(path.name for path in straight.iterdir())
    curves = [[line for line in log_of(folder) if "loss" in line] for folder in (straight, resumed)]
    assert curves[0] == curves[1]


def test_resuming_without_a_checkpoint_starts_afresh(tmp_path):
    config = config_for(tmp_path / "out", max_steps=2, save_and_eval_strategy="no", resume_from_checkpoint="True")
    assert len(log_of(finetune(config))) == 3
    assert len(log_of(finetune(config))) == 3  # and its log replaces the old one


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of four steps with a checkpoint after two."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    config = config_for(folder, tasks=("seqrec",), max_steps=4, save_and_eval_steps=2, per_device_batch_size=4)
    finetune(config)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-9}, r"checkpoint-2 is of a run with --learning_rate \S+, and 1e-09 is asked for: give "),
        ({"prompt_lang": "zh"}, "--prompt_lang en, and zh is asked for"),
        ({"tasks": ("item2index", "seqrec")}, "--tasks seqrec, and item2index,seqrec is asked for"),
        ({"his_sep": ""}, "--his_sep , , and '' is asked for"),
        ({"per_device_batch_size": 2}, "a batch of 4, and 2 is asked for"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(stopped, change, message):
    """It went on with its own learning rate, tasks and weights, and run.json told the new ones."""
    with pytest.raises(ValueError, match=message):
        finetune(replace(stopped, resume_from_checkpoint=str(stopped.output_dir / "checkpoint-2"), **change))


def test_a_checkpoint_of_another_index_is_refused(stopped, tmp_path):
    file = next((stopped.data_path / stopped.dataset).rglob("*index_simple.json"))
    index = json.loads(file.read_text())
    items = list(index)
    swapped = {items[0]: index[items[1]], items[1]: index[items[0]]}
    (tmp_path / "other.json").write_text(json.dumps(index | swapped))
    checkpoint = str(stopped.output_dir / "checkpoint-2")
    with pytest.raises(ValueError, match=r"checkpoint-2 is of a run with other index than .*other\.json holds now"):
        finetune(replace(stopped, index_file=str(tmp_path / "other.json"), resume_from_checkpoint=checkpoint))


def test_what_does_not_change_a_step_may_differ(stopped, tmp_path):
    changes = {
        "per_device_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 5, "logging_step": 2,
        "output_dir": tmp_path / "again", "resume_from_checkpoint": str(stopped.output_dir / "checkpoint-4"),
    }  # fmt: skip
    resumed = finetune(replace(stopped, **changes))
    assert json.loads((resumed / "run.json").read_text())["steps"] == 5


def test_settings_that_may_differ_are_settings():
    assert {field.name for field in fields(FinetuneConfig)} >= FREE_TO_DIFFER.union(NO_FLAGS)


def test_a_checkpoint_without_a_record_is_known_by_that_of_its_run(stopped, tmp_path, monkeypatch):
    """Killed between the weights and their record; and wordings that were changed since."""
    folder = shutil.copytree(stopped.output_dir, tmp_path / "out")
    (folder / "checkpoint-2" / "run.json").unlink()
    again = replace(stopped, output_dir=folder, resume_from_checkpoint=str(folder / "checkpoint-2"))
    with pytest.raises(ValueError, match="--seed 42, and 1 is asked for"):
        finetune(replace(again, seed=1))
    record = json.loads((folder / "run.json").read_text())
    for name, other, message in (
        ("templates_sha256", {"seqrec": "0"}, "other wordings of seqrec"),
        ("train_samples", {"seqrec": 3}, "other training samples of seqrec"),
    ):
        (folder / "run.json").write_text(json.dumps(record | {name: other}))
        with pytest.raises(ValueError, match=message):
            finetune(again)


@pytest.mark.parametrize("kept", [["trainer_state.json", "token_meta.json"], ["optimizer.pt", "rng_state.pth"]])
def test_what_a_kill_left_of_a_checkpoint_goes(stopped, tmp_path, kept):
    """Killed while an old checkpoint was removed, or a new one written: the rest used to lie there for good."""
    folder = shutil.copytree(stopped.output_dir, tmp_path / "out")
    broken, of_two_ranks = folder / "checkpoint-2", folder / "checkpoint-3"
    shutil.copytree(broken, of_two_ranks)
    (of_two_ranks / "rng_state.pth").rename(of_two_ranks / "rng_state_0.pth")
    shutil.copy(of_two_ranks / "rng_state_0.pth", of_two_ranks / "rng_state_1.pth")
    for file in broken.iterdir():
        if file.name not in kept:
            file.unlink()
    finetune(replace(stopped, output_dir=folder, resume_from_checkpoint="True"))
    assert not broken.exists()
    assert {"checkpoint-3", "checkpoint-4"} <= {path.name for path in folder.iterdir()}


def test_a_checkpoint_of_other_data_ends_every_rank(monkeypatch, tmp_path):
    """Only rank 0 hashes pictures and base models: the others used to go on without it."""
    monkeypatch.setattr(resuming, "gather", lambda _: ["other pictures than data/Toy holds now", ""])
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="is of a run with other pictures than data/Toy holds now: give what"):
        resuming.check_resumed(tmp_path / "checkpoint-2", {})


def test_epochs_ask_in_new_words(tmp_path, monkeypatch):
    asked = []

    class Spy(training.Mixture):
        def set_epoch(self, epoch):
            asked.append(epoch)
            super().set_epoch(epoch)

    monkeypatch.setattr(training, "Mixture", Spy)
    finetune(config_for(tmp_path / "out", train_data_sample_num=(8,), epochs=3, save_and_eval_strategy="no"))
    assert sorted(set(asked)) == [0, 1, 2]
