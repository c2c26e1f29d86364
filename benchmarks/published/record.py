"""From a results file to a checked-in record of a row: does it fit, and what of it is kept."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.harness import cpu_seconds, machine, real_data
from benchmarks.published.rows import ROWS, USERS, Row
from src.common.artifacts import read_json, write_json
from src.common.record import plain
from src.seqrec.protocol import protocol_of
from src.seqrec.results import predictions_path, read_results

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "docs" / "results"
METRICS = {  # of each kind of hits: means and intervals in a results file, and how their names begin
    "item": ("mean_results", "confidence_intervals", ""),
    "sid": ("sid_results", "sid_confidence_intervals", "sid_"),
}
MIX = ("weights", "ensemble_by", "shares", "chosen_on", "parts")  # what is kept of how models were put together
FREE = {"data_path", "results_file", "index_file", "base_model", "model_type"}  # may differ: of one machine, or ...
FREE |= {"metrics", "device", "nproc", "num_workers", "test_batch_size", "seed"}  # ... changing no figure, or recorded


def record_path(row: Row) -> Path:
    return RECORDS / f"{row.name}.json"


def settings_of(row: Row) -> dict[str, Any]:
    """Every setting that the command of a row makes, defaults included, as a results file holds them."""
    module = import_module(row.entry)
    build_parser = getattr(module, f"build_{row.model}_parser", module.build_parser)
    parser = build_parser(None)
    return plain(vars(parser.parse_args(row.words()[2:])))


def index_name(row: Row) -> str | None:
    """Name of the file that --index_file of a row finds; None where it has none."""
    given = Path(row.index or "").name
    return f"{row.dataset}{given}" if given.startswith(".") else given or None


def check_fits(row: Row, results: Mapping[str, Any], name: str) -> None:
    """Refuses results of another dataset, model, protocol, number of users or setting than the row's.

    Args:
        results: content of a results file.
        name: of that file, for messages.
    """
    found = {"dataset": results.get("dataset"), "model": results.get("model"), "users": results.get("num_samples")}
    wanted = {"dataset": row.dataset, "model": row.model, "users": USERS[row.dataset]}
    for field, value in wanted.items():
        if found[field] != value:
            raise ValueError(f"{name} has {field} {found[field]!r}, the row {row.name} has {value!r}: name another row")
    protocol = protocol_of(results, name)
    for field in protocol.differences(row.protocol):
        if field != "hits":  # a results file holds both
            raise ValueError(
                f"{name} has {field} {getattr(protocol, field)!r} ({protocol.name}), the row {row.name} has"
                f" {getattr(row.protocol, field)!r} ({row.protocol.name}): name another row, or run: {row.command}"
            )
    if row.protocol.hits == "sid" and "sid_results" not in results:
        raise ValueError(f"{name} has no sid_results, by which {row.name} is judged: evaluate again")
    missing = {"hit@10", "ndcg@10"} - results["mean_results"].keys()
    if missing:
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}: name them in --metrics and evaluate again")
    index = index_name(row)
    if index and Path(results["index"]).name != index:
        raise ValueError(f"{name} is of the SID index {results['index']}, the row {row.name} of {index}")
    check_mix_fits(row, results, name)
    config = results.get("config", {})
    settings = settings_of(row) if config else {}
    for setting in sorted((config.keys() & settings.keys()) - FREE):
        if settings[setting] == []:
            continue  # left to the run, which tells what it took
        if config[setting] != settings[setting]:
            raise ValueError(
                f"{name} was made with --{setting} {config[setting]}, the row {row.name} has {settings[setting]}: make"
                f" it with {row.command}, or let the row in benchmarks/published/rows.py say what was run"
            )


def check_mix_fits(row: Row, results: Mapping[str, Any], name: str) -> None:
    """Refuses what `src.seqrec.metric_ddp` was asked for in another way than by the row: it writes no config."""
    for flag in ("exact", "legal_softmax"):
        if results.get(flag):
            raise ValueError(f"{name} was made with --{flag}, the row {row.name} is without: run {row.command}")
    chosen = results.get("fusion", {}).get("chosen_on", "valid")
    if chosen != "valid":
        raise ValueError(
            f"{name} was mixed by weights that were given, the row {row.name} chooses on valid: run {row.command}"
        )


def record_of(
    row: Row, results: Mapping[str, Any], seconds: float, cpu: float | None, machine: str, resumed: bool = False
) -> dict[str, Any]:
    """What docs/results keeps of a results file that fits.

    Args:
        seconds: wall time of the whole run.
        cpu: CPU seconds, where they were measured.
        machine: in words.
        resumed: whether the run went on from an earlier one, whose time is not in these.
    """
    record: dict[str, Any] = {
        "row": row.name,
        "dataset": row.dataset,
        "model": row.model,
        "protocol": row.protocol.table(),
        "num_samples": results["num_samples"],
    }
    for level, (means, intervals, prefix) in METRICS.items():
        if means in results:
            record[level] = {
                metric.removeprefix(prefix): {"mean": mean, "interval": results.get(intervals, {}).get(metric)}
                for metric, mean in results[means].items()
            }
    return {
        **record,
        "settings": results.get("settings", {}),
        "fusion": {name: value for name, value in results.get("fusion", {}).items() if name in MIX},
        "seed": results.get("config", {}).get("seed"),  # None: nothing random
        "command": row.command,
        "commit": results["commit"],
        "seconds": round(seconds, 1),
        "cpu_seconds": None if cpu is None else round(cpu, 1),
        "resumed": resumed,
        "machine": machine,
    }


def write_record(
    row: Row, results_file: Path, seconds: float, cpu: float | None, machine: str, resumed: bool = False
) -> dict[str, Any]:
    """Checks a results file against the row and writes docs/results/<row>.json; gives the record."""
    results = read_results(results_file)
    check_fits(row, results, str(results_file))
    record = record_of(row, results, seconds, cpu, machine, resumed)
    write_json(record_path(row), record, indent=2)
    return record


def read_records() -> dict[str, dict[str, Any]]:
    """Records by the name of their row."""
    found = (read_json(path) for path in sorted(RECORDS.glob("*/*.json")))
    return {record["row"]: record for record in found}


def launch(words: list[str]) -> int:
    """Runs `python <words>` from the repository root and gives its exit status."""
    return subprocess.run([sys.executable, *words], cwd=ROOT).returncode


def with_values(row: Row, data: str) -> list[str]:
    """The words of the command with the values of this machine: the folder of the data, and what the environment says.

    Raises:
        ValueError: a variable is not set.
    """
    values = {**os.environ, "GREC_DATA": data}
    try:
        return [Template(word).substitute(values) for word in row.words()]
    except KeyError as error:
        raise ValueError(f"{row.name} needs ${error.args[0]}: set it, such as to the folder of a model") from error


def prepare(row: Row, data: str) -> None:
    """Makes what a row needs, where the row says how and it is not there yet; refuses where models are missing."""
    for name in row.needs:
        if not (ROOT / ROWS[name].model_folder).is_dir():
            raise ValueError(f"{row.name} puts trained models together: first run --rows {' '.join(row.needs)}")
    if all((ROOT / path).is_file() for path in row.made_before):
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # so that python is this one
    for command in row.before:
        print(command, flush=True)
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env={**os.environ, "GREC_DATA": data, "PATH": path})
        if done.returncode:
            raise ValueError(f"{row.name}: a step before it ended with status {done.returncode}: {command}")


def any_work_done(results_file: Path) -> bool:
    """Whether an earlier run left a model, or answers, to go on from."""
    answers = predictions_path(results_file).with_suffix("").name  # their folders: x.predictions.parts, and the like
    return results_file.with_suffix(".model").is_dir() or any(results_file.parent.glob(f"{answers}*.parts"))


def run_row(row: Row) -> dict[str, Any] | None:
    """Runs the commands of a row and writes its record; None where the data is absent.

    Raises:
        ValueError: a command failed, or the row needs models that are not trained yet.
    """
    folder = real_data(row.dataset)
    if folder is None:
        print(f"{row.name}: skipped, {row.dataset} is absent; set GREC_DATA to the folder that holds it", flush=True)
        return None
    data = str(folder.parent)
    words = with_values(row, data)
    prepare(row, data)
    print(row.command, flush=True)
    resumed = any_work_done(ROOT / row.results_file)
    started, before = time.monotonic(), cpu_seconds()
    status = launch(words)
    if status:
        raise ValueError(f"{row.name}: the command ended with status {status}: {row.command}")
    seconds, cpu = time.monotonic() - started, cpu_seconds() - before
    return write_record(row, ROOT / row.results_file, seconds, cpu, machine(), resumed)
