"""A run whose loss is no number ends; it used to go on to its end, and the log showed the mean of the steps before."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerState

from src.finetune.config import FinetuneConfig
from src.finetune.engine import make_arguments
from src.finetune.trainer import LogCallback


@pytest.mark.parametrize(
    ("logs", "fault"),
    [
        ({"loss": math.nan, "learning_rate": 1e-3}, "loss is nan at step 7: begin anew with a lower --learning_rate"),
        ({"eval_loss": 1.0, "eval_loss_seqrec": math.inf}, "eval_loss_seqrec is inf at step 7"),
        ({"loss": 1.0, "grad_norm": math.inf}, None),
        (None, None),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, logs, fault):
    callback, state = LogCallback(tmp_path / "log.jsonl"), TrainerState(global_step=7, max_steps=9)
    callback.on_train_begin(None, state, None)
    if fault is None:
        callback.on_log(SimpleNamespace(fp16=False), state, None, logs)
        return
    with pytest.raises(ValueError, match=fault):
        callback.on_log(SimpleNamespace(fp16=False), state, None, logs)
    assert "NaN" in (tmp_path / "log.jsonl").read_text() or "Infinity" in (tmp_path / "log.jsonl").read_text()
    callback.on_log(SimpleNamespace(fp16=True), state, None, logs)  # its scaler leaves such steps out


def test_the_trainer_does_not_hide_such_steps(tmp_path):
    given = {"base_model": "m", "model_type": "qwen2", "output_dir": tmp_path, "dataset": "D", "index_file": "i"}
    config = FinetuneConfig(entry="train_ddp", vision=False, **given)
    assert make_arguments(config, torch.device("cpu")).logging_nan_inf_filter is False
