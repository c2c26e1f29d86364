"""Muon: which parameters are its own, and that runs with it learn, resume, accumulate and share work among ranks."""

import copy
import json
from dataclasses import replace
from io import BytesIO

import pytest
import torch

from src.finetune import train_muon
from src.finetune.core import check, finetune
from src.finetune.muon import MuonAdamW, split_parameters
from src.models import add_lora
from tests.finetune.toy_runs import assert_equal_weights, config_for, log_of
from tests.test_models import sid_ids
from tests.toy import fresh_model, tiny_model


def muon_config(folder, family: str = "qwen2", **changes):
    return config_for(folder, family, entry="train_muon", vision=None, optim="muon", **changes)


# ---- the optimizer ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen2", "qwen3_vl", "llava_onevision"])
def test_hidden_matrices_are_muons(family):
    model = fresh_model(family, tied=False).model
    matrices, rest = split_parameters(model)
    assert matrices.keys() | rest.keys() == dict(model.named_parameters()).keys()
    assert {p.ndim for p in matrices.values()} == {2}
    assert sum("proj" in name or "fc" in name or "mlp" in name for name in matrices) > 10
    for name in ("embed_tokens", "lm_head", "norm", "bias", "pos_embed", "position_embedding", "patch_embed"):
        assert not [found for found in matrices if name in found and not found.endswith("merger.linear_fc1.weight")]
    assert {"embed_tokens", "lm_head"} <= {name.split(".")[-2] for name in rest}


def test_lora_matrices_are_muons_and_rows_of_tokens_are_not():
    loaded = fresh_model("qwen2")
    model = add_lora(loaded, sid_ids(loaded), 4, 8, 0.0)
    matrices, rest = split_parameters(model)
    assert matrices
    assert all(".lora_A." in name or ".lora_B." in name for name in matrices)
    assert [name.split(".")[-2] for name in rest] == ["trainable_tokens_delta"]
    loaded = fresh_model("qwen2")
    model = add_lora(loaded, sid_ids(loaded), 4, 8, 0.0, modules_to_save=("embed_tokens", "lm_head"))
    assert all("modules_to_save" in name for name in split_parameters(model)[1])


def test_steps_of_both_parts_and_their_state():
    """A scheduler drives both, decay is of the matrices, and the state is what a later run needs."""
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3))
    optimizer = MuonAdamW(model, lr=0.1, weight_decay=0.5, decaying={"1.weight"})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    tokens = torch.tensor([0, 1])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def step() -> None:
        optimizer.zero_grad()
        model(tokens).square().sum().backward()
        optimizer.step()
        schedule.step()

    step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]
    assert torch.equal(model[0].weight[2:], before["0.weight"][2:])  # rows that no batch held stay
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    weights, file = copy.deepcopy(model.state_dict()), BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    step()
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    optimizer.zero_grad()
    model(tokens).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in after.items())


def test_nothing_for_muon_is_an_error():
    with pytest.raises(ValueError, match="nothing for Muon to train"):
        MuonAdamW(torch.nn.Embedding(5, 4), lr=0.1)


# ---- runs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_text_and_vision_models_learn_with_it(tmp_path, family):
    tasks = ("seqrec", "mmitem2index") if family == "qwen2_vl" else ("seqrec",)
    folder = finetune(muon_config(tmp_path / "out", family, tasks=tasks, max_steps=16, save_and_eval_strategy="no"))
    losses = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.5
    record = json.loads((folder / "run.json").read_text())
    assert (record["config"]["optim"], record["config"]["vision"]) == ("muon", family == "qwen2_vl")
    plain = finetune(config_for(tmp_path / "adamw", family, tasks=tasks, max_steps=16, save_and_eval_strategy="no"))
    assert [line["loss"] for line in log_of(plain) if "loss" in line][1:] != losses[1:]


@pytest.mark.parametrize("lora", [True, False])
def test_resumed_run_ends_where_a_straight_one_does(tmp_path, lora):
    config = muon_config(
        tmp_path / "out", use_lora=lora, lora_r=4, max_steps=6, save_and_eval_steps=3, save_total_limit=9
    )
    straight = finetune(config)
    resumed = finetune(
        replace(config, output_dir=tmp_path / "resumed", resume_from_checkpoint=str(straight / "checkpoint-3"))
    )
    assert_equal_weights(resumed / "checkpoint-6", straight / "checkpoint-6")


def test_batch_of_8_is_batch_of_2_four_times(tmp_path):
    """Up to the bfloat16 in which Muon orthogonalises."""
    runs = [
        finetune(
            muon_config(
                tmp_path / str(size), tasks=("seqrec", "index2item"), max_steps=1, save_and_eval_strategy="no",
                learning_rate=0.01, warmup_ratio=0, per_device_batch_size=size, gradient_accumulation_steps=8 // size,
            )
        )
        for size in (8, 2)
    ]  # fmt: skip
    assert_equal_weights(runs[1], runs[0], rtol=0, atol=5e-4)


# ---- what it refuses -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"deepspeed": "config/ds_z2_bf16.json"}, r"Muon needs plain DDP: .* Leave out --deepspeed"),
        ({"fsdp": "config/fsdp2.json"}, r"Muon needs plain DDP: .* Leave out --fsdp"),
        ({"optim": "sgd"}, "--optim sgd: train_muon is for Muon"),
        ({"model_type": "gpt2"}, "unknown --model_type 'gpt2'"),
    ],
)
def test_refusals(tmp_path, monkeypatch, changes, fault):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=fault):
        check(replace(muon_config(tmp_path / "out"), **changes))


def test_entry_follows_the_model_type(tmp_path, monkeypatch, capsys):
    configs = []
    monkeypatch.setattr("src.finetune.core.finetune", configs.append)
    for family in ("qwen2", "qwen2_vl"):
        flags = ["--base_model", str(tiny_model(family)), "--model_type", family, "--output_dir", str(tmp_path)]
        train_muon.main([*flags, "--dataset", "Toy", "--index_file", "i"])
    assert {(config.entry, config.vision, config.optim) for config in configs} == {("train_muon", None, "muon")}
    config = muon_config(tmp_path / "out", "qwen2_vl")
    assert check(config)[0].vision is True
    assert check(muon_config(tmp_path / "out", "llama"))[0].vision is False
