"""Fine-tuning runs on the toy data: what is written, and equal gradients however a batch is cut."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.artifacts import TOKEN_META, UMASK, file_hash
from src.finetune import training
from src.finetune.config import FinetuneConfig, build_parser, config_from
from src.finetune.core import finetune
from src.models import load_finetuned
from src.tasks.task import load_task
from tests.finetune.toy_runs import assert_equal_weights, config_for, log_of, weights_of
from tests.toy import fresh_model, toy_catalogue, toy_index


# ---- a run from end to end -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pictured_run(tmp_path_factory) -> tuple[FinetuneConfig, Path]:
    config = config_for(
        tmp_path_factory.mktemp("run") / "out", "qwen2_vl", tasks=("seqrec", "mmitem2index", "index2item"),
        train_prompt_sample_num=(1, 2, 1), train_data_sample_num=(0, 0, 10), use_lora=True, lora_r=4, max_steps=24,
        save_and_eval_steps=12, save_total_limit=1,
    )  # fmt: skip
    return config, finetune(config)


def test_loss_falls_and_is_told_for_each_task(pictured_run):
    _, folder = pictured_run
    log = log_of(folder)
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.5
    evaluated = [line for line in log if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [12, 24]
    for line in evaluated:
        of_tasks = [line[f"eval_loss_{task}"] for task in ("seqrec", "mmitem2index", "index2item")]
        assert min(of_tasks) < line["eval_loss"] < max(of_tasks)
    assert evaluated[1]["eval_loss"] < evaluated[0]["eval_loss"]


def test_log_says_how_far_it_is(pictured_run):
    """Without a terminal the log used to have no total and no time left."""
    text = (pictured_run[1] / "train.log").read_text()
    lines = [line for line in text.splitlines() if "loss" in line]
    assert len(lines) == 24 + 2
    for line in lines:
        assert re.search(r" step \d+/24, epoch \d\.\d\d: (eval_)?loss \d+\.\d{4}, .*\d (s|min|h) left$", line), line
    assert lines[-2].endswith(", 0 s left")


def test_run_record_is_as_documented(pictured_run):
    config, folder = pictured_run
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["train_prompt_sample_num"] == [1, 2, 1]
    assert record["config"]["learning_rate"] == 0.01
    assert record["command"]
    assert record["commit"]
    index = Path(record["index_file"])
    assert record["inputs"]["index"] == {"path": str(index), "sha256": file_hash(index)}
    assert {"interactions", "items"} <= record["inputs"].keys()
    assert record["inputs"]["pictures"] == toy_catalogue().input_pictures("images")["pictures"]
    assert record["train_samples"] == {"seqrec": 189, "mmitem2index": 80, "index2item": 10}
    assert record["prompt_settings"]["max_his_len"] == config.max_his_len
    assert record["sid_init"] == "text"
    assert record["templates_sha256"] == {name: load_task(name).templates_sha256 for name in record["tasks"]}
    assert (record["steps"], record["global_batch_size"], record["world_size"]) == (24, 8, 1)
    assert record["best_eval_loss"] == min(line["eval_loss"] for line in log_of(folder) if "eval_loss" in line)
    assert record["parameters"]["training"] < record["parameters"]["total"] / 2
    meta = json.loads((folder / TOKEN_META).read_text())
    assert meta["sid_tokens"] == toy_index().all_tokens
    assert meta["index_sha256"] == file_hash(index)
    assert meta["base_vocab_size"] == 600
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-24"]


def test_others_may_read_the_weights(pictured_run):
    """The weights used to be readable by nobody else, unlike all files beside them."""
    folder = pictured_run[1]
    for place in (folder, *folder.glob("checkpoint-*")):
        assert (place / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o666 & ~UMASK


def test_checkpoints_hold_no_whole_embeddings(pictured_run, tmp_path):
    """Those of text models used to hold the embeddings of the whole vocabulary, twice."""
    text = finetune(config_for(tmp_path / "out", use_lora=True, max_steps=2, save_and_eval_steps=1))
    for folder in (pictured_run[1], text):
        for place in (folder, *folder.glob("checkpoint-*")):
            assert max(max(tensor.shape) for tensor in weights_of(place).values()) < 600


def test_fine_tuned_model_loads_and_is_the_best_checkpoint(pictured_run):
    config, folder = pictured_run
    for place in (folder, folder / "checkpoint-24"):  # a checkpoint holds all that evaluating it needs
        loaded = load_finetuned(place, config.base_model, True, torch.float32)
        assert loaded.tokenizer.convert_tokens_to_ids("<c_4>") == 600 + len(toy_index().all_tokens) - 1
        assert len(loaded.model.get_input_embeddings().weight) == 600 + len(toy_index().all_tokens)
        assert json.loads((place / "run.json").read_text())["prompt_settings"]
    assert_equal_weights(folder, folder / "checkpoint-24")


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_the_best_checkpoint_ends_in_output_dir(tmp_path, family):
    """Here the first: the learning rate then wrecks the model.

    Vision-language models used to keep their last weights: the Trainer found none of their names in the file.
    """
    folder = finetune(config_for(tmp_path / "out", family, max_steps=3, save_and_eval_steps=1, save_total_limit=3,
                                 learning_rate=1.0, lr_scheduler_type="constant", warmup_ratio=0))  # fmt: skip
    losses = {line["step"]: line["eval_loss"] for line in log_of(folder) if "eval_loss" in line}
    best = min(losses, key=losses.get)
    assert best < 3
    assert_equal_weights(folder, folder / f"checkpoint-{best}")
    assert json.loads((folder / "run.json").read_text())["best_eval_loss"] == losses[best]


@pytest.mark.parametrize("freezing", [{}, {"freeze": "all"}])
def test_whole_model_loads_without_a_base(tmp_path, freezing):
    config = config_for(
        tmp_path / "out", "qwen2_vl", tasks=("mmseqrec",), max_steps=3, save_and_eval_strategy="no",
        learning_rate=0.003, **freezing,
    )  # fmt: skip
    folder = finetune(config)
    loaded = load_finetuned(folder, None, False, torch.float32)
    assert loaded.processor is not None
    before = fresh_model("qwen2_vl").model.state_dict()
    after = loaded.model.state_dict()
    name = next(name for name in before if name.endswith("embed_tokens.weight"))
    assert torch.equal(after[name][:600], before[name][:600]) == bool(freezing)  # weight decay included
    assert not torch.equal(after[name][600:], before[name][600:])


def test_learning_everything_and_shared_prefixes_run(tmp_path):
    ways = (
        {"share_prefix": True},
        {"only_train_response": False, "num_workers": 1},
        {"debug": True, "use_gradient_checkpointing": True, "use_lora": True},
    )
    for number, way in enumerate(ways):
        folder = finetune(config_for(tmp_path / str(number), max_steps=3, save_and_eval_strategy="no", **way))
        assert len([line for line in log_of(folder) if "loss" in line]) == (8 if "debug" in way else 3)


@pytest.mark.parametrize("used", [False, True])
def test_gradient_checkpointing_gives_no_warning(tmp_path, used):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        finetune(config_for(tmp_path, max_steps=1, save_and_eval_strategy="no", use_gradient_checkpointing=used))
    assert not [str(warning.message) for warning in caught if warning.category is FutureWarning]


# ---- batches ---------------------------------------------------------------------------------------------------------
BATCHES = {
    "tasks": ("seqrec", "index2item"),  # answers of unequal length
    "optim": "sgd",
    "learning_rate": 0.5,
    "warmup_ratio": 0,
    "max_steps": 1,
    "save_and_eval_strategy": "no",
    "weight_decay": 0,
}


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_batch_of_8_is_batch_of_4_twice(tmp_path, family):
    runs = [
        finetune(
            config_for(
                tmp_path / str(size),
                family,
                **BATCHES,
                per_device_batch_size=size,
                gradient_accumulation_steps=8 // size,
            )
        )
        for size in (8, 4, 1)
    ]
    for other in runs[1:]:
        assert_equal_weights(other, runs[0], rtol=0, atol=1e-5)
        ours, theirs = (log_of(run)[0]["loss"] for run in (other, runs[0]))
        assert ours == pytest.approx(theirs, rel=1e-5)
    before = fresh_model(family).model.state_dict()
    after = load_finetuned(runs[0], None, False, torch.float32).model.state_dict()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before if "layers" in name)
    assert moved > 1e-3  # the step is large enough to tell


def test_packing_does_not_change_the_step(tmp_path, monkeypatch):
    """In rows of --row_length tokens, as on a GPU; on a CPU a batch is one row, whatever the flag says."""
    made = []

    def as_on(device: str):
        def make(config, loaded, parts, _):
            made.append(make_collator(config, loaded, parts, torch.device(device)))
            return made[-1]

        return make

    make_collator = training.make_collator
    runs = []
    for device, length in (("cpu", 256), ("cuda", 1), ("cuda", 256), ("cuda", 4096)):
        monkeypatch.setattr(training, "make_collator", as_on(device))
        runs.append(finetune(config_for(tmp_path / f"{device}-{length}", **BATCHES, row_length=length)))
    assert [collator.row_length for collator in made] == [0, 1, 256, 4096]
    for other in runs[1:]:
        assert_equal_weights(other, runs[0], rtol=0, atol=1e-5)


def test_validation_is_the_mean_over_answer_tokens_however_they_are_batched(tmp_path):
    """Answers of unequal length: a mean of the batches' means would depend on the batch."""
    changes = {"tasks": ("seqrec", "index2item"), "valid_prompt_id": 5, "learning_rate": 0.0, "max_steps": 1}
    told = []
    for size in (8, 30):  # batches of 16 and of 30 validate
        folder = finetune(
            config_for(tmp_path / str(size), **changes, save_and_eval_steps=1, per_device_batch_size=size)
        )
        told += [line for line in log_of(folder) if "eval_loss" in line]
    for name in ("eval_loss", "eval_loss_seqrec", "eval_loss_index2item"):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-6), name


# ---- flags -----------------------------------------------------------------------------------------------------------
def test_flags_become_the_config():
    def parse(flags: str) -> FinetuneConfig:
        needed = "--dataset D --base_model m --model_type qwen2 --output_dir o --index_file i "
        return config_from(build_parser("").parse_args((needed + flags).split()), "train_ddp", False)

    plain = parse("")
    assert plain == FinetuneConfig("train_ddp", False, "m", "qwen2", Path("o"), "D", "i")  # defaults are the config's
    config = parse("--tasks seqrec,index2item --train_data_sample_num 5,0 --use_lora False --add_prefix --his_sep ;")
    assert (config.tasks, config.train_data_sample_num) == (("seqrec", "index2item"), (5, 0))
    assert (config.use_lora, config.add_prefix, config.his_sep) == (False, True, ";")


# ---- several ranks ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_two_ranks_take_the_same_step_as_one(tmp_path, family):
    """And their validation counts every sample once, whatever the number of ranks."""
    changes = {**BATCHES, "save_and_eval_strategy": "steps", "max_valid_samples": 33}
    if family == "qwen2_vl":
        changes["tasks"] = ("mmitem2index", "seqrec", "index2item")
    one = finetune(config_for(tmp_path / "one", family, **changes, per_device_batch_size=8))
    config = config_for(tmp_path / "two", family, **changes, per_device_batch_size=4)
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path, PosixPath\n"
        "from src.finetune.config import FinetuneConfig\n"
        "from src.finetune.core import finetune\n"
        f"finetune({config!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_weights(tmp_path / "two", one, rtol=0, atol=1e-5)
    lines = [log_of(folder) for folder in (one, tmp_path / "two")]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        for name in {name for name in ours if "loss" in name}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert json.loads((tmp_path / "two" / "run.json").read_text())["global_batch_size"] == 8
