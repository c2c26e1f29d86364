"""Protocols: the rules by which a figure was made. Figures compare only under one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from src.tasks.task import ALIASES, KINDS, Kind

if TYPE_CHECKING:
    from src.tasks.catalogue import Catalogue

POPULARITY_THEN_ID = "training popularity, then item id"
LEAVE_ONE_OUT = "leave-one-out"  # the last item of a sequence tests, the one before it validates
HISTORIES: dict[bool | None, str] = {True: "masked", False: "unmasked"}  # of --filter_history
SPLITTINGS: dict[Kind, str] = {"item": "item id", "enriched_item": "item id", "query": "user.json"}


@dataclass(frozen=True)
class Protocol:
    """How lists were asked for and judged. None: a results file from before protocols were written does not say.

    Attributes:
        target: what is to be found, by the kind of the task: the next item of a sequence, an item by its own texts, or
            one by what a user searches for.
        splitting: what set samples apart: `leave-one-out`, `split.json`, `user.json`, or the `item id`.
        split: which of them were asked; `seen` are items that trained.
        history: `masked` where items that the user has are left out of the lists.
        num_beams: length of the lists.
        hits: a hit is the `item` itself, or a `sid` that is the target's, whichever item has it.
        ties: what orders equal scores.
        candidates: what is ranked.
    """

    target: Kind | None = "next_item"
    splitting: str | None = LEAVE_ONE_OUT
    split: str | None = "test"
    history: str | None = "unmasked"
    num_beams: int | None = 20
    hits: str | None = "item"
    ties: str | None = POPULARITY_THEN_ID
    candidates: str | None = "all items"

    @property
    def name(self) -> str:
        """Such as `leave-one-out/test/masked/20`; what is rare follows: `.../sid hits`, `.../item`."""
        usual = Protocol()
        parts = [self.splitting, self.split, self.history, self.num_beams]
        parts += [f"{self.hits} hits"] if self.hits != usual.hits else []
        parts += [value for value in (self.target, self.candidates) if value not in (usual.target, usual.candidates)]
        return "/".join("?" if part is None else str(part) for part in parts)

    def table(self) -> dict[str, Any]:
        """As it stands in a results file."""
        return {"name": self.name, **asdict(self)}

    def differences(self, other: "Protocol") -> list[str]:
        """The fields that both know and that are not equal."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return [name for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


PROTOCOLS = {  # those that are in use (docs/baselines_readme.md)
    "masked": Protocol(history="masked"),
    "unmasked": Protocol(),
    "sid hits": Protocol(hits="sid"),  # the code of LC-Rec, LETTER and MQL4GRec: strings of tokens, 20 beams
}


def kind_of(task: str | None) -> Kind | None:
    return None if task is None else KINDS.get(ALIASES.get(task, task))


def protocol_of(results: Mapping[str, Any], name: str = "results") -> Protocol:
    """The protocol that a results file states; of an older one, what its flags tell.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: what is stated is no protocol.
    """
    stated = results.get("protocol")
    if stated is None:
        told: dict[str, Any] = {"split": results.get("split"), "num_beams": results.get("num_beams")}
        told["target"] = kind_of(results.get("test_task"))
        told["history"] = HISTORIES.get(results.get("filter_history"))
        return Protocol(**told, splitting=None)
    known = {field.name for field in fields(Protocol)}
    if not isinstance(stated, Mapping) or stated.keys() != known | {"name"}:
        raise ValueError(
            f"{name}: its protocol must have the fields name, {', '.join(sorted(known))}, and has {stated!r}:"
            f" another version of GRec wrote it. Evaluate again"
        )
    if odd := [field for field in sorted(known) if not isinstance(stated[field], (str, int, type(None)))]:
        raise ValueError(f"{name}: its protocol has {odd[0]} {stated[odd[0]]!r:.80}, which is no word. Evaluate again")
    return Protocol(**{field: stated[field] for field in known})


def protocol_asked(catalogue: "Catalogue", asked: Mapping[str, Any], num_beams: int) -> Protocol:
    """The protocol of an evaluation.

    Args:
        asked: `split`, `filter_history` and `test_task` of it.
        num_beams: length of the lists.

    Raises:
        ValueError: one of the three is missing, or the task is unknown.
    """
    missing = [name for name in ("split", "filter_history", "test_task") if name not in asked]
    if missing:
        raise ValueError(f"results without {', '.join(missing)} would state no protocol: name them in `extra`")
    kind = kind_of(asked["test_task"])
    if kind is None:
        raise ValueError(f"unknown task {asked['test_task']!r}: there are {', '.join(KINDS)}")
    splitting = SPLITTINGS.get(kind, LEAVE_ONE_OUT if catalogue.is_leave_one_out else "split.json")
    return Protocol(kind, splitting, asked["split"], HISTORIES[asked["filter_history"]], num_beams)
