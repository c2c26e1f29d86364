"""Settings of the SID stage, each with its default and its check. Free of torch, so that `--help` answers at once."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEARNERS = ("AdamW", "Adam", "SGD", "Adagrad", "RMSprop")
SCHEDULES = ("constant", "linear", "cosine")
LOSSES = ("mse", "l1")
NORMALIZATIONS = ("none", "l2", "standardize")
DEDUP_METHODS = ("assign", "sinkhorn", "suffix", "none")


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig:
    """Shape of the RQ-VAE and its losses; every checkpoint carries it."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)  # codewords of each level, coarsest first
    e_dim: int = 32  # width of the latents
    layers: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)  # hidden widths of the encoder; the decoder mirrors them
    dropout_prob: float = 0.0
    bn: bool = False
    loss_type: str = "mse"
    quant_loss_weight: float = 1.0
    beta: float = 0.25  # weight of the commitment
    spread_weight: float = 0.0  # of the loss that pushes items that share a SID apart
    sk_epsilons: tuple[float, ...] = (0.0,)  # one a level, or one for the last level; 0 takes the nearest codeword
    sk_iters: int = 50
    normalize: str = "none"

    def __post_init__(self) -> None:
        for name in ("codebook_sizes", "layers", "sk_epsilons"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # argparse and JSON give lists
        check_at_least(self, 1, "e_dim", "sk_iters")
        check_at_least(self, 0, "quant_loss_weight", "beta", "spread_weight")
        check_choice("--loss_type", self.loss_type, LOSSES)
        check_choice("--normalize", self.normalize, NORMALIZATIONS)
        if not self.codebook_sizes or min(self.codebook_sizes) < 2:
            raise ValueError(
                f"--num_emb_list is {list(self.codebook_sizes)}: give every level a codebook of at least 2 codewords"
            )
        if any(width < 1 for width in self.layers):
            raise ValueError(f"--layers is {list(self.layers)}: hidden widths start from 1")
        if not 0 <= self.dropout_prob < 1:
            raise ValueError(f"--dropout_prob is {self.dropout_prob}: it must be at least 0 and below 1")
        if any(epsilon < 0 for epsilon in self.sk_epsilons):
            raise ValueError(f"--sk_epsilons is {list(self.sk_epsilons)}: use 0 for levels without Sinkhorn")
        if len(self.sk_epsilons) not in (1, len(self.codebook_sizes)):
            raise ValueError(
                f"--sk_epsilons has {len(self.sk_epsilons)} values for {len(self.codebook_sizes)} levels:"
                f" give one value a level, or a single one for the last level"
            )

    @property
    def level_epsilons(self) -> tuple[float, ...]:
        """The Sinkhorn strength of each level; a single value stands for the last level."""
        missing = len(self.codebook_sizes) - len(self.sk_epsilons)
        return (0.0,) * missing + self.sk_epsilons


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RQVAEConfig):
    """Everything that a training run depends on."""

    data_path: Path  # embeddings, *.npy
    ckpt_dir: Path  # runs lie in <ckpt_dir>/<timestamp>/
    learning_rate: float = 1e-3
    epochs: int = 5000
    batch_size: int = 2048
    eval_step: int = 50
    learner: str = "AdamW"
    lr_scheduler_type: str = "constant"
    warmup_epochs: int = 50
    weight_decay: float = 0.0
    kmeans_init: bool = True
    large_scale_kmeans: bool = True
    kmeans_iters: int = 100
    save_limit: int = 5
    device: str = "auto"
    use_wandb: bool = False
    wandb_project: str = "grec-sid"
    wandb_name: str | None = None
    num_workers: int = 0
    seed: int = 42
    resume: Path | None = None  # a run folder, or its last.pth

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("data_path", "ckpt_dir", "resume"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        check_at_least(self, 1, "epochs", "batch_size", "eval_step", "kmeans_iters")
        check_at_least(self, 0, "warmup_epochs", "weight_decay", "save_limit", "num_workers", "seed")
        check_choice("--learner", self.learner, LEARNERS)
        check_choice("--lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        if self.learning_rate <= 0:
            raise ValueError(f"--lr is {self.learning_rate}: it must be above 0")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """From a checkpoint to the SID index of a dataset."""

    dataset: str
    ckpt_path: Path  # a checkpoint, or a run folder, whose best_collision_model.pth is taken
    output_dir: Path | None = None  # None: the folder that holds the run folder
    output_file: str | None = None  # None: <dataset>.index_<name of output_dir>.json
    data_path: Path | None = None  # None: the embeddings that the checkpoint was trained on
    device: str = "auto"
    batch_size: int = 64
    dedup: str = "assign"
    extend: Path | None = None  # an older index whose SIDs stay

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        check_choice("--dedup", self.dedup, DEDUP_METHODS)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to measure: a checkpoint or an index."""

    ckpt_path: Path | None = None
    index_file: Path | None = None
    data_path: Path | None = None
    output_file: Path | None = None  # None: beside what is measured, *.evaluation.json
    device: str = "auto"
    batch_size: int = 2048

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        if (self.ckpt_path is None) == (self.index_file is None):
            raise ValueError("give one of --ckpt_path and --index_file")


def from_table(config_class: type, table: Mapping[str, Any]) -> Any:
    """A config from a table that may hold more than its fields."""
    names = {field.name for field in dataclasses.fields(config_class)}
    return config_class(**{name: value for name, value in table.items() if name in names})


FLAG_SPELLINGS = {"learning_rate": "lr", "codebook_sizes": "num_emb_list"}


def flag_of(field: str) -> str:
    """The flag that sets a field, as users type it."""
    return f"--{FLAG_SPELLINGS.get(field, field)}"


def check_at_least(config: Any, lowest: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < lowest:
            raise ValueError(f"{flag_of(name)} is {getattr(config, name)}: it must be at least {lowest}")


def check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{flag} {value} is unknown: choose one of {', '.join(choices)}")
