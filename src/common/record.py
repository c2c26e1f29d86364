"""What a run was: resolved settings, command, commit and hashes of its inputs, for `run.json` and results files."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.common.artifacts import file_hash


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


def run_record(config: Any, inputs: Mapping[str, str | Path]) -> dict[str, Any]:
    """Settings, command, commit, time, and the SHA-256 of every input file that exists."""
    return {
        "config": plain(config),
        "command": sys.argv,
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": {
            name: {"path": str(path), "sha256": file_hash(path)}
            for name, path in inputs.items()
            if Path(path).is_file()
        },
    }
