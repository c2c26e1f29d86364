"""Fine-tune a text language model (Qwen2.5, LLaMA, ...); SID tokens are added to its vocabulary.

    torchrun --nproc_per_node=2 -m src.finetune.train_ddp --base_model models/tiny-qwen2 --model_type qwen2 \\
        --output_dir output/demo --dataset Demo --index_file .index_simple.json --tasks seqrec,item2index
"""

from src.common.cli import user_errors
from src.finetune.config import build_parser, config_from


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.finetune.core import finetune  # reads data: after parsing, so that --help and a typo answer at once

    with user_errors():
        finetune(config_from(args, entry="train_ddp", vision=False))


if __name__ == "__main__":
    main()
