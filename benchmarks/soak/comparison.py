"""Whether two folders hold the same work, and every difference in words: bit for bit, but for what a clock says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from src.common.record import SEAL

# What tells of the clock, of the checkout, and of which start it was.
OF_THE_CLOCK = {"seconds", "started", "run_id", "commit", "model_files", "file", "attempts", "resume", "command", SEAL}
OF_THE_CLOCK |= {"items_sha256"}  # times of the pictures go into it
OF_THE_CLOCK |= {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
NOT_COMPARED = {".log", ".lock"}
UNREAD = {"training_args.bin"}  # a pickle of flags that run.json holds, too
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?")  # of an RQ-VAE run
JOURNALS = {".images.jsonl": "item", ".enrich.jsonl": "key"}  # lines that may stand there again; the last one counts


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its path there; the folder of a run counts under one name, whenever it was."""
    return {
        STAMP.sub("RUN", str(path.relative_to(folder))): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def differences(straight: Path, killed: Path) -> list[str]:
    """What the folder of killed runs lacks, has too much, or has otherwise than that of runs left alone."""
    mine, theirs = files_of(killed), files_of(straight)
    found = [f"lost: {name}" for name in theirs.keys() - mine.keys()]
    found += [f"left over: {name}" for name in mine.keys() - theirs.keys()]
    for name in sorted(mine.keys() & theirs.keys()):
        if why := difference(theirs[name], mine[name]):
            found.append(f"differs: {name}: {why}")
    return sorted(found)


def difference(one: Path, other: Path) -> str:
    """Why two files of one name hold different things; empty where they do not."""
    if one.is_dir() or other.is_dir():
        return "" if one.is_dir() and other.is_dir() else "one is a folder"
    if one.suffix in NOT_COMPARED or one.name in UNREAD or one.read_bytes() == other.read_bytes():
        return ""
    try:
        values = [reader_of(path)(path) for path in (one, other)]
    except Exception as error:  # whatever a reader says of a file that is not whole
        return f"cannot be read ({type(error).__name__}: {error})"
    return first_difference(*values)


def reader_of(path: Path) -> Callable[[Path], Any]:
    if ".emb-" in path.name and path.name.endswith(".run.json"):
        return lambda path: {
            **plain(json.loads(path.read_text(encoding="utf-8"))),
            "inputs": "by the times of pictures",
        }
    if path.name == "metrics.jsonl" or path.suffix == ".jsonl":
        return read_lines
    readers = {
        ".json": lambda path: plain(json.loads(path.read_text(encoding="utf-8"))),
        ".npz": lambda path: dict(np.load(path, allow_pickle=False)),
        ".npy": lambda path: np.load(path, allow_pickle=False),
        ".parquet": lambda path: pl.read_parquet(path).to_dict(as_series=False),
        ".csv": lambda path: pl.read_csv(path).drop("seconds", strict=False).to_dict(as_series=False),
        ".html": lambda path: STAMP.sub("RUN", path.read_text(encoding="utf-8")),
        ".safetensors": load_file,
        **dict.fromkeys((".pth", ".pt", ".bin"), read_tensors),
    }
    return readers.get(path.suffix, Path.read_bytes)


def read_lines(path: Path) -> Any:
    """Lines of JSON; of a journal the last line of each key, a picture kept or fetched alike."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for ending, key in JOURNALS.items():
        if path.name.endswith(ending):
            table = {row[key]: row for row in rows}
            for row in table.values():
                if row["status"] == "kept":
                    row["status"] = "ok"
                if row["status"] == "ok":
                    row.pop("url", None)
            return plain(dict(sorted(table.items())))
    return [plain(row) for row in rows if "train_runtime" not in row]


def read_tensors(path: Path) -> Any:
    """A file of torch.save: its members where they are alike by bytes anyway, else what they hold."""
    from numpy._core.multiarray import _reconstruct

    allowed = [_reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    with torch.serialization.safe_globals(allowed):
        return plain(torch.load(path, map_location="cpu", weights_only=True))


def plain(value: Any) -> Any:
    """`value` without what tells of the clock, and with one name for the folder of a run."""
    if isinstance(value, dict):
        kept = {key: plain(entry) for key, entry in value.items() if key not in OF_THE_CLOCK}
        if str(kept.get("path", "")).endswith(".pth"):
            kept.pop("sha256", None)  # it holds `resume`, too; what else it holds is compared itself
        return kept
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value if not (isinstance(entry, dict) and "train_runtime" in entry)]
    return STAMP.sub("RUN", value) if isinstance(value, str) else value


def first_difference(one: Any, other: Any, place: str = "") -> str:
    """Where two values differ first, and how; empty where they are equal, NaN to NaN."""
    where = place or "it"
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        one, other = one.float().numpy(), other.float().numpy()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape:
            return f"{where} has shape {one.shape}, now {other.shape}"
        if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            return ""
        return f"{where} differs in {int((one != other).sum())} of {one.size} values"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            lacks, adds = (sorted(map(str, keys)) for keys in (one.keys() - other.keys(), other.keys() - one.keys()))
            return f"{where} lacks {lacks}, adds {adds}"
        pairs = ((f"{place}.{key}".lstrip("."), one[key], other[key]) for key in one)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{where} has {len(one)} entries, now {len(other)}"
        pairs = ((f"{place}[{number}]", *pair) for number, pair in enumerate(zip(one, other, strict=True)))
    else:
        same = one == other or (one != one and other != other)
        return "" if same else f"{where} is {str(one)[:60]!r}, now {str(other)[:60]!r}"
    return next((why for name, *pair in pairs if (why := first_difference(*pair, name))), "")
