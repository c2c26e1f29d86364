"""finetune(config): checks, then the training run. Every entry of src.finetune ends here."""

import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from src.common.artifacts import check_writable
from src.common.cli import check_at_least
from src.common.distributed import check_device_name
from src.common.log import logger, setup_logging
from src.families import check_base_model, family_of
from src.finetune.config import RESUME_NEWEST, FinetuneConfig
from src.finetune.engine import check_engine, with_accelerate
from src.tasks.catalogue import Catalogue, join_catalogues, load_catalogue, whole_images
from src.tasks.task import Split, Task, load_task
from src.tasks.texts import add_texts


def finetune(config: FinetuneConfig) -> Path:
    """Trains one model and leaves it in `config.output_dir`.

    Returns:
        the folder: model or adapter, tokenizer or processor, token_meta.json, trainer_log.jsonl, run.json.

    Raises:
        ValueError, FileNotFoundError: settings or data are at fault; said before any model is loaded.
    """
    started = time.time()
    setup_logging()
    config, tasks, catalogues = check(config)
    from src.finetune.training import run  # imports torch: after the checks, so that a fault shows at once

    setup_logging(config.output_dir / "train.log")
    return run(config, tasks, catalogues, started)


def check(config: FinetuneConfig) -> tuple[FinetuneConfig, list[Task], list[Catalogue]]:
    """Everything that can be wrong before torch is imported; gives the config with its lists filled up."""
    config, tasks = check_settings(config)
    catalogues = load_catalogues(config, tasks)
    check_splits(config, tasks, catalogues)
    pictured = [task.name for task in tasks if task.needs_images]
    if pictured:
        catalogues = [check_images(catalogue, pictured, config.skip_bad_images) for catalogue in catalogues]
    check_output_dir(config)
    check_writable(config.output_dir / "run.json")
    return config, tasks, catalogues


def check_settings(config: FinetuneConfig) -> tuple[FinetuneConfig, list[Task]]:
    """The part of `check` that needs no data."""
    config = with_accelerate(config)
    family = family_of(config.model_type, config.vision, config.entry)
    tasks = [load_task(name, config.prompt_lang) for name in config.tasks]
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise ValueError(f"--tasks names no task, or one twice: {','.join(config.tasks)}")
    prompts = config.train_prompt_sample_num or (1,) * len(tasks)
    caps = config.train_data_sample_num or (0,) * len(tasks)
    for flag, values, least in (("train_prompt_sample_num", prompts, 1), ("train_data_sample_num", caps, 0)):
        if len(values) != len(tasks) or min(values) < least:
            raise ValueError(
                f"--{flag} needs one number from {least} for each of {len(tasks)} tasks, got {list(values)}"
            )
    for task in tasks:
        if task.needs_images and not family.vision:
            raise ValueError(
                f"the task {task.name} shows pictures, which a {config.model_type} cannot see: leave it out"
            )
        if not -1 <= config.valid_prompt_id < len(task.templates):
            raise ValueError(
                f"--valid_prompt_id {config.valid_prompt_id}: {task.name} has wordings 0 to {len(task.templates) - 1}"
            )
    check_at_least(
        config, valid_prompt_sample_num=1, max_valid_samples=0, max_his_len=0, max_his_images=0, model_max_length=1,
        row_length=1, lora_r=1, preflight=0, per_device_batch_size=1, gradient_accumulation_steps=1, num_workers=0,
        save_and_eval_steps=1, save_total_limit=1, logging_step=1,
    )  # fmt: skip
    check_rates(config)
    if not 0 < config.ratio_dataset <= 1:
        raise ValueError(f"--ratio_dataset {config.ratio_dataset} is a share of the training users, over 0 and up to 1")
    if not 0 <= config.image_augment < 1:
        raise ValueError(f"--image_augment {config.image_augment} is a share of a picture's size, from 0 and below 1")
    if config.share_prefix and not config.only_train_response:
        raise ValueError("--share_prefix learns answers only: leave out --only_train_response False")
    if config.use_lora and config.freeze != "none":
        raise ValueError("--freeze is for full fine-tuning: with --use_lora all old parameters are frozen anyway")
    for flag in ("lora_target_modules", "lora_modules_to_save"):
        if getattr(config, flag) and not config.use_lora:
            raise ValueError(f"--{flag} is for --use_lora: without it everything trains. Leave it out")
    if config.entry == "train_muon" and config.optim != "muon":
        raise ValueError(f"--optim {config.optim}: train_muon is for Muon. Use train_ddp or train_ddp_vl")
    if not config.add_sid_tokens and (config.sid_init != "auto" or config.freeze == "only_embeddings"):
        flag = "--freeze only_embeddings" if config.sid_init == "auto" else f"--sid_init {config.sid_init}"
        raise ValueError(f"{flag} is about new tokens, and {config.entry} adds none: leave it out")
    if config.bf16 and config.fp16:
        raise ValueError("--bf16 and --fp16 exclude each other: keep --bf16 where the GPU knows it")
    check_engine(config)
    if config.report_to != "none" and not find_spec(config.report_to):
        raise ValueError(f"--report_to {config.report_to} needs its package: pip install {config.report_to}")
    if check_device_name(config.device).startswith("cuda:"):
        raise ValueError(
            f"--device {config.device}: training takes --device cuda; choose GPUs by CUDA_VISIBLE_DEVICES, and their"
            f" number by torchrun --nproc_per_node"
        )
    resume = config.resume_from_checkpoint
    if resume and resume.lower() not in RESUME_NEWEST and not Path(resume, "trainer_state.json").is_file():
        why = "holds no trainer_state.json" if Path(resume).is_dir() else "is no folder"
        raise FileNotFoundError(f"--resume_from_checkpoint {resume} {why}: give a checkpoint-N, or True for the newest")
    check_base_model(config.base_model, config.model_type)
    whole = replace(config, vision=family.vision, train_prompt_sample_num=prompts, train_data_sample_num=caps)
    return whole, tasks


def check_rates(config: FinetuneConfig) -> None:
    """Refuses settings by which nothing would be learnt, or that the optimizer refuses after the model was loaded."""
    if (config.epochs <= 0 and config.max_steps < 0) or config.max_steps == 0:
        raise ValueError(f"--epochs {config.epochs:g} --max_steps {config.max_steps} train nothing: raise one of them")
    if config.lora_alpha <= 0:
        raise ValueError(f"--lora_alpha {config.lora_alpha}: it must be above 0")
    for name in ("warmup_ratio", "lora_dropout", "adam_beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: it must be at least 0 and below 1")
    check_at_least(config, learning_rate=0, weight_decay=0, max_grad_norm=0, seed=0)


def check_output_dir(config: FinetuneConfig) -> None:
    """Refuses a folder with another run, whose weights or checkpoints would be taken for those of this one."""
    folder, resume = config.output_dir, config.resume_from_checkpoint
    found = [*sorted(folder.glob("checkpoint-*")), folder / "adapter_config.json", folder / "config.json"]
    found = [path for path in found if path.exists()]
    if config.preflight or not found:
        return
    if not resume or (resume.lower() not in RESUME_NEWEST and Path(resume).resolve().parent != folder.resolve()):
        raise ValueError(
            f"--output_dir {folder} holds {found[0].name} of an earlier run: go on with that one by"
            f" --resume_from_checkpoint True, give another --output_dir, or remove the folder"
        )
    other, kind, cure = ("adapter_config.json", "a LoRA adapter", "add")
    if config.use_lora:
        other, kind, cure = ("config.json", "a whole model", "leave out")
    if any((place / other).is_file() for place in (folder, *folder.glob("checkpoint-*"))):
        raise ValueError(f"--output_dir {folder} holds {kind} to go on with: {cure} --use_lora")


def load_catalogues(config: FinetuneConfig, tasks: list[Task]) -> list[Catalogue]:
    """Every dataset with what the tasks need of it; their SIDs are of the same levels."""
    names = config.datasets
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--dataset names no dataset, or one twice: {config.dataset}")
    if len(names) > 1 and config.sid_init == "centroid":
        raise ValueError("--sid_init centroid: codebooks of several datasets lie in different spaces. Use text")
    catalogues = [
        add_texts(load_catalogue(config.data_path, name, index_file, config.image_path), tasks)
        for name, index_file in zip(names, config.index_files, strict=True)
    ]
    join_catalogues(catalogues)
    return catalogues


def check_splits(config: FinetuneConfig, tasks: list[Task], catalogues: list[Catalogue]) -> None:
    """Each task must have something to train on, and, where the best checkpoint is chosen, something to choose by."""
    holdout = config.item_split == "holdout"

    def size(task: Task, catalogue: Catalogue, split: Split) -> int:
        next_item = task.kind == "next_item"
        return catalogue.num_targets(split) if next_item else len(task.example_ids(catalogue, split, holdout))

    for task, catalogue in product(tasks, catalogues):
        if not size(task, catalogue, "train"):
            why = {"next_item": "its users are too short", "query": "user.json has no query that may train"}
            raise ValueError(
                f"the task {task.name} has no training sample in {catalogue.name}:"
                f" {why.get(task.kind, 'nothing is left to train on')}"
            )
    if config.save_and_eval_strategy != "no" and not any(size(*pair, "valid") for pair in product(tasks, catalogues)):
        raise ValueError(f"{config.dataset} has no validation sample: give --save_and_eval_strategy no")


def check_images(catalogue: Catalogue, tasks: list[str], skip_bad: bool) -> Catalogue:
    """The catalogue with pictures that decode.

    Raises:
        ValueError: no item has a picture, or one does not decode and `skip_bad` is False.
    """
    files, total = catalogue.image_files, len(catalogue.item_ids)
    if not files:
        raise ValueError(
            f"{', '.join(tasks)} show pictures, and {catalogue.name} has none in {catalogue.paths.folder}: leave the"
            f" tasks out, or fetch the pictures with data_process/download_images.py"
        )
    whole = whole_images(catalogue, files, skip_bad)
    kept = len(whole.image_files)
    logger.info("pictures: %d of %d items; %d broken ones left out", kept, total, len(files) - kept)
    return whole
