"""Baseline: TIGER, a T5 from scratch that writes the SID of the next item, the epoch with the best NDCG@10 on valid.

    python -m src.baselines.tiger --dataset Games --index_file .index_qwen7B.json \\
        --results_file results/Games/tiger.json
    torchrun --nproc_per_node=4 -m src.baselines.tiger ...

Its vocabulary is the tokens of the SIDs. What it learns lies beside the results in `<results>.model/`, which
`metric_ddp`, `case` and `recommend` of `src.seqrec` take as --ckpt_model, too. Started again after a kill, it goes on.

Reference: Rajput et al., 2023, https://arxiv.org/abs/2305.05065; without its tokens for users.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.baselines.config import TrainedConfig, build_training_parser
from src.common.cli import user_errors

TIGER_FILE = "tiger.json"  # by which the folder of a trained TIGER is known
TIGER_RECORD = "tiger.run.json"  # a run.json would tell of prompts


@dataclass(frozen=True)
class TigerConfig(TrainedConfig):
    index_file: str = ""  # required
    num_layers: int = 4  # of the encoder, and of the decoder
    hidden_size: int = 128
    num_heads: int = 6
    head_size: int = 64
    intermediate_size: int = 1024
    dropout: float = 0.1
    max_his_len: int = 20
    batch_size: int = 256  # samples, of all ranks
    weight_decay: float = 0.01
    warmup_ratio: float = 0.03  # of the steps of all epochs; then the learning rate falls as a cosine
    max_valid_samples: int = 2000  # users of the validation split that an epoch is judged by; 0: all
    test_batch_size: int = 32


def build_parser(description: str | None) -> argparse.ArgumentParser:
    d = TigerConfig
    parser = build_training_parser(description, d)
    add = parser.add_argument
    add("--index_file", required=True, help="SID index: a path, or a suffix such as .index_qwen7B.json")
    add("--num_layers", type=int, default=d.num_layers, help="layers of the encoder, and of the decoder")
    add("--hidden_size", type=int, default=d.hidden_size, help="width")
    add("--num_heads", type=int, default=d.num_heads, help="attention heads")
    add("--head_size", type=int, default=d.head_size, help="width of a head")
    add("--intermediate_size", type=int, default=d.intermediate_size, help="width of the feed-forward layers")
    add("--dropout", type=float, default=d.dropout, help="everywhere")
    add("--max_his_len", type=int, default=d.max_his_len, help="latest items of a history")
    add("--weight_decay", type=float, default=d.weight_decay, help="of AdamW")
    add("--warmup_ratio", type=float, default=d.warmup_ratio, help="share of the steps in which the rate rises")
    add("--max_valid_samples", type=int, default=d.max_valid_samples, help="users that an epoch is judged by; 0: all")
    add("--test_batch_size", type=int, default=d.test_batch_size, help="users decoded at a time")
    return parser


def is_tiger(folder: str | Path) -> bool:
    return Path(folder, TIGER_FILE).is_file()


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        from src.baselines.tiger_training import run_tiger  # imports torch: after parsing

        run_tiger(TigerConfig(**vars(args)))


if __name__ == "__main__":
    main()
