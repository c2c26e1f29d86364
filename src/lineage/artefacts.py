"""Finding artefacts: the records below some folders, what each says, and files that ought to have one."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.artifacts import read_json
from src.common.record import SEAL, Entry, seal_of

SIDECARS = re.compile(r"(^|\.)(run|meta)\.json$|^config\.json$")  # records of other files; other records are artefacts
TABLES = re.compile(  # JSON that is data: large, and never a record
    r"\.(inter|item|times|split|user|item_enriched_v2|image_urls|ids|ratings|statistics|demo)\.json$|\.index.*(?<!\.evaluation)\.json$"
)
INDEX = re.compile(r"\.index[^/]*\.(json|npz)$")
NO_INDEX = (".meta.json", ".evaluation.json")
EMBEDDINGS = re.compile(r"\.emb-[^/]*\.npy$")
LARGEST_RECORD = 1 << 26  # bytes
SKIPPED = re.compile(r"^\.|\.parts$|^(__pycache__|node_modules|wandb)$")
UNREADABLE = "cannot be read"
FOLDERS = ("dataset", "RQ-VAE run", "fine-tuned model", "merged model", "TIGER")  # kinds that a whole folder stands for


@dataclass
class Artefact:
    """What one record tells.

    Attributes:
        path: the file or folder that is shown.
        record: the JSON; None where there is none.
        inputs: what it was made from, by what that is.
        outputs: files, or folders of models, with their hashes when they were made; paths lie beside the record.
        is_whole: the record tells the hash of what was made: its own as a seal, or those of the outputs.
        fault: why the record tells nothing that can be trusted.
    """

    kind: str
    path: Path
    record: Path | None
    inputs: dict[str, Entry] = field(default_factory=dict)
    outputs: dict[str, Entry] = field(default_factory=dict)
    is_whole: bool = False
    fault: str = ""

    def place(self, output: Entry) -> Path:
        return (self.record or self.path).parent / output["path"]

    def places(self) -> set[Path]:
        """Everything that the record speaks of, resolved."""
        return {self.path.resolve(), *(self.place(output).resolve() for output in self.outputs.values())}


# ---- one record ------------------------------------------------------------------------------------------------------
def is_entry(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("path"), str) and "sha256" in value


def entries(value: Any) -> dict[str, Entry]:
    return {name: entry for name, entry in value.items() if is_entry(entry)} if isinstance(value, dict) else {}


def old_inputs(table: dict[str, Any]) -> dict[str, Entry]:
    """Inputs as the meta file of an index named them before there were records."""
    named = {"checkpoint": table.get("checkpoint")}
    listed = table.get("embeddings")
    listed = listed if isinstance(listed, list) else []
    for number, entry in enumerate(listed):
        named[f"embeddings_{number}" if len(listed) > 1 else "embeddings"] = entry
    return entries(named)


def kind_of(path: Path) -> str:
    """What a record without a kind is of, by its name."""
    if path.name.endswith(".meta.json"):
        return "SID index"
    if path.name.endswith(".run.json"):
        return "embeddings"
    return {"run.json": "fine-tuned model", "config.json": "RQ-VAE run"}.get(path.name, "results")


def read_artefact(path: Path) -> Artefact | None:
    """The artefact of a record; None where the file is JSON of something else."""
    sidecar, kind = bool(SIDECARS.search(path.name)), kind_of(path)
    try:
        table = read_json(path)
    except (ValueError, OSError) as error:
        what = path.parent if kind in FOLDERS else described_by(path) if sidecar else path
        return Artefact(kind, what, path, fault=f"{path.name} {UNREADABLE}: {error}")
    if not isinstance(table, dict):
        return None
    inputs = entries(table.get("inputs")) or (old_inputs(table) if path.name.endswith(".meta.json") else {})
    if not inputs and SEAL not in table and not ("mean_results" in table and not sidecar):
        return None
    kind, outputs = table.get("artefact") or kind, entries(table.get("outputs"))
    found = Artefact(kind, path, path, inputs, outputs)
    found.is_whole = SEAL in table and "inputs" in table and (bool(outputs) or not sidecar)
    if SEAL in table and seal_of(table) != table[SEAL]:
        found.fault = f"{path.name} was edited after it was written"
    if kind in FOLDERS:
        found.path = path.parent
    elif sidecar:
        found.path = found.place(next(iter(outputs.values()))) if outputs else described_by(path)
    return found


def described_by(sidecar: Path) -> Path:
    """The file that a sidecar without outputs belongs to."""
    stem = re.sub(r"\.(run|meta)\.json$", "", sidecar.name)
    beside = (sidecar.with_name(stem + end) for end in (".npy", ".npz", ".json"))
    return next((path for path in beside if path.is_file()), sidecar)


def may_be_record(path: Path) -> bool:
    """Whether it is worth reading: data is not, and may be large."""
    if path.suffix != ".json" or (TABLES.search(path.name) and not SIDECARS.search(path.name)):
        return False
    return path.is_file() and path.stat().st_size <= LARGEST_RECORD


def artefact_of(path: Path) -> Artefact | None:
    """The artefact that a file, or a model's folder, belongs to by a record that lies in or beside it."""
    path = path.resolve()
    for candidate in record_candidates(path):
        found = read_artefact(candidate) if may_be_record(candidate) else None
        if found is not None and (candidate == path or path in found.places() or is_of_run(path, found)):
            return found
    return None


def is_of_run(path: Path, artefact: Artefact) -> bool:
    """Whether a file is a checkpoint of a run that it does not list: an epoch_*.pth, or last.pth."""
    return path.suffix == ".pth" and artefact.kind == "RQ-VAE run" and path.parent == artefact.path.resolve()


def record_candidates(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path / "run.json"
        yield from sorted(path.glob("*.run.json"))
        return
    if path.suffix == ".json":
        yield path
    stem = path.with_suffix("")
    while True:  # X.emb-a.ids.json -> X.emb-a.ids.run.json, X.emb-a.run.json, X.run.json
        for end in (".run.json", ".meta.json", ".json"):
            yield stem.with_name(stem.name + end)
        if not stem.suffix:
            break
        stem = stem.with_suffix("")
    if path.suffix == ".pth":
        yield path.parent / "config.json"
        yield path.parent.with_suffix(".json")  # <results>.model/last.pth


# ---- all below some folders ------------------------------------------------------------------------------------------
def is_model_folder(folder: Path) -> bool:
    if (folder / "adapter_config.json").is_file():
        return True
    weights = (path for end in ("*.safetensors", "*.bin", "global_step*") for path in folder.glob(end))
    return (folder / "config.json").is_file() and any(weights)


def files_below(root: Path) -> Iterator[Path]:
    """Files, and models' folders in place of what is in them; half-made parts and hidden files are left out."""
    if root.is_file():
        yield root
        return
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(name for name in names if not SKIPPED.search(name))
        if is_model_folder(here):
            yield here
            names[:] = [name for name in names if not name.startswith("checkpoint-")]  # copies on the way to it
        for name in sorted(files):
            if not name.startswith("."):
                yield here / name


def find_artefacts(roots: list[Path]) -> tuple[list[Artefact], list[Path]]:
    """Artefacts with a record below the folders or files, and those without; and all files there."""
    found: dict[Path, Artefact] = {}
    files: list[Path] = []
    models = set()
    for root in roots:
        for path in files_below(root):
            files.append(path)
            if path.is_dir():
                models.add(path)
            in_model = path.parent in models and not re.search(r"(^|\.)run\.json$", path.name)
            artefact = None
            if path == root and path.is_file():
                artefact = artefact_of(path)
            elif may_be_record(path) and not in_model:
                artefact = read_artefact(path)
            if artefact is not None:
                found.setdefault((artefact.record or path).resolve(), artefact)
    artefacts = list(found.values())
    covered = {place for artefact in artefacts for place in artefact.places()}
    for path in files:
        if path.resolve() not in covered and (kind := kind_without_record(path)):
            covered.add(path.resolve())
            artefacts.append(Artefact(kind, path, None))
    return artefacts, files


def kind_without_record(path: Path) -> str | None:
    """What a file or folder is that ought to have a record, told by its name; None for anything else."""
    if path.is_dir():
        trained = (path / "adapter_config.json").is_file() or (path / "token_meta.json").is_file()
        return "fine-tuned model" if trained else None
    if EMBEDDINGS.search(path.name):
        return "embeddings"
    if INDEX.search(path.name) and not path.name.endswith(NO_INDEX):
        return "SID index"
    return None
