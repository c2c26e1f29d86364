"""Merge a LoRA adapter into its base model: a plain model, which evaluation and other tools take without --lora.

    python -m src.merge_lora --base_model models/tiny-qwen2 --ckpt_model output/demo --output_dir output/demo-merged

The weights are merged in float32, as evaluation does it, so that the merged model ranks the same items.
"""

import argparse
from pathlib import Path

from src.common.cli import add_switch, new_parser, user_errors


def merge_lora(base_model: str, ckpt_model: Path, output_dir: Path, bf16: bool = False) -> Path:
    """Writes the base model with the adapter and the rows of the SID tokens in it.

    Args:
        ckpt_model: --output_dir of a fine-tuning run with --use_lora, or one of its checkpoints.
        bf16: the weights are rounded to bfloat16 after they were merged in float32.

    Raises:
        FileNotFoundError, ValueError: `ckpt_model` is no adapter, or `output_dir` is the base's or holds an adapter.
    """
    from src.common.artifacts import check_writable
    from src.common.log import logger, setup_logging
    from src.families import base_input, check_finetuned

    setup_logging()
    check_finetuned(ckpt_model, base_model, lora=True)
    if output_dir.resolve() in (ckpt_model.resolve(), Path(base_model).resolve()):
        raise ValueError(f"--output_dir {output_dir} is what is merged: give another folder")
    if (output_dir / "adapter_config.json").is_file():
        raise ValueError(f"--output_dir {output_dir} holds an adapter: give another folder, or that is evaluated")
    check_writable(output_dir / "config.json")
    inputs = {"adapter": ckpt_model, "base model": base_input(ckpt_model, base_model)}
    import torch  # after the checks, so that a fault shows at once

    from src.models import load_finetuned, save_plain, write_merged_record

    loaded = load_finetuned(ckpt_model, base_model, lora=True, dtype=torch.float32)
    if bf16:
        loaded.model.to(torch.bfloat16)
    save_plain(loaded, output_dir, ckpt_model)
    write_merged_record(output_dir, inputs)
    logger.info("merged model in %s: evaluate it without --lora", output_dir)
    return output_dir


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--base_model", required=True, help="model that the adapter was trained on")
    parser.add_argument("--ckpt_model", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets the merged model")
    add_switch(parser, "--bf16", help="write bfloat16: half the size, rounded")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        merge_lora(**vars(args))


if __name__ == "__main__":
    main()
