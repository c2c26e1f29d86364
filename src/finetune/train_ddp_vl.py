"""Fine-tune a vision-language model on recommendation tasks; SID tokens are added to its vocabulary.

    torchrun --nproc_per_node=2 -m src.finetune.train_ddp_vl --base_model models/tiny-qwen2_vl --model_type qwen2_vl \\
        --output_dir output/demo --dataset Demo --index_file .index_simple.json --tasks seqrec,mmitem2index
"""

from src.common.cli import user_errors
from src.finetune.config import build_parser, config_from


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.finetune.core import finetune  # reads data: after parsing, so that --help and a typo answer at once

    with user_errors():
        finetune(config_from(args, entry="train_ddp_vl", vision=True))


if __name__ == "__main__":
    main()
