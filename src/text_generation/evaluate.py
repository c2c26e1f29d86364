"""Let a model write texts about every item of a split, on one process or many, and judge them field by field.

    torchrun --nproc_per_node=2 -m src.text_generation.evaluate --dataset Demo --index_file .index_simple.json \\
        --ckpt_model output/demo --test_task text_enrich --results_file results/Demo/text_enrich.json

Writes metrics, predictions and a page with pictures, and puts a row for the model into text_generation.csv beside them.
"""

from src.common.cli import user_errors
from src.text_generation.config import add_record_flags, build_parser, config_from


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    add_record_flags(parser)
    args = parser.parse_args(argv)
    from src.text_generation.core import evaluate  # reads data: after parsing, so that --help and a typo answer at once

    with user_errors():
        evaluate(config_from(args))


if __name__ == "__main__":
    main()
