"""Baseline: SASRec, trained on the training parts, the epoch with the best NDCG@10 on the validation split.

    python -m src.baselines.sasrec --dataset Games --results_file results/Games/sasrec.json --filter_history

What it learns lies beside the results in `<results>.model/`. Started again after a kill, it goes on.
"""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.baselines.config import TrainedConfig, build_training_parser
from src.common.cli import user_errors

if TYPE_CHECKING:
    from src.baselines.core import Scorer
    from src.tasks.catalogue import Catalogue


@dataclass(frozen=True)
class SASRecConfig(TrainedConfig):
    """The defaults were chosen on the validation split of Beauty (docs/baselines_readme.md)."""

    loss: str = "ce"
    horizon: int = 3  # items after a position that are its targets; 1: the next alone, as in the paper
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.5
    average_epochs: float = 1.0  # length of the running mean of the weights; 0: the weights themselves
    max_his_len: int = 50


def build_parser(description: str | None) -> argparse.ArgumentParser:
    d = SASRecConfig
    parser = build_training_parser(description, d)
    add = parser.add_argument
    add("--loss", choices=("ce", "bce"), default=d.loss, help="softmax over all items, or against one random item")
    add("--horizon", type=int, default=d.horizon, help="next items that are targets, each worth half of the one before")
    add("--hidden_size", type=int, default=d.hidden_size, help="width")
    add("--num_layers", type=int, default=d.num_layers, help="transformer layers")
    add("--num_heads", type=int, default=d.num_heads, help="attention heads")
    add("--dropout", type=float, default=d.dropout, help="of embeddings, attention and layers")
    add(
        "--average_epochs", type=float, default=d.average_epochs, help="judge a running mean of the weights; its length"
    )
    add("--max_his_len", type=int, default=d.max_his_len, help="latest items of a sequence that it sees")
    return parser


def build_scorer(catalogue: "Catalogue", config: SASRecConfig) -> "Scorer":
    """Trains, or goes on training, and scores all items by their dot product with the state after the history."""
    from src.baselines.core import Scorer
    from src.baselines.sasrec_training import SASRecTraining

    training = SASRecTraining(catalogue, config)
    training.run()
    settings = {"best_epoch": training.best_epoch, "valid_ndcg@10": training.best}
    return Scorer(training.score, settings, is_dense=True, weights=training.checkpoint)


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.baselines.core import run_baseline
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_baseline("sasrec", SASRecConfig(**vars(args)))


if __name__ == "__main__":
    main()
