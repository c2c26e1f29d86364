"""Going on from a checkpoint: which one, and whether it is of the run that goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from src.common.artifacts import read_json
from src.common.distributed import gather, is_main
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
    asked = config.resume_from_checkpoint
    if not asked:
        return None
    newest = asked.lower() in RESUME_NEWEST
    checkpoint = newest_whole_checkpoint(config.output_dir) if newest else Path(asked)
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
    """Refuses a checkpoint of a run on other data or wordings, or in batches of another size.

    Its weights would end beside a record that names what they never saw, such as a new SID index of the same size, and
    an evaluation would believe it. What the checkpoint's record does not say is passed over.

    Args:
        record: of this run; that of rank 0 counts, which knows more.

    Raises:
        ValueError: on every rank.
    """
    fault = _difference(_record_of(checkpoint), record) if checkpoint and is_main() else ""
    if fault := gather(fault)[0]:
        _refuse(checkpoint, fault)


def _difference(before: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The first thing in which a run was another; empty where there is none."""
    for name, entry in record["inputs"].items():
        was = before.get("inputs", {}).get(name, entry)
        if None not in (was["sha256"], entry["sha256"]) and was["sha256"] != entry["sha256"]:
            return f"other {name} than {entry['path']} holds now"
    for name, what in (("templates_sha256", "wordings"), ("train_samples", "training samples")):
        was = before.get(name, {})
        part = next((part for part, value in record[name].items() if was.get(part, value) != value), None)
        if part is not None:
            return f"other {what} of {part}"
    size, now = before.get("global_batch_size"), record["global_batch_size"]
    if size and size != now:
        cut = "ranks x --per_device_batch_size x --gradient_accumulation_steps"
        return f"a batch of {size}, and {now} is asked for ({cut})"
    return ""


def seconds_until(checkpoint: Path | None) -> float:
    """How long the runs took that led to a checkpoint."""
    return _record_of(checkpoint).get("seconds", 0.0) if checkpoint else 0.0


def _record_of(checkpoint: Path) -> dict[str, Any]:
    """That of its run, where it was killed before it had its own; empty where there is none."""
    files = (folder / "run.json" for folder in (checkpoint, checkpoint.parent))
    file = next((file for file in files if file.is_file()), None)
    return read_json(file) if file else {}


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "''" if isinstance(value, list) else repr(value) if value == "" else str(value)


def _refuse(checkpoint: Path | None, what: str) -> NoReturn:
    raise ValueError(
        f"{checkpoint} is of a run with {what}: give what it was begun with, or begin anew in another --output_dir"
    )
