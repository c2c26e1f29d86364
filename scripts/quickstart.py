"""The whole way once: data, embeddings, SIDs, fine-tuning, evaluation, baselines, report.

    bash scripts/quickstart.sh                 a demo dataset, drawn on the spot
    bash scripts/quickstart.sh --small         a smaller one, in little time
    bash scripts/quickstart.sh --data DIR      your own dataset folder, named as its dataset

Files in DIR are never changed. What is made goes to data/<name>/ (embeddings, SID index), models/, output/<name>/ and
results/<name>/. The files of DIR are linked into data/<name>/, unless it is DIR: then what is made lies beside them.

Each stage prints its command as it can be pasted. Stopped and started again, it goes on where it was: a stage is done
again only when its settings or inputs changed.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m scripts.quickstart` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import DatasetPaths, file_hash, read_json, write_json
from src.common.cli import add_switch, new_parser, user_errors
from src.common.interactions import interaction_files, interactions_path
from src.common.record import commit, input_entries, write_record
from src.common.stages import Stages, hold_lock, run_here, run_process

if TYPE_CHECKING:
    from src.tasks.catalogue import Catalogue

DATA = Path("data")
EMBEDDING = "simple"
RECORD = "quickstart.json"  # of the stages that are done
SMALLEST_CODEBOOK = 16  # codewords, which k-means starts on as many items
LEAST_PICTURES = 2  # so that they can be swapped
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
    add_switch(parser, "--skip_bad_images", help="go on without pictures that do not decode")
    parser.add_argument("--seed", type=int, default=42, help="seed of data, models and training")
    return parser


# ---- the dataset -----------------------------------------------------------------------------------------------------
def find_dataset(folder: Path) -> Path:
    """The folder itself, once it looks like that of a dataset.

    Raises:
        FileNotFoundError: it is no folder, or lacks its interactions or items.
    """
    if not folder.is_dir():
        fault = (
            "is a file: --data is a folder. Tables become one by" if folder.exists() else "does not exist. Make it by"
        )
        raise FileNotFoundError(f"{folder} {fault} bash scripts/data/csv.sh, see README.md")
    paths = DatasetPaths(folder.parent, folder.name)
    for path in (interactions_path(paths), paths.file("item.json")):
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} has no {path.name}: --data is a folder named as its dataset (docs/data_format.md)"
            )
    return folder


def check_size(catalogue: "Catalogue") -> None:
    """Refuses what only a later stage would notice.

    Raises:
        ValueError: too few items for codebooks, or no user long enough to train or to test on.
    """
    if len(catalogue.item_ids) < SMALLEST_CODEBOOK:
        raise ValueError(
            f"{catalogue.paths.file('item.json')} holds {len(catalogue.item_ids)} items, fewer than the"
            f" {SMALLEST_CODEBOOK} codewords of a level. Add items, or take the stages one by one (README.md)"
        )
    for split, least in (("test", 3), ("train", 4)):
        if not len(catalogue.next_item_targets(split).users):
            given = catalogue.paths.file("split.json")
            cause = f"with {given.name} beside it" if given.is_file() else f"no user has {least} items or more"
            raise ValueError(
                f"{catalogue.interactions_path} gives no {split} sample: {cause}. Of each user the last item"
                " tests and the one before it validates; training needs two more. Add longer histories"
            )


def has_pictures(catalogue: "Catalogue", skip_bad_images: bool) -> bool:
    """Whether there is a picture to learn from; says what the dataset holds."""
    from src.common.images import undecodable

    files = catalogue.image_files
    good = (path for path in files.values() if not (skip_bad_images and undecodable([path])))
    found = len(list(islice(good, LEAST_PICTURES)))
    pictures = f"{len(files):,} pictures"
    if found < LEAST_PICTURES:
        pictures = f"{'only one picture' if found else 'no picture'}{' that decodes' if skip_bad_images else ''}"
        pictures += f" (looked for in {catalogue.paths.folder / 'images'}): this run learns from texts only"
    print(
        f"  {catalogue.name}: {catalogue.num_users:,} users, {len(catalogue.item_ids):,} items,"
        f" {len(catalogue.sequence):,} interactions, {pictures}", flush=True,
    )  # fmt: skip
    return found == LEAST_PICTURES


def link_dataset(source: Path) -> str:
    """Makes data/<name>/ with links to the files of a dataset folder, so that what is made lies beside them.

    Raises:
        FileExistsError: data/<name> holds other files of that name.
    """
    target = DATA / source.name
    if target.resolve() == source:
        return source.name
    made = ("inter.mapped", *(f"emb-{EMBEDDING}.{end}" for end in ("npy", "ids.json", "run.json")))
    made_here = ("index", *(f"{source.name}.{suffix}" for suffix in made))
    paths = [path for path in source.iterdir() if path.name not in made_here]
    for path in paths:
        link = target / path.name
        if link.exists() and not link.is_symlink():
            raise FileExistsError(f"{link} is in the way of {path}: move {target} aside")
    target.mkdir(parents=True, exist_ok=True)
    for link in target.iterdir():
        if link.is_symlink():  # perhaps of another folder of this name
            link.unlink()
    for path in paths:
        (target / path.name).symlink_to(path)
    return source.name


def forget_start(folder: Path, results: Path) -> None:
    """Removes what a start leaves that failed before it made anything: links to the dataset, an empty record."""
    if folder.is_dir() and all(path.is_symlink() for path in folder.iterdir()):
        shutil.rmtree(folder)
    if {path.name for path in results.iterdir()} <= {".lock", RECORD}:
        shutil.rmtree(results)


def data_state(folder: Path, name: str) -> dict[str, Any]:
    """What a dataset is, for the key of the stages: hashes of its tables, names and sizes of its pictures."""
    paths = {*folder.glob(f"{name}.*"), *interaction_files(DatasetPaths(folder.parent, name))}
    tables = {path.name: file_hash(path) for path in sorted(paths) if path.is_file() and path.suffix != ".npy"}
    pictures = hashlib.sha256()
    for path in sorted((folder / "images").glob("*")) if (folder / "images").is_dir() else ():
        pictures.update(f"{path.name} {path.stat().st_size}\n".encode())
    tables = {file: value for file, value in tables.items() if not file.startswith(f"{name}.emb-")}
    return {"tables": tables, "pictures": pictures.hexdigest()}


def codebook_size(num_items: int) -> int:
    """Codewords of a level: two levels alone could name every item about eight times over."""
    size = SMALLEST_CODEBOOK
    while size * size < 8 * num_items:
        size *= 2
    return min(size, 256)


def num_ranks() -> int:
    """One process a GPU, or a core; a power of two up to 8."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = torch.cuda.device_count() or cores
    return max(n for n in (1, 2, 4, 8) if n <= max(1, most))


def run_ranks(module: str, *flags: Any) -> None:
    """Runs an entry on all ranks, one thread each on a CPU."""
    run_process(module, *flags, ranks=num_ranks(), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")


# ---- the way ---------------------------------------------------------------------------------------------------------
def quickstart(args: argparse.Namespace) -> Path:
    from src.common.artifacts import dataset_paths
    from src.common.index_files import index_path
    from src.common.log import setup_logging
    from src.tasks.catalogue import load_catalogue

    started = time.time()
    setup_logging()
    demo = args.data is None
    plan = SMALL if args.small else Plan() if demo else OWN_DATA
    if demo:
        name = "DemoSmall" if args.small else "Demo"
    else:  # all checks come before anything is written
        source = find_dataset(args.data)
        if interactions_path(DatasetPaths(source.parent, source.name)).suffix != ".json":  # arrays, not into --data
            os.environ.setdefault("GREC_CACHE", str((DATA / source.name).absolute()))
        catalogue = load_catalogue(source.parent, source.name, image_path="images")
        check_size(catalogue)
        name = link_dataset(source)
    results, folder = Path("results") / name, DATA / name
    _lock = hold_lock(results / ".lock", f"another quickstart is at work on {name}: wait for it or stop it")
    stages = Stages(results / RECORD, total=9)

    def stage(title: str, module: str, flags: list, outputs: list[Path]) -> None:
        stages.run(title, [module, *map(str, flags)], lambda: outputs, lambda: run_here(module, *flags))

    if demo:
        flags = ["--dataset", name, "--items", plan.demo_items, "--users", plan.demo_users, "--seed", args.seed]
        stage("demo data", "data_process.make_demo_data", flags, [folder / f"{name}.inter.json"])
        catalogue = load_catalogue(DATA, name, image_path="images")
    pictured = has_pictures(catalogue, args.skip_bad_images)
    if not demo:  # counted once it is known whether there is a stage of pictures
        stages.total -= not pictured
        made = interaction_files(DatasetPaths(DATA, name))
        stages.run("data", data_state(folder, name), lambda: made, lambda: None)
    skip = ["--skip_bad_images"] if args.skip_bad_images and pictured else []

    embeddings = folder / f"{name}.emb-{EMBEDDING}.npy"
    flags = ["--dataset", name, "--name", EMBEDDING, "--seed", args.seed, *skip, *([] if pictured else ["--no_image"])]
    try:
        stage("embeddings", "data_process.simple_embeddings", flags, [embeddings])
    except BaseException:
        forget_start(folder, results)
        raise

    runs, run_file = folder / "index" / EMBEDDING, results / "rqvae_run.json"
    rqvae = [
        "--data_path", embeddings, "--ckpt_dir", runs, "--layers", 256, 128, "--e_dim", 32,
        "--num_emb_list", *[codebook_size(len(catalogue.item_ids))] * plan.num_levels, "--epochs", plan.rqvae_epochs,
        "--batch_size", 1024, "--lr_scheduler_type", "cosine", "--warmup_epochs", plan.rqvae_epochs // 20,
        "--seed", args.seed,
    ]  # fmt: skip

    def train_rqvae() -> None:
        before = set(runs.glob("*/"))
        try:
            run_here("index.main", *rqvae)
        except BaseException:  # half a run, which nobody would go on with, does not stay
            for run in set(runs.glob("*/")) - before:
                shutil.rmtree(run)
            raise
        write_json(run_file, str((set(runs.glob("*/")) - before).pop()))

    stages.run("RQ-VAE", list(map(str, rqvae)), lambda: [Path(read_json(run_file))], train_rqvae)
    run_dir = Path(read_json(run_file))
    index_file = index_path(dataset_paths(DATA, name), EMBEDDING)
    flags = ["--dataset", name, "--ckpt_path", run_dir, "--output_dir", index_file.parent]
    stage("SID index", "index.generate_indices", [*flags, "--output_file", index_file.name], [index_file])

    base = Path("models") / f"tiny-qwen2_vl-{name}"
    flags = ["--family", "qwen2_vl", "--out", base, "--corpus", folder / f"{name}.item.json", "--seed", args.seed]
    stage("tiny Qwen2-VL", "scripts.make_tiny_model", flags, [base / "config.json"])

    output = Path("output") / name / "quickstart"
    ratio = catalogue.num_users / len(catalogue.item_ids)
    tasks = {"seqrec": 1, "item2index": max(1, round(plan.item_share * ratio))}
    if pictured:
        tasks["mmitem2index"] = max(1, round(plan.image_share * ratio))
    finetune = [
        "--base_model", base, "--model_type", "qwen2_vl", "--output_dir", output, "--data_path", DATA,
        "--dataset", name, "--index_file", index_file, "--tasks", ",".join(tasks), "--share_prefix",
        "--train_prompt_sample_num", ",".join(map(str, tasks.values())), "--epochs", plan.epochs,
        "--per_device_batch_size", plan.global_batch // num_ranks(), "--learning_rate", plan.learning_rate,
        "--adam_beta2", 0.95, "--warmup_ratio", 0.05, "--his_sep", ",", "--logging_step", 50, "--image_augment", 0.1,
        "--max_valid_samples", plan.max_valid_samples, "--seed", args.seed, *skip,
    ]  # fmt: skip

    def run_finetune() -> None:
        stages.claim(output)
        resume = ["--resume_from_checkpoint", True] if any(output.glob("checkpoint-*")) else []
        try:
            run_ranks("src.finetune.train_ddp_vl", *finetune, *resume)
        except BaseException:
            if not (output / "trainer_log.jsonl").is_file():  # it never began: there is nothing to go on with
                shutil.rmtree(output)
            raise

    stages.run("fine-tuning", list(map(str, finetune)), lambda: [output / "config.json"], run_finetune)

    model_results = results / "grec.json"
    test = [
        "--data_path", DATA, "--dataset", name, "--index_file", index_file, "--ckpt_model", output, "--filter_history",
        "--test_batch_size", 64, "--results_file", model_results,
    ]  # fmt: skip
    stages.run(
        "evaluation", list(map(str, test)), lambda: [model_results], lambda: run_ranks("src.seqrec.metric_ddp", *test)
    )

    pictures_file = results / "pictures.json"
    if pictured:
        flags = ["--dataset", name, "--index_file", index_file, "--ckpt_model", output, "--test_batch_size", 64]
        flags += ["--second_image_path", "images_second"] if (folder / "images_second").is_dir() else []
        stage("pictures", "src.verify_pictures", [*flags, "--results_file", pictures_file, *skip], [pictures_file])

    files = {module: results / f"{module}.json" for module in BASELINES}

    def run_baselines() -> None:
        for module, file in files.items():
            run_here(f"src.baselines.{module}", "--dataset", name, "--results_file", file, "--filter_history")
        if demo:
            run_here("data_process.demo_oracle", "--dataset", name, "--results_file", results / "oracle.json")

    stages.run("baselines", {"demo": demo}, files.values, run_baselines)

    rows = [row("GRec (tiny Qwen2-VL)", model_results)]
    rows += [row(title, files[module]) for module, title in BASELINES.items()]
    if demo:
        found = read_json(results / "oracle.json")
        rows += [
            {"model": title, "hit@10": found[key]["hit@10"], "ndcg@10": found[key]["ndcg@10"], "ci": {}}
            for key, title in (("text only", "Best predictor from texts"), ("best", "Best possible predictor"))
        ]
    pictures = read_json(pictures_file) if pictured else None
    summary = {"dataset": name, "seconds": stages.seconds, "rows": rows, "pictures": pictures}
    sources = {path.stem: path for path in (model_results, *files.values())}
    sources |= {"pictures": pictures_file} if pictured else {}
    sources |= {"oracle": results / "oracle.json"} if demo else {}
    record = {"artefact": "summary", "commit": commit(), "inputs": input_entries(sources)}
    write_record(results / "summary.json", {**summary, **record})
    run_here(
        "src.report", "--dataset", name, "--index_file", index_file, "--rqvae_dir", run_dir, "--sft_dir", output,
        "--predictions", model_results.with_suffix(".predictions.parquet"),
    )  # fmt: skip
    run_here("src.verify", results / "summary.json")
    print_table(summary)
    report = results / "report.html"
    print(f"\nresults: {results}/summary.json   report: {report}   in {time.time() - started:.0f} s")
    print(f"ask it: {asking(catalogue, output)}")
    return report


def asking(catalogue: "Catalogue", output: Path) -> str:
    """The command by which people ask the model about a user of theirs."""
    from src.common.dataset_readers import load_id_map

    names = catalogue.paths.file("user2id")
    user = next(iter(load_id_map(names)), "") if names.is_file() else catalogue.users[0]
    settings = {"DATASET": catalogue.name, "MODEL_NAME": EMBEDDING, "CKPT_MODEL": output, "LORA": False}
    settings["USER_ID"] = user
    words = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
    return " ".join([*words, "bash scripts/seqrec/recommend.sh --filter_history"])


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
    args.data = args.data and args.data.resolve()  # before the folder changes
    os.chdir(Path(__file__).resolve().parents[1])
    with user_errors():
        quickstart(args)


if __name__ == "__main__":
    main()
