"""What a folder holds is told from its JSON files, and the hub is asked for names of the hub only."""

import json
import shutil

import pytest
from huggingface_hub import constants

from src.common.record import model_entry
from src.families import base_input, check_base_model, check_finetuned, family_of
from tests.toy import tiny_model


def test_entries_refuse_each_others_families():
    with pytest.raises(ValueError, match=r"unknown --model_type 'gpt2': choose from qwen2_vl"):
        family_of("gpt2", False, "train_ddp")
    with pytest.raises(ValueError, match=r"train_ddp does not train: use python -m src\.finetune\.train_ddp_vl"):
        family_of("qwen2_vl", False, "train_ddp")
    with pytest.raises(ValueError, match=r"text model, which train_ddp_vl .* src\.finetune\.train_ddp$"):
        family_of("llama", True, "train_ddp_vl")


@pytest.mark.parametrize("name", ["/nope", "/nope/model", "./nope/model", "~/model", "a/b/c", "model", "models/x"])
def test_a_path_is_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    """A typo in --base_model used to wait for the hub for 39 seconds."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no model at {name}: the folder does not exist"):
        check_base_model(name)


def test_a_name_of_the_hub_passes_unless_the_hub_is_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_base_model("nobody/no-model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="neither a folder nor in the cache, and HF_HUB_OFFLINE forbids"):
        check_base_model("nobody/no-model")
    (tmp_path / "nobody").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        check_base_model("nobody/no-model")


def test_a_model_of_this_machine_must_be_of_its_family(tmp_path):
    check_base_model(tiny_model("qwen2"), "qwen2_5")
    with pytest.raises(ValueError, match="is a qwen3: use --model_type qwen3, not llama"):
        check_base_model(tiny_model("qwen3"), "llama")
    with pytest.raises(ValueError, match="is a t5; GRec knows qwen2_vl"):
        check_base_model(tiny_model("t5"))
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        check_base_model(tmp_path)


def test_recurrent_models_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_5"}')
    with pytest.raises(ValueError, match=r"is a qwen3_5, whose linear attention carries a state .* Use a qwen3_vl"):
        check_base_model(tmp_path, "qwen3_vl")


@pytest.mark.parametrize(
    "more", [{"use_sliding_window": True}, {"layer_types": ["full_attention", "sliding_attention"]}]
)
def test_sliding_windows_are_refused(tmp_path, more):
    """They used to end in the middle of decoding, in tensors of different sizes."""
    config = json.loads((tiny_model("qwen2") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sliding_window": 8} | more))
    with pytest.raises(ValueError, match="see a window of 8 tokens only"):
        check_base_model(tmp_path, "qwen2")


def test_checkpoint_must_be_what_the_flags_say(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder: give the --output_dir"):
        check_finetuned(tmp_path / "gone", None, False)
    with pytest.raises(ValueError, match=r"holds a whole model: leave out --lora \(launchers: LORA=False\)"):
        check_finetuned(tiny_model("qwen2"), None, True)
    with pytest.raises(FileNotFoundError, match="holds no finished model, neither whole nor an adapter: give the"):
        check_finetuned(tmp_path, None, False)
    shutil.copytree(tiny_model("qwen2"), tmp_path / "checkpoint-12")
    with pytest.raises(FileNotFoundError, match=r"holds no finished model.*: checkpoint-12 in it may do"):
        check_finetuned(tmp_path, None, False)
    check_finetuned(tmp_path / "checkpoint-12", None, False)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a LoRA adapter: add --lora and --base_model \(launchers: LORA=True\)"):
        check_finetuned(tmp_path, None, False)
    with pytest.raises(ValueError, match="--lora needs --base_model"):
        check_finetuned(tmp_path, None, True)
    with pytest.raises(FileNotFoundError, match="there is no model at /nope"):
        check_finetuned(tmp_path, "/nope", True)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        check_finetuned(tmp_path, tiny_model("qwen2"), True)
    shutil.copy(tiny_model("qwen2") / "model.safetensors", tmp_path / "adapter_model.safetensors")
    check_finetuned(tmp_path, tiny_model("qwen2"), True)


def test_weights_that_are_not_whole_are_refused(tmp_path):
    """What a broken copy leaves; it used to end in a traceback, after the data had been read."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("qwen2"), folder)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    check_base_model(folder)
    for kept, message in (
        (whole[:-1], rf"has {len(whole) - 1:,} bytes, and its header tells of {len(whole):,}"),
        (whole + b"x", "its header tells of"),
        (whole[:100], "has no whole header"),
        (whole[:5], "has no whole header"),
        (b"", "has no whole header"),
        ((2).to_bytes(8, "little") + b"[]", "has no whole header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
    ):
        file.write_bytes(kept)
        with pytest.raises(ValueError, match=message):
            check_base_model(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        check_base_model(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2"}}))
    with pytest.raises(FileNotFoundError, match=r"lacks 2 of 2 files of weights, 1\.safetensors first"):
        check_base_model(folder)


@pytest.fixture
def adapter(tmp_path):
    """Of a tiny Qwen2, as far as records tell."""
    folder, base = tmp_path / "adapter", tiny_model("qwen2")
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    shutil.copy(base / "model.safetensors", folder / "adapter_model.safetensors")
    record = {"config": {"model_type": "qwen2_5"}, "inputs": {"base model": model_entry(base)}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_the_base_of_an_adapter_is_of_its_family(adapter):
    """A text model under an adapter of a vision-language one used to end in a traceback."""
    check_finetuned(adapter, tiny_model("qwen2"), True)
    with pytest.raises(ValueError, match=r"is a qwen3, and .*adapter was trained on a qwen2_5: give that one"):
        check_finetuned(adapter, tiny_model("qwen3"), True)


def test_the_base_of_an_adapter_has_the_weights_that_it_had(adapter, tmp_path):
    """Another model of the same shapes used to be evaluated without a word."""
    base = tiny_model("qwen2")
    other = shutil.copytree(base, tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    assert base_input(adapter, other)["files"]["model.safetensors"] == model_entry(base)["files"]["model.safetensors"]
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(ValueError, match=r"other is not what .*adapter was trained on, .*: its model\.safetensors"):
        base_input(adapter, other)
    (adapter / "run.json").unlink()  # an adapter of another system
    assert base_input(adapter, other)["path"]
