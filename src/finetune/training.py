"""One training run: model, data, training, saving."""

import random
import shutil
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from src.collate import TrainingCollator
from src.common.artifacts import TOKEN_META, file_hash, share_weights, write_json
from src.common.distributed import finish, is_main, resolve_device, world_size
from src.common.log import duration, logger
from src.common.machines import check_same, check_shared
from src.common.record import input_entries, run_record, write_record
from src.common.seed import seed_everything
from src.common.sid import SidIndex
from src.dataset import Mixture, TaskDataset, part_names
from src.families import model_input
from src.finetune.config import FinetuneConfig
from src.finetune.engine import check_device, engine_of, make_arguments, start_engine
from src.finetune.memory import batch_of, device_memory, expected_memory, size
from src.finetune.resuming import check_resumed, checkpoint_to_resume, seconds_until
from src.finetune.trainer import (
    AnswerTrainer,
    CheckpointCallback,
    EpochCallback,
    LogCallback,
    PicturedCollator,
    remains,
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
from src.prompt import PromptBuilder, log_prompt
from src.prompt_settings import PromptSettings
from src.spelling import num_digits
from src.tasks.catalogue import Catalogue, join_catalogues
from src.tasks.task import Task

DEBUG_SAMPLES = 64


def run(config: FinetuneConfig, tasks: list[Task], catalogues: list[Catalogue], started: float) -> Path:
    """Trains one model on what `src.finetune.core.check` gave; see `finetune` there.

    Args:
        started: when the run began, in unix seconds; a resumed one also counts the time up to its checkpoint.
    """
    check_choices(config)
    device = resolve_device(config.device)
    check_device(config, device)
    arguments = None
    if not config.preflight:
        start_engine(config, device)
        check_shared(config.output_dir, "--output_dir")
        arguments = make_arguments(config, device)  # before the model: it tells transformers that ZeRO-3 cuts weights
    checkpoint = checkpoint_to_resume(config)
    started -= seconds_until(checkpoint)
    seed_everything(config.seed)
    index, items = join_catalogues(catalogues)
    loaded, way, base_vocab = prepare_model(config, index, items)
    settings = prompt_settings(config, index)
    builders = [
        PromptBuilder(catalogue, loaded.tokenizer, loaded.processor, settings, merge_size=loaded.merge_size)
        for catalogue in catalogues
    ]
    train_parts, valid_parts = make_datasets(config, tasks, builders)
    sizes = {}
    for name, part in zip(part_names(train_parts), train_parts, strict=True):
        log_prompt(part.builder, name, part[0])
        sizes[name] = len(part)
    total, training = num_parameters(loaded.model)
    ranks = config.preflight or world_size()
    global_batch = config.per_device_batch_size * config.gradient_accumulation_steps * ranks
    logger.info(
        "%s parameters, %s train; SID rows start from: %s; %s training samples, global batch %d = %d ranks x %d x %d",
        f"{total:,}", f"{training:,}", way, f"{sum(map(len, train_parts)):,}", global_batch,
        ranks, config.per_device_batch_size, config.gradient_accumulation_steps,
    )  # fmt: skip
    collator = make_collator(config, loaded, [*train_parts, *valid_parts], device)
    say_memory(config, loaded, train_parts, collator, ranks)
    if config.preflight:
        return config.output_dir
    record = run_record(config, named_by_dataset(catalogues, Catalogue.input_files))
    check_same({name: file["sha256"] for name, file in record["inputs"].items()}, "data")
    if is_main():
        record["inputs"] |= input_entries({"base model": model_input(config.base_model)})
        if any(task.needs_images for task in tasks):
            record["inputs"] |= named_by_dataset(catalogues, lambda one: one.input_pictures(config.image_path))
    record |= {
        "artefact": "fine-tuned model",
        "tasks": [task.name for task in tasks],
        "templates_sha256": {task.name: task.templates_sha256 for task in tasks},
        "prompt_settings": vars(settings),
        "index_file": ",".join(str(catalogue.index.file) for catalogue in catalogues),
        "sid_init": way,
        "world_size": ranks,
        "global_batch_size": global_batch,
        "train_samples": sizes,
        "parameters": {"total": total, "training": training},
    }
    check_resumed(checkpoint, record)
    if is_main():
        for folder in remains(config.output_dir):
            if checkpoint is None or folder.resolve() != checkpoint.resolve():
                shutil.rmtree(folder)
        write_record(config.output_dir / "run.json", record)

    hashes = {catalogue.name: file_hash(catalogue.index.file) for catalogue in catalogues}
    meta = token_meta(index, base_vocab, config.add_sid_tokens) | {"indexes": hashes}

    def complete(folder: Path) -> None:
        """What a folder needs beside the weights to be evaluated."""
        record["seconds"] = round(time.time() - started, 1)
        (loaded.processor or loaded.tokenizer).save_pretrained(folder)
        share_weights(folder)
        write_json(folder / TOKEN_META, meta)
        write_record(folder / "run.json", record, {"model": folder} if folder == config.output_dir else None)

    if checkpoint and is_main() and checkpoint.parent == config.output_dir and not (checkpoint / "run.json").is_file():
        complete(checkpoint)  # the run was killed after it had written the weights, and before what belongs to them
    trainer = train(config, arguments, loaded, train_parts, valid_parts, collator, checkpoint, complete)
    save(config, trainer)
    if is_main():
        record["best_eval_loss"] = trainer.state.best_metric
        record["steps"] = trainer.state.global_step
        complete(config.output_dir)
    took = duration(time.time() - started)
    logger.info("fine-tuned model in %s after %s; curve in trainer_log.jsonl", config.output_dir, took)
    finish()
    return config.output_dir


def prompt_settings(config: FinetuneConfig, index: SidIndex) -> PromptSettings:
    return PromptSettings(
        config.max_his_len, config.his_sep, config.add_prefix, config.max_his_images, config.model_max_length,
        config.prompt_lang, 0 if config.add_sid_tokens else num_digits(index),
    )  # fmt: skip


def named_by_dataset(catalogues: list[Catalogue], inputs: Callable[[Catalogue], Mapping[str, Any]]) -> dict[str, Any]:
    """Inputs of every dataset; with several each name begins with the dataset's."""
    several = len(catalogues) > 1
    return {
        f"{catalogue.name} {name}" if several else name: entry
        for catalogue in catalogues
        for name, entry in inputs(catalogue).items()
    }


def check_choices(config: FinetuneConfig) -> None:
    """Values of flags whose choices are those of transformers."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    for flag, value, choices, own in (
        ("optim", config.optim, OptimizerNames, ["muon"]),
        ("lr_scheduler_type", config.lr_scheduler_type, SchedulerType, []),
    ):
        names = [*(choice.value for choice in choices), *own]
        if value not in names:
            raise ValueError(f"unknown --{flag} {value!r}: choose from {', '.join(names)}")


def prepare_model(config: FinetuneConfig, index: SidIndex, items: dict[int, dict]) -> tuple[Loaded, str, int]:
    """The base model with SID tokens, ready to train; how their rows began; the size of the old vocabulary."""
    engine = engine_of(config)
    dtype = torch.bfloat16 if config.bf16 and (config.use_lora or config.deepspeed) else torch.float32
    loaded = load_model(config.base_model, dtype, model_type=config.model_type, weights=not config.preflight)
    base_vocab = len(loaded.tokenizer)
    sid_ids, way = [], "no new rows"
    if config.add_sid_tokens:
        sid_ids = add_sid_tokens(loaded, index.all_tokens)
        way = "left empty"  # by a preflight, which loads no weights
        if not config.preflight:
            way = init_sid_rows(loaded, sid_ids, index, config.sid_init, item_texts(items), seed=config.seed)
    if config.use_gradient_checkpointing:
        loaded.model.enable_input_require_grads()
    if config.use_lora:
        model = add_lora(
            loaded, sid_ids, config.lora_r, config.lora_alpha, config.lora_dropout,
            modules_to_save=config.lora_modules_to_save, one_dtype=engine.name == "deepspeed",
            **({"targets": config.lora_target_modules} if config.lora_target_modules else {}),
        )  # fmt: skip
        loaded = loaded._replace(model=model)
    else:
        freeze(loaded, config.freeze, sid_ids)
    return loaded, way, base_vocab


def make_datasets(
    config: FinetuneConfig, tasks: list[Task], builders: list[PromptBuilder]
) -> tuple[list[TaskDataset], list[TaskDataset]]:
    """Training and validation samples of each dataset and task. Caps and ratios shrink the training parts only."""
    holdout = config.item_split == "holdout"
    train_parts, valid_parts = [], []
    numbers = list(zip(tasks, config.train_prompt_sample_num, config.train_data_sample_num, strict=True))
    for task_id, (builder, (task, prompts, cap)) in enumerate(product(builders, numbers)):
        common: dict[str, Any] = {"task_id": task_id, "seed": config.seed, "holdout": holdout}
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
                f"the task {task.name} has no training sample in {builder.catalogue.name}: every user is too short"
            )
    return train_parts, valid_parts


def make_collator(
    config: FinetuneConfig, loaded: Loaded, parts: list[TaskDataset], device: torch.device
) -> TrainingCollator | PicturedCollator:
    """What makes a batch of samples; each shows a picture where the engine needs that and there are any."""
    row_length = 0 if device.type == "cpu" else config.row_length  # see src.attention
    collator = TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope, row_length)
    if not (engine_of(config).cuts_weights and loaded.family.vision):
        return collator
    pictured = (part[number] for part in parts if part.task.needs_images for number in range(len(part)))
    sample = next((sample for sample in pictured if sample.images), None)
    return collator if sample is None else PicturedCollator(collator, sample)


def say_memory(config: FinetuneConfig, loaded: Loaded, parts: list[TaskDataset], collator, ranks: int) -> None:
    """One line about the memory that each GPU will need, by a batch drawn from the training samples."""
    mixture, count = Mixture(parts), config.per_device_batch_size
    rng = random.Random(config.seed)
    inputs = collator([mixture[rng.randrange(len(mixture))] for _ in range(count)])
    batch, engine = batch_of(inputs, count, loaded.model), engine_of(config)
    half = config.bf16 or config.fp16
    memory = expected_memory(loaded.model, batch, engine, ranks, config.optim, half, config.use_gradient_checkpointing)
    logger.info(memory.describe(batch, engine, ranks))
    there = device_memory()
    if there is not None and memory.total() > there:
        logger.warning(
            "that is more than the %s of this GPU: lower --per_device_batch_size, take --use_gradient_checkpointing,"
            " --use_lora or --deepspeed ./config/ds_z3_bf16.json, or more GPUs", size(there),
        )  # fmt: skip


def train(config, arguments, loaded, train_parts, valid_parts, collator, checkpoint, complete):
    """Runs the Trainer to its end, from a checkpoint or the start; `complete(folder)` adds what a checkpoint needs."""
    from transformers import PrinterCallback

    mixture = Mixture(train_parts)
    trainer = AnswerTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=mixture,
        eval_dataset=valid_parts[0] if config.save_and_eval_strategy != "no" else None,
        valid_parts=valid_parts,
        muon=config.optim == "muon",
        in_step=engine_of(config).cuts_weights,
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
