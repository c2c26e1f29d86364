"""Settings and flags that baselines share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.common.cli import add_dataset_flags, add_device_flag, add_switch, new_parser
from src.tasks.task import Split

COUNTING = ("popularity", "cooccurrence", "itemknn")
BASELINES = (*COUNTING, "sasrec")  # each is a module here with its own `build_scorer`


@dataclass(frozen=True)
class BaselineConfig:
    """What `run_baseline` needs to know."""

    dataset: str
    results_file: Path
    data_path: Path = Path("data")
    split: Split = "test"
    filter_history: bool = False  # leave out the items that the user already has
    num_beams: int = 20  # length of a ranked list
    metrics: str = "hit@1,hit@5,hit@10,ndcg@5,ndcg@10"


@dataclass(frozen=True)
class TrainedConfig(BaselineConfig):
    """Settings of every trained baseline."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    epochs: int = 200
    patience: int = 10  # epochs without a better NDCG@10 on the validation split
    seed: int = 42
    device: str = "auto"


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add_dataset_flags(parser)
    parser.add_argument("--results_file", type=Path, required=True, help="JSON to write; predictions go beside it")
    parser.add_argument("--split", choices=("valid", "test"), default=BaselineConfig.split, help="what to predict")
    add_switch(parser, "--filter_history", default=BaselineConfig.filter_history, help="leave out items already seen")
    parser.add_argument("--num_beams", type=int, default=BaselineConfig.num_beams, help="length of a ranked list")
    parser.add_argument("--metrics", default=BaselineConfig.metrics, help="hit@k, ndcg@k, recall@k, mrr@k, by commas")
    return parser


def build_training_parser(description: str | None, config: type[TrainedConfig]) -> argparse.ArgumentParser:
    """The flags of a trained baseline, with the defaults of its config."""
    parser = build_parser(description)
    add = parser.add_argument
    add("--learning_rate", type=float, default=config.learning_rate, help="of Adam")
    add("--batch_size", type=int, default=config.batch_size, help="users, or samples, a step")
    add("--epochs", type=int, default=config.epochs, help="at most")
    add(
        "--patience",
        type=int,
        default=config.patience,
        help="epochs without a better one on the valid split",
    )
    add("--seed", type=int, default=config.seed, help="of weights, batches and dropout")
    add_device_flag(parser)
    return parser
