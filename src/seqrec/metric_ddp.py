"""Rank items for every user of a dataset, on one process or many, and write metrics and predictions.

    torchrun --nproc_per_node=2 -m src.seqrec.metric_ddp --dataset Demo --index_file .index_simple.json \\
        --ckpt_model output/demo --results_file results/Demo/seqrec.json --filter_history

--ensemble adds models of other SID tables, --fuse collaborative scores (docs/test_readme.md).
"""

from src.common.cli import add_switch, user_errors
from src.seqrec.config import add_fusion_flags, build_parser, config_from


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    add_switch(parser, "--skip_bad_images", help="ask without pictures that do not decode")
    add_fusion_flags(parser)
    args = parser.parse_args(argv)
    from src.seqrec.core import evaluate  # reads data: after parsing, so that --help and a typo answer at once

    with user_errors():
        evaluate(config_from(args))


if __name__ == "__main__":
    main()
