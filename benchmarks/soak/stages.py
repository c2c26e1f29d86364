"""Every stage that can be killed and gone on with, as commands of tiny size that a user would type."""

import csv
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO, SHOP = "Demo", "Shop"
NUM_ITEMS, NUM_USERS = 120, 120
STEPS_BETWEEN_SAVES = 4
UNDER_WAY = 4  # questions or pictures at once
EVERY_BATCH = (("src.common.parts:SAVE_SECONDS", -1),)  # for a minute is longer than these runs
EVERY_FEW = (("data_process.embedding_jobs:BATCHES_PER_PART", 8),)

Flags = list[Any]


@dataclass(frozen=True)
class Stage:
    """One entry and how it is started.

    Attributes:
        flags: of the entry, in a folder; a start after a kill has the same, unless the documents say otherwise.
        unit: what is counted as work: `module:name` of a function, or "requests" to the servers; empty: a stage that
            starts anew, and is short.
        lost: units that one kill may cost.
        results: files that are there once the work is done: a start after that does it again.
        ranks: processes under torchrun; 0: one without it.
        settings: see `child.Orders`.
    """

    name: str
    module: str
    flags: Callable[[Path], Flags]
    unit: str = ""
    lost: int = 0
    results: tuple[str, ...] = ()
    ranks: int = 0
    settings: tuple[tuple[str, Any], ...] = ()

    def words(self, folder: Path) -> list[str]:
        return [self.module, *map(str, self.flags(folder))]

    def command(self, folder: Path) -> list[str]:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.ranks}"]
        start = [sys.executable, *(torchrun if self.ranks else []), "-m", "benchmarks.soak.child"]
        return [*start, *self.words(folder)]


def write_inputs(folder: Path, pictures: str) -> None:
    """What the stages read that none of them makes: tables of a shop, and addresses of its pictures.

    Args:
        pictures: address of the server of `misbehaving_server`.
    """
    rng, raw = random.Random(0), folder / "raw"
    raw.mkdir(parents=True)
    with open(raw / "orders.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id", "time"))
        for moment in range(20 * NUM_ITEMS):
            writer.writerow((f"u{rng.randrange(NUM_USERS)}", f"i{rng.randrange(NUM_ITEMS)}", moment))
    behaviours = ["ok", "ok", "ok", "flaky500", "moved", "flakycut", "ok", "missing", "ok", "html"]
    with open(raw / "items.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "title", "description", "picture"))
        for item in range(NUM_ITEMS):
            address = f"{pictures}/{behaviours[item % len(behaviours)]}/{item}"
            writer.writerow((f"i{item}", f"Thing number {item}", f"Made of stuff {item % 7}.", address))


def run_folder(folder: Path) -> Path | None:
    """The RQ-VAE run, once it has something to go on with."""
    runs = sorted((folder / "data" / DEMO / "index" / "tiny").glob("*/last.pth"))
    return runs[0].parent.relative_to(folder) if runs else None


def rqvae_flags(folder: Path) -> Flags:
    """As the documents say: go on with --resume where there is a last.pth; a run that has none yet is thrown away."""
    if run := run_folder(folder):
        return ["--resume", run]
    return [
        "--data_path", f"data/{DEMO}/{DEMO}.emb-tiny.npy", "--ckpt_dir", f"data/{DEMO}/index/tiny", "--layers", 32,
        "--e_dim", 8, "--num_emb_list", 16, 16, 16, "--epochs", 24, "--eval_step", STEPS_BETWEEN_SAVES,
        "--batch_size", 32, "--warmup_epochs", 2, "--lr_scheduler_type", "cosine", "--save_limit", 2,
    ]  # fmt: skip


INDEX = f"data/{DEMO}/index/tiny/{DEMO}.index_tiny.json"
DEMO_FLAGS = ["--dataset", DEMO, "--index_file", INDEX]
FINETUNE = [
    *DEMO_FLAGS, "--base_model", "models/tiny", "--model_type", "qwen2_vl", "--output_dir", "output/demo",
    "--tasks", "seqrec,mmitem2index,text_enrich", "--train_data_sample_num", "60,40,30", "--max_valid_samples", 10,
    "--per_device_batch_size", 4, "--max_steps", 20, "--save_and_eval_strategy", "steps",
    "--save_and_eval_steps", STEPS_BETWEEN_SAVES, "--save_total_limit", 2, "--logging_step", 1, "--use_lora",
    "--lora_r", 4, "--resume_from_checkpoint", True,
]  # fmt: skip
TEXTS = [
    *DEMO_FLAGS, "--ckpt_model", "output/merged", "--test_task", "text_enrich", "--sample_num", 16,
    "--test_batch_size", 4, "--max_new_tokens", 12, "--results_file", f"results/{DEMO}/texts.json",
]  # fmt: skip
SMALL_TIGER = [
    "--num_layers", 1, "--hidden_size", 32, "--num_heads", 2, "--head_size", 16, "--intermediate_size", 64,
    "--epochs", 4, "--batch_size", 64, "--num_beams", 10,
]  # fmt: skip

STAGES = (
    Stage(
        "demo data", "data_process.make_demo_data",
        lambda _: ["--dataset", DEMO, "--items", NUM_ITEMS, "--users", NUM_USERS, "--image_size", 32],
    ),
    Stage(
        "own tables", "data_process.csv_data_process",
        lambda _: [
            "--dataset", SHOP, "--input_path", "raw/orders.csv", "--time_column", "time", "--items_file",
            "raw/items.csv", "--image_column", "picture", "--overwrite",
        ],
    ),
    Stage(
        "pictures", "data_process.download_images",
        lambda _: [
            "--dataset", SHOP, "--allow_host", "127.0.0.1", "--concurrency", UNDER_WAY, "--first_wait", 0.01,
            "--max_failed", 0.3,
        ],
        unit="requests", lost=2 * UNDER_WAY,  # a picture may take two
    ),
    Stage(
        "enrichment", "data_process.data_enricher",
        lambda _: ["--dataset", SHOP, "--model", "m", "--concurrency", UNDER_WAY, "--first_wait", 0.01],
        unit="requests", lost=UNDER_WAY,
    ),
    Stage(
        "tiny model", "scripts.make_tiny_model",
        lambda _: [
            "--family", "qwen2_vl", "--out", "models/tiny", "--corpus", f"data/{DEMO}/{DEMO}.item.json",
            "--hidden_size", 32, "--intermediate_size", 64, "--vocab_size", 600,
        ],
    ),
    Stage(
        "embeddings", "data_process.qwen_embeddings",
        lambda _: ["--dataset", DEMO, "--model", "models/tiny", "--name", "tiny", "--batch_size", 2],
        unit="data_process.embedding_jobs:embed", lost=8, settings=EVERY_FEW,
    ),
    Stage(
        "RQ-VAE", "index.main", rqvae_flags, unit="index.trainer:Trainer.train_epoch", lost=STEPS_BETWEEN_SAVES,
    ),
    Stage(
        "SID index", "index.generate_indices",
        lambda folder: ["--dataset", DEMO, "--ckpt_path", run_folder(folder), "--output_file", Path(INDEX).name],
    ),
    Stage(
        "fine-tuning", "src.finetune.train_ddp_vl", lambda _: FINETUNE,
        unit="src.finetune.trainer:AnswerTrainer.compute_loss", lost=STEPS_BETWEEN_SAVES,
    ),
    Stage(
        "merging", "src.merge_lora",
        lambda _: ["--base_model", "models/tiny", "--ckpt_model", "output/demo", "--output_dir", "output/merged"],
    ),
    Stage(
        "evaluation, 2 ranks", "src.seqrec.metric_ddp",
        lambda _: [
            *DEMO_FLAGS, "--ckpt_model", "output/merged", "--test_batch_size", 8, "--num_beams", 10, "--metrics",
            "hit@5,hit@10,ndcg@10", "--results_file", f"results/{DEMO}/grec.json",
        ],
        unit="src.common.parts:Parts.save", lost=0, results=(f"results/{DEMO}/grec.json",), ranks=2,
        settings=EVERY_BATCH,
    ),
    Stage(
        "text generation", "src.text_generation.evaluate", lambda _: TEXTS,
        unit="src.common.parts:Parts.save", lost=0, results=(f"results/{DEMO}/texts.json",), settings=EVERY_BATCH,
    ),
    Stage(
        "SASRec", "src.baselines.sasrec",
        lambda _: ["--dataset", DEMO, "--epochs", 8, "--results_file", f"results/{DEMO}/sasrec.json"],
        unit="src.baselines.training:Training._save", lost=0,
    ),
    Stage(
        "TIGER", "src.baselines.tiger",
        lambda _: [*DEMO_FLAGS, *SMALL_TIGER, "--results_file", f"results/{DEMO}/tiger.json"],
        unit="src.baselines.training:Training._save", lost=0,
    ),
)  # fmt: skip


def prepare_start(stage: Stage, folder: Path) -> None:
    """What a user does by hand before a new start: removes an RQ-VAE run that ended before it saved anything."""
    if stage.module == "index.main" and run_folder(folder) is None:
        import shutil

        for run in (folder / "data" / DEMO / "index" / "tiny").glob("*/"):
            shutil.rmtree(run)


def answer_of(request_body: bytes) -> dict[str, Any]:
    """What the model of the local endpoint says: settled by the question alone, so that every run gets the same."""
    asked = json.loads(request_body)["messages"][1]["content"]
    text = next(part["text"] for part in asked if part["type"] == "text")
    number = next((word.rstrip(".") for word in text.split() if word.rstrip(".").isdecimal()), "none")
    return {
        "enhanced_title": f"A better thing, {number}", "tags": ["thing", number], "highlights": ["made well"],
        "characteristics": [f"number: {number}"],
    }  # fmt: skip
