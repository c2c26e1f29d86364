"""The whole way once: data, embeddings, SIDs, fine-tuning, evaluation, baselines, report.

    bash scripts/quickstart.sh                 a demo dataset, drawn on the spot
    bash scripts/quickstart.sh --small         a smaller one, in little time
    bash scripts/quickstart.sh --data DIR      your own dataset folder, which is only read

Stopped and started again, it goes on where it was: a stage is done again only when its settings or inputs changed.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m scripts.quickstart` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import file_hash, read_json, write_json
from src.common.cli import new_parser

DATA = Path("data")
EMBEDDING = "simple"
BASELINES = {"popularity": "Popularity", "cooccurrence": "Co-transition", "itemknn": "Item-kNN"}


@dataclass(frozen=True)
class Plan:
    """What decides how long it takes and how good it gets; chosen on validation data (docs/lab.md)."""

    demo_items: int = 300
    demo_users: int = 4000
    rqvae_epochs: int = 400
    num_levels: int = 3
    global_batch: int = 16  # users or items; many small steps learn more in a minute than few large ones
    epochs: float = 5
    item_share: float = 0.15  # item2index samples for each user and epoch ...
    image_share: float = 1.2  # ... and mmitem2index samples
    learning_rate: float = 1e-3
    max_valid_samples: int = 1000


SMALL = Plan(demo_items=120, demo_users=1000, rqvae_epochs=200, epochs=5)
OWN_DATA = Plan(
    epochs=6, image_share=0.4
)  # real catalogues are larger: a picture is seen often enough with fewer views


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, help="dataset folder with <name>.inter.json, <name>.item.json, images/ ..."
    )
    parser.add_argument("--small", action="store_true", help="fewer items, users and steps")
    parser.add_argument("--seed", type=int, default=42)
    return parser


# ---- stages ----------------------------------------------------------------------------------------------------------
class Stages:
    """Runs stages in order and remembers what is done, each under a key of its settings and of all before it."""

    def __init__(self, results_dir: Path, total: int):
        self.file, self.total, self.number, self.key = results_dir / "quickstart.json", total, 0, ""
        self.done: dict[str, dict[str, Any]] = read_json(self.file) if self.file.is_file() else {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, settings: Any, outputs: Callable[[], Iterable[Path]], work: Callable[[], None]) -> None:
        """Does `work` unless it is done under the same settings and inputs and its outputs are still there."""
        self.number += 1
        text = json.dumps([self.key, name, settings], sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        title = f"[{self.number}/{self.total}] {name}"
        before = self.done.get(name)
        if before and before["key"] == self.key and all(Path(path).exists() for path in before["outputs"]):
            self.seconds[name] = before["seconds"]
            print(f"{title}: done before, in {before['seconds']:.0f} s", flush=True)
            return
        print(f"{title} ...", flush=True)
        started = time.time()
        work()
        self.seconds[name] = round(time.time() - started, 1)
        made = [str(path) for path in outputs()]
        if missing := [path for path in made if not Path(path).exists()]:
            raise RuntimeError(f"the stage {name} ended without {missing[0]}")
        self.done[name] = {"key": self.key, "seconds": self.seconds[name], "outputs": made}
        write_json(self.file, self.done, indent=1)
        print(f"{title}: {self.seconds[name]:.0f} s", flush=True)


def link_dataset(source: Path) -> str:
    """Makes data/<name>/ with links to the files of a dataset folder, so that what is made lies beside them.

    Raises:
        FileNotFoundError, FileExistsError: the folder lacks its files, or data/<name> holds other files of that name.
    """
    source = source.resolve()
    name = source.name
    for suffix in ("inter.json", "item.json"):
        if not (source / f"{name}.{suffix}").is_file():
            raise FileNotFoundError(
                f"{source} has no {name}.{suffix}: --data is a folder named as its dataset (docs/data_format.md)"
            )
    target = DATA / name
    if target.resolve() == source:
        return name
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = target / path.name
        if link.is_symlink():
            if link.resolve() == path:
                continue
            link.unlink()
        elif link.exists():
            raise FileExistsError(f"{link} is in the way of {path}: move {target} aside")
        link.symlink_to(path)
    return name


def data_state(folder: Path, name: str) -> dict[str, Any]:
    """What a dataset is, for the key of the stages: hashes of its tables, names and sizes of its pictures."""
    tables = {path.name: file_hash(path) for path in sorted(folder.glob(f"{name}.*")) if path.suffix != ".npy"}
    pictures = hashlib.sha256()
    for path in sorted((folder / "images").glob("*")) if (folder / "images").is_dir() else ():
        pictures.update(f"{path.name} {path.stat().st_size}\n".encode())
    tables = {file: value for file, value in tables.items() if not file.startswith(f"{name}.emb-")}
    return {"tables": tables, "pictures": pictures.hexdigest()}


def codebook_size(num_items: int) -> int:
    """Codewords of a level: two levels alone could name every item about eight times over."""
    size = 16
    while size * size < 8 * num_items:
        size *= 2
    return min(size, 256)


def num_ranks() -> int:
    """One process a GPU, or a core; a power of two up to 8."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = torch.cuda.device_count() or cores
    return max(n for n in (1, 2, 4, 8) if n <= max(1, most))


def torchrun(module: str, *flags: Any) -> None:
    """Runs a module on all ranks, one thread each on a CPU; ends with this process, however it ends."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks()}"]
    command += ["-m", module, *map(str, flags)]
    print("  " + " ".join(command[3:]), flush=True)

    def die_with_parent() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, preexec_fn=die_with_parent
    )
    if done.returncode:
        raise SystemExit(
            f"{module} failed with status {done.returncode}; its message stands above. Start again to go on"
        )


# ---- the way ---------------------------------------------------------------------------------------------------------
def quickstart(args: argparse.Namespace) -> Path:
    started = time.time()
    demo = args.data is None
    plan = SMALL if args.small else Plan() if demo else OWN_DATA
    name = ("DemoSmall" if args.small else "Demo") if demo else link_dataset(args.data)
    results = Path("results") / name
    results.mkdir(parents=True, exist_ok=True)
    lock = open(results / ".lock", "w")  # noqa: SIM115 held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit(f"another quickstart is at work on {name}: wait for it or stop it") from error
    stages = Stages(results, total=9)
    folder = DATA / name

    if demo:
        from data_process.make_demo_data import DemoConfig, make_demo_data

        config = DemoConfig(dataset=name, items=plan.demo_items, users=plan.demo_users, seed=args.seed)
        stages.run("demo data", asdict(config), lambda: [folder / f"{name}.inter.json"], lambda: make_demo_data(config))
    else:
        stages.run("data", data_state(folder, name), lambda: [folder / f"{name}.inter.json"], lambda: None)
    from src.common.log import setup_logging
    from src.tasks.catalogue import load_catalogue

    setup_logging()
    catalogue = load_catalogue(DATA, name, image_path="images")
    pictured = len(catalogue.image_files)
    print(
        f"  {name}: {catalogue.num_users:,} users, {len(catalogue.item_ids):,} items,"
        f" {len(catalogue.sequence):,} interactions, {pictured:,} pictures", flush=True,
    )  # fmt: skip
    if not pictured:
        print(f"  {name} has no pictures: going on with its texts only", flush=True)

    from data_process.simple_embeddings import SimpleConfig, extract

    embed = SimpleConfig(dataset=name, name=EMBEDDING, image=bool(pictured), seed=args.seed)
    embeddings = embed.output_path(EMBEDDING)
    stages.run("embeddings", asdict(embed), lambda: [embeddings], lambda: extract(embed))

    from index.config import GenerateConfig, TrainConfig
    from src.common.artifacts import dataset_paths, index_path

    rqvae = TrainConfig(
        data_path=embeddings, ckpt_dir=folder / "index" / EMBEDDING, layers=(256, 128), e_dim=32,
        codebook_sizes=(codebook_size(len(catalogue.item_ids)),) * plan.num_levels, epochs=plan.rqvae_epochs,
        batch_size=1024, lr_scheduler_type="cosine", warmup_epochs=plan.rqvae_epochs // 20, seed=args.seed,
    )  # fmt: skip
    runs: list[Path] = []

    def train_rqvae() -> None:
        from index.trainer import train

        runs.append(train(rqvae))
        write_json(results / "rqvae_run.json", str(runs[0]))

    stages.run("RQ-VAE", asdict(rqvae), lambda: [runs[0], results / "rqvae_run.json"], train_rqvae)
    run_dir = Path(read_json(results / "rqvae_run.json"))
    index_file = index_path(dataset_paths(DATA, name), EMBEDDING)

    def make_index() -> None:
        from index.generate_indices import generate

        generate(
            GenerateConfig(dataset=name, ckpt_path=run_dir, output_dir=index_file.parent, output_file=index_file.name)
        )

    stages.run("SID index", {}, lambda: [index_file], make_index)

    base = Path("models") / f"tiny-qwen2_vl-{name}"

    def make_model() -> None:
        from scripts.make_tiny_model import TinyModelConfig, make_tiny_model

        make_tiny_model(
            TinyModelConfig(family="qwen2_vl", out=base, corpus=folder / f"{name}.item.json", seed=args.seed)
        )

    stages.run("tiny Qwen2-VL", {"family": "qwen2_vl", "seed": args.seed}, lambda: [base / "config.json"], make_model)

    output = Path("output") / name / "quickstart"
    ranks = num_ranks()
    ratio = catalogue.num_users / len(catalogue.item_ids)
    tasks = {"seqrec": 1, "item2index": max(1, round(plan.item_share * ratio))}
    if pictured:
        tasks["mmitem2index"] = max(1, round(plan.image_share * ratio))
    finetune = [
        "--base_model", base, "--model_type", "qwen2_vl", "--output_dir", output, "--data_path", DATA,
        "--dataset", name, "--index_file", index_file, "--tasks", ",".join(tasks), "--share_prefix",
        "--train_prompt_sample_num", ",".join(map(str, tasks.values())), "--epochs", plan.epochs,
        "--per_device_batch_size", plan.global_batch // ranks, "--learning_rate", plan.learning_rate,
        "--adam_beta2", 0.95, "--warmup_ratio", 0.05, "--his_sep", ",", "--logging_step", 50, "--image_augment", 0.1,
        "--max_valid_samples", plan.max_valid_samples, "--seed", args.seed,
    ]  # fmt: skip

    def run_finetune() -> None:
        stamp = output / "quickstart.key"
        if output.is_dir() and (not stamp.is_file() or stamp.read_text() != stages.key):
            import shutil

            shutil.rmtree(output)
        output.mkdir(parents=True, exist_ok=True)
        stamp.write_text(stages.key)
        torchrun("src.finetune.train_ddp_vl", *finetune, "--resume_from_checkpoint", "True")

    stages.run("fine-tuning", [str(flag) for flag in finetune], lambda: [output / "config.json"], run_finetune)

    model_results = results / "grec.json"
    test = [
        "--data_path", DATA, "--dataset", name, "--index_file", index_file, "--ckpt_model", output, "--filter_history",
        "--test_batch_size", 64, "--results_file", model_results,
    ]  # fmt: skip
    stages.run(
        "evaluation", [str(flag) for flag in test], lambda: [model_results],
        lambda: torchrun("src.seqrec.metric_ddp", *test),
    )  # fmt: skip
    check = results / "verify.json"

    def run_verify() -> None:
        from src.verify import VerifyConfig, verify

        if pictured:
            second = "images_second" if (folder / "images_second").is_dir() else None
            verify(
                VerifyConfig(
                    dataset=name, index_file=str(index_file), ckpt_model=output, test_batch_size=64,
                    second_image_path=second, results_file=check,
                )
            )  # fmt: skip
        else:
            write_json(check, None)

    stages.run("pictures", {"pictured": pictured}, lambda: [check], run_verify)
    baseline_files = {key: results / f"{key}.json" for key in BASELINES}

    def run_baselines() -> None:
        from src.baselines.config import BaselineConfig
        from src.baselines.core import run_baseline

        for key, file in baseline_files.items():
            run_baseline(key, BaselineConfig(dataset=name, results_file=file, filter_history=True))
        if demo:
            from data_process.demo_oracle import OracleConfig, oracle

            oracle(OracleConfig(dataset=name, results_file=results / "oracle.json"))

    stages.run("baselines", {"demo": demo}, lambda: baseline_files.values(), run_baselines)

    rows = [row("GRec (tiny Qwen2-VL)", model_results)]
    rows += [row(title, baseline_files[key]) for key, title in BASELINES.items()]
    if demo:
        found = read_json(results / "oracle.json")
        rows += [
            {"model": title, "hit@10": found[key]["hit@10"], "ndcg@10": found[key]["ndcg@10"], "ci": {}}
            for key, title in (("text only", "Best predictor from texts"), ("best", "Best possible predictor"))
        ]
    summary = {"dataset": name, "seconds": stages.seconds, "rows": rows, "pictures": read_json(check)}
    write_json(results / "summary.json", summary, indent=2)

    from src.report import ReportConfig, write_report

    page = ReportConfig(
        dataset=name, index_file=str(index_file), rqvae_dir=run_dir, sft_dir=output,
        predictions=model_results.with_suffix(".predictions.parquet"),
    )  # fmt: skip
    report = write_report(page)
    print_table(summary)
    print(f"\nresults: {results}/summary.json   report: {report}   in {time.time() - started:.0f} s")
    return report


def row(title: str, results_file: Path) -> dict[str, Any]:
    found = read_json(results_file)
    means, ends = found["mean_results"], found["confidence_intervals"]
    return {"model": title, "hit@10": means["hit@10"], "ndcg@10": means["ndcg@10"],
            "ci": {name: ends[name] for name in ("hit@10", "ndcg@10")}}  # fmt: skip


def print_table(summary: dict[str, Any]) -> None:
    print(f"\n{'test split, history masked':<28} {'hit@10':>7}  {'95 % interval':<16} {'ndcg@10':>8}")
    for entry in summary["rows"]:
        ends = entry["ci"].get("hit@10")
        interval = f"{ends[0]:.4f}-{ends[1]:.4f}" if ends else ""
        print(f"{entry['model']:<28} {entry['hit@10']:>7.4f}  {interval:<16} {entry['ndcg@10']:>8.4f}")
    if pictures := summary["pictures"]:
        second = pictures["hit@1_second"]
        print(
            f"items named from their picture: {pictures['hit@1_true']:.3f}; from a wrong picture:"
            f" {pictures['hit@1_permuted']:.3f}"
            + (f"; from a second picture: {second:.3f}" if second is not None else "")
        )


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        quickstart(args)
    except (ValueError, OSError) as error:  # bad input, a full disk
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
