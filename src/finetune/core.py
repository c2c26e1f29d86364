"""finetune(config): checks, model, data, training, saving. Every entry of src.finetune ends here."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from src.common.artifacts import write_json
from src.common.distributed import finish, init_process_group, is_main, resolve_device, world_size
from src.common.images import undecodable
from src.common.log import logger, setup_logging
from src.common.record import run_record
from src.common.seed import seed_everything
from src.dataset import Mixture, TaskDataset
from src.finetune.config import FinetuneConfig
from src.models import (
    TOKEN_META,
    Loaded,
    add_lora,
    add_sid_tokens,
    family_of,
    freeze,
    init_sid_rows,
    item_texts,
    load_model,
    num_parameters,
    token_meta,
)
from src.prompt import PromptBuilder, PromptSettings, log_prompt
from src.tasks.catalogue import Catalogue, Split, load_catalogue
from src.tasks.task import Task, load_task

DEBUG_SAMPLES, DEBUG_STEPS = 64, 8
RESUME_NEWEST = ("true", "auto")  # values of --resume_from_checkpoint that are no folder


def prompt_settings(config: FinetuneConfig) -> PromptSettings:
    return PromptSettings(
        config.max_his_len, config.his_sep, config.add_prefix, config.max_his_images, config.model_max_length
    )


def finetune(config: FinetuneConfig) -> Path:
    """Trains one model and leaves it in `config.output_dir`.

    Returns:
        the folder: model or adapter, tokenizer or processor, token_meta.json, trainer_log.jsonl, run.json.

    Raises:
        ValueError, FileNotFoundError: settings or data are at fault; said before any model is loaded.
    """
    started = time.time()
    device = resolve_device(config.device)
    init_process_group(device)
    setup_logging(config.output_dir / "train.log")
    config, tasks, catalogue = check(config)
    seed_everything(config.seed)
    loaded, way, base_vocab = prepare_model(config, catalogue)
    builder = PromptBuilder(
        catalogue, loaded.tokenizer, loaded.processor, prompt_settings(config), merge_size=loaded.merge_size
    )
    train_parts, valid_parts = make_datasets(config, tasks, builder)
    for part in train_parts:
        log_prompt(builder, part.task.name, part[0])
    total, training = num_parameters(loaded.model)
    global_batch = config.per_device_batch_size * config.gradient_accumulation_steps * world_size()
    logger.info(
        "%s parameters, %s train; SID rows start from: %s; %s training samples, global batch %d = %d ranks x %d x %d",
        f"{total:,}", f"{training:,}", way, f"{sum(map(len, train_parts)):,}", global_batch,
        world_size(), config.per_device_batch_size, config.gradient_accumulation_steps,
    )  # fmt: skip
    index_file = catalogue.sid_index.path
    record = run_record(config, input_files(catalogue, index_file)) | {
        "tasks": [task.name for task in tasks],
        "prompt_settings": vars(prompt_settings(config)),
        "index_file": str(index_file),
        "sid_init": way,
        "world_size": world_size(),
        "global_batch_size": global_batch,
        "train_samples": {part.task.name: len(part) for part in train_parts},
        "parameters": {"total": total, "training": training},
    }
    if is_main():
        write_json(config.output_dir / "run.json", record, indent=2)

    meta = token_meta(catalogue.sid_index, base_vocab)

    def complete(folder: Path) -> None:
        """What a folder needs beside the weights to be evaluated."""
        (loaded.processor or loaded.tokenizer).save_pretrained(folder)
        write_json(folder / TOKEN_META, meta)
        write_json(folder / "run.json", record, indent=2)

    trainer = train(config, loaded, train_parts, valid_parts, device, complete)
    save(config, trainer)
    if is_main():
        record["seconds"] = round(time.time() - started, 1)
        record["best_eval_loss"] = trainer.state.best_metric
        record["steps"] = trainer.state.global_step
        complete(config.output_dir)
    logger.info(
        "fine-tuned model in %s after %.0f s; curve in trainer_log.jsonl", config.output_dir, time.time() - started
    )
    finish()
    return config.output_dir


def check(config: FinetuneConfig) -> tuple[FinetuneConfig, list[Task], Catalogue]:
    """Everything that can be wrong before a model is loaded; gives the config with its lists filled up."""
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
    check_choices(config)
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
    resume = config.resume_from_checkpoint
    if resume and resume.lower() not in RESUME_NEWEST and not Path(resume).is_dir():
        raise FileNotFoundError(f"--resume_from_checkpoint {resume} is no folder: give a checkpoint-N, or True")
    catalogue = load_catalogue(config.data_path, config.dataset, config.index_file, config.image_path)
    check_splits(config, tasks, catalogue)
    pictured = [task.name for task in tasks if task.needs_images]
    if pictured:
        catalogue = check_images(catalogue, pictured, config.skip_bad_images)
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


def check_choices(config: FinetuneConfig) -> None:
    """Values of flags whose choices are those of transformers."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    for flag, value, choices in (
        ("optim", config.optim, OptimizerNames),
        ("lr_scheduler_type", config.lr_scheduler_type, SchedulerType),
    ):
        names = [choice.value for choice in choices]
        if value not in names:
            raise ValueError(f"unknown --{flag} {value!r}: choose from {', '.join(names)}")


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


def input_files(catalogue: Catalogue, index_file: Path) -> dict[str, Path]:
    paths = catalogue.paths
    return {"interactions": paths.file("inter.json"), "items": paths.file("item.json"), "index": Path(index_file)}


def prepare_model(config: FinetuneConfig, catalogue: Catalogue) -> tuple[Loaded, str, int]:
    """The base model with SID tokens, ready to train; how their rows began; the size of the old vocabulary."""
    if config.deepspeed:
        init_deepspeed(config)
    dtype = torch.bfloat16 if config.bf16 and (config.use_lora or config.deepspeed) else torch.float32
    loaded = load_model(config.base_model, dtype, model_type=config.model_type)
    base_vocab = len(loaded.tokenizer)
    sid_ids = add_sid_tokens(loaded, catalogue.sid_index.all_tokens)
    way = init_sid_rows(
        loaded, sid_ids, catalogue.sid_index, config.sid_init, item_texts(catalogue.items), seed=config.seed
    )
    if config.use_gradient_checkpointing:
        loaded.model.enable_input_require_grads()
    if config.use_lora:
        model = add_lora(
            loaded, sid_ids, config.lora_r, config.lora_alpha, config.lora_dropout,
            modules_to_save=config.lora_modules_to_save,
            **({"targets": config.lora_target_modules} if config.lora_target_modules else {}),
        )  # fmt: skip
        loaded = loaded._replace(model=model)
    else:
        freeze(loaded, config.freeze, sid_ids)
    return loaded, way, base_vocab


def init_deepspeed(config: FinetuneConfig) -> None:
    """Starts DeepSpeed's process group before a model is made, which ZeRO-3 needs."""
    import deepspeed
    import deepspeed.ops

    on_cpu = resolve_device(config.device).type == "cpu"
    if on_cpu:  # skips a C++ op that takes a minute to build and that gloo does not need
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else None)


def make_datasets(
    config: FinetuneConfig, tasks: list[Task], builder: PromptBuilder
) -> tuple[list[TaskDataset], list[TaskDataset]]:
    """Training and validation samples of each task. Caps and ratios shrink the training part only."""
    holdout = config.item_split == "holdout"
    train_parts, valid_parts = [], []
    numbers = zip(config.train_prompt_sample_num, config.train_data_sample_num, strict=True)
    for task_id, (task, (prompts, cap)) in enumerate(zip(tasks, numbers, strict=True)):
        common = {"task_id": task_id, "seed": config.seed, "holdout": holdout}
        common["learn_prompt"] = not config.only_train_response
        train_parts.append(
            TaskDataset(
                task, builder, "train", prompts_per_example=prompts,
                max_examples=min(cap or DEBUG_SAMPLES, DEBUG_SAMPLES) if config.debug else cap,
                user_ratio=config.ratio_dataset, share_prefix=config.share_prefix,
                image_augment=config.image_augment, **common,
            )
        )  # fmt: skip
        valid_parts.append(
            TaskDataset(
                task, builder, "valid", prompts_per_example=config.valid_prompt_sample_num,
                max_examples=DEBUG_SAMPLES if config.debug else config.max_valid_samples,
                prompt_ids=None if config.valid_prompt_id < 0 else [config.valid_prompt_id], **common,
            )
        )  # fmt: skip
        if not len(train_parts[-1]):
            raise ValueError(
                f"the task {task.name} has no training sample in {config.dataset}: every user is too short"
            )
    return train_parts, valid_parts


def train(config, loaded, train_parts, valid_parts, device, complete):
    """Runs the Trainer to its end, from a checkpoint if asked; `complete(folder)` adds what a checkpoint needs."""
    from transformers import TrainingArguments

    from src.collate import TrainingCollator
    from src.finetune.trainer import (
        AnswerTrainer,
        CheckpointCallback,
        EpochCallback,
        LogCallback,
        newest_whole_checkpoint,
    )

    strategy = config.save_and_eval_strategy
    vision_trains = loaded.family.vision and not config.use_lora and config.freeze not in ("visual", "all")
    arguments = TrainingArguments(
        output_dir=str(config.output_dir),
        seed=config.seed,
        data_seed=config.seed,
        per_device_train_batch_size=config.per_device_batch_size,
        per_device_eval_batch_size=max(16, config.per_device_batch_size),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        gradient_checkpointing=config.use_gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.use_gradient_checkpointing else None,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=DEBUG_STEPS if config.debug else config.max_steps,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_ratio,  # a number below 1 is a share of all steps
        lr_scheduler_type=config.lr_scheduler_type,
        optim=config.optim,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        logging_steps=config.logging_step,
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=config.save_and_eval_steps if strategy == "steps" else None,
        save_steps=config.save_and_eval_steps,
        save_total_limit=config.save_total_limit,
        load_best_model_at_end=strategy != "no",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        bf16=config.bf16,
        fp16=config.fp16,
        use_cpu=device.type == "cpu",  # without it several CPU ranks would each train alone on all the data
        deepspeed=config.deepspeed,
        ddp_find_unused_parameters=vision_trains and not config.deepspeed,
        dataloader_num_workers=config.num_workers,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[config.report_to] if config.report_to != "none" else [],
        run_name=config.run_name or f"{config.dataset}-{config.output_dir.name}",
        average_tokens_across_devices=True,
    )
    mixture = Mixture(train_parts)
    collator = TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope, config.row_length)
    trainer = AnswerTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=mixture,
        eval_dataset=valid_parts[0] if strategy != "no" else None,
        valid_parts=valid_parts,
        data_collator=collator,
        callbacks=[
            EpochCallback(mixture),
            CheckpointCallback(complete),
            LogCallback(config.output_dir / "trainer_log.jsonl"),
        ],
    )
    resume = config.resume_from_checkpoint
    if resume is not None and resume.lower() in RESUME_NEWEST:
        resume = newest_whole_checkpoint(config.output_dir)
        logger.info("resuming from %s", resume or "the start: no whole checkpoint yet")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def save(config: FinetuneConfig, trainer) -> None:
    """The weights: the whole model, or with LoRA the adapter and the new rows."""
    if not config.use_lora:
        trainer.save_model(str(config.output_dir))
        return
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if config.deepspeed else None
    if is_main():
        trainer.model.save_pretrained(config.output_dir, state_dict=state, save_embedding_layers=False)
