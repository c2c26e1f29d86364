"""A whole chain at its smallest, made once by the real stages in a folder of its own, and a copy for each test."""

import importlib
import os
import shutil
from pathlib import Path

import pytest

from tests.toy import tiny_model

NAME = "Tiny"
DATA, RESULTS = Path("data", NAME), Path("results", NAME)
EMBEDDINGS = DATA / f"{NAME}.emb-simple.npy"
INDEX = DATA / "index" / "t" / f"{NAME}.index_t.json"
ADAPTER, MERGED = Path("output", "adapter"), Path("output", "merged")
BASE = Path("models", "tiny")
WHERE = f"--dataset {NAME}"
QUANTIZER = f"--quantizer rkmeans --data_path {EMBEDDINGS} --ckpt_dir {DATA}/index/t --num_emb_list 4 4 4 --device cpu"
FINETUNE = (
    f"{WHERE} --base_model {BASE} --model_type qwen2 --index_file .index_t.json --use_lora --lora_r 4 --max_steps 2"
    " --save_and_eval_strategy no --per_device_batch_size 4 --device cpu"
)
ASK = f"{WHERE} --index_file .index_t.json --num_beams 5 --metrics hit@5 --device cpu --test_batch_size 30"


def run(module: str, flags: str) -> None:
    importlib.import_module(module).main(flags.split())


def train_quantizer(flags: str = "") -> Path:
    """Trains one more, and gives its folder."""
    before = set((DATA / "index" / "t").glob("*/"))
    run("index.main", f"{QUANTIZER} {flags}")
    return (set((DATA / "index" / "t").glob("*/")) - before).pop()


def make_index(run_folder: Path) -> None:
    run("index.generate_indices", f"{WHERE} --ckpt_path {run_folder} --device cpu")


def make_chain() -> None:
    run("data_process.make_demo_data", f"{WHERE} --items 40 --users 30 --no_images")
    run("data_process.simple_embeddings", f"{WHERE} --no_image --dim 8")
    make_index(train_quantizer())
    run("index.evaluate_index", f"--index_file {INDEX} --device cpu")
    shutil.copytree(tiny_model("qwen2"), BASE)
    run("src.finetune.train_ddp", f"{FINETUNE} --output_dir {ADAPTER} --tasks seqrec,index2item")
    run("src.merge_lora", f"--base_model {BASE} --ckpt_model {ADAPTER} --output_dir {MERGED}")
    run(
        "src.seqrec.metric_ddp",
        f"{ASK} --ckpt_model {ADAPTER} --lora --base_model {BASE} --results_file {RESULTS}/grec.json",
    )
    run("src.seqrec.metric_ddp", f"{ASK} --ckpt_model {MERGED} --results_file {RESULTS}/merged.json")
    run(
        "src.text_generation.evaluate",
        f"{WHERE} --index_file .index_t.json --ckpt_model {MERGED} --test_task index2item --sample_num 2 --device cpu"
        f" --max_new_tokens 2 --results_file {RESULTS}/texts.json",
    )
    run("src.baselines.popularity", f"{WHERE} --results_file {RESULTS}/popularity.json --num_beams 10")
    run("src.baselines.sasrec", f"{WHERE} --results_file {RESULTS}/sasrec.json --num_beams 10 --epochs 1 --device cpu")
    run("data_process.cf_embeddings", f"{WHERE} --sasrec_path {RESULTS}/sasrec.model/last.pth")


@pytest.fixture(scope="session")
def whole_chain(tmp_path_factory) -> Path:
    folder, before = tmp_path_factory.mktemp("chain"), Path.cwd()
    os.chdir(folder)
    try:
        make_chain()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def chain(whole_chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test: a copy that it may break."""
    folder = tmp_path / "project"
    shutil.copytree(whole_chain, folder)
    monkeypatch.chdir(folder)
    return folder
