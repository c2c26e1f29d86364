"""Joining artefacts by the hashes of what they were made from, and judging each: is it, and is that, what it was?"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from src.common.record import Entry, model_files
from src.families import HUB_NAME, find_config
from src.lineage.artefacts import UNREADABLE, Artefact, artefact_of
from src.lineage.hashes import Hasher

BREAKS = ("unreadable", "changed", "missing", "other version", "missing input")  # the worst first
SHARDED = re.compile(r"\.inter\.(parquet|arrow)$")  # a folder of this name is a table
INTERACTIONS = re.compile(r"\.inter\.(json|parquet|arrow)$")
SHORT = 12  # characters of a hash that are shown


class Fault(NamedTuple):
    status: str
    reason: str


@dataclass
class Node:
    """An artefact in the graph, or a file that has no record because nothing made it (`artefact` is None).

    Attributes:
        made_from: of each input the node that it was found to be; None where it was not found.
        faults: what is broken here.
        notes: what is worth knowing, and breaks nothing.
    """

    kind: str
    path: Path
    artefact: Artefact | None
    made_from: dict[str, "Node | None"] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        for status in BREAKS:
            if any(fault.status == status for fault in self.faults):
                return status
        if self.artefact is None:
            return "source"
        return "ok" if self.artefact.is_whole else "unknown"

    @property
    def inputs(self) -> list["Node"]:
        return [node for node in self.made_from.values() if node is not None]


def short(digest: str) -> str:
    return digest[:SHORT]


def shown(path: Path) -> str:
    """The path from here, where it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class Graph:
    """All artefacts, joined and judged."""

    def __init__(self, artefacts: Iterable[Artefact], files: list[Path], hasher: Hasher, may_lack: Iterable[str] = ()):
        """
        Args:
            files: where an input may lie that is not where it was.
            may_lack: patterns of paths of inputs that may be gone.
        """
        self.files, self.hash, self.may_lack = files, hasher, tuple(may_lack)
        self.nodes: dict[Path, Node] = {}  # by record, or by the path of what has none
        self.owners: dict[Path, Node] = {}  # of every file or folder that a record speaks of
        self.made: dict[str, list[tuple[Node, Path]]] = {}  # by hash as recorded: whose output, and where
        for artefact in artefacts:
            self.add(artefact)
        judged: set[Path] = set()
        while waiting := [key for key in self.nodes if key not in judged]:  # inputs outside of the folders join them
            for key in waiting:
                judged.add(key)
                node = self.nodes[key]
                if node.artefact is not None:
                    self.judge(node, node.artefact)

    def add(self, artefact: Artefact) -> Node:
        key = (artefact.record or artefact.path).resolve()
        if key in self.nodes:
            return self.nodes[key]
        node = self.nodes[key] = Node(artefact.kind, artefact.path, artefact)
        self.owners.setdefault(artefact.path.resolve(), node)
        if artefact.record:
            self.owners.setdefault(key, node)
        for output in artefact.outputs.values():
            place = artefact.place(output).resolve()
            self.owners[place] = node
            self.made.setdefault(output["sha256"], []).append((node, place))
        return node

    def owner(self, path: Path) -> Node:
        """The node of a file or folder; a source where no record speaks of it."""
        path = path.resolve()
        if path not in self.owners:
            artefact = artefact_of(path)
            if artefact is None:
                self.nodes[path] = self.owners[path] = Node("source", path, None)
            else:
                self.owners[path] = self.add(artefact)
        return self.owners[path]

    # ---- judging -----------------------------------------------------------------------------------------------------
    def judge(self, node: Node, artefact: Artefact) -> None:
        if artefact.fault:
            node.faults.append(Fault("unreadable" if UNREADABLE in artefact.fault else "changed", artefact.fault))
        for output in artefact.outputs.values():
            self.judge_output(node, artefact.place(output), output)
        for name, entry in artefact.inputs.items():
            node.made_from[name] = self.find(node, artefact, name, entry)
        self.judge_latecomers(node, artefact)
        if not artefact.is_whole and not node.faults:
            told = "only its inputs are recorded" if artefact.inputs else "nothing is recorded"
            node.notes.append(f"{told}: made before there were records, elsewhere, or not finished")

    def judge_latecomers(self, node: Node, artefact: Artefact) -> None:
        """What belongs to interactions and came later: a file of a table that is a folder, and a split."""
        read: dict[Path, set[str]] = {}
        for entry in artefact.inputs.values():
            if place := self.place(artefact, entry["path"]):
                read.setdefault(place.parent, set()).add(place.name)
        for folder, names in read.items():
            later = []
            if SHARDED.search(folder.name):
                later = sorted(file for file in folder.glob(f"*{folder.suffix}") if file.name not in names)
            tables = [folder] if SHARDED.search(folder.name) else [folder / name for name in names]
            splits = {table.with_name(f"{INTERACTIONS.sub('', table.name)}.split.json") for table in tables
                      if INTERACTIONS.search(table.name)}  # fmt: skip
            later += [file for file in splits if file.is_file() and file.name not in read.get(file.parent, ())]
            if later:
                more = f" and {len(later) - 1} more" if len(later) > 1 else ""
                node.faults.append(Fault("other version", f"made without {shown(later[0])}{more}"))

    def judge_output(self, node: Node, place: Path, output: Entry) -> None:
        if not place.exists():
            node.faults.append(Fault("missing", f"{shown(place)} is gone"))
        elif self.hash(place) != output["sha256"]:
            what = f"{shown(place)} is not as it was written{self.difference(place, output)}"
            node.faults.append(Fault("changed", what))

    def difference(self, place: Path, entry: Entry) -> str:
        """Which files of a model's folder differ."""
        then = entry.get("files")
        if not isinstance(then, dict) or not place.is_dir():
            return ""
        now = {path.relative_to(place).as_posix(): self.hash(path) for path in model_files(place)}
        names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        return f": {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"

    def find(self, node: Node, artefact: Artefact, name: str, entry: Entry) -> Node | None:
        """The node of an input: by its hash, wherever that lies now; else what lies in its place, which is a fault."""
        wanted, place = entry["sha256"], self.place(artefact, entry["path"])
        if wanted is None:
            node.notes.append(f"the hash of the {name} {entry['path']} was not recorded")
            return self.owner(place) if place else None
        if place and "pictures" in entry:
            return self.find_pictures(node, place, name, entry)
        if place and self.hash(place) == wanted:
            return self.owner(place)
        made = [pair for pair in self.made.get(wanted, ()) if pair[0] is not node]
        if made:  # perhaps it has changed since, which is a fault of its own
            owner, output = next((pair for pair in made if place and pair[1] == place.resolve()), made[0])
            if output.exists() and self.hash(output) == wanted:
                node.notes.append(f"{name} {entry['path']} was found by its hash: {shown(output)}")
            return owner
        alike = self.namesakes(entry)
        for other in alike:
            if self.hash(other) == wanted:
                node.notes.append(f"{name} {entry['path']} was found by its hash: {shown(other)}")
                return self.owner(other)
        if place and place.resolve() in artefact.places():
            node.notes.append(f"{name} {entry['path']} was replaced by what was made from it")
            return None
        place = place or next((other for other in alike if other.name == Path(entry["path"]).name), None)
        if place:
            which = f"{short(wanted)} then, {short(self.hash(place))} now{self.difference(place, entry)}"
            node.faults.append(Fault("other version", f"made from another version of {name} {shown(place)}: {which}"))
            return self.owner(place)
        gone = f"{name} {entry['path']} ({short(wanted)}) is nowhere"
        if any(fnmatch(entry["path"], pattern) for pattern in self.may_lack):
            node.notes.append(gone)
        else:
            node.faults.append(Fault("missing input", gone))
        return None

    def find_pictures(self, node: Node, folder: Path, name: str, entry: Entry) -> Node:
        """The node of a dataset whose pictures were an input: they are looked for nowhere else."""
        try:
            now, count = self.hash(folder, entry), len(self.hash.pictures_in(folder, entry))
        except (OSError, ValueError) as error:  # a fault of the items, and told there
            node.notes.append(f"the {name} of {shown(folder)} cannot be found without its items: {error}")
            return self.owner(folder)
        if now != entry["sha256"]:
            then, wanted = entry["pictures"], entry["sha256"]
            which = f"{then} pictures, {short(wanted)} then; {count} pictures, {short(now)} now"
            node.faults.append(Fault("other version", f"made from other {name} of {shown(folder)}: {which}"))
        return self.owner(folder)

    @staticmethod
    def place(artefact: Artefact, path: str) -> Path | None:
        """Where a recorded path leads: from a folder above the record, which may have moved whole, or from here."""
        given = Path(path)
        above = artefact.record.resolve().parents if artefact.record and not given.is_absolute() else ()
        for found in (*(folder / given for folder in above), given):
            if found.exists():
                return found
        if HUB_NAME.fullmatch(path):
            try:
                config = find_config(path)
            except FileNotFoundError:
                return None
            return None if config is None else config.parent
        return None

    def namesakes(self, entry: Entry) -> list[Path]:
        """Files below the given folders that may be this one under another name: of its name first, then of its end."""
        wanted = Path(entry["path"])
        if "pictures" in entry:
            return []
        alike = [path for path in self.files if path.is_dir() == ("files" in entry) and path.suffix == wanted.suffix]
        return sorted(alike, key=lambda path: path.name != wanted.name)
