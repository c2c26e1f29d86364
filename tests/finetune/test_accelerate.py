"""accelerate launch: our files are what its own loader reads, and what they say is what the run does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.finetune.core import check_settings
from tests.finetune.toy_runs import config_for, log_of
from tests.toy import INDEX_FILE, NAME, tiny_model, toy_path

ROOT = Path(__file__).resolve().parents[2]
FILES = ("accelerate_ddp.yaml", "accelerate_deepspeed.yaml")


@pytest.fixture
def told(monkeypatch):
    """Sets what the launcher of accelerate sets."""

    def tell(**values: str) -> None:
        for name, value in {"MIXED_PRECISION": "no", **values}.items():
            monkeypatch.setenv(f"ACCELERATE_{name}", value)
        monkeypatch.setenv("RANK", "0")

    return tell


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("machines", [1, 3])
def test_files_are_read_by_accelerate(monkeypatch, name, machines):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.chdir(ROOT)
    path = f"config/{name}"
    assert load_config_from_file(path).num_processes == -1
    with pytest.raises(ValueError, match="--num_processes"):
        _validate_launch_command(launch_command_parser().parse_args(["--config_file", path, "-m", "x"]))
    flags = ["--num_machines", str(machines), "--machine_rank", "0", "--main_process_ip", "node0"]
    flags += ["--num_processes", str(4 * machines), "--config_file", path, "-m", "src.finetune.train_ddp"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(flags))
    assert (args.num_machines, args.num_processes, args.module) == (machines, 4 * machines, True)
    assert (args.multi_gpu, args.use_deepspeed) == ((True, False) if name == FILES[0] else (False, True))
    if args.use_deepspeed:
        assert Path(args.deepspeed_config_file).is_file()
        assert args.deepspeed_multinode_launcher == "standard"


def test_without_accelerate_nothing_changes(tmp_path, monkeypatch):
    """The Trainer leaves such a variable behind."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert check_settings(config_for(tmp_path))[0].deepspeed is None


def test_what_the_file_says_becomes_our_flags(tmp_path, told):
    told(MIXED_PRECISION="bf16", USE_DEEPSPEED="true", DEEPSPEED_CONFIG_FILE="config/ds_z2_bf16.json", USE_CPU="True")
    config, _ = check_settings(config_for(tmp_path, device="auto"))
    assert (config.bf16, config.fp16, config.device) == (True, False, "cpu")
    assert config.deepspeed == "config/ds_z2_bf16.json"


@pytest.mark.parametrize(
    ("values", "changes", "fault"),
    [
        ({"MIXED_PRECISION": "fp16"}, {"bf16": True}, "mixed_precision: fp16, but --bf16"),
        ({"MIXED_PRECISION": "fp8"}, {}, "mixed_precision: fp8, but only bf16 and fp16"),
        ({"USE_FSDP": "true"}, {}, "asks for FSDP, .* --fsdp config/fsdp2.json"),
        ({"USE_MEGATRON_LM": "true"}, {}, "asks for MEGATRON_LM"),
        ({"USE_PARALLELISM_CONFIG": "true"}, {}, "asks for PARALLELISM_CONFIG, .* leave out parallelism_config"),
        ({"DYNAMO_BACKEND": "INDUCTOR"}, {}, "asks for torch.compile"),
        ({"USE_DEEPSPEED": "true"}, {}, "without a deepspeed_config_file: name one of config/"),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_CONFIG_FILE": "config/ds_z2_bf16.json"},
            {"deepspeed": "config/ds_z3_bf16.json"},
            "says config/ds_z2_bf16.json, but --deepspeed config/ds_z3_bf16.json",
        ),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_CONFIG_FILE": "config/ds_z2_fp16.json"},
            {"bf16": True},
            "which has no bf16 section",
        ),
    ],
)
def test_what_has_no_flag_or_contradicts_one_is_refused(tmp_path, told, values, changes, fault):
    told(**values)
    with pytest.raises(ValueError, match=fault):
        check_settings(config_for(tmp_path, **changes))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_two_processes_train_as_under_torchrun(tmp_path, name):
    """With DeepSpeed from the file's config; the record of the run tells what was done."""
    deepspeed = name == FILES[1]
    flags = [
        *("-m", "src.finetune.train_ddp", "--base_model", str(tiny_model("qwen2")), "--model_type", "qwen2"),
        *("--dataset", NAME, "--index_file", INDEX_FILE, "--data_path", str(toy_path()), "--max_steps", "3"),
        *("--logging_step", "1", "--save_and_eval_strategy", "no", "--tasks", "seqrec", "--device", "cpu"),
        *(["--bf16"] if deepspeed else []),
    ]
    own = ["--deepspeed", "config/ds_z2_bf16.json"] if deepspeed else []
    launchers = {
        "accelerate": ["-m", "accelerate.commands.launch", "--config_file", f"config/{name}", "--num_processes", "2"],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    }
    launchers["accelerate"] += ["--main_process_port", "0"]
    losses = {}
    for launcher, words in launchers.items():
        folder = tmp_path / launcher
        more = own if launcher == "torchrun" else []
        done = subprocess.run(
            [sys.executable, *words, *flags, "--output_dir", str(folder), *more],
            cwd=ROOT,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        record = json.loads((folder / "run.json").read_text())
        assert (record["world_size"], record["steps"]) == (2, 3)
        assert record["config"]["deepspeed"] == ("config/ds_z2_bf16.json" if deepspeed else None)
        losses[launcher] = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert losses["accelerate"] == losses["torchrun"]
    assert len(losses["torchrun"]) == 3
