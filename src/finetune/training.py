"""One training run: model, data, training, saving."""

import time
from pathlib import Path

import torch

from src.collate import TrainingCollator
from src.common.artifacts import TOKEN_META, read_json, write_json
from src.common.distributed import finish, init_process_group, is_main, resolve_device, world_size
from src.common.log import duration, logger
from src.common.record import run_record
from src.common.seed import seed_everything
from src.dataset import Mixture, TaskDataset
from src.finetune.config import RESUME_NEWEST, FinetuneConfig
from src.finetune.trainer import (
    AnswerTrainer,
    CheckpointCallback,
    EpochCallback,
    LogCallback,
    newest_whole_checkpoint,
)
from src.models import (
    Loaded,
    add_lora,
    add_sid_tokens,
    freeze,
    init_sid_rows,
    item_texts,
    load_model,
    num_parameters,
    token_meta,
)
from src.prompt import PromptBuilder, PromptSettings, log_prompt
from src.tasks.catalogue import Catalogue
from src.tasks.task import Task

DEBUG_SAMPLES, DEBUG_STEPS = 64, 8
GRADIENT_CHECKPOINTING = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


def run(config: FinetuneConfig, tasks: list[Task], catalogue: Catalogue, started: float) -> Path:
    """Trains one model on what `src.finetune.core.check` gave; see `finetune` there.

    Args:
        started: when the run began, in unix seconds; a resumed one also counts the time up to its checkpoint.
    """
    check_choices(config)
    device = resolve_device(config.device)
    if config.fp16 and device.type == "cpu":
        raise ValueError("--fp16 needs a GPU: leave it out on a CPU")
    init_process_group(device)
    checkpoint = checkpoint_to_resume(config)
    started -= seconds_until(checkpoint)
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
        record["seconds"] = round(time.time() - started, 1)
        (loaded.processor or loaded.tokenizer).save_pretrained(folder)
        write_json(folder / TOKEN_META, meta)
        write_json(folder / "run.json", record, indent=2)

    trainer = train(config, loaded, train_parts, valid_parts, device, checkpoint, complete)
    save(config, trainer)
    if is_main():
        record["best_eval_loss"] = trainer.state.best_metric
        record["steps"] = trainer.state.global_step
        complete(config.output_dir)
    took = duration(time.time() - started)
    logger.info("fine-tuned model in %s after %s; curve in trainer_log.jsonl", config.output_dir, took)
    finish()
    return config.output_dir


def prompt_settings(config: FinetuneConfig) -> PromptSettings:
    return PromptSettings(
        config.max_his_len, config.his_sep, config.add_prefix, config.max_his_images, config.model_max_length
    )


def input_files(catalogue: Catalogue, index_file: Path) -> dict[str, Path]:
    paths = catalogue.paths
    return {"interactions": paths.file("inter.json"), "items": paths.file("item.json"), "index": Path(index_file)}


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


def checkpoint_to_resume(config: FinetuneConfig) -> Path | None:
    """What --resume_from_checkpoint names; None: the start."""
    asked = config.resume_from_checkpoint
    if not asked:
        return None
    if asked.lower() not in RESUME_NEWEST:
        return Path(asked)
    newest = newest_whole_checkpoint(config.output_dir)
    logger.info("resuming from %s", newest or "the start: no whole checkpoint yet")
    return newest


def seconds_until(checkpoint: Path | None) -> float:
    """How long the runs took that led to a checkpoint."""
    if checkpoint is None or not (checkpoint / "run.json").is_file():
        return 0.0
    return read_json(checkpoint / "run.json").get("seconds", 0.0)


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


def train(config, loaded, train_parts, valid_parts, device, checkpoint, complete):
    """Runs the Trainer to its end, from a checkpoint or the start; `complete(folder)` adds what a checkpoint needs."""
    from transformers import PrinterCallback, TrainingArguments

    strategy = config.save_and_eval_strategy
    vision_trains = loaded.family.vision and not config.use_lora and config.freeze not in ("visual", "all")
    arguments = TrainingArguments(
        output_dir=str(config.output_dir),
        seed=config.seed,
        data_seed=config.seed,
        per_device_train_batch_size=config.per_device_batch_size,
        per_device_eval_batch_size=max(16, config.per_device_batch_size),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        **(GRADIENT_CHECKPOINTING if config.use_gradient_checkpointing else {}),
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
        disable_tqdm=True,  # LogCallback says how far it is, in logs and on terminals alike
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a process has one GPU; with more the Trainer takes nn.DataParallel
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
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def save(config: FinetuneConfig, trainer) -> None:
    """The weights: the whole model, or with LoRA the adapter and the new rows."""
    if not config.use_lora:
        trainer.save_model(str(config.output_dir))
        return
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if config.deepspeed else None
    if is_main():
        trainer.model.save_pretrained(config.output_dir, state_dict=state, save_embedding_layers=False)
