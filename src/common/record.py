"""What a run was: settings, command, commit, and the SHA-256 of what it read and wrote.

Every artefact has such a record: `run.json`, `config.json`, `*.meta.json`, `*.run.json`, or a results file itself.
`python -m src.verify` walks from record to record (src/lineage/).
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.common.artifacts import file_hash, read_json, write_json

SEAL = "record_sha256"  # of everything else in a record
# What a model's folder does with its files; logs, optimizer states and records are no part of it.
MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model", "global_step*/*.pt")
NOT_OF_MODEL = ("run.json", "trainer_state.json", "training_args.bin")

Entry = dict[str, Any]  # path, sha256; of a model's folder also files: {name: sha256}


def commit() -> str:
    """The commit of this checkout, with `-dirty` where files differ; outside one $GREC_COMMIT, or "unknown"."""
    root, unknown = Path(__file__).resolve().parents[2], os.environ.get("GREC_COMMIT") or "unknown"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return unknown
    return done.stdout.strip() or unknown


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, dataclasses and tuples as tables and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


# ---- files by their content ------------------------------------------------------------------------------------------
def recorded(path: str | Path) -> str:
    """A path as records hold it: relative where it lies below this folder, so that the folder may move."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def file_entry(path: str | Path) -> Entry:
    return {"path": recorded(path), "sha256": file_hash(path)}


def model_files(folder: str | Path) -> list[Path]:
    """The files that decide what a model answers, by name."""
    found = {path for pattern in MODEL_FILES for path in Path(folder).glob(pattern)}
    return sorted(path for path in found if path.name not in NOT_OF_MODEL and not path.name.endswith(".run.json"))


def model_entry(folder: str | Path, named: str | Path | None = None, hash_of: Callable = file_hash) -> Entry:
    """A model's folder as one input or output: its hash is that of the list that `sha256sum` would print.

    Args:
        named: how the user calls it, where that is no path, such as a name on the hub.
    """
    files = {path.relative_to(folder).as_posix(): hash_of(path) for path in model_files(folder)}
    listed = "".join(f"{value}  {name}\n" for name, value in files.items())
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return {"path": str(named or recorded(folder)), "sha256": digest, "files": files}


def entry_of(path: str | Path) -> Entry:
    return model_entry(path) if Path(path).is_dir() else file_entry(path)


# ---- records ---------------------------------------------------------------------------------------------------------
def run_record(config: Any, inputs: Mapping[str, str | Path | Entry]) -> dict[str, Any]:
    """Settings, command, commit, time, and the SHA-256 of every input that exists.

    Args:
        inputs: files, folders of models, or entries of them by what they are.
    """
    return {
        "config": plain(config),
        "command": sys.argv,
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": input_entries(inputs),
    }


def input_entries(inputs: Mapping[str, str | Path | Entry]) -> dict[str, Entry]:
    """`inputs` of a record; what does not exist is left out."""
    return {
        name: given if isinstance(given, dict) else entry_of(given)
        for name, given in inputs.items()
        if isinstance(given, dict) or Path(given).exists()
    }


def seal_of(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_record(path: str | Path, record: Mapping[str, Any], outputs: Mapping[str, str | Path] | None = None) -> None:
    """Writes a record with the hashes of what the run has made, and a seal by which an edited record shows.

    Args:
        outputs: files, or the folder of a model, by what they are; paths are kept relative to the record, so that a
            folder may move. None: keeps what `record` says.
    """
    path = Path(path)
    table = plain(record)
    if outputs is not None:
        made = {name: entry_of(output) for name, output in outputs.items()}
        table["outputs"] = {
            name: entry | {"path": Path(os.path.relpath(outputs[name], path.parent)).as_posix()}
            for name, entry in made.items()
        }
    table = json.loads(json.dumps(table))  # as it will be read: the seal is of that
    write_json(path, table | {SEAL: seal_of(table)}, indent=2)


def add_outputs(path: str | Path, outputs: Mapping[str, str | Path]) -> None:
    """Completes a record that was written before its files were."""
    write_record(path, read_json(path), outputs)
