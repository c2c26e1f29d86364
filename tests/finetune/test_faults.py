"""What a fine-tuning run refuses, before any model is loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.finetune import training
from src.finetune.core import check, finetune
from tests.finetune.toy_runs import config_for
from tests.toy import NAME, picture, toy_copy


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(training, "load_model", refuse)


FAULTS = [
    ({"model_type": "gpt2"}, "unknown --model_type 'gpt2'"),
    ({"model_type": "qwen2_vl"}, r"train_ddp does not train: use python -m src\.finetune\.train_ddp_vl"),
    ({"tasks": ("seqrek",)}, "unknown task 'seqrek'"),
    ({"tasks": ()}, "--tasks names no task"),
    ({"tasks": ("seqrec", "seqrec")}, "one twice: seqrec,seqrec"),
    ({"tasks": ("mmseqrec",)}, "mmseqrec shows pictures, which a qwen2 cannot see"),
    (
        {"train_prompt_sample_num": (1, 1)},
        r"--train_prompt_sample_num needs one number from 1 .* 1 tasks, got \[1, 1\]",
    ),
    ({"train_prompt_sample_num": (0,)}, r"--train_prompt_sample_num needs one number from 1"),
    ({"train_data_sample_num": (1, 2, 3)}, r"--train_data_sample_num needs one number from 0 .* got \[1, 2, 3\]"),
    ({"train_data_sample_num": (-1,)}, r"--train_data_sample_num"),
    ({"valid_prompt_id": 99}, "--valid_prompt_id 99: seqrec has wordings 0 to"),
    ({"ratio_dataset": 0.0}, "--ratio_dataset 0.0 is a share"),
    ({"ratio_dataset": 1.5}, "--ratio_dataset 1.5 is a share"),
    ({"image_augment": 1.0}, "--image_augment 1.0 is a share"),
    ({"share_prefix": True, "only_train_response": False}, "--share_prefix learns answers only"),
    ({"use_lora": True, "freeze": "visual"}, "--freeze is for full fine-tuning"),
    ({"deepspeed": "config/gone.json"}, r"--deepspeed config/gone\.json does not exist"),
    ({"optim": "adam"}, "unknown --optim 'adam'"),
    ({"lr_scheduler_type": "cosinus"}, "unknown --lr_scheduler_type 'cosinus'"),
    ({"resume_from_checkpoint": "gone/checkpoint-3"}, "--resume_from_checkpoint gone/checkpoint-3 is no folder"),
    (
        {"resume_from_checkpoint": "src"},
        r"--resume_from_checkpoint src holds no trainer_state\.json: give a ",
    ),
    ({"base_model": "/nope/model"}, "there is no model at /nope/model: the folder does not exist"),
    ({"model_type": "llama"}, "is a qwen2: use --model_type qwen2, not llama"),
    ({"bf16": True, "fp16": True}, "--bf16 and --fp16 exclude each other"),
    ({"fp16": True}, "--fp16 needs a GPU"),
    ({"device": "tpu"}, "there is no device 'tpu': choose auto, cpu, cuda or cuda:N"),
    ({"device": "cuda:1"}, "--device cuda:1: training takes --device cuda; choose GPUs by CUDA_VISIBLE_DEVICES"),
    ({"epochs": 0.0, "max_steps": -1}, "--epochs 0 --max_steps -1 train nothing"),  # it used to end well
    ({"max_steps": 0}, "--max_steps 0 train nothing"),
    ({"learning_rate": -1.0}, r"--learning_rate -1\.0: it must be at least 0"),
    ({"lora_alpha": 0}, "--lora_alpha 0: it must be above 0"),
    ({"warmup_ratio": 2.0}, r"--warmup_ratio 2\.0: it must be at least 0 and below 1"),
    ({"lora_dropout": 1.5}, r"--lora_dropout 1\.5: it must be at least 0 and below 1"),
    ({"adam_beta2": 2.0}, r"--adam_beta2 2\.0: it must be at least 0 and below 1"),
    ({"weight_decay": -1.0}, r"--weight_decay -1\.0: it must be at least 0"),
    ({"max_grad_norm": -1.0}, r"--max_grad_norm -1\.0: it must be at least 0"),
    ({"seed": -1}, "--seed -1: it must be at least 0"),
    ({"max_his_len": -1}, "--max_his_len -1: it must be at least 0"),
    ({"per_device_batch_size": 0}, "--per_device_batch_size 0: it must be at least 1"),
    ({"output_dir": Path("/dev/null/out")}, r"/dev/null/out/run\.json cannot be written"),
    ({"dataset": "Gone"}, "there is no dataset folder"),
    ({"index_file": ".index_gone.json"}, r"--index_file \.index_gone\.json was not found\. Tried"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS, ids=[fault[:24] for _, fault in FAULTS])
def test_faults_are_found_before_the_model(tmp_path, no_model, changes, fault):
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        finetune(config_for(**{"output_dir": tmp_path / "out", **changes}))


def test_text_type_in_the_vision_entry(tmp_path, no_model):
    with pytest.raises(ValueError, match=r"train_ddp_vl does not train: use python -m src\.finetune\.train_ddp$"):
        finetune(replace(config_for(tmp_path / "out", "qwen2_vl"), model_type="qwen2"))


def test_cuda_without_a_gpu(tmp_path, no_model):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"--device cuda: this machine has no usable GPU\. Use --device cpu"):
        finetune(config_for(tmp_path / "out", device="cuda"))


def rewrite(data: Path, suffix: str, change) -> None:
    path = data / NAME / f"{NAME}.{suffix}"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_short_users_are_an_error(tmp_path, no_model):
    """Nothing to validate used to give a loss of 0, so that the first checkpoint was always the best."""
    data = toy_copy(tmp_path)
    rewrite(data, "inter.json", lambda users: {user: items[:2] for user, items in users.items()})
    config = config_for(tmp_path / "out", data_path=data)
    with pytest.raises(ValueError, match="Toy has no validation sample: give --save_and_eval_strategy no"):
        finetune(config)
    check(replace(config, save_and_eval_strategy="no"))
    check(replace(config, tasks=("seqrec", "item2index")))
    rewrite(data, "inter.json", lambda users: {user: items[:1] for user, items in users.items()})
    with pytest.raises(ValueError, match="the task seqrec has no training sample in Toy"):
        finetune(config)


def test_pictures_are_checked(tmp_path, no_model):
    data = toy_copy(tmp_path)
    config = config_for(tmp_path / "out", "qwen2_vl", data_path=data, tasks=("mmitem2index",))
    file = data / NAME / "images" / "7.jpg"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"1 of 35 pictures are broken, the first: .*7\.jpg .*--skip_bad_images"):
        finetune(config)
    _, _, (catalogue,) = check(replace(config, skip_bad_images=True))
    assert 7 not in catalogue.image_files
    assert len(catalogue.image_files) == 34
    picture(7).save(file)
    assert len(check(config)[2][0].image_files) == 35
    shutil.rmtree(data / NAME / "images")
    with pytest.raises(ValueError, match=r"mmitem2index show pictures, and Toy has none .*download_images\.py"):
        finetune(config)
