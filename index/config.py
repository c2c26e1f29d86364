"""Settings of the SID stage, each with its default and its check. Free of torch, so that `--help` answers at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEARNERS = ("AdamW", "Adam", "SGD", "Adagrad", "RMSprop")
SCHEDULES = ("constant", "linear", "cosine")
LOSSES = ("mse", "l1")
NORMALIZATIONS = ("none", "l2", "standardize")
DEDUP_METHODS = ("assign", "sinkhorn", "suffix", "none")
QUANTIZERS = ("rqvae", "rkmeans", "balanced_rkmeans", "opq", "fsq")
TRAINED = ("rqvae", "fsq")  # by gradient descent; the others are fitted at once
FUSIONS = ("concat", "gated")


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig:
    """Shape of the quantizer and its losses; every checkpoint carries it."""

    quantizer: str = "rqvae"
    fusion: str = "concat"  # of several embeddings of an item
    codebook_sizes: tuple[int, ...] = (256, 256, 256)  # codewords of each level, coarsest first
    e_dim: int = 32  # width of the latents
    layers: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)  # hidden widths of the encoder; the decoder mirrors them
    dropout_prob: float = 0.0
    bn: bool = False
    loss_type: str = "mse"
    quant_loss_weight: float = 1.0
    beta: float = 0.25  # weight of the commitment
    spread_weight: float = 0.0  # of the loss that pushes items that share a SID apart
    cf_weight: float = 0.0  # of the loss that pulls latents towards collaborative embeddings
    diversity_weight: float = 0.0  # of the loss that asks for even use of the codewords
    neighbour_weight: float = 0.0  # of the loss that keeps near items near
    sk_epsilons: tuple[float, ...] = (0.0,)  # one a level, or one for the last level; 0 takes the nearest codeword
    sk_iters: int = 50
    normalize: str = "none"

    def __post_init__(self) -> None:
        for name in ("codebook_sizes", "layers", "sk_epsilons"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # argparse and JSON give lists
        check_at_least(self, 1, "e_dim", "sk_iters")
        check_at_least(self, 0, "quant_loss_weight", "beta")
        check_at_least(self, 0, "spread_weight", "cf_weight", "diversity_weight", "neighbour_weight")
        check_choice("--quantizer", self.quantizer, QUANTIZERS)
        check_choice("--fusion", self.fusion, FUSIONS)
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
        self._check_quantizer()

    def _check_quantizer(self) -> None:
        """Refuses settings that a quantizer could only ignore."""
        if self.quantizer == "fsq":
            for size in self.codebook_sizes:
                grid_of(size)
        needs_training = {
            "fusion": self.fusion == "gated",
            "cf_weight": self.cf_weight > 0,
            "diversity_weight": self.diversity_weight > 0,
            "spread_weight": self.spread_weight > 0,
            "neighbour_weight": self.neighbour_weight > 0,
        }
        for name, is_asked in needs_training.items():
            if is_asked and self.quantizer not in TRAINED:
                raise ValueError(
                    f"{flag_of(name)} {getattr(self, name)} works by training, and --quantizer {self.quantizer} has"
                    f" none: use --quantizer rqvae"
                )
        if self.quantizer != "rqvae":
            if any(self.sk_epsilons):
                raise ValueError(f"--sk_epsilons is of --quantizer rqvae: leave it out for {self.quantizer}")
            if self.diversity_weight > 0:
                raise ValueError(f"--diversity_weight moves codewords, and those of {self.quantizer} are fixed")

    @property
    def level_epsilons(self) -> tuple[float, ...]:
        """The Sinkhorn strength of each level; a single value stands for the last level."""
        missing = len(self.codebook_sizes) - len(self.sk_epsilons)
        return (0.0,) * missing + self.sk_epsilons


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RQVAEConfig):
    """Everything that a training run depends on."""

    data_path: tuple[Path, ...]  # embeddings, *.npy; several modalities of the same items are fused
    cf_path: Path | None = None  # collaborative embeddings, *.npy
    ckpt_dir: Path  # runs lie in <ckpt_dir>/<timestamp>/
    learning_rate: float = 1e-3
    epochs: int = 5000
    batch_size: int = 2048
    eval_step: int = 50
    learner: str = "AdamW"
    lr_scheduler_type: str = "constant"
    warmup_epochs: int = 50
    pretrain_epochs: int = 0  # as a plain autoencoder, before the codebooks start
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
        object.__setattr__(self, "data_path", as_paths(self.data_path))
        for name in ("ckpt_dir", "resume", "cf_path"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        check_at_least(self, 1, "epochs", "batch_size", "eval_step", "kmeans_iters")
        check_at_least(self, 0, "warmup_epochs", "pretrain_epochs", "weight_decay", "save_limit", "num_workers", "seed")
        check_choice("--learner", self.learner, LEARNERS)
        check_choice("--lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        if self.learning_rate <= 0:
            raise ValueError(f"--lr is {self.learning_rate}: it must be above 0")
        if self.pretrain_epochs >= self.epochs:
            raise ValueError(
                f"--pretrain_epochs {self.pretrain_epochs} leaves none of {self.epochs} epochs for the codebooks: raise"
                f" --epochs"
            )
        if self.pretrain_epochs and self.quantizer not in TRAINED:
            raise ValueError(
                f"--pretrain_epochs is of training, and --quantizer {self.quantizer} has none: leave it out"
            )
        if self.fusion == "gated" and len(self.data_path) < 2:
            raise ValueError("--fusion gated weighs several embeddings: give two or more as --data_path a.npy b.npy")
        if (self.cf_weight > 0) != (self.cf_path is not None):
            raise ValueError("--cf_weight and --cf_path belong together: the weight of the loss, and the embeddings")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """From a checkpoint to the SID index of a dataset."""

    dataset: str
    ckpt_path: Path  # a checkpoint, or a run folder, whose best_collision_model.pth is taken
    output_dir: Path | None = None  # None: the folder that holds the run folder
    output_file: str | None = None  # None: <dataset>.index_<name of output_dir>.json
    data_path: tuple[Path, ...] = ()  # none: the embeddings that the checkpoint was trained on
    device: str = "auto"
    batch_size: int = 64
    dedup: str = "assign"
    extend: Path | None = None  # an older index whose SIDs stay

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_path", as_paths(self.data_path))
        check_at_least(self, 1, "batch_size")
        check_choice("--dedup", self.dedup, DEDUP_METHODS)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to measure: a checkpoint or an index."""

    ckpt_path: Path | None = None
    index_file: Path | None = None
    data_path: tuple[Path, ...] = ()  # none: the embeddings that the checkpoint or the index was made from
    dataset_dir: Path | None = None  # with <DS>.item.json and <DS>.inter.json; None: found above the index
    output_file: Path | None = None  # None: beside what is measured, *.evaluation.json
    device: str = "auto"
    batch_size: int = 2048
    num_queries: int = 2000  # items whose neighbours are looked up, at most
    seed: int = 42  # of the queries, and of the shuffled categories

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_path", as_paths(self.data_path))
        check_at_least(self, 1, "batch_size", "num_queries")
        check_at_least(self, 0, "seed")
        for name in ("ckpt_path", "index_file", "dataset_dir", "output_file"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.output_file is not None and self.output_file.suffix != ".json":
            raise ValueError(f"--output_file {self.output_file}: measures go to a .json, and the picture beside it")
        if (self.ckpt_path is None) == (self.index_file is None):
            raise ValueError("give one of --ckpt_path and --index_file")


def as_paths(value: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    """One path or several as a tuple of paths."""
    if value is None:
        return ()
    return (Path(value),) if isinstance(value, (str, Path)) else tuple(Path(path) for path in value)


def grid_of(codebook_size: int) -> tuple[int, ...]:
    """Values of each dimension whose product is `codebook_size`, as equal as can be and none above 8: 256 is 4 4 4 4.

    Raises:
        ValueError: the size has a prime factor above 7.
    """
    left, primes = codebook_size, []
    for prime in (7, 5, 3, 2):
        while left % prime == 0:
            primes.append(prime)
            left //= prime
    if left > 1:
        raise ValueError(
            f"--num_emb_list {codebook_size}: the codewords of fsq are a grid, so their number must be a product of"
            f" 2, 3, 5 and 7. Use 256, for example"
        )
    while primes.count(2) > 1:  # two values a dimension tell little: join them to four
        primes.remove(2)
        primes.remove(2)
        primes.append(4)
    return tuple(sorted(primes, reverse=True))


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
