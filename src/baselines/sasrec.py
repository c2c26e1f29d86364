"""Baseline: SASRec, trained on the training parts, the epoch with the best NDCG@10 on the validation split.

    python -m src.baselines.sasrec --dataset Games --results_file results/Games/sasrec.json --filter_history

What it learns lies beside the results in `<results>.model/`. Started again after a kill, it goes on.
"""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.baselines.config import BaselineConfig
from src.baselines.config import build_parser as build_common_parser
from src.common.cli import add_device_flag, user_errors

if TYPE_CHECKING:
    from src.baselines.core import Scorer
    from src.tasks.catalogue import Catalogue


@dataclass(frozen=True)
class SASRecConfig(BaselineConfig):
    """The defaults were chosen on the validation split of Beauty (docs/baselines_readme.md)."""

    loss: str = "ce"
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.5
    max_his_len: int = 50
    learning_rate: float = 1e-3
    batch_size: int = 128  # users
    epochs: int = 200
    patience: int = 10  # epochs without a better NDCG@10 on the validation split
    seed: int = 42
    device: str = "auto"


def build_parser(description: str | None) -> argparse.ArgumentParser:
    d = SASRecConfig
    parser = build_common_parser(description)
    add = parser.add_argument
    add("--loss", choices=("ce", "bce"), default=d.loss, help="softmax over all items, or against one random item")
    add("--hidden_size", type=int, default=d.hidden_size, help="width")
    add("--num_layers", type=int, default=d.num_layers, help="transformer layers")
    add("--num_heads", type=int, default=d.num_heads, help="attention heads")
    add("--dropout", type=float, default=d.dropout, help="of embeddings, attention and layers")
    add("--max_his_len", type=int, default=d.max_his_len, help="latest items of a sequence that it sees")
    add("--learning_rate", type=float, default=d.learning_rate, help="of Adam")
    add("--batch_size", type=int, default=d.batch_size, help="users a step")
    add("--epochs", type=int, default=d.epochs, help="at most")
    add("--patience", type=int, default=d.patience, help="ends so many epochs after the best one on the valid split")
    add("--seed", type=int, default=d.seed, help="of weights, batches and dropout")
    add_device_flag(parser)
    return parser


def build_scorer(catalogue: "Catalogue", config: SASRecConfig) -> "Scorer":
    """Trains, or goes on training, and scores all items by their dot product with the state after the history."""
    from src.baselines.core import Scorer
    from src.baselines.sasrec_training import Training

    training = Training(catalogue, config)
    training.run()
    return Scorer(training.score, {"best_epoch": training.best_epoch, "valid_ndcg@10": training.best})


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.baselines.core import run_baseline
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_baseline("sasrec", SASRecConfig(**vars(args)))


if __name__ == "__main__":
    main()
