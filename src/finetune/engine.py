"""How ranks share a model: plain DDP, DeepSpeed (--deepspeed) or FSDP2 (--fsdp), and what does not go together."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from src.common.artifacts import read_json
from src.common.distributed import init_process_group
from src.common.machines import meet
from src.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

DEBUG_STEPS = 8
GRADIENT_CHECKPOINTING = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


class Engine(NamedTuple):
    """Attributes:
    name: `ddp`, `deepspeed` or `fsdp`.
    stage: what is cut among the ranks: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
    """

    name: str
    stage: int

    @property
    def cuts_weights(self) -> bool:
        """Then all ranks must run the same modules at the same time, for each holds a part of every weight."""
        return self.stage == 3


def with_accelerate(config: FinetuneConfig) -> FinetuneConfig:
    """The config with what the file of `accelerate launch` says, where we have a flag for it.

    transformers would follow that file too, and train otherwise than the flags and the record of the run say.

    Raises:
        ValueError: it contradicts a flag, or says what has no flag.
    """
    told = os.environ.get
    precision = told("ACCELERATE_MIXED_PRECISION")
    if precision is None:  # its launcher always sets it, and nothing else does
        return config
    changes: dict[str, Any] = {}
    if precision != "no":
        others = [flag for flag in ("bf16", "fp16") if flag != precision and getattr(config, flag)]
        if precision not in ("bf16", "fp16") or others:
            against = f"--{others[0]}" if others else "only bf16 and fp16 are known here"
            raise ValueError(
                f"accelerate's config says mixed_precision: {precision}, but {against}: take one of them out"
            )
        changes[precision] = True
    for name, cure in (
        ("FSDP", "distributed_type: MULTI_GPU in its file, and --fsdp config/fsdp2.json here"),
        ("MEGATRON_LM", "distributed_type: MULTI_GPU or DEEPSPEED in its file"),
        ("PARALLELISM_CONFIG", "leave out parallelism_config; to cut weights, --fsdp or --deepspeed here"),
    ):
        if told(f"ACCELERATE_USE_{name}", "false") == "true":
            raise ValueError(f"accelerate's config asks for {name}, which is not taken from there: {cure}")
    if told("ACCELERATE_DYNAMO_BACKEND", "NO") != "NO":
        raise ValueError(
            "accelerate's config asks for torch.compile (dynamo_backend), which GRec does not: take it out"
        )
    if told("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        path = told("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        if path is None:
            raise ValueError(
                "accelerate's config asks for DeepSpeed without a deepspeed_config_file: name one of config/, such as"
                " config/ds_z2_bf16.json, instead of zero_stage and the like"
            )
        if config.deepspeed not in (None, path):
            raise ValueError(f"accelerate's config says {path}, but --deepspeed {config.deepspeed}: leave out the flag")
        changes["deepspeed"] = path
    if told("ACCELERATE_USE_CPU", "False") == "True" and config.device == "auto":
        changes["device"] = "cpu"
    return replace(config, **changes)


def engine_of(config: FinetuneConfig) -> Engine:
    if config.fsdp:
        return Engine("fsdp", 3)
    if config.deepspeed:
        return Engine("deepspeed", int(read_json(config.deepspeed).get("zero_optimization", {}).get("stage", 0)))
    return Engine("ddp", 0)


def check_engine(config: FinetuneConfig) -> None:
    """Refuses what is known not to work, before anything is loaded.

    Raises:
        ValueError, FileNotFoundError: with the reason.
    """
    for flag, path in (("deepspeed", config.deepspeed), ("fsdp", config.fsdp)):
        if path is None:
            continue
        if not Path(path).is_file():
            raise FileNotFoundError(f"--{flag} {path} does not exist; see config/")
        if "RANK" not in os.environ and not config.preflight:
            raise ValueError(f"--{flag} needs torchrun, also for one process: torchrun --nproc_per_node=1 -m ...")
        if config.optim == "muon":
            raise ValueError(
                f"Muon needs plain DDP: it steps along whole matrices, and --{flag} cuts them among the ranks. Leave"
                f" out --{flag}"
            )
    if config.deepspeed and config.fsdp:
        raise ValueError("--deepspeed and --fsdp exclude each other: keep one")
    if config.deepspeed:
        _check_deepspeed(config, config.deepspeed)
    if config.fsdp:
        _check_fsdp(config)


def _check_deepspeed(config: FinetuneConfig, path: str) -> None:
    settings = read_json(path)
    for precision in ("bf16", "fp16"):
        wanted, section = getattr(config, precision), settings.get(precision)
        if wanted and section is None:
            raise ValueError(
                f"--{precision} with --deepspeed {config.deepspeed}, which has no {precision} section: DeepSpeed would"
                f" train in float32. See config/ for one that has it"
            )
        if not wanted and section is not None and section.get("enabled") is True:
            raise ValueError(f"{config.deepspeed} switches {precision} on: give --{precision} too")
    for section, flags in (("optimizer", "--optim, --learning_rate, ..."), ("scheduler", "--lr_scheduler_type, ...")):
        if section in settings:
            raise ValueError(f"{config.deepspeed} names an {section}, which the flags decide ({flags}): take it out")


def _check_fsdp(config: FinetuneConfig) -> None:
    if config.use_lora:
        raise ValueError(
            "--fsdp is for full fine-tuning: checkpoints of PEFT's trainable rows do not survive it. With --use_lora"
            " leave out --fsdp, or use --deepspeed ./config/ds_z3_bf16.json"
        )
    if config.freeze in ("embeddings", "all", "only_embeddings"):
        raise ValueError(f"--freeze {config.freeze} holds old token rows still by their gradient, which --fsdp cuts up")


def check_device(config: FinetuneConfig, device: "torch.device") -> None:
    """What the device rules out.

    Raises:
        ValueError: with the reason.
    """
    if device.type == "cpu" and config.fp16:
        raise ValueError("--fp16 needs a GPU: leave it out on a CPU")
    if device.type == "cpu" and config.fsdp:
        raise ValueError("--fsdp needs GPUs: on CPUs accelerate would train with plain DDP and not say so")


def start_engine(config: FinetuneConfig, device: "torch.device") -> None:
    """Joins the ranks: before a model is made, which ZeRO-3 needs."""
    if not config.deepspeed:
        init_process_group(device)
        return
    import deepspeed
    import deepspeed.ops

    meet()
    if device.type == "cpu":  # skips a C++ op that takes a minute to build and that gloo does not need
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else None)


def make_arguments(config: FinetuneConfig, device: "torch.device") -> "TrainingArguments":
    """The settings of the Trainer. Once they are made, transformers cuts models as it loads them, if ZeRO-3 says so."""
    from transformers import TrainingArguments

    from src.models import quiet_libraries

    quiet_libraries()
    os.environ.setdefault("WANDB_PROJECT", "grec")
    strategy = config.save_and_eval_strategy
    vision_trains = config.vision and not config.use_lora and config.freeze not in ("visual", "all")
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
        optim="adamw_torch" if config.optim == "muon" else config.optim,  # AnswerTrainer makes Muon itself
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        logging_steps=config.logging_step,
        logging_nan_inf_filter=False,  # it would write down the mean of the other steps, and a dead run look alive
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
        **({"fsdp": True, "fsdp_config": config.fsdp} if config.fsdp else {}),
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
    return arguments
