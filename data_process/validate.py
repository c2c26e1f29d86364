"""Checks every file of a dataset, and whether its sequences give answers away; says what is wrong and how to mend it.

    python3 data_process/validate.py --dataset data/Games

Exit status: 0, with warnings at most; 1, a file breaks the contract of docs/data_format.md; 2, there is no such folder.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import DatasetPaths, check_writable, write_json
from src.common.cli import add_switch, new_parser, user_errors

if TYPE_CHECKING:
    from data_process.findings import Findings


@dataclass(frozen=True)
class ValidateConfig:
    """`dataset` is the folder; its name begins the names of the files in it."""

    dataset: Path
    decode_images: bool = True
    json: Path | None = None

    @property
    def paths(self) -> DatasetPaths:
        folder = Path(os.path.abspath(self.dataset))  # of "." too; links stay, as their name is the dataset's
        return DatasetPaths(folder.parent, folder.name)


def validate(config: ValidateConfig) -> "Findings":
    """Reads all there is; changes nothing.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not config.dataset.is_dir():
        raise FileNotFoundError(f"--dataset {config.dataset} is no folder: name that of a dataset, such as data/Games")
    from data_process.artefact_checks import check_files
    from data_process.findings import Findings
    from data_process.leakage_checks import check_leakage

    if config.json:
        check_writable(config.json)
    findings = Findings()
    check_leakage(check_files(config.paths, findings, config.decode_images), findings)
    return findings


def report(config: ValidateConfig, findings: "Findings") -> bool:
    """Prints the findings, errors first, and writes them where asked; gives whether the dataset is sound."""
    from data_process.findings import ERROR, WARNING

    rows = sorted(findings.rows, key=lambda row: row.level != ERROR)
    for row in rows:
        print(row.text())
    errors, warnings = findings.count(ERROR), findings.count(WARNING)
    print(f"{config.paths.dataset}: {errors} errors, {warnings} warnings in {', '.join(findings.checked) or 'no file'}")
    if config.json:
        table = {"dataset": config.paths.dataset, "errors": errors, "warnings": warnings}
        table |= {"checked": findings.checked, "findings": [row._asdict() for row in rows]}
        write_json(config.json, table, indent=2)
    return not errors


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    add_switch(parser, "--decode_images", default=True, help="open every picture, which takes a while for many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too (default: nowhere)")
    return parser


def main(argv: list[str] | None = None) -> None:
    config = ValidateConfig(**vars(build_parser().parse_args(argv)))
    with user_errors():
        is_sound = report(config, validate(config))
    if not is_sound:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
