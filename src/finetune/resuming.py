"""Going on from a checkpoint: which one, and whether it is of the run that goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.common.artifacts import read_json
from src.common.log import logger
from src.common.record import plain
from src.finetune.config import RESUME_NEWEST, FinetuneConfig
from src.finetune.trainer import newest_whole_checkpoint

# Settings in which a resumed run may differ from the one before: where things lie, what is shown and saved, how long
# the run is and how its batch is cut. What lies at the paths is compared by its hash, the batch by its size.
FREE_TO_DIFFER = {
    "base_model", "output_dir", "index_file", "data_path", "image_path", "skip_bad_images", "per_device_batch_size",
    "gradient_accumulation_steps", "use_gradient_checkpointing", "num_workers", "epochs", "max_steps", "deepspeed",
    "fsdp", "save_and_eval_strategy", "save_and_eval_steps", "save_total_limit", "device", "resume_from_checkpoint",
    "report_to", "run_name", "logging_step", "preflight",
}  # fmt: skip
NO_FLAGS = ("entry", "vision", "add_sid_tokens")


def checkpoint_to_resume(config: FinetuneConfig) -> Path | None:
    """What --resume_from_checkpoint names; None: the start.

    Raises:
        ValueError: the checkpoint is of a run with other settings. It would go on with its own, such as the learning
            rate, while the record of this run would show the new ones.
    """
    asked, newest = config.resume_from_checkpoint, newest_whole_checkpoint(config.output_dir)
    if not asked:
        if newest:
            logger.info("beginning anew: to go on from %s pass --resume_from_checkpoint True", newest)
        return None
    checkpoint = newest if asked.lower() in RESUME_NEWEST else Path(asked)
    logger.info("resuming from %s", checkpoint or "the start: no whole checkpoint yet")
    if checkpoint:
        settings = {name: value for name, value in plain(config).items() if name not in FREE_TO_DIFFER}
        before = _record_of(checkpoint).get("config", {})
        for name, value in settings.items():
            if before.get(name, value) != value:
                flag = name if name in NO_FLAGS else f"--{name}"
                _refuse(checkpoint, f"{flag} {_shown(before[name])}, and {_shown(value)} is asked for")
    return checkpoint


def check_resumed(checkpoint: Path | None, record: Mapping[str, Any]) -> None:
    """Raises ValueError where a checkpoint is of a run on other data, or in batches of another size."""
    before = _record_of(checkpoint) if checkpoint else {}
    for name, entry in record["inputs"].items():
        was = before.get("inputs", {}).get(name, entry)
        if was["sha256"] != entry["sha256"]:
            _refuse(checkpoint, f"other {name} than {entry['path']} holds now")
    size, now = before.get("global_batch_size"), record["global_batch_size"]
    if size and size != now:
        _refuse(checkpoint, f"a batch of {size}, and {now} is asked for (ranks x --per_device_batch_size x"
                            f" --gradient_accumulation_steps)")  # fmt: skip


def seconds_until(checkpoint: Path | None) -> float:
    """How long the runs took that led to a checkpoint."""
    return _record_of(checkpoint).get("seconds", 0.0) if checkpoint else 0.0


def _record_of(checkpoint: Path) -> dict[str, Any]:
    """Empty where the run was killed before it was written."""
    path = checkpoint / "run.json"
    return read_json(path) if path.is_file() else {}


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "''" if isinstance(value, list) else repr(value) if value == "" else str(value)


def _refuse(checkpoint: Path | None, what: str) -> None:
    raise ValueError(
        f"{checkpoint} is of a run with {what}: give what it was begun with, or begin anew in another --output_dir"
    )
