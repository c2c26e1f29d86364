"""Fine-tuning runs on the toy data: what is written, resuming, equal gradients however a batch is cut, early errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from src.common.artifacts import TOKEN_META, file_hash
from src.finetune import training
from src.finetune.config import FinetuneConfig, build_parser, config_from
from src.finetune.core import check, finetune
from src.models import load_finetuned
from src.tasks.task import load_task
from tests.toy import INDEX_FILE, NAME, fresh_model, picture, tiny_model, toy_copy, toy_index, toy_path


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


# ---- a run from end to end -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pictured_run(tmp_path_factory) -> tuple[FinetuneConfig, Path]:
    config = config_for(
        tmp_path_factory.mktemp("run") / "out", "qwen2_vl", tasks=("seqrec", "mmitem2index", "index2item"),
        train_prompt_sample_num=(1, 2, 1), train_data_sample_num=(0, 0, 10), use_lora=True, lora_r=4, max_steps=24,
        save_and_eval_steps=12, save_total_limit=1,
    )  # fmt: skip
    return config, finetune(config)


def test_loss_falls_and_is_told_for_each_task(pictured_run):
    _, folder = pictured_run
    log = log_of(folder)
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.5
    evaluated = [line for line in log if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [12, 24]
    for line in evaluated:
        of_tasks = [line[f"eval_loss_{task}"] for task in ("seqrec", "mmitem2index", "index2item")]
        assert min(of_tasks) < line["eval_loss"] < max(of_tasks)
    assert evaluated[1]["eval_loss"] < evaluated[0]["eval_loss"]


def test_log_says_how_far_it_is(pictured_run):
    """Without a terminal the log used to have no total and no time left."""
    text = (pictured_run[1] / "train.log").read_text()
    lines = [line for line in text.splitlines() if "loss" in line]
    assert len(lines) == 24 + 2
    for line in lines:
        assert re.search(r" step \d+/24, epoch \d\.\d\d: (eval_)?loss \d+\.\d{4}, .*\d (s|min|h) left$", line), line
    assert lines[-2].endswith(", 0 s left")


def test_run_record_is_as_documented(pictured_run):
    config, folder = pictured_run
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["train_prompt_sample_num"] == [1, 2, 1]
    assert record["config"]["learning_rate"] == 0.01
    assert record["command"]
    assert record["commit"]
    index = Path(record["index_file"])
    assert record["inputs"]["index"] == {"path": str(index), "sha256": file_hash(index)}
    assert {"interactions", "items"} <= record["inputs"].keys()
    assert record["train_samples"] == {"seqrec": 189, "mmitem2index": 80, "index2item": 10}
    assert record["prompt_settings"]["max_his_len"] == config.max_his_len
    assert record["sid_init"] == "text"
    assert record["templates_sha256"] == {name: load_task(name).templates_sha256 for name in record["tasks"]}
    assert (record["steps"], record["global_batch_size"], record["world_size"]) == (24, 8, 1)
    assert record["best_eval_loss"] == min(line["eval_loss"] for line in log_of(folder) if "eval_loss" in line)
    assert record["parameters"]["training"] < record["parameters"]["total"] / 2
    meta = json.loads((folder / TOKEN_META).read_text())
    assert meta["sid_tokens"] == toy_index().all_tokens
    assert meta["index_sha256"] == file_hash(index)
    assert meta["base_vocab_size"] == 600
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-24"]


def test_checkpoints_hold_no_whole_embeddings(pictured_run, tmp_path):
    """Those of text models used to hold the embeddings of the whole vocabulary, twice."""
    text = finetune(config_for(tmp_path / "out", use_lora=True, max_steps=2, save_and_eval_steps=1))
    for folder in (pictured_run[1], text):
        for place in (folder, *folder.glob("checkpoint-*")):
            assert max(max(tensor.shape) for tensor in weights_of(place).values()) < 600


def test_fine_tuned_model_loads_and_is_the_best_checkpoint(pictured_run):
    config, folder = pictured_run
    for place in (folder, folder / "checkpoint-24"):  # a checkpoint holds all that evaluating it needs
        loaded = load_finetuned(place, config.base_model, True, torch.float32)
        assert loaded.tokenizer.convert_tokens_to_ids("<c_4>") == 600 + len(toy_index().all_tokens) - 1
        assert len(loaded.model.get_input_embeddings().weight) == 600 + len(toy_index().all_tokens)
        assert json.loads((place / "run.json").read_text())["prompt_settings"]
    assert_equal_weights(folder, folder / "checkpoint-24")


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_the_best_checkpoint_ends_in_output_dir(tmp_path, family):
    """Here the first: the learning rate then wrecks the model.

    Vision-language models used to keep their last weights: the Trainer found none of their names in the file.
    """
    folder = finetune(config_for(tmp_path / "out", family, max_steps=3, save_and_eval_steps=1, save_total_limit=3,
                                 learning_rate=1.0, lr_scheduler_type="constant", warmup_ratio=0))  # fmt: skip
    losses = {line["step"]: line["eval_loss"] for line in log_of(folder) if "eval_loss" in line}
    best = min(losses, key=losses.get)
    assert best < 3
    assert_equal_weights(folder, folder / f"checkpoint-{best}")
    assert json.loads((folder / "run.json").read_text())["best_eval_loss"] == losses[best]


@pytest.mark.parametrize("freezing", [{}, {"freeze": "all"}])
def test_whole_model_loads_without_a_base(tmp_path, freezing):
    config = config_for(
        tmp_path / "out", "qwen2_vl", tasks=("mmseqrec",), max_steps=3, save_and_eval_strategy="no",
        learning_rate=0.003, **freezing,
    )  # fmt: skip
    folder = finetune(config)
    loaded = load_finetuned(folder, None, False, torch.float32)
    assert loaded.processor is not None
    before = fresh_model("qwen2_vl").model.state_dict()
    after = loaded.model.state_dict()
    name = next(name for name in before if name.endswith("embed_tokens.weight"))
    assert torch.equal(after[name][:600], before[name][:600]) == bool(freezing)  # weight decay included
    assert not torch.equal(after[name][600:], before[name][600:])


def test_learning_everything_and_shared_prefixes_run(tmp_path):
    ways = (
        {"share_prefix": True},
        {"only_train_response": False, "num_workers": 1},
        {"debug": True, "use_gradient_checkpointing": True, "use_lora": True},
    )
    for number, way in enumerate(ways):
        folder = finetune(config_for(tmp_path / str(number), max_steps=3, save_and_eval_strategy="no", **way))
        assert len([line for line in log_of(folder) if "loss" in line]) == (8 if "debug" in way else 3)


@pytest.mark.parametrize("used", [False, True])
def test_gradient_checkpointing_gives_no_warning(tmp_path, used):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        finetune(config_for(tmp_path, max_steps=1, save_and_eval_strategy="no", use_gradient_checkpointing=used))
    assert not [str(warning.message) for warning in caught if warning.category is FutureWarning]


# ---- resuming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "lora"), [("qwen2", True), ("qwen2", False), ("qwen2_vl", True), ("qwen2_vl", False)]
)
def test_resumed_run_ends_where_a_straight_one_does(tmp_path, family, lora):
    """From the middle of the second epoch, with dropout, several tasks and wordings of its own each epoch."""
    config = config_for(
        tmp_path / "straight", family, tasks=("seqrec", "item2index"), train_data_sample_num=(14, 6), use_lora=lora,
        lora_r=4, per_device_batch_size=4, max_steps=12, save_and_eval_steps=4, save_total_limit=9, learning_rate=0.005,
    )  # fmt: skip
    straight = finetune(config)
    killed = tmp_path / "killed"
    shutil.copytree(straight, killed, ignore=shutil.ignore_patterns("checkpoint-12", "*.safetensors", "run.json"))
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-8", dirs_exist_ok=True)
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-10")  # half-written: killed while it was saved
    (killed / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 10')
    shutil.copytree(straight / "checkpoint-8", killed / "checkpoint-11")
    (killed / "checkpoint-11" / "optimizer.pt").unlink()
    (killed / "trainer_log.jsonl").open("a").write('{"step": 12, "lo')
    assert core_newest(killed) == killed / "checkpoint-8"
    record = json.loads((killed / "checkpoint-8" / "run.json").read_text())
    assert 0 < record["seconds"] <= json.loads((straight / "run.json").read_text())["seconds"]
    record["seconds"] = 5000.0
    (killed / "checkpoint-8" / "run.json").write_text(json.dumps(record))
    resumed = finetune(replace(config, output_dir=killed, resume_from_checkpoint="True"))
    assert json.loads((resumed / "run.json").read_text())["seconds"] > 5000  # the time before the kill counts
    assert_equal_weights(resumed / "checkpoint-12", straight / "checkpoint-12")
    assert_equal_weights(resumed, straight)
    curves = [
        [(line["step"], line[kind]) for line in log_of(folder) for kind in ("loss", "eval_loss") if kind in line]
        for folder in (straight, resumed)
    ]
    assert curves[0] == curves[1]


SLOWLY = """
import time
from pathlib import Path, PosixPath
from src.finetune.config import FinetuneConfig
from src.finetune.core import finetune
from src.finetune.trainer import AnswerTrainer
losses = AnswerTrainer.token_losses
AnswerTrainer.token_losses = lambda *arguments: time.sleep(0.1) or losses(*arguments)
"""


@pytest.mark.slow
def test_run_killed_at_any_moment_goes_on_with_the_same_curve(tmp_path):
    """By SIGKILL, some steps after a checkpoint."""
    config = config_for(tmp_path / "straight", tasks=("seqrec", "item2index"), train_data_sample_num=(30, 10),
                        use_lora=True, lora_r=4, max_steps=16, save_and_eval_steps=5, max_valid_samples=8)  # fmt: skip
    straight = finetune(config)
    config = replace(config, output_dir=tmp_path / "killed", resume_from_checkpoint="True")
    log, root = config.output_dir / "trainer_log.jsonl", Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SLOWLY}\nfinetune({config!r})"], cwd=root, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (log.is_file() and '"step": 7' in log.read_text()):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert core_newest(config.output_dir) == config.output_dir / "checkpoint-5"
    assert not (config.output_dir / "adapter_model.safetensors").exists()
    resumed = finetune(config)
    assert_equal_weights(resumed, straight)
    curves = [
        [(line["step"], line[kind]) for line in log_of(folder) for kind in ("loss", "eval_loss") if kind in line]
        for folder in (straight, resumed)
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 15, 15, 16, 16]


def core_newest(folder: Path) -> Path | None:
    from src.finetune.trainer import newest_whole_checkpoint

    return newest_whole_checkpoint(folder)


def test_resuming_without_a_checkpoint_starts_afresh(tmp_path):
    config = config_for(tmp_path / "out", max_steps=2, save_and_eval_strategy="no", resume_from_checkpoint="True")
    assert len(log_of(finetune(config))) == 3
    assert len(log_of(finetune(config))) == 3  # and its log replaces the old one


def test_epochs_ask_in_new_words(tmp_path, monkeypatch):
    asked = []

    class Spy(training.Mixture):
        def set_epoch(self, epoch):
            asked.append(epoch)
            super().set_epoch(epoch)

    monkeypatch.setattr(training, "Mixture", Spy)
    finetune(config_for(tmp_path / "out", train_data_sample_num=(8,), epochs=3, save_and_eval_strategy="no"))
    assert sorted(set(asked)) == [0, 1, 2]


# ---- batches ---------------------------------------------------------------------------------------------------------
BATCHES = {
    "tasks": ("seqrec", "index2item"),  # answers of unequal length
    "optim": "sgd",
    "learning_rate": 0.5,
    "warmup_ratio": 0,
    "max_steps": 1,
    "save_and_eval_strategy": "no",
    "weight_decay": 0,
}


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_batch_of_8_is_batch_of_4_twice(tmp_path, family):
    runs = [
        finetune(
            config_for(
                tmp_path / str(size),
                family,
                **BATCHES,
                per_device_batch_size=size,
                gradient_accumulation_steps=8 // size,
            )
        )
        for size in (8, 4, 1)
    ]
    for other in runs[1:]:
        assert_equal_weights(other, runs[0], rtol=0, atol=1e-5)
        ours, theirs = (log_of(run)[0]["loss"] for run in (other, runs[0]))
        assert ours == pytest.approx(theirs, rel=1e-5)
    before = fresh_model(family).model.state_dict()
    after = load_finetuned(runs[0], None, False, torch.float32).model.state_dict()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before if "layers" in name)
    assert moved > 1e-3  # the step is large enough to tell


def test_packing_does_not_change_the_step(tmp_path, monkeypatch):
    """In rows of --row_length tokens, as on a GPU; on a CPU a batch is one row, whatever the flag says."""
    made = []

    def as_on(device: str):
        def make(config, loaded, parts, _):
            made.append(make_collator(config, loaded, parts, torch.device(device)))
            return made[-1]

        return make

    make_collator = training.make_collator
    runs = []
    for device, length in (("cpu", 256), ("cuda", 1), ("cuda", 256), ("cuda", 4096)):
        monkeypatch.setattr(training, "make_collator", as_on(device))
        runs.append(finetune(config_for(tmp_path / f"{device}-{length}", **BATCHES, row_length=length)))
    assert [collator.row_length for collator in made] == [0, 1, 256, 4096]
    for other in runs[1:]:
        assert_equal_weights(other, runs[0], rtol=0, atol=1e-5)


def test_validation_is_the_mean_over_answer_tokens_however_they_are_batched(tmp_path):
    """Answers of unequal length: a mean of the batches' means would depend on the batch."""
    changes = {"tasks": ("seqrec", "index2item"), "valid_prompt_id": 5, "learning_rate": 0.0, "max_steps": 1}
    told = []
    for size in (8, 30):  # batches of 16 and of 30 validate
        folder = finetune(
            config_for(tmp_path / str(size), **changes, save_and_eval_steps=1, per_device_batch_size=size)
        )
        told += [line for line in log_of(folder) if "eval_loss" in line]
    for name in ("eval_loss", "eval_loss_seqrec", "eval_loss_index2item"):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-6), name


# ---- errors come before the model ------------------------------------------------------------------------------------
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


# ---- flags -----------------------------------------------------------------------------------------------------------
def test_flags_become_the_config():
    def parse(flags: str) -> FinetuneConfig:
        needed = "--dataset D --base_model m --model_type qwen2 --output_dir o --index_file i "
        return config_from(build_parser("").parse_args((needed + flags).split()), "train_ddp", False)

    plain = parse("")
    assert plain == FinetuneConfig("train_ddp", False, "m", "qwen2", Path("o"), "D", "i")  # defaults are the config's
    config = parse("--tasks seqrec,index2item --train_data_sample_num 5,0 --use_lora False --add_prefix --his_sep ;")
    assert (config.tasks, config.train_data_sample_num) == (("seqrec", "index2item"), (5, 0))
    assert (config.use_lora, config.add_prefix, config.his_sep) == (False, True, ";")


# ---- several ranks ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_two_ranks_take_the_same_step_as_one(tmp_path, family):
    """And their validation counts every sample once, whatever the number of ranks."""
    changes = {**BATCHES, "save_and_eval_strategy": "steps", "max_valid_samples": 33}
    if family == "qwen2_vl":
        changes["tasks"] = ("mmitem2index", "seqrec", "index2item")
    one = finetune(config_for(tmp_path / "one", family, **changes, per_device_batch_size=8))
    config = config_for(tmp_path / "two", family, **changes, per_device_batch_size=4)
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path, PosixPath\n"
        "from src.finetune.config import FinetuneConfig\n"
        "from src.finetune.core import finetune\n"
        f"finetune({config!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29631", str(script)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_weights(tmp_path / "two", one, rtol=0, atol=1e-5)
    lines = [log_of(folder) for folder in (one, tmp_path / "two")]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        for name in {name for name in ours if "loss" in name}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert json.loads((tmp_path / "two" / "run.json").read_text())["global_batch_size"] == 8
