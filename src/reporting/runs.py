"""What `python -m src.report RUN...` is given, found and read: results, training runs, and the indexes of these."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from src.common.artifacts import read_json, read_rows
from src.common.index_files import load_sid_index
from src.common.sid import SidIndex
from src.reporting.results import LARGEST, Result, flat, looks_like_results, read_result, result_of

FINETUNING, RQVAE = ("trainer_log.jsonl", "run.json"), ("metrics.jsonl", "config.json")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d")  # a run folder that is named so says nothing without the one above it
Named = TypeVar("Named")


@dataclass(frozen=True)
class Log:
    """A training run: its rows, and its settings with commit and hashes of inputs, flat."""

    path: Path
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


@dataclass
class Runs:
    """All that was given or belongs to it, by the name it has on the page; `notes` say what is missing and why.

    Results are in the order given, those that compare together; names of results differ where they do.
    """

    results: list[Result] = field(default_factory=list)
    finetunings: dict[str, Log] = field(default_factory=dict)
    rqvaes: dict[str, Log] = field(default_factory=dict)
    indexes: dict[str, SidIndex] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


# ---- logs ------------------------------------------------------------------------------------------------------------
def read_log(folder: Path, names: tuple[str, str]) -> Log:
    rows, record = read_rows(folder / names[0]), {}
    if (folder / names[1]).is_file():
        record = read_json(folder / names[1])
        if not isinstance(record, dict):
            raise ValueError(f"{folder / names[1]} must be a table of settings: it is of no training run")
    said = {name: record[name] for name in ("commit", "inputs") if name in record}
    settings = flat({**record.get("config", record), **said})
    for name in settings:
        if name.endswith(".sha256"):
            settings[name] = str(settings[name])[:12]
    return Log(folder, rows, settings)


def kind_of_folder(folder: Path) -> tuple[str, str] | None:
    """The two files of a training run, told by its log; settings alone could be those of something else."""
    return next((kind for kind in (RQVAE, FINETUNING) if (folder / kind[0]).is_file()), None)


# ---- what was given --------------------------------------------------------------------------------------------------
def find_runs(words: Sequence[str]) -> Runs:
    """Everything that the words name, and what belongs to it.

    Args:
        words: RUN or NAME=RUN each: a results file, a training run's folder, or a folder that holds such.

    Raises:
        FileNotFoundError, ValueError: a word names nothing or something else, a file is broken, or a name is given
            twice.
    """
    runs = Runs()
    names: dict[Path, str] = {}
    results: dict[Path, Result] = {}
    logs: dict[Path, tuple[str, str]] = {}
    seen: set[Path] = set()
    for word in words:
        name, path = split_word(word)
        found, places = expand(path, runs.notes)
        for place in [*found, *places]:
            if place.resolve() in seen:
                runs.notes.append(f"{place} was given twice and is shown once.")
                continue
            seen.add(place.resolve())
            if name is not None:
                own = name if len(found) + len(places) == 1 else f"{name}/{stem(place)}"
                same_kind = results if place in found else logs
                if own in (names.get(known) for known in same_kind):
                    raise ValueError(f"two runs are called {own!r}, {place} being the second: give each NAME=RUN once")
                names[place] = own
            if place in found:
                results[place] = found[place]
            else:
                logs[place] = places[place]
    if not results and not logs:
        raise ValueError(f"{', '.join(words)}: no results and no training run in there")
    for key in dict.fromkeys(result.key for result in results.values()):  # names differ where they stand together
        group = {path: result for path, result in results.items() if result.key == key}
        runs.results += [replace(result, name=name) for name, result in named(group, names).items()]
    for result in runs.results:
        runs.notes += [f"{note}." for note in result.notes]
    _add_what_belongs(runs, logs, names)
    return runs


def split_word(word: str) -> tuple[str | None, Path]:
    """`NAME=RUN` -> name and path; a path that has a `=` in it is taken as it is."""
    name, equals, rest = word.partition("=")
    if not equals or Path(word).exists():
        return None, Path(word)
    if not name.strip() or not rest:
        raise ValueError(f"{word!r} names no run: write RUN, or NAME=RUN")
    return name.strip(), Path(rest)


def expand(path: Path, notes: list[str]) -> tuple[dict[Path, Result], dict[Path, tuple[str, str]]]:
    """Results and training runs that a path stands for: itself, or what lies in the folder."""
    if not path.is_dir():
        return {path: read_result(path)}, {}
    if kind := kind_of_folder(path) or (FINETUNING if (path / FINETUNING[1]).is_file() else None):
        return {}, {path: kind}
    found, others = _results_among(path.glob("*.json"), notes)
    places = {child: kind for child in sorted(path.iterdir()) if child.is_dir() and (kind := kind_of_folder(child))}
    if not found and not places:
        found, others = _results_among(path.glob("*/*.json"), notes)
    if not found and not places:
        raise ValueError(
            f"{path} is no run: it has neither results (*.json with mean_results), nor the {FINETUNING[0]} of a"
            f" fine-tuning, nor the {RQVAE[0]} of an RQ-VAE, nor a folder of such"
        )
    if others:
        notes.append(f"In {path} no results, and left out: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}.")
    return found, places


def _results_among(files: Iterable[Path], notes: list[str]) -> tuple[dict[Path, Result], list[str]]:
    """The results among files, and the names of those that are something else; broken ones are noted."""
    found: dict[Path, Result] = {}
    others = []
    for file in sorted(files):
        try:
            table = read_json(file) if file.stat().st_size <= LARGEST else None
            if looks_like_results(table):
                found[file] = result_of(table, file)
            else:
                others.append(file.name)
        except ValueError as error:
            notes.append(f"{error}. It is left out.")
    return found, others


# ---- what belongs to it ----------------------------------------------------------------------------------------------
def _add_what_belongs(runs: Runs, logs: dict[Path, tuple[str, str]], names: Mapping[Path, str]) -> None:
    """The fine-tuning and the index that results name, the index of a training run, the RQ-VAE of an index."""
    indexes: dict[Path, SidIndex] = {}
    read = {folder: read_log(folder, kind) for folder, kind in logs.items()}  # what was named itself must be whole
    known = {folder.resolve() for folder in logs}

    def add_log(folder: Path) -> bool:
        if folder.name.startswith("checkpoint-") and not kind_of_folder(folder):
            folder = folder.parent  # whose log it is
        kind = kind_of_folder(folder)
        if kind and folder.resolve() not in known:
            known.add(folder.resolve())
            try:
                read[folder] = read_log(folder, kind)
                logs[folder] = kind
            except ValueError as error:
                runs.notes.append(f"{error}. It is left out.")
        return kind is not None

    def add_index(path: Path) -> bool:
        if path.is_file() and path.resolve() not in known:
            known.add(path.resolve())
            try:
                indexes[path] = load_sid_index(path)
            except ValueError as error:
                runs.notes.append(f"{error}. It is left out.")
        return path.is_file()

    lacking: dict[str, list[str]] = {}
    for result in runs.results:
        for what, places, add in (("log", result.checkpoints, add_log), ("index", result.indexes, add_index)):
            here = [add(place) for place in places]  # each of them, also after one that is missing
            if not all(here):
                lacking.setdefault(what, []).append(result.name)
    words = {"log": "No training curves of what these were made with", "index": "No codebooks of what these used"}
    for what, whose in lacking.items():
        runs.notes.append(f"{words[what]}, since it is not at the place that they name: {', '.join(whose)}.")
    for folder, kind in list(logs.items()):
        for path in _indexes_of(folder, kind):
            add_index(path)
    for index in list(indexes.values()):
        if place := checkpoint_of(index.meta):
            add_log(place.parent)
    runs.finetunings = named({folder: log for folder, log in read.items() if logs[folder] == FINETUNING}, names)
    runs.rqvaes = named({folder: log for folder, log in read.items() if logs[folder] == RQVAE}, names)
    runs.indexes = named(indexes, names)


def _indexes_of(folder: Path, kind: tuple[str, str]) -> list[Path]:
    """The index that a fine-tuning read, or those that were made of an RQ-VAE run and lie beside it."""
    if kind == FINETUNING:
        record = read_json(folder / FINETUNING[1]) if (folder / FINETUNING[1]).is_file() else {}
        place = record.get("index_file")
        return [Path(place)] if isinstance(place, str) else []
    found = []
    for meta in sorted(folder.parent.glob("*.index_*.meta.json")):
        place = checkpoint_of(read_json(meta))
        if place is not None and place.parent.name == folder.name:
            name = meta.name.removesuffix(".meta.json")
            found += [
                path for path in (meta.with_name(f"{name}.json"), meta.with_name(f"{name}.npz")) if path.is_file()
            ]
    return found


def checkpoint_of(meta: Any) -> Path | None:
    """The checkpoint that an index was made with, as its sidecar names it."""
    checkpoint = meta.get("checkpoint") if isinstance(meta, Mapping) else None
    place = checkpoint.get("path") if isinstance(checkpoint, Mapping) else None
    return Path(place) if isinstance(place, str) else None


# ---- names -----------------------------------------------------------------------------------------------------------
def stem(path: Path) -> str:
    return path.stem if path.suffix in (".json", ".npz") else path.name


def named(found: Mapping[Path, Named], given: Mapping[Path, str]) -> dict[str, Named]:
    """Each by the name given to it, or by its own with as many folders before it as tell it from the others.

    Raises:
        ValueError: a name that was given is that of another.
    """
    whole = {path: [*path.resolve().parts[:-1], stem(path)] for path in found}
    names: dict[str, Path] = {}
    for path, parts in whole.items():
        others = [other for there, other in whole.items() if there != path]
        counts = range(2 if TIMESTAMP.match(parts[-1]) else 1, len(parts) + 1)
        count = next((n for n in counts if not any(other[-n:] == parts[-n:] for other in others)), len(parts))
        name = given.get(path, "/".join(parts[-count:]))
        if name in names:
            raise ValueError(f"{names[name]} and {path} would both be called {name!r}: give one another NAME=RUN")
        names[name] = path
    return {name: found[path] for name, path in names.items()}
