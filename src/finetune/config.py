"""Every setting of a fine-tuning run with its default, and the flags that set them."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.cli import add_dataset_flags, add_switch, device_name, name_list, new_parser, number_list, settings_of
from src.tasks.task import LANGUAGES

RESUME_NEWEST = ("true", "auto")  # values of --resume_from_checkpoint that are no folder


@dataclass(frozen=True)
class FinetuneConfig:
    # what differs between the entries
    entry: str
    vision: bool | None  # None: as --model_type says

    # what is trained on what
    base_model: str
    model_type: str
    output_dir: Path
    dataset: str
    index_file: str
    data_path: Path = Path("data")
    image_path: str = "images"
    skip_bad_images: bool = False
    image_augment: float = 0.0
    tasks: tuple[str, ...] = ("seqrec",)
    train_prompt_sample_num: tuple[int, ...] = ()
    train_data_sample_num: tuple[int, ...] = ()
    valid_prompt_id: int = 0
    valid_prompt_sample_num: int = 1
    max_valid_samples: int = 0
    ratio_dataset: float = 1.0
    item_split: str = "all"

    # prompts
    add_sid_tokens: bool = True  # else SIDs are spelt with tokens that the model has; the entry says so, no flag
    prompt_lang: str = "en"
    max_his_len: int = 20
    his_sep: str = ", "
    add_prefix: bool = False
    max_his_images: int = 8
    model_max_length: int = 2048
    only_train_response: bool = True
    share_prefix: bool = False
    row_length: int = 256

    # what learns
    sid_init: str = "auto"
    use_lora: bool = False
    lora_r: int = 32
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_target_modules: tuple[str, ...] = ()
    lora_modules_to_save: tuple[str, ...] = ()
    freeze: str = "none"

    # how
    seed: int = 42
    per_device_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    use_gradient_checkpointing: bool = False
    num_workers: int = 0
    learning_rate: float = 2e-5
    epochs: float = 4
    max_steps: int = -1
    weight_decay: float = 0.01
    warmup_ratio: float = 0.01
    lr_scheduler_type: str = "cosine"
    optim: str = "adamw_torch"
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    save_and_eval_strategy: str = "epoch"
    save_and_eval_steps: int = 1000
    save_total_limit: int = 2
    deepspeed: str | None = None
    fsdp: str | None = None
    bf16: bool = False
    fp16: bool = False
    device: str = "auto"
    resume_from_checkpoint: str | None = None
    report_to: str = "none"
    run_name: str | None = None
    logging_step: int = 10
    preflight: int = 0
    debug: bool = False

    @property
    def datasets(self) -> list[str]:
        """The datasets that `dataset` names."""
        return name_list(self.dataset)

    @property
    def index_files(self) -> list[str]:
        """What `index_file` says of each dataset: a path, or the suffix that is said once.

        Raises:
            ValueError: as many indexes as datasets are needed.
        """
        if len(self.datasets) == 1:
            return [self.index_file]
        given = name_list(self.index_file)
        if len(given) == 1 and not Path(given[0]).is_file():
            return given * len(self.datasets)
        if len(given) != len(self.datasets):
            raise ValueError(
                f"--index_file {self.index_file} names {len(given)} for {len(self.datasets)} datasets: give one suffix"
                f" such as .index_qwen7B.json, or a path for each dataset, with commas"
            )
        return given


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of src.finetune.*; their defaults are FinetuneConfig's."""
    d = FinetuneConfig
    parser = new_parser(description)

    group = parser.add_argument_group("what is trained on what")
    add_dataset_flags(group, "name of the dataset; several with commas train one model")
    group.add_argument("--base_model", required=True, help="folder or hub name of the model to start from")
    group.add_argument("--model_type", required=True, help="family of the base model, e.g. qwen2_vl")
    group.add_argument("--output_dir", type=Path, required=True, help="gets the fine-tuned model, logs and run.json")
    group.add_argument(
        "--index_file",
        required=True,
        help="SID index: a path, or a suffix such as .index_qwen7B.json; for several datasets a suffix, or a path each",
    )
    group.add_argument("--image_path", default=d.image_path, help="folder of pictures inside the dataset's folder")
    add_switch(group, "--skip_bad_images", help="go on without pictures that do not decode")
    group.add_argument(
        "--image_augment",
        type=float,
        default=d.image_augment,
        help="move and zoom training pictures by up to this share",
    )
    group.add_argument("--tasks", type=name_list, default=list(d.tasks), help="comma-separated, e.g. seqrec,item2index")
    group.add_argument(
        "--train_prompt_sample_num",
        type=number_list(),
        default=[],
        help="wordings a sample and epoch, a number a task, e.g. 1,2 (default: 1 each)",
    )
    group.add_argument(
        "--train_data_sample_num",
        type=number_list(),
        default=[],
        help="random cap of samples, a number a task, 0: all, e.g. 0,5000 (default: 0 each); for each dataset alike",
    )
    group.add_argument("--valid_prompt_id", type=int, default=d.valid_prompt_id, help="wording that validates; -1: any")
    group.add_argument(
        "--valid_prompt_sample_num", type=int, default=d.valid_prompt_sample_num, help="wordings a validation sample"
    )
    group.add_argument(
        "--max_valid_samples",
        type=int,
        default=d.max_valid_samples,
        help="random cap of each task's validation, for each dataset alike; 0: all",
    )
    group.add_argument(
        "--ratio_dataset", type=float, default=d.ratio_dataset, help="share of each dataset's training users"
    )
    group.add_argument(
        "--item_split", choices=("all", "holdout"), default=d.item_split, help="item tasks: train on all, or on 8 of 10"
    )

    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompt_lang", choices=LANGUAGES, default=d.prompt_lang, help="language of the wordings and of field labels"
    )
    group.add_argument("--max_his_len", type=int, default=d.max_his_len, help="latest items of a history; 0: all")
    group.add_argument(
        "--his_sep", default=d.his_sep, help='stands between the items of a history (default: "%(default)s")'
    )
    add_switch(group, "--add_prefix", help="number the items of a history")
    group.add_argument("--max_his_images", type=int, default=d.max_his_images, help="latest pictures of a history")
    group.add_argument("--model_max_length", type=int, default=d.model_max_length, help="tokens of prompt and answer")
    add_switch(group, "--only_train_response", default=d.only_train_response, help="learn the answer, not the prompt")
    add_switch(group, "--share_prefix", help="all next-item samples of a user share one pass over their history")
    group.add_argument(
        "--row_length",
        type=int,
        default=d.row_length,
        help="tokens of a row that samples are packed in; on a CPU a batch is one row",
    )

    group = parser.add_argument_group("what learns")
    group.add_argument(
        "--sid_init", choices=("auto", "random", "centroid", "text"), default=d.sid_init, help="start of the SID rows"
    )
    add_switch(group, "--use_lora", help="train LoRA matrices and the SID rows; else all parameters")
    group.add_argument("--lora_r", type=int, default=d.lora_r, help="rank of the LoRA matrices")
    group.add_argument("--lora_alpha", type=int, default=d.lora_alpha, help="LoRA is scaled by lora_alpha / lora_r")
    group.add_argument("--lora_dropout", type=float, default=d.lora_dropout, help="dropout before the LoRA matrices")
    group.add_argument(
        "--lora_target_modules",
        type=name_list,
        default=[],
        help="layers that get LoRA, e.g. q_proj,v_proj (default: attention and FFN of the language model)",
    )
    group.add_argument(
        "--lora_modules_to_save",
        type=name_list,
        default=[],
        help="with LoRA train these whole, e.g. embed_tokens,lm_head (default: of these only the SID rows)",
    )
    group.add_argument(
        "--freeze",
        choices=("none", "visual", "embeddings", "all", "only_embeddings"),
        default=d.freeze,
        help="full fine-tuning: visual: the vision tower stays; embeddings: old token rows stay; all: both;"
        " only_embeddings: all but the SID rows stay",
    )

    group = parser.add_argument_group("how")
    group.add_argument("--seed", type=int, default=d.seed, help="of samples, wordings, order, SID rows and dropout")
    group.add_argument(
        "--per_device_batch_size", type=int, default=d.per_device_batch_size, help="samples of a rank at once"
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=d.gradient_accumulation_steps,
        help="batches of each rank that make a step",
    )
    add_switch(group, "--use_gradient_checkpointing", help="keep fewer activations and compute them again: less memory")
    group.add_argument("--num_workers", type=int, default=d.num_workers, help="processes that load data, each rank")
    group.add_argument("--learning_rate", type=float, default=d.learning_rate, help="the highest of the run")
    group.add_argument("--epochs", type=float, default=d.epochs, help="passes over the training samples")
    group.add_argument("--max_steps", type=int, default=d.max_steps, help="stop after so many steps; -1: after epochs")
    group.add_argument("--weight_decay", type=float, default=d.weight_decay, help="of all that trains but embeddings")
    group.add_argument(
        "--warmup_ratio", type=float, default=d.warmup_ratio, help="share of the steps in which the learning rate rises"
    )
    group.add_argument(
        "--lr_scheduler_type", default=d.lr_scheduler_type, help="how it then falls: cosine, linear, constant, ..."
    )
    group.add_argument("--optim", default=d.optim, help="optimizer: muon, or a name of transformers such as adafactor")
    group.add_argument("--adam_beta2", type=float, default=d.adam_beta2, help="lower for short runs, e.g. 0.95")
    group.add_argument("--max_grad_norm", type=float, default=d.max_grad_norm, help="longer gradients are shortened")
    group.add_argument(
        "--save_and_eval_strategy",
        choices=("epoch", "steps", "no"),
        default=d.save_and_eval_strategy,
        help="when to validate and save a checkpoint; the best one ends in output_dir",
    )
    group.add_argument(
        "--save_and_eval_steps", type=int, default=d.save_and_eval_steps, help="steps between, with strategy steps"
    )
    group.add_argument("--save_total_limit", type=int, default=d.save_total_limit, help="checkpoints that are kept")
    group.add_argument("--deepspeed", help="a DeepSpeed config such as ./config/ds_z2_bf16.json (default: none)")
    group.add_argument("--fsdp", help="an FSDP2 config, ./config/fsdp2.json, for full fine-tuning (default: none)")
    add_switch(group, "--bf16", help="compute in bfloat16; slow on most CPUs")
    add_switch(group, "--fp16", help="compute in float16 with loss scaling, for GPUs without bfloat16")
    group.add_argument("--device", type=device_name, default=d.device, help="auto, cpu or cuda")
    group.add_argument(
        "--resume_from_checkpoint",
        help="a checkpoint-N folder, or True: the newest whole one of output_dir, if any (default: start afresh)",
    )
    group.add_argument(
        "--report_to", choices=("none", "wandb", "tensorboard"), default=d.report_to, help="also draw curves there"
    )
    group.add_argument("--run_name", default=d.run_name, help="name there (default: <dataset>-<name of output_dir>)")
    group.add_argument("--logging_step", type=int, default=d.logging_step, help="steps between two lines of the log")
    group.add_argument(
        "--preflight",
        type=int,
        default=d.preflight,
        metavar="GPUS",
        help="only say how much memory each of so many GPUs will need, and train nothing",
    )
    add_switch(group, "--debug", help="64 samples a task and 8 steps: does it run?")
    return parser


def config_from(args: argparse.Namespace, entry: str, vision: bool | None, **constants: Any) -> FinetuneConfig:
    return FinetuneConfig(**settings_of(args), entry=entry, vision=vision, **constants)
