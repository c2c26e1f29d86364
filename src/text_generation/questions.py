"""What is asked and what would be right: samples, wordings, references and texts to copy, without any model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.common.dataset_readers import ENRICHED_LISTS
from src.tasks.catalogue import Catalogue
from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, SLOT, Split, Task, Template
from src.tasks.texts import text_of

WORDINGS = Path(__file__).parent / "wordings"
WHOLE = "text"  # the field of an answer that is one text of several slots
HISTORY_SIZE = 8  # characters that an item of a history counts for, in the order of sizes
LIST_FIELDS = (*ENRICHED_LISTS, "categories")


@dataclass(frozen=True)
class Samples:
    """M samples: items, or rows of the texts about users.

    Attributes:
        items: (M,) int64 item ids; -1 where a sample is about a user.
        rows: (M,) int64 rows of `catalogue.user_texts["preference"]`; -1 where it is about an item.
        keys: M names of item or user.
    """

    items: np.ndarray
    rows: np.ndarray
    keys: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def history(self, catalogue: Catalogue, sample: int) -> np.ndarray:
        row = int(self.rows[sample])
        return catalogue.user_texts["preference"].histories[row] if row >= 0 else np.empty(0, np.int64)

    def pick(self, kept: Sequence[int] | np.ndarray) -> "Samples":
        kept = np.asarray(kept, np.int64)
        return Samples(self.items[kept], self.rows[kept], [self.keys[i] for i in kept])


def make_samples(task: Task, catalogue: Catalogue, split: Split, holdout: bool) -> Samples:
    """All samples of a split."""
    ids = task.example_ids(catalogue, split, holdout)
    none = np.full(len(ids), -1, np.int64)
    if task.kind == "preference":
        users = catalogue.user_texts["preference"].users[ids]
        return Samples(none, ids, [catalogue.users[user] for user in users])
    return Samples(ids, none, [str(item) for item in ids])


def zero_shot_templates(language: str, by_field: bool) -> dict[str, Template]:
    """Wordings without SIDs for models that were not fine-tuned: one for the whole answer, or one for each field."""
    table = json.loads((WORDINGS / f"{language}.json").read_text(encoding="utf-8"))
    if by_field:
        return {field: Template(prompt, f"{{{field}}}") for field, prompt in table["by_field"].items()}
    return {f"whole {number}": Template(**row) for number, row in enumerate(table["whole"])}


# ---- texts -----------------------------------------------------------------------------------------------------------
class Texts:
    """References, and what there is to copy, of the samples of one task."""

    def __init__(self, catalogue: Catalogue, samples: Samples, language: str):
        self.catalogue, self.samples, self.language = catalogue, samples, language

    def slot(self, slot: str, sample: int) -> str:
        """The text of a slot on one line, as prompts and answers hold it."""
        item, row = int(self.samples.items[sample]), int(self.samples.rows[sample])
        return " ".join(text_of(self.catalogue, slot, row if row >= 0 else item, self.language).split())

    def empty(self, sample: int) -> frozenset[str]:
        if self.samples.items[sample] < 0:
            return frozenset()
        return frozenset(slot for slot in (*ITEM_TEXTS, *ENRICHED_TEXTS) if not self.slot(slot, sample))

    def filled(self, text: str, sample: int) -> str:
        """`text` with its slots filled, for people and captioners: pictures go, a history is its titles."""

        def fill(slot: str) -> str:
            if slot in ("image", "history_images"):
                return ""
            if slot == "sid":
                return "".join(self.catalogue.sid_tokens(int(self.samples.items[sample])))
            if slot in ("history", "history_titles"):
                return self.to_copy("copy input", sample)
            return self.slot(slot, sample)

        return SLOT.sub(lambda slot: fill(slot[1]), text)

    def prompt(self, template: Template, sample: int) -> str:
        """The prompt as people read it."""
        return self.filled(template.without(self.empty(sample)).prompt, sample)

    def reference(self, template: Template, labels: dict[str, str], sample: int) -> dict[str, str]:
        """The right answer: field -> text. Fields that an item leaves empty are not there."""
        if labels:
            fields = {slot: self.slot(slot, sample) for slot in labels}
            return {slot: text for slot, text in fields.items() if text}
        answer = template.without(self.empty(sample)).answer
        text = self.filled(answer, sample).strip()
        return {field_of(template): text} if text else {}

    def to_copy(self, kind: str, sample: int) -> str:
        """What the baseline `copy title` or `copy input` says: of the item, or of the history where there is one."""
        history = self.samples.history(self.catalogue, sample).tolist()
        if history:
            titles = [" ".join(self.catalogue.items[item]["title"].split()) for item in history]
            return titles[-1] if kind == "copy title" else "; ".join(titles)
        slots = ITEM_TEXTS if kind == "copy input" else ITEM_TEXTS[:1]
        return ". ".join(text for slot in slots if (text := self.slot(slot, sample)))

    def size(self, template: Template, sample: int) -> int:
        """How long a prompt is, about: what decides which samples share a batch, for every model alike."""
        slots = set(SLOT.findall(template.prompt)) & {*ITEM_TEXTS, *ENRICHED_TEXTS}
        words = sum(len(self.slot(slot, sample)) for slot in slots) if self.samples.items[sample] >= 0 else 0
        return words + HISTORY_SIZE * len(self.samples.history(self.catalogue, sample))


def field_of(template: Template) -> str:
    """The name of an answer without labels: its slot, if it is one, else `text`."""
    slots = set(SLOT.findall(template.answer))
    return slots.pop() if len(slots) == 1 else WHOLE


def words_to_copy(template: Template) -> bool:
    """Whether the prompt holds words of the item, or a history whose titles stand for it."""
    return bool(set(SLOT.findall(template.prompt)) & {*ITEM_TEXTS, "history", "history_titles"})
