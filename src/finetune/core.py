"""finetune(config): checks, then the training run. Every entry of src.finetune ends here."""

import time
from dataclasses import replace
from pathlib import Path

from src.common.artifacts import check_writable
from src.common.cli import check_at_least
from src.common.distributed import check_device_name
from src.common.images import undecodable
from src.common.log import logger, setup_logging
from src.families import check_base_model, family_of
from src.finetune.config import RESUME_NEWEST, FinetuneConfig
from src.tasks.catalogue import Catalogue, Split, load_catalogue
from src.tasks.task import Task, load_task


def finetune(config: FinetuneConfig) -> Path:
    """Trains one model and leaves it in `config.output_dir`.

    Returns:
        the folder: model or adapter, tokenizer or processor, token_meta.json, trainer_log.jsonl, run.json.

    Raises:
        ValueError, FileNotFoundError: settings or data are at fault; said before any model is loaded.
    """
    started = time.time()
    setup_logging()
    config, tasks, catalogue = check(config)
    from src.finetune.training import run  # imports torch: after the checks, so that a fault shows at once

    setup_logging(config.output_dir / "train.log")
    return run(config, tasks, catalogue, started)


def check(config: FinetuneConfig) -> tuple[FinetuneConfig, list[Task], Catalogue]:
    """Everything that can be wrong before torch is imported; gives the config with its lists filled up."""
    family = family_of(config.model_type, config.vision, config.entry)
    tasks = [load_task(name) for name in config.tasks]
    if not tasks or len(set(config.tasks)) != len(tasks):
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
        row_length=1, lora_r=1, per_device_batch_size=1, gradient_accumulation_steps=1, num_workers=0,
        save_and_eval_steps=1, save_total_limit=1, logging_step=1,
    )  # fmt: skip
    if not 0 < config.ratio_dataset <= 1:
        raise ValueError(f"--ratio_dataset {config.ratio_dataset} is a share of the training users, over 0 and up to 1")
    if not 0 <= config.image_augment < 1:
        raise ValueError(f"--image_augment {config.image_augment} is a share of a picture's size, from 0 and below 1")
    if config.share_prefix and not config.only_train_response:
        raise ValueError("--share_prefix learns answers only: leave out --only_train_response False")
    if config.use_lora and config.freeze != "none":
        raise ValueError("--freeze is for full fine-tuning: with --use_lora all old parameters are frozen anyway")
    if config.deepspeed and not Path(config.deepspeed).is_file():
        raise FileNotFoundError(f"--deepspeed {config.deepspeed} does not exist; see config/")
    if config.bf16 and config.fp16:
        raise ValueError("--bf16 and --fp16 exclude each other: keep --bf16 where the GPU knows it")
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
    catalogue = load_catalogue(config.data_path, config.dataset, config.index_file, config.image_path)
    check_splits(config, tasks, catalogue)
    pictured = [task.name for task in tasks if task.needs_images]
    if pictured:
        catalogue = check_images(catalogue, pictured, config.skip_bad_images)
    check_writable(config.output_dir / "run.json")
    return replace(config, train_prompt_sample_num=prompts, train_data_sample_num=caps), tasks, catalogue


def check_splits(config: FinetuneConfig, tasks: list[Task], catalogue: Catalogue) -> None:
    """Each task must have something to train on, and, where the best checkpoint is chosen, something to choose by."""
    holdout = config.item_split == "holdout"

    def size(task: Task, split: Split) -> int:
        return len(
            catalogue.item_split(split, holdout) if task.kind == "item" else catalogue.next_item_targets(split)[0]
        )

    for task in tasks:
        if not size(task, "train"):
            raise ValueError(
                f"the task {task.name} has no training sample in {config.dataset}: its users are too short"
            )
    if config.save_and_eval_strategy != "no" and not any(size(task, "valid") for task in tasks):
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
    bad = undecodable(files.values())
    if bad and not skip_bad:
        raise ValueError(f"{len(bad)} of {len(files)} pictures are broken, the first: {next(iter(bad.values()))}")
    kept = {item: path for item, path in files.items() if path not in bad}
    logger.info("pictures: %d of %d items; %d broken ones left out", len(kept), total, len(bad))
    return replace(catalogue, image_files=kept)
