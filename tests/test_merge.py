"""Merging adapters: a plain model that says and ranks the same."""

import json
import shutil

import pytest
import torch

from src.common.artifacts import UMASK
from src.finetune.core import finetune
from src.merge_lora import main, merge_lora
from src.merge_zero3 import find_checkpoint, merge_zero3
from src.models import load_finetuned
from src.seqrec.core import evaluate
from tests.finetune.toy_runs import config_for, weights_of
from tests.seqrec.toy_runs import assert_equal_predictions
from tests.seqrec.toy_runs import config_for as evaluation_of
from tests.test_models import batch_of, loss_of
from tests.toy import tiny_model

WAYS = [
    ("qwen2", True, ()),
    ("qwen2", False, ()),
    ("qwen2", True, ("embed_tokens", "lm_head")),
    ("qwen2_vl", True, ()),
    ("llava_onevision", False, ("embed_tokens", "lm_head")),
]


@pytest.mark.parametrize(("family", "tied", "whole"), WAYS)
def test_merged_model_gives_the_same_lists(tmp_path, family, tied, whole):
    base = str(tiny_model(family, tied))
    adapter = finetune(
        config_for(
            tmp_path / "adapter", family, base_model=base, use_lora=True, lora_r=4, lora_modules_to_save=whole,
            max_steps=3, save_and_eval_strategy="no",
        )
    )  # fmt: skip
    merged = tmp_path / "merged"
    main(["--base_model", base, "--ckpt_model", str(adapter), "--output_dir", str(merged)])
    with_adapter = load_finetuned(adapter, base, True, torch.float32)
    plain = load_finetuned(merged, None, False, torch.float32)
    batch = batch_of(with_adapter)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(plain, batch), loss_of(with_adapter, batch), rtol=1e-6, atol=1e-6)
    assert (plain.processor is None) == (family == "qwen2")
    settings = {"data_path": config_for(tmp_path).data_path, "test_batch_size": 16}
    asked = evaluation_of(tmp_path / "a", family, ckpt_model=adapter, base_model=base, lora=True, **settings)
    answered = evaluation_of(tmp_path / "b", family, ckpt_model=merged, **settings)
    for config in (asked, answered):
        evaluate(config)
    assert_equal_predictions(asked, answered)


def test_bf16_halves_the_file(tmp_path):
    base = str(tiny_model("qwen2"))
    adapter = finetune(config_for(tmp_path / "a", use_lora=True, max_steps=1, save_and_eval_strategy="no"))
    sizes = []
    for bf16 in (False, True):
        folder = merge_lora(base, adapter, tmp_path / str(bf16), bf16)
        assert {tensor.dtype for tensor in weights_of(folder).values()} == {torch.bfloat16 if bf16 else torch.float32}
        file = (folder / "model.safetensors").stat()
        sizes.append(file.st_size)
        assert file.st_mode & 0o777 == 0o666 & ~UMASK  # others may read it, as the files beside it
    assert sizes[1] < 0.6 * sizes[0]
    assert json.loads((folder / "run.json").read_text())["prompt_settings"]


def test_what_is_no_adapter_is_refused(tmp_path):
    base = str(tiny_model("qwen2"))
    with pytest.raises(ValueError, match="holds a whole model: leave out --lora"):
        merge_lora(base, tiny_model("qwen2"), tmp_path / "out")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copy(tiny_model("qwen2") / "model.safetensors", tmp_path / "adapter")
    for same in (tmp_path / "adapter", tiny_model("qwen2")):
        with pytest.raises(ValueError, match="is what is merged: give another folder"):
            merge_lora(base, tmp_path / "adapter", same)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "adapter_config.json").write_text("{}")  # that one used to be evaluated from then on
    with pytest.raises(ValueError, match="another holds an adapter: give another folder, or that is evaluated"):
        merge_lora(base, tmp_path / "adapter", tmp_path / "another")


def test_the_best_checkpoint_is_merged(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of DeepSpeed: give a checkpoint-N"):
        merge_zero3(tmp_path, tmp_path / "out")
    for number in (8, 10, 12):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "latest").write_text(f"global_step{number}")
        state = {"best_model_checkpoint": f"elsewhere/checkpoint-{10 if number > 8 else 8}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert find_checkpoint(tmp_path / "checkpoint-8") == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_text("{}")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-12"
    with pytest.raises(ValueError, match="holds what is merged: give another folder"):
        merge_zero3(tmp_path, tmp_path / "checkpoint-12")
