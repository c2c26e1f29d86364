"""Flags that several entries share: name, type and help, once."""

import argparse
from pathlib import Path


def boolean(text: str) -> bool:
    """`True|False` as documented, and the usual other spellings; never `bool(text)`, which takes "False" for true."""
    value = text.strip().lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


def add_switch(parser: argparse._ActionsContainer, *flags: str, default: bool = False, **options) -> None:
    """A switch that takes `--bn`, `--bn True` and `--bn False` alike."""
    parser.add_argument(*flags, type=boolean, nargs="?", const=True, default=default, metavar="True|False", **options)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the module's docstring as written, and shows defaults."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.required:
            return action.help or ""
        return super()._get_help_string(action)


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for an entry, described by the entry's docstring. Flags may not be abbreviated."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_path", type=Path, default=Path("data"), help="folder that holds <dataset>/")
    parser.add_argument("--dataset", required=True, help="name of the dataset")


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


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
