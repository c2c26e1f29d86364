"""Fine-tuning runs on the toy data, and what they leave."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from src.finetune.config import FinetuneConfig
from tests.toy import INDEX_FILE, NAME, tiny_model, toy_path


def config_for(output_dir: Path, family: str = "qwen2", **changes) -> FinetuneConfig:
    vision = family not in ("qwen2", "qwen3", "llama")
    values = {
        "entry": "train_ddp_vl" if vision else "train_ddp",
        "vision": vision,
        "base_model": str(tiny_model(family)),
        "model_type": family,
        "output_dir": output_dir,
        "dataset": NAME,
        "index_file": INDEX_FILE,
        "data_path": toy_path(),
        "learning_rate": 0.01,
        "logging_step": 1,
        "save_and_eval_strategy": "steps",
        "device": "cpu",
    }
    return FinetuneConfig(**{**values, **changes})


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "adapter_model.safetensors"
    return load_file(file if file.is_file() else folder / "model.safetensors")


def assert_equal_weights(one: Path, other: Path, **tolerance) -> None:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if tolerance:
            torch.testing.assert_close(ours[name], tensor, **tolerance)
        else:
            assert torch.equal(ours[name], tensor), name
