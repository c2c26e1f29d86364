"""Settings and flags that every counting baseline shares."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.common.cli import add_dataset_flags, add_switch, new_parser

COUNTING = ("popularity", "cooccurrence", "itemknn")
BASELINES = (*COUNTING, "sasrec")  # each is a module here with its own `build_scorer`


@dataclass(frozen=True)
class BaselineConfig:
    """What `run_baseline` needs to know."""

    dataset: str
    results_file: Path
    data_path: Path = Path("data")
    split: str = "test"
    filter_history: bool = False  # leave out the items that the user already has
    num_beams: int = 20  # length of a ranked list
    metrics: str = "hit@1,hit@5,hit@10,ndcg@5,ndcg@10"


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add_dataset_flags(parser)
    parser.add_argument("--results_file", type=Path, required=True, help="JSON to write; predictions go beside it")
    parser.add_argument("--split", choices=("valid", "test"), default=BaselineConfig.split, help="what to predict")
    add_switch(parser, "--filter_history", default=BaselineConfig.filter_history, help="leave out items already seen")
    parser.add_argument("--num_beams", type=int, default=BaselineConfig.num_beams, help="length of a ranked list")
    parser.add_argument("--metrics", default=BaselineConfig.metrics, help="hit@k, ndcg@k, recall@k, mrr@k, by commas")
    return parser
