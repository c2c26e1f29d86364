"""Going on from a checkpoint: which one, how long it took to get there, and whether it is of this very run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from src.common.artifacts import read_json
from src.common.distributed import gather, is_main
from src.common.log import logger
from src.common.record import plain
from src.finetune.config import RESUME_NEWEST, FinetuneConfig
from src.finetune.trainer import newest_whole_checkpoint, run_of

# Of a record, beside its inputs: what is asked, how, and of how many samples. Learning rates, batches and engines may
# change; these may not.
SETTLED = ("tasks", "templates_sha256", "prompt_settings", "train_samples")


def checkpoint_to_resume(config: FinetuneConfig) -> Path | None:
    """What --resume_from_checkpoint names; None: the start."""
    asked = config.resume_from_checkpoint
    if not asked:
        return None
    if asked.lower() not in RESUME_NEWEST:
        return Path(asked)
    newest = newest_whole_checkpoint(config.output_dir)
    logger.info("resuming from %s", newest or "the start: no whole checkpoint yet")
    return newest


def seconds_until(checkpoint: Path | None) -> float:
    """How long the runs took that led to a checkpoint."""
    if checkpoint is None or not (checkpoint / "run.json").is_file():
        return 0.0
    return read_json(checkpoint / "run.json").get("seconds", 0.0)


def run_id(checkpoint: Path | None) -> str:
    """That of the run that wrote the checkpoint; a new one for a run that begins."""
    folders = () if checkpoint is None else (checkpoint, checkpoint.parent)
    return next((known for folder in folders if (known := run_of(folder))), uuid4().hex)


def check_same_run(checkpoint: Path | None, record: Mapping[str, Any]) -> None:
    """Refuses to go on from a checkpoint of other data, prompts or samples.

    Its weights would end beside a record that names what they never saw, such as a new SID index of the same size, and
    an evaluation would believe it. What the checkpoint's record does not say is passed over.

    Args:
        record: of this run; that of rank 0 counts.

    Raises:
        ValueError: on every rank.
    """
    fault = _difference(checkpoint, record) if checkpoint is not None and is_main() else ""
    if fault := gather(fault)[0]:
        raise ValueError(
            f"--resume_from_checkpoint {checkpoint}: {fault}. Bring back what it was trained on, or train anew in"
            f" another --output_dir; to start from its weights, name it as --base_model"
        )


def _difference(checkpoint: Path, record: Mapping[str, Any]) -> str:
    """The first thing that is not as it was; empty where there is none."""
    # A run that was killed while it saved leaves a checkpoint without a record: then that of the run is its own.
    files = (folder / "run.json" for folder in (checkpoint, checkpoint.parent))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return ""
    then, now = read_json(file), plain(record)
    for name, entry in then.get("inputs", {}).items():
        found = now["inputs"].get(name, {"sha256": "gone"})
        if None not in (entry["sha256"], found["sha256"]) and entry["sha256"] != found["sha256"]:
            return f"it was trained with another {name} than {found.get('path', 'none')}"
    for name in SETTLED:
        for part, value in _parts(then.get(name)).items():
            if _parts(now[name]).get(part) != value:
                return f"{name} {part} was {value} and is now {_parts(now[name]).get(part)}"
    seeds = [table.get("config", {}).get("seed") for table in (then, now)]
    if None not in seeds and seeds[0] != seeds[1]:
        return f"--seed was {seeds[0]} and is now {seeds[1]}"
    return ""


def _parts(value: Any) -> Mapping[str, Any]:
    """A setting by the names of its parts; a list is one part, and what was not recorded has none."""
    return value if isinstance(value, Mapping) else {} if value is None else {"list": value}
