"""Every flag has its effect: two short runs that differ in it alone end differently."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader
from transformers import modeling_utils

from src.finetune.config import FinetuneConfig, build_parser, config_from
from src.finetune.core import finetune
from src.finetune.engine import make_arguments
from tests.finetune.toy_runs import log_of, weights_of
from tests.toy import INDEX_FILE, NAME, scratch, tiny_model, toy_path

ROOT = Path(__file__).resolve().parents[2]
LORA = "--use_lora --lora_r 4 --lora_dropout 0"
VALIDATE = "--save_and_eval_strategy steps --save_and_eval_steps 1"
PICTURES = "--model_type qwen2_vl --tasks mmseqrec"
ALL_SAMPLES = "--train_data_sample_num 0,0"


def weights(folder: Path) -> list:
    return [tensor.tolist() for _, tensor in sorted(weights_of(folder).items())]


def run_json(folder: Path, *path: str):
    value = json.loads((folder / "run.json").read_text())
    for name in path:
        value = value[name]
    return value


def samples(folder: Path) -> dict:
    return run_json(folder, "train_samples")


def steps(folder: Path) -> int:
    return run_json(folder, "steps")


def validation(folder: Path) -> list:
    return [line["eval_loss"] for line in log_of(folder) if "eval_loss" in line]


def logged(folder: Path) -> list:
    return [line["step"] for line in log_of(folder) if "loss" in line]


def checkpoints(folder: Path) -> list:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def tensors(folder: Path) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in weights_of(folder).items()}


# flag: what it is given, the flags of both runs, and what then differs
EFFECTS = {
    "tasks": ("index2item,item2index", "", weights),
    "train_prompt_sample_num": ("2,1", "", samples),
    "train_data_sample_num": ("9,3", "", samples),
    "valid_prompt_id": ("2", VALIDATE, validation),
    "valid_prompt_sample_num": ("3", f"{VALIDATE} --valid_prompt_id -1", validation),
    "max_valid_samples": ("5", VALIDATE, validation),
    "ratio_dataset": (".5", ALL_SAMPLES, samples),
    "item_split": ("holdout", ALL_SAMPLES, samples),
    "prompt_lang": ("zh", "", weights),
    "image_augment": (".3", PICTURES, weights),
    "max_his_len": ("1", "", weights),
    "his_sep": ("|", "", weights),
    "add_prefix": ("True", "", weights),
    "max_his_images": ("1", PICTURES, weights),
    "model_max_length": ("60", "", weights),
    "only_train_response": ("False", "", weights),
    "share_prefix": ("True", ALL_SAMPLES, samples),
    "sid_init": ("random", "", weights),
    "use_lora": ("True", "", tensors),
    "lora_r": ("2", LORA, tensors),
    "lora_alpha": ("99", LORA, weights),
    "lora_dropout": (".5", LORA, weights),
    "lora_target_modules": ("v_proj", LORA, tensors),
    "lora_modules_to_save": ("embed_tokens,lm_head", LORA, tensors),
    "freeze": ("embeddings", "", weights),
    "seed": ("7", "", weights),
    "per_device_batch_size": ("2", "", weights),
    "gradient_accumulation_steps": ("2", "", lambda folder: run_json(folder, "global_batch_size")),
    "learning_rate": ("0.001", "", weights),
    "epochs": ("2", "--max_steps -1", steps),
    "max_steps": ("1", "", steps),
    "weight_decay": ("5", "", weights),
    "warmup_ratio": (".9", "", weights),
    "lr_scheduler_type": ("constant", "", weights),
    "optim": ("sgd", "", weights),
    "adam_beta2": (".5", "", weights),
    "max_grad_norm": (".001", "--optim sgd", weights),
    "save_and_eval_strategy": ("epoch", "--max_steps -1 --epochs 1", checkpoints),
    "save_and_eval_steps": ("2", "--save_and_eval_strategy steps", checkpoints),
    "save_total_limit": ("1", VALIDATE, checkpoints),
    "bf16": ("True", "", weights),
    "logging_step": ("2", "", logged),
    "debug": ("True", "", steps),
}
# flag: a test that shows its effect
ELSEWHERE = {
    "base_model": "tests/finetune/test_core.py",
    "model_type": "tests/finetune/test_core.py",
    "output_dir": "tests/finetune/test_core.py",
    "dataset": "tests/finetune/test_datasets.py",
    "data_path": "tests/finetune/test_faults.py",
    "index_file": "tests/finetune/test_core.py",
    "image_path": "tests/finetune/test_flags.py",
    "skip_bad_images": "tests/finetune/test_faults.py",
    "row_length": "tests/finetune/test_core.py",
    "use_gradient_checkpointing": "tests/finetune/test_flags.py",
    "num_workers": "tests/finetune/test_flags.py",
    "deepspeed": "tests/finetune/test_engine.py",
    "fsdp": "tests/finetune/test_engine.py",
    "preflight": "tests/finetune/test_engine.py",
    "fp16": "tests/finetune/test_faults.py",
    "device": "tests/finetune/test_faults.py",
    "resume_from_checkpoint": "tests/finetune/test_resuming.py",
    "report_to": "tests/finetune/test_flags.py",
    "run_name": "tests/finetune/test_flags.py",
}


def parsed(flags: str, folder: Path) -> FinetuneConfig:
    """A run of three steps with `flags`; they come last, and so win."""
    given = flags.split()
    family = given[given.index("--model_type") + 1] if "--model_type" in given else "qwen2"
    tasks = "" if "--tasks" in given and "," not in given[given.index("--tasks") + 1] else ",8"
    short = (
        f"--tasks seqrec,item2index --train_data_sample_num 24{tasks} --max_steps 3 --save_and_eval_strategy no"
        " --learning_rate 0.005 --per_device_batch_size 4 --logging_step 1 --device cpu --warmup_ratio 0"
    )
    needed = f"--dataset {NAME} --data_path {toy_path()} --base_model {tiny_model(family)} --model_type {family}"
    line = [*needed.split(), "--index_file", INDEX_FILE, "--output_dir", str(folder), *short.split(), *given]
    vision = family == "qwen2_vl"
    entry = "train_ddp_vl" if vision else "train_ddp"
    return config_from(build_parser("").parse_args(line), entry=entry, vision=vision)


def run(flags: str, folder: Path) -> Path:
    return finetune(parsed(flags, folder))


@cache
def base_run(flags: str) -> Path:
    return run(flags, scratch() / "flags" / str(abs(hash(flags))))


def test_no_flag_is_left_out():
    flags = {action.option_strings[0].removeprefix("--") for action in build_parser("")._actions} - {"-h"}
    assert flags == EFFECTS.keys() | ELSEWHERE.keys()
    assert not EFFECTS.keys() & ELSEWHERE.keys()
    for flag, file in ELSEWHERE.items():
        assert flag in (ROOT / file).read_text(), f"{file} says nothing of {flag}"


@pytest.mark.parametrize("flag", EFFECTS)
def test_effect(tmp_path, flag):
    value, both, differs = EFFECTS[flag]
    assert differs(run(f"{both} --{flag} {value}", tmp_path / "out")) != differs(base_run(both))


def test_runs_without_a_difference_end_alike(tmp_path):
    """Else the test above would show nothing."""
    for number, both in enumerate(("", LORA, PICTURES)):
        assert weights(run(both, tmp_path / str(number))) == weights(base_run(both))


def test_gradient_checkpointing_computes_layers_again(tmp_path, monkeypatch):
    calls = []
    real = modeling_utils.checkpoint
    monkeypatch.setattr(modeling_utils, "checkpoint", lambda *a, **k: calls.append(k) or real(*a, **k))
    again = run("--use_gradient_checkpointing --lr_scheduler_type constant", tmp_path / "again")
    assert len(calls) == 3 * 2  # steps, layers
    assert weights(again) == weights(base_run("--lr_scheduler_type constant"))


def test_workers_load_the_same_data(tmp_path, monkeypatch):
    made = []
    real = dataloader._MultiProcessingDataLoaderIter.__init__
    monkeypatch.setattr(
        dataloader._MultiProcessingDataLoaderIter,
        "__init__",
        lambda self, loader: made.append(loader.num_workers) or real(self, loader),
    )
    assert weights(run("--num_workers 2", tmp_path / "two")) == weights(base_run(""))
    assert made == [2]


def test_pictures_lie_where_image_path_says(tmp_path):
    with pytest.raises(ValueError, match="mmseqrec show pictures, and Toy has none"):
        run(f"{PICTURES} --image_path elsewhere", tmp_path)


# ---- reports ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("flags", "name"), [("", f"{NAME}-out"), ("--run_name mine", "mine")])
def test_reports_have_a_name(tmp_path, flags, name):
    arguments = make_arguments(parsed(f"--report_to wandb {flags}", tmp_path / "out"), torch.device("cpu"))
    assert (arguments.report_to, arguments.run_name) == (["wandb"], name)


@pytest.mark.slow
@pytest.mark.parametrize("report", ["wandb", "tensorboard"])
def test_reports_get_the_curves_of_each_task(tmp_path, report):
    """In a process of its own, as wandb takes its folder once."""
    pytest.importorskip(report)
    code = (
        f"from tests.finetune.test_flags import *\nrun({f'--report_to {report} {VALIDATE}'!r}, Path({str(tmp_path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pattern = "wandb/offline-run-*/*.wandb" if report == "wandb" else "**/events.out.tfevents.*"
    written = b"".join(file.read_bytes() for file in tmp_path.glob(pattern))
    for curve in ("train/loss", "eval/loss", "eval/loss_seqrec", "eval/loss_item2index"):
        assert curve.encode() in written
