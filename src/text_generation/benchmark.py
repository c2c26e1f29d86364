"""Evaluate a list of models one after another, each in processes of its own, and print one table.

    python -m src.text_generation.benchmark --config config/text_generation_benchmark.yml --only GRec

The file names flags of src.text_generation.evaluate: those of all models, and those of each. All models are checked
before the first is run. One that fails does not keep the others from running; the exit status is then 1.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from src.common.artifacts import read_text
from src.common.cli import check_at_least, name_list, new_parser, user_errors
from src.text_generation.config import TextConfig, add_record_flags, build_parser, config_from

KEYS = {"nproc_per_node", "table_file", "settings", "models"}


class Run(NamedTuple):
    name: str
    flags: list[str]
    config: TextConfig


def read_runs(path: Path, only: list[str]) -> tuple[list[Run], int]:
    """The models of a benchmark file with their flags, and the number of processes.

    Raises:
        FileNotFoundError, ValueError: the file is missing, is no such list, or names a flag that does not exist.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give --config a list of models, such as"
                                " config/text_generation_benchmark.yml")  # fmt: skip
    try:
        table = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("models"), list) or not table["models"]:
        raise ValueError(f"{path} must hold a list `models`, and beside it only {', '.join(sorted(KEYS))}")
    if not isinstance(table.get("settings") or {}, dict):
        raise ValueError(f"{path}: `settings` must be flags with their values, such as test_batch_size: 16")
    if unknown := set(table) - KEYS:
        raise ValueError(f"{path}: there is no setting {sorted(unknown)[0]!r}; there are {', '.join(sorted(KEYS))}")
    runs = []
    for entry in table["models"]:
        if not isinstance(entry, dict) or "model_name" not in entry:
            raise ValueError(f"{path}: every model needs a model_name, this has none: {entry!r:.80}")
        values: dict[str, Any] = {"table_file": table.get("table_file"), **(table.get("settings") or {}), **entry}
        flags = [word for key, value in values.items() if value is not None for word in (f"--{key}", str(value))]
        runs.append(Run(str(entry["model_name"]), flags, parsed(path, str(entry["model_name"]), flags)))
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: model_name {next(n for n in names if names.count(n) > 1)!r} stands there twice")
    places = [run.config.results_path for run in runs]
    if len(set(places)) != len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"{path}: several models would write {twice}: give each a results_file of its own, or none")
    number = table.get("nproc_per_node", 1)
    if not isinstance(number, int):
        raise ValueError(f"{path}: nproc_per_node {number!r} is no whole number")
    for name in only:
        if name not in names:
            raise ValueError(f"--only {name}: {path} has the models {', '.join(names)}")
    return [run for run in runs if not only or run.name in only], number


def parsed(path: Path, name: str, flags: list[str]) -> TextConfig:
    parser = build_parser(None)
    add_record_flags(parser)

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{path}, model {name}: {message}")

    parser.error = fail  # type: ignore[method-assign]  # argparse offers no other way
    return config_from(parser.parse_args(flags))


def run_all(runs: list[Run], num_processes: int) -> list[str]:
    """Checks all models, then runs each; gives the names of those that failed."""
    from src.text_generation.plan import check

    for run in runs:
        try:
            check(run.config)
        except (ValueError, OSError) as error:
            raise ValueError(f"model {run.name}: {error}") from error
    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    failed = []
    for run in runs:
        module = [*(ranks if num_processes > 1 else []), "-m", "src.text_generation.evaluate"]
        print(f"\n== {run.name}", flush=True)
        if subprocess.run([sys.executable, *module, *run.flags], env=os.environ).returncode:
            failed.append(run.name)
    return failed


def table_lines(path: Path, config: TextConfig) -> list[str]:
    """The rows of the table on the dataset and task of `config`, for people."""
    from src.tasks.task import load_task
    from src.text_generation.judging import SHOWN

    task = load_task(config.test_task).name
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["dataset"], row["task"]) == (config.dataset, task)]
    rows = [row for row in rows if row["split"] in (config.split, "seen")]
    names = [name for name in SHOWN if rows and rows[0].get(name)]
    width = max((len(row["model"]) for row in rows), default=0)
    lines = [f"{'':<{width}}  pictures  " + "  ".join(f"{name:>{max(8, len(name))}}" for name in names)]
    for row in rows:
        cells = (f"{float(row[n]):>{max(8, len(n))}.3f}" if row.get(n) else "-".rjust(max(8, len(n))) for n in names)
        lines.append(f"{row['model']:<{width}}  {row['pictures']:<8}  " + "  ".join(cells))
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="list of models, a YAML file")
    parser.add_argument("--only", type=name_list, default=[], help="model_names to run, by commas (default: all)")
    args = parser.parse_args(argv)
    with user_errors():
        runs, num_processes = read_runs(args.config, args.only)
        check_at_least(argparse.Namespace(nproc_per_node=num_processes), nproc_per_node=1)
        failed = run_all(runs, num_processes)
    done = [run for run in runs if run.name not in failed]
    if done:
        print("\n" + "\n".join(table_lines(done[0].config.table_path, done[0].config)))
    if failed:
        print(f"failed: {', '.join(failed)}; their messages stand above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
