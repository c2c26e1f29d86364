"""Fine-tune a text or vision-language model with Muon for its hidden matrices; SID tokens are added.

    torchrun --nproc_per_node=2 -m src.finetune.train_muon --base_model models/tiny-qwen2 --model_type qwen2 \\
        --output_dir output/demo --dataset Demo --index_file .index_simple.json --tasks seqrec,item2index
"""

from src.common.cli import user_errors
from src.finetune.config import build_parser, config_from


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    parser.set_defaults(optim="muon")
    args = parser.parse_args(argv)
    from src.finetune.core import finetune  # reads data: after parsing, so that --help and a typo answer at once

    with user_errors():
        finetune(config_from(args, entry="train_muon", vision=None))


if __name__ == "__main__":
    main()
