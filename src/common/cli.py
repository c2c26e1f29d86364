"""Flags that several entries share: name, type and help, once; and how an entry ends where its input is at fault."""

import argparse
import copy
import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.common.distributed import check_device_name, rank

ROOT = Path(__file__).resolve().parents[2]
OWN_FOLDERS = tuple(ROOT / name for name in ("src", "index", "data_process", "scripts", "benchmarks"))


# ---- faults of the input ---------------------------------------------------------------------------------------------
@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line and exit status 2 where our own code finds the input at fault.

    That is every ValueError and OSError that a `raise` in this repository makes: they name the value at fault and the
    cure. What a library raises, or a line of ours by accident, is a bug and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if not _raised_on_purpose(error):
            raise
        where = f"[rank {rank()}] " if rank() else ""
        print(f"error: {where}{error}", file=sys.stderr)
        raise SystemExit(2) from None


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the innermost line of the traceback is a `raise` of ours."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    file = Path(frame.f_code.co_filename)
    ours = any(file.is_relative_to(folder) for folder in OWN_FOLDERS)
    return ours and linecache.getline(str(file), line).lstrip().startswith("raise ")


def check_at_least(config: Any, **least: int) -> None:
    """Refuses settings below a smallest value: `check_at_least(config, num_beams=1)`."""
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise ValueError(f"--{name} {getattr(config, name)}: it must be at least {smallest}")


# ---- parsers ---------------------------------------------------------------------------------------------------------


def boolean(text: str) -> bool:
    """`True|False` as documented, and the usual other spellings; never `bool(text)`, which takes "False" for true."""
    value = text.strip().lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


def add_switch(parser: argparse._ActionsContainer, *flags: str, default: bool | None = False, **options) -> None:
    """A switch that takes `--bn`, `--bn True` and `--bn False` alike."""
    parser.add_argument(*flags, type=boolean, nargs="?", const=True, default=default, metavar="True|False", **options)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Flags as the fields of a config: lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the module's docstring as written, and shows defaults, lists as the user would type them."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.required or action.default in (None, [], (), {}):  # the help itself says what then happens
            return action.help or ""
        return super()._get_help_string(action) or ""

    def _expand_help(self, action: argparse.Action) -> str:
        if isinstance(action.default, (list, tuple)) and action.default:
            action = copy.copy(action)
            action.default = (" " if action.nargs else ",").join(map(str, action.default))
        return super()._expand_help(action)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for an entry, described by the entry's docstring. Flags may not be abbreviated."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def add_dataset_flags(parser: argparse._ActionsContainer, dataset_help: str = "name of the dataset") -> None:
    parser.add_argument("--data_path", type=Path, default=Path("data"), help="folder that holds <dataset>/")
    parser.add_argument("--dataset", required=True, help=dataset_help)


def device_name(text: str) -> str:
    try:
        return check_device_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda or cuda:N")


def add_checkpoint_flags(parser: argparse._ActionsContainer) -> None:
    """Which model is evaluated: shared by ranked and generated results."""
    parser.add_argument(
        "--ckpt_model",
        "--ckpt_path",
        dest="ckpt_model",
        type=Path,
        required=True,
        help="--output_dir of a fine-tuning run",
    )
    parser.add_argument(
        "--base_model", help="model that a LoRA adapter belongs to; changes nothing without --lora (default: none)"
    )
    add_switch(parser, "--lora", help="--ckpt_model is an adapter")
    parser.add_argument("--image_path", default="images", help="folder of pictures inside the dataset's folder")
    parser.add_argument(
        "--prompt_lang",
        choices=("en", "zh"),
        help="language of the wordings, where the checkpoint has no run.json (default: as in training, else en)",
    )
    parser.add_argument("--test_batch_size", type=int, default=16, help="questions at once, each rank")
    add_switch(parser, "--bf16", help="run the model in bfloat16")
    add_device_flag(parser)
    parser.add_argument("--seed", type=int, default=42, help="draws the part of the samples that is asked about")


def number_list(kind: type = int):
    """A comma-separated list such as `1,1,1`."""

    def parse(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from error

    return parse


def name_list(text: str) -> list[str]:
    """A comma-separated list of words such as `seqrec,item2index`."""
    return [part.strip() for part in text.split(",") if part.strip()]
