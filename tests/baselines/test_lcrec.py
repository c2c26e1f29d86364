"""LC-Rec: its commands have the published settings, nothing is done twice, bad input is refused before they start."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_process import qwen_embeddings, simple_embeddings
from index import generate_indices
from index import main as index_main
from src import merge_zero3
from src.baselines import lcrec_stages
from src.baselines.lcrec import TASKS, USER_TASKS, LcrecConfig, build_lcrec_parser, config_from
from src.baselines.lcrec_commands import finetune_config, rqvae_flags
from src.baselines.lcrec_stages import check, run_lcrec
from src.common.artifacts import read_json, save_embeddings
from src.families import model_type_of
from src.finetune.config import build_parser as build_finetune_parser
from src.seqrec.config import build_parser as build_evaluate_parser
from tests.toy import NAME, NUM_ITEMS, tiny_model, toy_copy


def toy_config(folder):
    """Settings that take a minute on the toy dataset, which is copied to `folder`."""
    return LcrecConfig(
        NAME, folder / "results" / "lcrec.json", data_path=toy_copy(folder), base_model=str(tiny_model("qwen2")),
        codebook_sizes=(8, 8, 8), layers=(64,), rqvae_epochs=60, rqvae_batch_size=16, batch_size=32,
        learning_rate=3e-3, epochs=2.0, share_prefix=True, test_prompt_ids="0,1", num_beams=10, device="cpu",
    )  # fmt: skip


@pytest.fixture
def config(tmp_path):
    return toy_config(tmp_path)


class Commands:
    """Stands in for `run_process`: keeps the commands, and leaves the outputs of each stage as the real one does."""

    def __init__(self):
        self.ran: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.ranks: dict[str, int] = {}
        self.dies = ""

    def __call__(self, module, *flags, ranks=0, **_):
        words = list(map(str, flags))
        self.ran.append(module.rpartition(".")[2])
        self.words[self.ran[-1]], self.ranks[self.ran[-1]] = words, ranks
        if self.ran[-1] == self.dies:
            raise KeyboardInterrupt
        getattr(self, self.ran[-1])(words)

    def value(self, command: str, flag: str) -> str:
        words = self.words[command]
        return words[words.index(flag) + 1]

    def simple_embeddings(self, words):
        path = Path(words[words.index("--out_dir") + 1]) / f"{NAME}.emb-lcrec.npy"
        save_embeddings(path, np.eye(NUM_ITEMS), range(NUM_ITEMS))

    def main(self, words):
        if "--resume" not in words:
            folder = Path(words[words.index("--ckpt_dir") + 1]) / "now"
            folder.mkdir()
            for name in ("config.json", "last.pth", "best_collision_model.pth"):
                (folder / name).touch()

    def generate_indices(self, words):
        Path(words[words.index("--output_dir") + 1], words[words.index("--output_file") + 1]).touch()

    def train_ddp(self, words):
        folder = Path(words[words.index("--output_dir") + 1])
        (folder / "checkpoint-8").mkdir(exist_ok=True)
        (folder / "token_meta.json").touch()
        (folder / "run.json").write_text(json.dumps({"tasks": list(TASKS), "train_samples": {}}))

    def merge_zero3(self, words):
        folder = Path(words[words.index("--output_dir") + 1])
        folder.mkdir()
        (folder / "token_meta.json").touch()

    def metric_ddp(self, words):
        path = Path(words[words.index("--results_file") + 1])
        path.write_text(json.dumps({"mean_results": {"hit@10": 0.5}, "model": "qwen2"}))
        path.with_suffix(".predictions.parquet").touch()


@pytest.fixture
def commands(monkeypatch):
    stand_in = Commands()
    monkeypatch.setattr(lcrec_stages, "run_process", stand_in)
    return stand_in


ALL = ["simple_embeddings", "main", "generate_indices", "train_ddp", "metric_ddp"]


# ---- what is asked of the stages -------------------------------------------------------------------------------------
def test_the_defaults_are_the_published_settings(config):
    """index/run.sh, run.sh, utils.py and run_test_ddp.sh of https://github.com/RUCAIBox/LC-Rec."""
    words = ["--dataset", NAME, "--results_file", str(config.results_file), "--base_model", config.base_model]
    published = config_from(build_lcrec_parser(None).parse_args([*words, "--data_path", str(config.data_path)]))
    flags = " ".join(rqvae_flags(published))
    for setting in (
        "--num_emb_list 256 256 256 256", "--layers 2048 1024 512 256 128 64", "--e_dim 32", "--sk_epsilons 0.003",
        "--epochs 10000", "--batch_size 1024", "--lr 0.001", "--weight_decay 0.0001", "--lr_scheduler_type linear",
        "--warmup_epochs 50",
    ):  # fmt: skip
        assert f"{setting} " in flags
    tuned = finetune_config(replace(published, tasks=TASKS + USER_TASKS, model_type="qwen2", nproc=8))
    assert (tuned.learning_rate, tuned.epochs, tuned.weight_decay, tuned.warmup_ratio) == (5e-5, 4, 0.01, 0.01)
    assert (tuned.lr_scheduler_type, tuned.optim, tuned.max_his_len, tuned.use_lora) == (
        "cosine",
        "adamw_torch",
        20,
        False,
    )
    assert (tuned.per_device_batch_size, tuned.gradient_accumulation_steps) == (8, 2)
    assert tuned.tasks == ("seqrec", "item2index", "index2item", "fusionseqrec", "itemsearch", "preferenceobtain")
    assert tuned.train_data_sample_num == (0, 0, 0, 20_000, 0, 0)
    lora = finetune_config(replace(published, tasks=TASKS, model_type="qwen2", use_lora=True))
    assert (lora.use_lora, lora.lora_r, lora.lora_alpha, lora.lora_dropout) == (True, 8, 32, 0.05)
    assert (published.num_beams, published.test_prompt_ids) == (20, "all")


def test_flags_are_the_settings(config):
    words = ["--dataset", "D", "--results_file", "r.json", "--base_model", "m"]
    args = build_lcrec_parser(None).parse_args(words)
    assert config_from(args) == LcrecConfig("D", Path("r.json"), base_model="m")


def test_commands_fit_together(config, commands):
    """Each reads what the one before wrote."""
    run_lcrec(config)
    assert commands.ran == ALL
    assert "--no_image" in commands.words["simple_embeddings"]
    work = config.results_file.with_suffix(".model")
    embeddings, index_file = str(work / "embeddings" / f"{NAME}.emb-lcrec.npy"), str(work / f"{NAME}.index_lcrec.json")
    assert commands.value("main", "--data_path") == commands.value("generate_indices", "--data_path") == embeddings
    assert commands.value("generate_indices", "--ckpt_path") == str(work / "index" / "now")
    assert commands.value("generate_indices", "--dedup") == "sinkhorn"
    assert commands.value("train_ddp", "--index_file") == commands.value("metric_ddp", "--index_file") == index_file
    assert commands.value("metric_ddp", "--ckpt_model") == commands.value("train_ddp", "--output_dir")
    assert commands.value("train_ddp", "--tasks") == ",".join(TASKS + USER_TASKS)
    assert set(commands.ranks.values()) == {0}
    found = read_json(config.results_file)
    assert (found["model"], found["settings"]["base_family"], found["mean_results"]) == (
        "lcrec",
        "qwen2",
        {"hit@10": 0.5},
    )
    assert found["config"]["codebook_sizes"] == [8, 8, 8]


def test_entries_take_their_flags(config, commands):
    """With an embedding model and ZeRO-3 there are the most of them."""
    commands.qwen_embeddings = commands.simple_embeddings
    run_lcrec(config)
    changes = {"embedding_model": config.base_model, "nproc": 2, "deepspeed": "config/ds_z3_bf16.json"}
    run_lcrec(replace(config, **changes, results_file=config.results_file.with_name("more.json"), use_lora=True))
    parsers = {
        "simple_embeddings": simple_embeddings.build_parser(),
        "qwen_embeddings": qwen_embeddings.build_parser(),
        "main": index_main.build_parser(None),
        "generate_indices": generate_indices.build_parser(None),
        "train_ddp": build_finetune_parser(None),
        "merge_zero3": merge_zero3.build_parser(),
        "metric_ddp": build_evaluate_parser(None),
    }
    assert set(commands.words) == set(parsers)
    for name, words in commands.words.items():
        parsers[name].parse_args(words)
    assert commands.ranks["qwen_embeddings"] == 2


def test_tasks_about_users_go_where_there_are_no_texts(config, commands):
    (config.data_path / NAME / f"{NAME}.user.json").unlink()
    run_lcrec(config)
    assert commands.value("train_ddp", "--tasks") == ",".join(TASKS)
    assert commands.value("train_ddp", "--train_data_sample_num") == "0,0,0,20000"


def test_processes_adapters_and_zero_3(config, commands):
    run_lcrec(replace(config, nproc=2, use_lora=True, deepspeed="config/ds_z3_bf16.json", bf16=True))
    assert commands.ran == [*ALL[:4], "merge_zero3", "metric_ddp"]
    assert [commands.ranks[name] for name in commands.ran] == [0, 0, 0, 2, 0, 2]
    assert commands.value("train_ddp", "--gradient_accumulation_steps") == "2"
    assert commands.value("metric_ddp", "--ckpt_model") == commands.value("merge_zero3", "--output_dir")
    assert commands.value("metric_ddp", "--base_model") == config.base_model
    assert "--lora" in commands.words["metric_ddp"]


def test_given_embeddings_are_taken(config, commands, tmp_path):
    save_embeddings(tmp_path / "mine.npy", np.eye(NUM_ITEMS), range(NUM_ITEMS))
    run_lcrec(replace(config, embeddings=tmp_path / "mine.npy"))
    assert commands.ran == ALL[1:]
    assert commands.value("main", "--data_path") == str(tmp_path / "mine.npy")


# ---- going on --------------------------------------------------------------------------------------------------------
def test_only_what_changed_is_done_again(config, commands):
    def ran(**changes):
        commands.ran.clear()
        run_lcrec(replace(config, **changes))
        return list(commands.ran)

    assert ran() == ALL
    assert ran() == []
    assert ran(test_batch_size=3, per_device_batch_size=4, num_workers=1) == []  # they change no result
    assert ran(filter_history=True) == ["metric_ddp"]
    z3 = {"deepspeed": "config/ds_z3_bf16.json"}
    assert ran(filter_history=True, **z3) == ["train_ddp", "merge_zero3", "metric_ddp"]  # it leaves parts, not a model
    assert ran(filter_history=True, epochs=3.0) == ["train_ddp", "metric_ddp"]
    assert ran(filter_history=True, epochs=3.0, e_dim=16) == ALL[1:]
    inter = config.data_path / NAME / f"{NAME}.inter.json"
    inter.write_text(inter.read_text() + " ")
    assert ran(filter_history=True, epochs=3.0, e_dim=16) == ["train_ddp", "metric_ddp"]  # embeddings know no users
    config.results_file.unlink()
    assert ran(filter_history=True, epochs=3.0, e_dim=16) == ["metric_ddp"]


def test_a_killed_stage_goes_on(config, commands):
    work = config.results_file.with_suffix(".model")
    commands.dies = "main"
    with pytest.raises(KeyboardInterrupt):
        run_lcrec(config)
    for name in ("saved", "nothing yet"):  # the second was killed before its first evaluation
        (work / "index" / name).mkdir()
    for name in ("config.json", "last.pth", "best_collision_model.pth"):
        (work / "index" / "saved" / name).touch()
    commands.dies = "train_ddp"
    with pytest.raises(KeyboardInterrupt):
        run_lcrec(config)
    assert commands.value("main", "--resume") == str(work / "index" / "saved")
    assert not (work / "index" / "nothing yet").exists()
    assert "--resume_from_checkpoint" not in commands.words["train_ddp"]
    (work / "finetuned" / "checkpoint-4").mkdir()
    commands.dies = ""
    commands.ran.clear()
    run_lcrec(config)
    assert commands.ran == ["train_ddp", "metric_ddp"]
    assert commands.value("train_ddp", "--resume_from_checkpoint") == "True"


def test_what_other_settings_left_is_not_gone_on_with(config, commands):
    commands.dies = "train_ddp"
    with pytest.raises(KeyboardInterrupt):
        run_lcrec(config)
    (config.results_file.with_suffix(".model") / "finetuned" / "checkpoint-4").mkdir()
    commands.dies = ""
    run_lcrec(replace(config, learning_rate=1e-3))
    assert "--resume_from_checkpoint" not in commands.words["train_ddp"]


# ---- what is wrong ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_model": "models/none"}, "there is no model at models/none"),
        ({"base_model": "owner/name"}, "there is no model at owner/name"),
        ({"model_type": "llama"}, "use --model_type qwen2"),
        ({"base_model": str(tiny_model("qwen2_vl"))}, "vision-language model, which train_ddp does not train"),
        ({"embedding_model": "models/none"}, "there is no model at models/none"),
        ({"embedding_model": "m", "embeddings": Path("e.npy")}, "exclude each other"),
        ({"embeddings": Path("none.npy")}, "none.npy does not exist"),
        ({"batch_size": 100}, "--batch_size 100 is no multiple of --nproc 1 x --per_device_batch_size 8"),
        ({"nproc": 0}, "--nproc 0"),
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ({"codebook_sizes": (256, 8)}, "40 items, fewer than the 256 codewords"),
        ({"sk_epsilons": (0.1, 0.1)}, "--sk_epsilons 0.1 0.1: give 3 values"),
        ({"tasks": ("seqrec", "mmseqrec")}, "shows pictures"),
        ({"tasks": ("seqrec", "seq")}, "unknown task 'seq'"),
        ({"train_data_sample_num": (1, 2)}, "needs one number from 0 for each of 6 tasks"),
        ({"test_prompt_ids": "0,99"}, "--test_prompt_ids 0,99"),
        ({"metrics": "hit@50"}, "raise --num_beams"),
        ({"epochs": 0.0}, "--epochs 0.0: it must be above 0"),
        ({"rqvae_weight_decay": -1.0}, "--rqvae_weight_decay -1.0"),
        ({"bf16": True, "deepspeed": "config/ds_z2_fp16.json"}, "which has no bf16 section"),
        ({"deepspeed": "config/none.json"}, "config/none.json does not exist"),
        ({"dataset": "None"}, "there is no dataset folder"),
    ],
)
def test_wrong_settings_stop_it_before_the_first_command(config, commands, wrong, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("(", r"\(")):
        run_lcrec(replace(config, **wrong))
    assert not commands.ran
    assert not config.results_file.parent.exists()


def test_wrong_data_stops_it_before_the_first_command(config, commands, tmp_path):
    save_embeddings(tmp_path / "half.npy", np.eye(20), range(20))
    with pytest.raises(ValueError, match="lacks 20 of 40 items, the first being 20"):
        check(replace(config, embeddings=tmp_path / "half.npy"))
    user = config.data_path / NAME / f"{NAME}.user.json"
    user.write_text(json.dumps({"user_explicit_preference": {}}))
    with pytest.raises(ValueError, match="the task itemsearch has no training sample"):
        check(config)
    user.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        check(config)


def test_it_starts_its_own_processes(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave out torchrun"):
        check(config)


def test_more_processes_than_gpus_are_refused(config, monkeypatch):
    with pytest.raises(ValueError, match="no usable GPU" if not torch.cuda.is_available() else "--nproc 64"):
        check(replace(config, device="cuda", nproc=64, batch_size=512))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--nproc 4: there are 2 GPUs here"):
        check(replace(config, device="auto", nproc=4))


def test_the_family_is_read_from_the_model(tmp_path):
    assert [model_type_of(tiny_model(name)) for name in ("qwen2", "llama", "qwen2_vl")] == [
        "qwen2",
        "llama",
        "qwen2_vl",
    ]
    with pytest.raises(ValueError, match="give --model_type"):
        model_type_of(tmp_path)
