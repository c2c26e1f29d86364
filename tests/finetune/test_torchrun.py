"""The documented command, on two ranks of this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.models import load_finetuned
from tests.finetune.toy_runs import log_of, weights_of
from tests.toy import NAME, tiny_model, toy_copy

ROOT = Path(__file__).resolve().parents[2]


def documented_command() -> str:
    """The fine-tuning command of the README, without what puts it into the background."""
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(
        r"^nohup (torchrun .*?src\.finetune\.train_ddp_vl .*?)\s+> log", text, re.DOTALL | re.MULTILINE
    )
    return command.rstrip(" \\\n")


@pytest.mark.slow
def test_the_documented_command_trains(tmp_path):
    """As it stands but for two processes instead of four, a tiny model, a toy dataset, and wandb offline."""
    data = toy_copy(tmp_path)
    command = documented_command()
    for flag in ("deepspeed ./config/ds_z2_bf16.json", "bf16", "use_lora", "report_to wandb", "only_train_response"):
        assert f"--{flag} " in command
    command = command.replace("--nproc_per_node=4", "--nproc_per_node=2").replace("./data/", f"{data}/")
    output = tmp_path / "output" / "mine"
    settings = {
        "BASE_MODEL": str(tiny_model("qwen2_vl")),
        "MODEL_TYPE": "qwen2_vl",
        "OUTPUT_DIR": str(output),
        "DATASET": NAME,
        "DATA_PATH": str(data),
        "MODEL_NAME": "simple",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=290
    )
    assert done.returncode == 0, done.stderr[-3000:]

    record = json.loads((output / "run.json").read_text())
    assert (record["world_size"], record["global_batch_size"]) == (2, 2 * 12 * 2)
    assert record["tasks"] == ["item2index", "seqrec", "fusionseqrec"]
    assert record["steps"] == 4 * -(-sum(record["train_samples"].values()) // 48)
    log = log_of(output)
    evaluated = [line for line in log if "eval_loss" in line]
    assert [line["epoch"] for line in evaluated] == [1, 2, 3, 4]
    assert evaluated[-1]["eval_loss"] < evaluated[0]["eval_loss"]
    names = {name.rpartition(".")[0].rpartition(".")[2] for name in weights_of(output)}
    assert names == {"lora_A", "lora_B", "embed_tokens", "lm_head"}
    load_finetuned(output, settings["BASE_MODEL"], True, torch.float32)

    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    written = run.read_bytes()
    for name in ("eval/loss_item2index", "eval/loss_seqrec", "eval/loss_fusionseqrec", "train/loss", f"{NAME}-mine"):
        assert name.encode() in written


@pytest.mark.slow
def test_two_machines_train_one_model(tmp_path):
    """The launcher of either, both on this machine."""
    output = tmp_path / "output"
    settings = {
        **os.environ,
        "BASE_MODEL": str(tiny_model("qwen2_vl")),
        "MODEL_TYPE": "qwen2_vl",
        "OUTPUT_DIR": str(output),
        "DATASET": NAME,
        "DATA_PATH": str(toy_copy(tmp_path)),
        "MODEL_NAME": "simple",
        "TASKS": "seqrec",
        "NNODES": "2",
        "MASTER_PORT": "29641",
        "FOREGROUND": "1",
        "GREC_PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    flags = ["--max_steps", "2", "--save_and_eval_strategy", "no", "--num_workers", "0"]
    nodes = [
        subprocess.Popen(
            ["bash", "scripts/finetune/train_nodes.sh", *flags],
            cwd=ROOT,
            env={**settings, "NODE_RANK": str(rank), "LOG_FILE": str(tmp_path / f"{rank}.log")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (1, 0)
    ]
    for node in nodes:
        said, _ = node.communicate(timeout=250)
        assert node.returncode == 0, said[-3000:]
    record = json.loads((output / "run.json").read_text())
    assert (record["world_size"], record["global_batch_size"], record["steps"]) == (2, 16, 2)
    assert load_finetuned(output, None, False, torch.float32).processor is not None
