"""Merge what ZeRO-3 has cut among the ranks: a checkpoint of its parts becomes float32 weights that evaluation loads.

    python -m src.merge_zero3 --ckpt_model output/demo --output_dir output/demo-merged

A run that trained all parameters gives a whole model. One with --use_lora gives an adapter in float32, which evaluation
takes with --lora and `python -m src.merge_lora` merges into its base. Checkpoints of ZeRO-1 and ZeRO-2 do as well.
"""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.cli import new_parser, user_errors

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_CONFIG = "adapter_config.json"


def merge_zero3(ckpt_model: Path, output_dir: Path) -> Path:
    """Writes the weights of a DeepSpeed checkpoint as one model, or adapter, of its own.

    Args:
        ckpt_model: a checkpoint-N, or the --output_dir of a run, whose best checkpoint is then taken.

    Raises:
        FileNotFoundError: there is no DeepSpeed checkpoint.
    """
    from src.common.artifacts import check_writable
    from src.common.log import logger, setup_logging

    setup_logging()
    checkpoint = find_checkpoint(ckpt_model)
    if output_dir.resolve() in (ckpt_model.resolve(), checkpoint.resolve()):
        raise ValueError(f"--output_dir {output_dir} holds what is merged: give another folder")
    check_writable(output_dir / "config.json")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    from src.models import write_merged_record

    is_adapter = (checkpoint / ADAPTER_CONFIG).is_file()
    weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), exclude_frozen_parameters=is_adapter)
    (save_adapter if is_adapter else save_model)(weights, checkpoint, output_dir)
    write_merged_record(output_dir, {"checkpoint": checkpoint})
    logger.info("merged %s into %s: evaluate it with%s --lora", checkpoint, output_dir, "" if is_adapter else "out")
    return output_dir


def find_checkpoint(folder: Path) -> Path:
    """The folder itself if DeepSpeed wrote it, else the best checkpoint in it, or the newest where none is known."""
    from src.common.artifacts import read_json

    found = [path for path in folder.glob("checkpoint-*") if (path / "latest").is_file()]
    if (folder / "latest").is_file():
        return folder
    if not found:
        raise FileNotFoundError(f"{folder} holds no checkpoint of DeepSpeed: give a checkpoint-N with a global_step*")
    newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]))
    best = read_json(newest / "trainer_state.json").get("best_model_checkpoint") or newest
    return next((path for path in found if path.name == Path(best).name), newest)


def save_model(weights: "dict[str, Tensor]", checkpoint: Path, output_dir: Path) -> None:
    import torch

    from src.models import load_model, save_plain

    loaded = load_model(checkpoint, torch.float32, weights=False)
    loaded.model.load_state_dict(weights, strict=False, assign=True)
    loaded.model.tie_weights()
    absent = [name for name, parameter in loaded.model.named_parameters() if parameter.is_meta]
    if absent:
        raise ValueError(f"{checkpoint} lacks {len(absent)} weights, the first being {absent[0]}")
    save_plain(loaded, output_dir, checkpoint)


def save_adapter(weights: "dict[str, Tensor]", checkpoint: Path, output_dir: Path) -> None:
    """An adapter under the names of PEFT's files, which are those of its modules without the adapter's own name."""
    from safetensors.torch import save_file

    from src.models import save_records
    from src.processors import load_processor

    named = {name.replace(".default", "").replace(".modules_to_save", ""): value for name, value in weights.items()}
    output_dir.mkdir(parents=True, exist_ok=True)
    contiguous: dict[str, Any] = {name: value.contiguous().clone() for name, value in named.items()}
    save_file(contiguous, output_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(checkpoint / ADAPTER_CONFIG, output_dir)
    load_processor(checkpoint).save_pretrained(output_dir)
    save_records(output_dir, checkpoint)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--ckpt_model", type=Path, required=True, help="checkpoint-N, or --output_dir of a run")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets the merged model or adapter")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        merge_zero3(**vars(args))


if __name__ == "__main__":
    main()
