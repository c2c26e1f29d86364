"""DDP, DeepSpeed and FSDP2: what is refused, memory to expect, and runs on two ranks that train what one does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.blocks import block_of
from src.collate import TrainingCollator
from src.common.artifacts import read_json, write_json
from src.finetune import engine
from src.finetune.config import FinetuneConfig
from src.finetune.core import check, finetune
from src.finetune.engine import Engine, engine_of
from src.finetune.memory import Batch, batch_of, expected_memory
from src.finetune.trainer import PicturedCollator
from src.merge_zero3 import merge_zero3
from src.models import add_lora, load_finetuned, load_model
from src.seqrec.core import evaluate
from src.tasks.task import load_task
from tests.finetune.toy_runs import assert_equal_weights, config_for, log_of, weights_of
from tests.seqrec.toy_runs import config_for as evaluation_of
from tests.test_models import sid_ids
from tests.test_sid_rows import saved_sizes
from tests.toy import fresh_model, shared_model, tiny_model, toy_builder

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("ds_z2_bf16", "ds_z2_fp16", "ds_z3_bf16", "ds_z3_fp16")


# ---- what is refused -------------------------------------------------------------------------------------------------
FAULTS = [
    ({"deepspeed": "config/ds_z2_bf16.json", "fsdp": "config/fsdp2.json"}, "--deepspeed and --fsdp exclude each other"),
    (
        {"deepspeed": "config/ds_z2_bf16.json", "fp16": True},
        "which has no fp16 section: DeepSpeed would train in float",
    ),
    ({"deepspeed": "config/ds_z3_fp16.json", "bf16": True}, "which has no bf16 section"),
    ({"fsdp": "config/gone.json"}, r"--fsdp config/gone\.json does not exist"),
    ({"fsdp": "config/fsdp2.json", "use_lora": True}, "--fsdp is for full fine-tuning"),
    ({"fsdp": "config/fsdp2.json", "freeze": "all"}, "--freeze all holds old token rows still by their gradient"),
    ({"lora_modules_to_save": ("lm_head",)}, "--lora_modules_to_save is for --use_lora"),
    ({"lora_target_modules": ("q_proj",)}, "--lora_target_modules is for --use_lora"),
    ({"add_sid_tokens": False, "sid_init": "text"}, "--sid_init text is about new tokens, and train_ddp adds none"),
    ({"add_sid_tokens": False, "freeze": "only_embeddings"}, "--freeze only_embeddings is about new tokens"),
    ({"preflight": -1}, "--preflight -1: it must be at least 0"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS, ids=[fault[:24] for _, fault in FAULTS])
def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, changes, fault):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        check(config_for(tmp_path / "out", **changes))


@pytest.mark.parametrize("flag", ["deepspeed", "fsdp"])
def test_engines_need_torchrun(tmp_path, monkeypatch, flag):
    """DeepSpeed used to ask for mpi4py."""
    monkeypatch.delenv("RANK", raising=False)
    path = "config/ds_z2_bf16.json" if flag == "deepspeed" else "config/fsdp2.json"
    with pytest.raises(ValueError, match=f"--{flag} needs torchrun, also for one process"):
        check(config_for(tmp_path / "out", **{flag: path}))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"optimizer": {"type": "AdamW"}}, r"names an optimizer, which the flags decide \(--optim"),
        ({"scheduler": {"type": "WarmupLR"}}, "names an scheduler, which the flags decide"),
        ({"bf16": {"enabled": True}}, r"own\.json switches bf16 on: give --bf16 too"),
    ],
)
def test_own_deepspeed_configs_leave_to_the_flags_what_is_theirs(tmp_path, monkeypatch, changes, fault):
    monkeypatch.setenv("RANK", "0")
    path = tmp_path / "own.json"
    write_json(path, {**read_json(ROOT / "config" / "ds_z2_bf16.json"), **changes})
    with pytest.raises(ValueError, match=fault):
        check(config_for(tmp_path / "out", deepspeed=str(path)))


def test_fsdp_on_a_cpu_is_refused(tmp_path):
    """accelerate would train with plain DDP, and not say so."""
    with pytest.raises(ValueError, match="--fsdp needs GPUs"):
        engine.check_device(config_for(tmp_path, fsdp="config/fsdp2.json"), torch.device("cpu"))


def test_packages_of_reports_are_asked_for_before_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("src.finetune.core.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--report_to tensorboard needs its package: pip install tensorboard"):
        check(config_for(tmp_path, report_to="tensorboard"))


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_are_what_their_names_say(tmp_path, monkeypatch, name):
    monkeypatch.setenv("RANK", "0")
    precision = name.rpartition("_")[2]
    config = config_for(tmp_path / "out", deepspeed=f"config/{name}.json", **{precision: True})
    assert check(config)[0].deepspeed == config.deepspeed
    assert engine_of(config) == Engine("deepspeed", int(name[4]))


# ---- memory ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_activations_are_about_what_autograd_keeps(family, lora):
    loaded = fresh_model(family)
    loaded.model.train()
    if lora:
        loaded = loaded._replace(model=add_lora(loaded, sid_ids(loaded), 4, 8, 0.05))
    builder = toy_builder(loaded)
    samples = [builder.sample(load_task("seqrec").templates[n % 4], (1, 4, 13, 10), 14) for n in range(24)]
    inputs = TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)(samples)
    memory = expected_memory(
        loaded.model, batch_of(inputs, 24, loaded.model), Engine("ddp", 0), 1, "adamw", False, False
    )
    with saved_sizes(loaded) as sizes:
        loaded.model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], logits_to_keep=1)
    assert memory.activations == pytest.approx(4 * sum(sizes), rel=0.5)


def test_what_is_stored_is_exact():
    model = fresh_model("qwen2", tied=False).model
    count, batch = sum(p.numel() for p in model.parameters()), Batch(2, 100, 10)

    def stored(name: str, stage: int, ranks: int, optim: str = "adamw_torch", half: bool = False) -> list[float]:
        return [
            value / count for value in expected_memory(model, batch, Engine(name, stage), ranks, optim, half, False)[:3]
        ]

    assert stored("ddp", 0, 1) == [4, 4, 8]
    assert stored("ddp", 0, 2) == [4, 8, 8]
    assert stored("deepspeed", 2, 4) == [4, 1, 2]
    assert stored("deepspeed", 3, 4) == [1, 1, 2]
    assert stored("ddp", 0, 1, "sgd") == [4, 4, 0]
    assert stored("ddp", 0, 1, "adamw_bnb_8bit") == [4, 4, 2]
    assert 4 < stored("ddp", 0, 1, "muon")[2] < 8
    model.to(torch.bfloat16)
    assert stored("deepspeed", 3, 4, half=True) == [0.5, 0.5, 3]
    wide, narrow = (expected_memory(model, batch, Engine("ddp", 0), 1, "adamw", True, c) for c in (False, True))
    assert narrow.activations < wide.activations
    assert wide.logits == 10 * model.config.vocab_size * 10


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_preflight_tells_without_weights(tmp_path, monkeypatch, family):
    """Also for engines that start under torchrun only, and for more GPUs than there are."""
    monkeypatch.delenv("RANK", raising=False)
    shapes = []
    monkeypatch.setattr(
        "src.finetune.training.load_model", lambda *a, **k: shapes.append(load_model(*a, **k)) or shapes[0]
    )
    config = config_for(
        tmp_path / "out", family, preflight=8, use_lora=True, deepspeed="config/ds_z3_bf16.json", bf16=True
    )
    folder = finetune(config)
    text = (folder / "train.log").read_text()
    assert "memory to expect on each of 8 ranks (deepspeed, weights cut):" in text
    assert "global batch 64 = 8 ranks x 8 x 1" in text
    assert "SID rows start from: left empty" in text  # it said that there were no new rows, and counted them
    assert {p.device.type for p in shapes[0].model.parameters()} == {"meta"}
    assert not list(folder.glob("*.safetensors"))
    assert not (folder / "run.json").exists()


def test_every_run_says_what_memory_it_will_take(tmp_path):
    folder = finetune(config_for(tmp_path / "out", max_steps=1, save_and_eval_strategy="no"))
    assert "memory to expect on each of 1 ranks (ddp, nothing cut): " in (folder / "train.log").read_text()


# ---- ranks that must keep step ---------------------------------------------------------------------------------------
def test_batches_without_a_picture_get_one_that_teaches_nothing():
    loaded = shared_model("qwen2_vl")
    builder = toy_builder(loaded)
    pictured = builder.sample(load_task("mmitem2index").templates[0], (), 4)
    plain = [builder.sample(load_task("seqrec").templates[0], (1, 4), item) for item in (7, 9)]
    collate = TrainingCollator(loaded.tokenizer.pad_token_id, True)
    always = PicturedCollator(collate, pictured)
    for samples in (plain, block_of(plain)):
        batch = always(samples)
        assert "pixel_values" in batch
        assert torch.equal(batch["labels"], collate(plain)["labels"])
        assert torch.equal(batch["task_ids"], collate(plain)["task_ids"])
    assert torch.equal(always([pictured])["labels"], collate([pictured])["labels"])


# ---- two ranks -------------------------------------------------------------------------------------------------------
FSDP_ON_CPU = """
from accelerate.state import AcceleratorState, DistributedType, PartialState
import src.finetune.training as training
made = AcceleratorState.__init__
def init(self, *arguments, fsdp_plugin=None, **options):
    made(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
AcceleratorState.__init__ = init
training.check_device = lambda config, device: None
"""  # accelerate leaves FSDP to GPUs; torch's own runs on gloo too


def run_on_two_ranks(config: FinetuneConfig, folder: Path, prepare: str = "") -> Path:
    script = folder / "run.py"
    script.write_text(
        "from pathlib import Path, PosixPath\n"
        "from src.finetune.config import FinetuneConfig\n"
        "from src.finetune.core import finetune\n"
        f"{prepare}\n"
        f"finetune({config!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return config.output_dir


@pytest.fixture
def all_cut(tmp_path) -> str:
    """ZeRO-3 that cuts tensors of every size, as it would cut those of a real model."""
    settings = read_json(ROOT / "config" / "ds_z3_bf16.json")
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    write_json(tmp_path / "z3.json", settings)
    return str(tmp_path / "z3.json")


MIXED = {
    "tasks": ("seqrec", "mmitem2index"),  # batches with and without pictures
    "per_device_batch_size": 2,
    "max_steps": 4,
    "save_and_eval_steps": 2,
    "max_valid_samples": 40,  # three batches for two ranks
    "learning_rate": 0.003,
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), [("qwen2_vl", True), ("llava_onevision", False)])
def test_zero_3_trains_rows_and_lora_as_one_rank_does(tmp_path, all_cut, family, tied):
    """Old rows bit for bit, an adapter without the vocabulary, pictures in some batches only."""
    base = str(tiny_model(family, tied))
    config = config_for(tmp_path / "two", family, base_model=base, use_lora=True, lora_r=4, lora_dropout=0, **MIXED)
    one = finetune(replace(config, output_dir=tmp_path / "one", per_device_batch_size=4))
    two = run_on_two_ranks(replace(config, deepspeed=all_cut, bf16=True), tmp_path)
    ours, theirs = ([line["loss"] for line in log_of(folder) if "loss" in line] for folder in (two, one))
    assert ours == pytest.approx(theirs, rel=0.05)  # bfloat16
    assert {name: tensor.shape for name, tensor in weights_of(two).items()} == {
        name: tensor.shape for name, tensor in weights_of(one).items()
    }
    loaded, before = load_finetuned(two, base, True, torch.float32), load_model(base, torch.float32)
    for table in ("get_input_embeddings", "get_output_embeddings"):
        after = getattr(loaded.model, table)().weight
        assert torch.equal(after[:600], getattr(before.model, table)().weight)
    merged = merge_zero3(two, tmp_path / "merged")
    assert {tensor.dtype for tensor in weights_of(merged).values()} == {torch.float32}
    for name, tensor in weights_of(two).items():
        torch.testing.assert_close(weights_of(merged)[name], tensor.float(), rtol=0.01, atol=0.01)
    load_finetuned(merged, base, True, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("qwen2_vl", False)])
def test_zero_3_checkpoints_merge_into_plain_models(tmp_path, all_cut, family, tied):
    """Under the names of the base model, which ZeRO-3 used to change for VLMs; resuming ends like a straight run."""
    base = str(tiny_model(family, tied))
    changes = {**MIXED, "tasks": ("seqrec",)} if family == "qwen2" else MIXED
    config = config_for(tmp_path / "run", family, base_model=base, deepspeed=all_cut, bf16=True, **changes)
    folder = run_on_two_ranks(config, tmp_path)
    again = replace(config, output_dir=tmp_path / "again", resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert_equal_weights(run_on_two_ranks(again, tmp_path), folder)
    assert weights_of(folder).keys() - {"lm_head.weight"} == weights_of(Path(base)).keys() - {"lm_head.weight"}
    merged = merge_zero3(folder, tmp_path / "merged")
    assert weights_of(merged).keys() == weights_of(Path(base)).keys()
    for name, tensor in weights_of(merged).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(weights_of(folder)[name].float(), tensor, rtol=0.01, atol=0.01)
    evaluation = evaluation_of(tmp_path, family, ckpt_model=merged, data_path=config.data_path)
    assert json.loads(evaluate(evaluation).read_text())["valid_beams"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("whole", [(), ("embed_tokens", "lm_head")])
def test_zero_2_trains_what_one_rank_does(tmp_path, whole):
    changes = {"use_lora": True, "lora_r": 4, "lora_dropout": 0, "lora_modules_to_save": whole, "learning_rate": 0.003}
    config = config_for(tmp_path / "two", max_steps=4, save_and_eval_steps=2, per_device_batch_size=2, **changes)
    one = finetune(replace(config, output_dir=tmp_path / "one", per_device_batch_size=4))
    two = run_on_two_ranks(replace(config, deepspeed="config/ds_z2_bf16.json", bf16=True), tmp_path)
    ours, theirs = ([line["loss"] for line in log_of(folder) if "loss" in line] for folder in (two, one))
    assert ours == pytest.approx(theirs, rel=0.05)
    assert weights_of(two).keys() == weights_of(one).keys()


@pytest.mark.slow
def test_fsdp_trains_what_one_rank_does(tmp_path):
    """On CPUs, where only this test lets it run."""
    config = config_for(tmp_path / "two", "qwen2_vl", **{**MIXED, "tasks": ("mmseqrec", "mmitem2index")})
    one = finetune(replace(config, output_dir=tmp_path / "one", per_device_batch_size=4))
    two = run_on_two_ranks(replace(config, fsdp="config/fsdp2.json"), tmp_path, FSDP_ON_CPU)
    assert (two / "checkpoint-4" / "pytorch_model_fsdp.bin").is_file()
    ours, theirs = (
        [line[kind] for line in log_of(folder) for kind in ("loss", "eval_loss") if kind in line]
        for folder in (two, one)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights_of(two)[name], tensor, rtol=0, atol=1e-4)
    again = replace(config, output_dir=tmp_path / "again", resume_from_checkpoint=str(two / "checkpoint-2"))
    again = run_on_two_ranks(replace(again, fsdp="config/fsdp2.json"), tmp_path, FSDP_ON_CPU)
    assert_equal_weights(again, two, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_muon_on_two_ranks_trains_what_one_does(tmp_path):
    changes = {"entry": "train_muon", "vision": None, "optim": "muon", "max_steps": 3, "save_and_eval_strategy": "no"}
    config = config_for(tmp_path / "two", per_device_batch_size=2, gradient_accumulation_steps=2, **changes)
    one = finetune(replace(config, output_dir=tmp_path / "one", per_device_batch_size=4))
    two = run_on_two_ranks(config, tmp_path)
    ours, theirs = ([line["loss"] for line in log_of(folder) if "loss" in line] for folder in (two, one))
    assert ours == pytest.approx(theirs, rel=1e-3)
