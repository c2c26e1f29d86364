"""LC-Rec: what is checked, what each command depends on, and the order in which they run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.baselines.lcrec import TASKS, USER_TASKS, LcrecConfig
from src.baselines.lcrec_commands import (
    embedding_command,
    finetune_config,
    finetune_flags,
    finetune_places,
    flags_of,
    rqvae_flags,
)
from src.common.artifacts import (
    TOKEN_META,
    dataset_paths,
    embedding_ids_path,
    file_hash,
    load_embeddings,
    read_json,
)
from src.common.cli import check_at_least
from src.common.distributed import check_device_name, resolve_device, world_size
from src.common.interactions import interaction_files
from src.common.log import logger
from src.common.record import plain
from src.common.stages import Stages, hold_lock, run_process
from src.families import check_base_model, model_type_of
from src.finetune.core import check_settings, check_splits
from src.finetune.engine import engine_of
from src.seqrec.metrics import parse_metrics
from src.seqrec.results import change_results, check_results_file, predictions_path, read_results
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import load_task, wording_ids
from src.tasks.texts import add_texts

NAME = "lcrec"
LARGE_FILE = 1 << 26  # bytes; the weights of a model above this are told by size and time, not by content


# ---- checks ----------------------------------------------------------------------------------------------------------
def check(config: LcrecConfig) -> LcrecConfig:
    """Everything that can be wrong before the first command; gives the config with its tasks and family filled in."""
    if world_size() > 1:
        raise ValueError("LC-Rec starts its own processes: leave out torchrun, and say how many with --nproc")
    check_at_least(
        config, num_beams=1, nproc=1, e_dim=1, rqvae_epochs=1, rqvae_batch_size=1, batch_size=1,
        per_device_batch_size=1, test_batch_size=1, rqvae_weight_decay=0,
    )  # fmt: skip
    for name in ("rqvae_learning_rate", "learning_rate", "epochs"):
        if getattr(config, name) <= 0:
            raise ValueError(f"--{name} {getattr(config, name)}: it must be above 0")
    if check_device_name(config.device).startswith("cuda:"):
        raise ValueError(f"--device {config.device}: choose GPUs by CUDA_VISIBLE_DEVICES, and their number by --nproc")
    if config.batch_size % (config.nproc * config.per_device_batch_size):
        raise ValueError(
            f"--batch_size {config.batch_size} is no multiple of --nproc {config.nproc} x --per_device_batch_size"
            f" {config.per_device_batch_size}: change one of them"
        )
    if config.embeddings and config.embedding_model:
        raise ValueError("--embeddings and --embedding_model exclude each other: keep one")
    parse_metrics(config.metrics, config.num_beams)
    task = load_task("seqrec")
    wording_ids(config.test_prompt_ids, task, len(task.item_templates))
    check_base_model(config.base_model)
    if config.embedding_model:
        check_base_model(config.embedding_model)
    config = replace(config, model_type=config.model_type or model_type_of(config.base_model))
    catalogue = load_catalogue(config.data_path, config.dataset)
    if not config.tasks:
        config = replace(config, tasks=tasks_of(catalogue))
    finetuning = finetune_config(config)
    _, tasks = check_settings(replace(finetuning, preflight=config.nproc))  # else it wants to be under torchrun already
    check_splits(finetuning, tasks, [add_texts(catalogue, tasks)])
    if not len(catalogue.next_item_targets(config.split).users):
        raise ValueError(f"{config.dataset} has no {config.split} sample to rank: no user has 3 items or more")
    check_codebooks(config, catalogue)
    check_gpus(config)
    check_results_file(config.results_file)
    return config


def check_gpus(config: LcrecConfig) -> None:
    """Refuses more processes than there are GPUs, which fine-tuning would notice after hours of the RQ-VAE."""
    import torch  # after all that needs no torch

    if resolve_device(config.device).type == "cuda" and config.nproc > torch.cuda.device_count():
        raise ValueError(f"--nproc {config.nproc}: there are {torch.cuda.device_count()} GPUs here. Lower it")


def tasks_of(catalogue: Catalogue) -> tuple[str, ...]:
    """All tasks of LC-Rec that the dataset has files for."""
    path = catalogue.paths.file("user.json")
    if path.is_file():
        return TASKS + USER_TASKS
    logger.info("%s is absent: LC-Rec's tasks %s are left out", path, " and ".join(USER_TASKS))
    return TASKS


def check_codebooks(config: LcrecConfig, catalogue: Catalogue) -> None:
    """Refuses an RQ-VAE that cannot be trained on the items, and embeddings that are not of these items."""
    levels, most = len(config.codebook_sizes), max(config.codebook_sizes)
    if min(config.codebook_sizes) < 2 or min(config.layers) < 1:
        raise ValueError("--num_emb_list needs 2 codewords or more at each level, --layers widths from 1")
    if len(config.sk_epsilons) not in (1, levels) or min(config.sk_epsilons) < 0:
        raise ValueError(
            f"--sk_epsilons {' '.join(map(str, config.sk_epsilons))}: give {levels} values from 0, or one for the last"
            " level"
        )
    if most > len(catalogue.item_ids):
        raise ValueError(
            f"{config.dataset} has {len(catalogue.item_ids)} items, fewer than the {most} codewords of a level: lower"
            " --num_emb_list, for example to 16 16 16"
        )
    if config.embeddings:
        _, ids = load_embeddings(config.embeddings)
        if missing := sorted(set(catalogue.item_ids.tolist()) - set(ids)):
            raise ValueError(
                f"--embeddings {config.embeddings} lacks {len(missing)} of {len(catalogue.item_ids)} items, the first"
                f" being {missing[0]}: it is of another dataset"
            )


# ---- what a stage depends on -----------------------------------------------------------------------------------------
def contents(*paths: Path) -> dict[str, str]:
    """What is in the files that are there, by their names."""
    return {path.name: file_hash(path) for path in paths if path.is_file()}


def model_contents(model: str) -> Any:
    """What is in a model's folder; the name of one that is on the hub."""
    table: dict[str, Any] = {}
    for path in sorted(Path(model).glob("*")):
        if path.is_file():
            state = path.stat()
            small = state.st_size <= LARGE_FILE
            table[path.name] = file_hash(path) if small else [state.st_size, state.st_mtime_ns]
    return table or model


# ---- the way ---------------------------------------------------------------------------------------------------------
def run_lcrec(config: LcrecConfig) -> Path:
    """Embeddings, RQ-VAE, SID index, fine-tuning, evaluation; gives the results file.

    Raises:
        ValueError, FileNotFoundError: settings or data are at fault; said before the first command.
        SystemExit: a command failed.
    """
    config = check(config)
    work = config.results_file.with_suffix(".model")
    with hold_lock(work / ".lock", f"another run is at work in {work}: wait for it or stop it"):
        run_stages(config, work)
    shown = "  ".join(
        f"{name} {value:.4f}" for name, value in read_results(config.results_file)["mean_results"].items()
    )
    logger.info("%s on %s (%s): %s", NAME, config.dataset, config.split, shown)
    logger.info("results: %s", config.results_file)
    return config.results_file


def run_stages(config: LcrecConfig, work: Path) -> None:
    """Runs what is not done yet; everything but the results goes to the folder `work`."""
    merges = bool(config.deepspeed) and engine_of(finetune_config(config)).cuts_weights
    stages = Stages(work / "stages.json", total=4 + (not config.embeddings) + merges)
    paths = dataset_paths(config.data_path, config.dataset)
    file = paths.file
    ranks = config.nproc if config.nproc > 1 or config.deepspeed else 0
    where = flags_of(config, "dataset", "data_path")
    device = flags_of(config, "device")

    embeddings = config.embeddings or work / "embeddings" / f"{config.dataset}.emb-{NAME}.npy"
    if not config.embeddings:
        module, flags = embedding_command(config)
        command: list[Any] = [module, *flags, *where, "--out_dir", embeddings.parent, "--name", NAME]
        depends: list[Any] = [module, flags, contents(file("item.json"))]
        processes = 0
        if config.embedding_model:
            command, processes = [*command, *device], ranks
            depends.append(model_contents(config.embedding_model))

        def embed() -> None:
            stages.claim(embeddings.parent)  # where a language model leaves what it has done
            run_process(*command, ranks=processes)

        stages.run("text embeddings", depends, lambda: [embeddings], embed)

    runs, flags = work / "index", rqvae_flags(config)
    depends = [flags, *contents(embeddings, embedding_ids_path(embeddings)).values()]
    stages.run(
        "RQ-VAE", depends, lambda: [run_folder(runs) / "best_collision_model.pth"],
        lambda: train_rqvae(stages, runs, [*flags, "--data_path", embeddings, *device]),
    )  # fmt: skip

    index_file, flags = work / f"{config.dataset}.index_{NAME}.json", ["--dedup", "sinkhorn"]
    stages.run(
        "SID index", flags, lambda: [index_file],
        lambda: run_process(
            "index.generate_indices", *flags, "--dataset", config.dataset, "--ckpt_path", run_folder(runs),
            "--data_path", embeddings, "--output_dir", work, "--output_file", index_file.name, *device,
        ),
    )  # fmt: skip

    model, flags = work / "finetuned", finetune_flags(config)
    tables = [*interaction_files(paths), *map(file, ("item.json", "user.json", "split.json"))]
    depends = [flags, config.batch_size, merges, contents(*tables), model_contents(config.base_model)]
    stages.run(
        "fine-tuning", depends, lambda: [model / TOKEN_META],
        lambda: finetune(stages, model, [*flags, *finetune_places(config, index_file, model)], ranks),
    )  # fmt: skip

    if merges:
        parts, model = model, work / "merged"
        stages.run(
            "merging", [], lambda: [model / TOKEN_META],
            lambda: run_process("src.merge_zero3", "--ckpt_model", parts, "--output_dir", model),
        )  # fmt: skip

    flags = flags_of(config, "split", "filter_history", "num_beams", "metrics", "test_prompt_ids", "bf16")
    places = [*where, "--index_file", index_file, "--ckpt_model", model, "--results_file", config.results_file]
    places += [*flags_of(config, "test_batch_size"), *device]
    places += ["--lora", *flags_of(config, "base_model")] if config.use_lora else []

    def evaluate() -> None:
        run_process("src.seqrec.metric_ddp", *flags, *places, ranks=ranks)
        complete_results(config, work / "finetuned")

    stages.run("evaluation", flags, lambda: [config.results_file, predictions_path(config.results_file)], evaluate)


def run_folder(runs: Path) -> Path:
    """The run of the RQ-VAE: there is one, since `train_rqvae` claims the folder and goes on with what it finds."""
    (folder,) = (path.parent for path in runs.glob("*/config.json"))
    return folder


def train_rqvae(stages: Stages, runs: Path, flags: list) -> None:
    """Trains, or goes on from the newest evaluation of a killed run."""
    stages.claim(runs)
    for folder in runs.glob("*/"):
        if not (folder / "last.pth").is_file():  # killed before it could save anything
            shutil.rmtree(folder)
    resume = [word for path in runs.glob("*/last.pth") for word in ("--resume", path.parent)]
    run_process("index.main", *flags, "--ckpt_dir", runs, *resume)


def finetune(stages: Stages, output: Path, flags: list, ranks: int) -> None:
    """Trains, or goes on from the newest checkpoint of a killed run."""
    stages.claim(output)
    resume = ["--resume_from_checkpoint", True] if any(output.glob("checkpoint-*")) else []
    run_process("src.finetune.train_ddp", *flags, *resume, ranks=ranks)


def complete_results(config: LcrecConfig, finetuned: Path) -> None:
    """Adds what results of baselines carry to those of the evaluation."""
    results, run = read_results(config.results_file), read_json(finetuned / "run.json")
    settings = {
        "tasks": run["tasks"],
        "base_family": results["model"],
        "train_samples": run["train_samples"],
        "best_eval_loss": run.get("best_eval_loss"),
    }
    change_results(config.results_file, model=NAME, settings=settings, config=plain(config))
