"""The commands of LC-Rec: which entries it runs, with which flags."""

from pathlib import Path

from src.baselines.lcrec import FUSION_SAMPLES, LcrecConfig
from src.finetune.config import FinetuneConfig
from src.finetune.config import build_parser as build_finetune_parser
from src.finetune.config import config_from as finetune_config_from

WARMUP_EPOCHS = 50  # of the RQ-VAE; fewer in short runs


def flags_of(config: LcrecConfig, *names: str) -> list[str]:
    """`--name value` of settings that have the same name in the entry that takes them."""
    words = []
    for name in names:
        value = getattr(config, name)
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        words += [f"--{name}", str(value)] if value not in (None, "") else []
    return words


def embedding_command(config: LcrecConfig) -> tuple[str, list[str]]:
    """The entry that makes text embeddings, and the flags that they depend on."""
    if config.embedding_model:
        return "data_process.qwen_embeddings", ["--model", config.embedding_model, "--no_image"]
    return "data_process.simple_embeddings", ["--no_image", "--seed", str(config.seed)]


def rqvae_flags(config: LcrecConfig) -> list[str]:
    warmup = min(WARMUP_EPOCHS, config.rqvae_epochs // 20)
    return [
        "--num_emb_list", *map(str, config.codebook_sizes), "--layers", *map(str, config.layers),
        "--e_dim", str(config.e_dim), "--sk_epsilons", *map(str, config.sk_epsilons),
        "--epochs", str(config.rqvae_epochs), "--batch_size", str(config.rqvae_batch_size),
        "--lr", str(config.rqvae_learning_rate), "--weight_decay", str(config.rqvae_weight_decay),
        "--lr_scheduler_type", "linear", "--warmup_epochs", str(warmup), "--seed", str(config.seed),
    ]  # fmt: skip


def finetune_flags(config: LcrecConfig) -> list[str]:
    """What the fine-tuned model depends on, beside its base and data."""
    caps = config.train_data_sample_num or [FUSION_SAMPLES * (task == "fusionseqrec") for task in config.tasks]
    same = (
        "model_type", "tasks", "train_prompt_sample_num", "max_valid_samples", "learning_rate", "epochs",
        "weight_decay", "warmup_ratio", "max_his_len", "share_prefix", "bf16", "seed",
    )  # fmt: skip
    lora = ("use_lora", "lora_r", "lora_alpha", "lora_dropout") if config.use_lora else ()
    return [*flags_of(config, *same, *lora), "--train_data_sample_num", ",".join(map(str, caps))]


def finetune_places(config: LcrecConfig, index_file: Path, output: Path) -> list[str]:
    """Where it finds things, and how the work is shared out."""
    accumulation = config.batch_size // (config.nproc * config.per_device_batch_size)
    return [
        *flags_of(config, "base_model", "dataset", "data_path"), "--index_file", str(index_file),
        "--output_dir", str(output), "--gradient_accumulation_steps", str(accumulation),
        *flags_of(config, "per_device_batch_size", "use_gradient_checkpointing", "deepspeed", "num_workers", "device"),
    ]  # fmt: skip


def finetune_config(config: LcrecConfig) -> FinetuneConfig:
    """The settings that src.finetune.train_ddp will read from these flags."""
    flags = [*finetune_flags(config), *finetune_places(config, Path("index.json"), Path("output"))]
    return finetune_config_from(build_finetune_parser(None).parse_args(flags), entry="train_ddp", vision=False)
