"""Training runs and indexes by what they are of: a section for each dataset, since figures of two do not compare."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.common.sid import SidIndex
from src.reporting.codebooks import codebook_section
from src.reporting.results import OTHER
from src.reporting.runs import Log, Runs
from src.reporting.training import rqvae_section, sft_section


class Part(NamedTuple):
    """A section of the page that the contents name."""

    title: str
    anchor: str
    body: str


def training_parts(runs: Runs) -> list[Part]:
    """Curves and codebooks, those of one dataset together; fine-tunings for other tasks have losses of another kind."""
    kinds: tuple[tuple[str, str, Mapping[str, Any], Callable[[Any], str], Callable[..., str]], ...] = (
        ("Training: fine-tuning", "finetuning", runs.finetunings, finetuning_subject, sft_section),
        ("Training: semantic IDs", "rqvae", runs.rqvaes, rqvae_subject, rqvae_section),
        ("Semantic IDs", "codebooks", runs.indexes, index_subject, codebook_section),
    )
    parts = []
    for title, anchor, found, subject_of, section in kinds:
        subjects = {name: f" – {subject_of(value)}" for name, value in found.items()}
        for number, subject in enumerate(dict.fromkeys(subjects.values())):
            own = {name: value for name, value in found.items() if subjects[name] == subject}
            place = f"{anchor}-{number}"
            parts.append(Part(title + subject, place, section(own, subject, place)))
    return parts


def finetuning_subject(log: Log) -> str:
    tasks = log.settings.get("tasks") or [OTHER]
    return f"{log.settings.get('dataset') or OTHER}, {', '.join(map(str, tasks))}"


def rqvae_subject(log: Log) -> str:
    """The datasets of its embeddings, `<dataset>.emb-<name>.npy`."""
    places = log.settings.get("data_path") or []
    places = [places] if isinstance(places, str) else places
    return ", ".join(dict.fromkeys(Path(place).name.partition(".emb-")[0] for place in places)) or OTHER


def index_subject(index: SidIndex) -> str:
    return str(index.meta.get("dataset") or (index.path.name.partition(".index_")[0] if index.path else OTHER))
