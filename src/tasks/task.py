"""What can be asked, and what the right answer is: the table of tasks. A new task is a template file and a row here."""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from src.tasks.catalogue import Catalogue

TEMPLATE_DIR = Path(__file__).parent / "templates"
LANGUAGES = ("en", "zh")  # each has a folder of templates
SLOT = re.compile(r"\{(\w+)\}")

ITEM_TEXTS = ("title", "description", "brand", "categories")  # slots filled with words of the target item ...
ENRICHED_TEXTS = ("enhanced_title", "tags", "highlights", "characteristics")  # ... and with what it was enriched by
USER_TEXTS = ("query", "preference")  # what a user searches for, and likes
SLOTS = {"history", "history_titles", "history_images", "sid", "image", *ITEM_TEXTS, *ENRICHED_TEXTS, *USER_TEXTS}
MAY_BE_EMPTY = (*ITEM_TEXTS, *ENRICHED_TEXTS, "history")
OPTIONAL = re.compile(r"\[([^\[\]]*)\]")  # "[ Brand: {brand}]" in a wording: goes where the item has no brand
STAND_IN = {"{description}": "{title}"}  # what fills a slot that a wording cannot do without

Split = Literal["train", "valid", "test"]
Kind = Literal["next_item", "item", "enriched_item", "query", "preference"]


@dataclass(frozen=True)
class Template:
    """One wording: texts with {named} slots.

    Slots: `history` (SIDs of the items before), `history_titles`, `history_images` (pictures of the last of them); of
    the target item `sid`, `image`, `title`, `description`, `brand`, `categories` and, where it was enriched,
    `enhanced_title`, `tags`, `highlights`, `characteristics`; of a user `query` and `preference`. A part in square
    brackets holds a text of the item or the history, and is left out with its label where that is empty (`without`).
    """

    prompt: str
    answer: str
    prompt_without_image: str | None = None  # asked where there is no picture to show

    @cached_property
    def slots(self) -> frozenset[str]:
        """Slots of the prompt (with images) and the answer."""
        return frozenset(SLOT.findall(self.prompt + self.answer))

    @cached_property
    def has_options(self) -> bool:
        """Whether `without` may change the wording."""
        text = f"{self.prompt} {self.answer} {self.prompt_without_image or ''}"
        return "[" in text or any(slot in text for slot in STAND_IN)

    @property
    def answers_with_item(self) -> bool:
        return self.answer == "{sid}"

    def without(self, empty: Collection[str]) -> "Template":
        """The wording where the slots `empty` have no text: no brackets are left, and no label without its words.

        The title stands in for an empty description that is all the wording asks about.
        """
        empty_slots = [f"{{{field}}}" for field in empty]

        def fit(text: str) -> str:
            text = OPTIONAL.sub(lambda part: "" if any(slot in part[1] for slot in empty_slots) else part[1], text)
            for slot in empty_slots:
                text = text.replace(slot, STAND_IN.get(slot, slot))
            return text

        free = self.prompt_without_image
        return Template(fit(self.prompt), fit(self.answer), None if free is None else fit(free))


@dataclass(frozen=True)
class Task:
    """What is asked. Sampling and tokenising belong elsewhere."""

    name: str  # the word users write in --tasks
    kind: Kind  # an example is a place in a user's sequence, an item, an enriched item, or a text about a user
    templates: tuple[Template, ...]

    @cached_property
    def slots(self) -> frozenset[str]:
        return frozenset().union(*(template.slots for template in self.templates))

    @property
    def needs_images(self) -> bool:
        return bool({"image", "history_images"} & self.slots)

    @cached_property
    def templates_sha256(self) -> str:
        """Hash of the wordings in their order, by which a checkpoint knows those that it was trained on."""
        rows = [[template.prompt, template.answer, template.prompt_without_image] for template in self.templates]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def item_templates(self) -> tuple[Template, ...]:
        """The wordings whose answer is a SID: those that ranking metrics can judge."""
        return tuple(template for template in self.templates if template.answers_with_item)

    def example_ids(self, catalogue: "Catalogue", split: Split, holdout: bool = False) -> "np.ndarray":
        """(M,) int64: what tells the examples of a split apart, but for `next_item` tasks: see `next_item_targets`.

        Item ids; rows of `catalogue.user_texts[kind]` where the task is about those.

        Args:
            holdout: tasks of kind `item` leave out the items that validate and test; enriched items always do.
        """
        if self.kind == "item":
            return catalogue.item_split(split, holdout)
        if self.kind == "enriched_item":
            return catalogue.enriched_split(split)
        return catalogue.user_texts[self.kind].rows(split)


# ---- the table -------------------------------------------------------------------------------------------------------
KINDS: dict[str, Kind] = {
    "seqrec": "next_item",
    "mmseqrec": "next_item",
    "fusionseqrec": "next_item",
    "item2index": "item",
    "index2item": "item",
    "mmitem2index": "item",
    "mmindex2item": "item",
    "itemsearch": "query",
    "preferenceobtain": "preference",
    "text_enrich": "enriched_item",
    "mmitemenrichwithoutid": "enriched_item",
}
ALIASES = {"mmitemenrich": "text_enrich"}


def load_task(name: str, language: str = "en") -> Task:
    """The task that users call `name`, with the wordings of a language.

    Raises:
        ValueError: there is no such task or language, or its template file uses a slot that does not exist.
    """
    name = ALIASES.get(name, name)
    if name not in KINDS:
        raise ValueError(f"unknown task {name!r}: --tasks takes {', '.join([*KINDS, *ALIASES])}")
    if language not in LANGUAGES:
        raise ValueError(f"there are no wordings in {language!r}: --prompt_lang takes {', '.join(LANGUAGES)}")
    path = TEMPLATE_DIR / language / f"{name}.json"
    templates = tuple(Template(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    for template in templates:
        texts = f"{template.prompt} {template.answer} {template.prompt_without_image or ''}"
        if unknown := set(SLOT.findall(texts)) - SLOTS:
            raise ValueError(f"{path}: there is no slot {unknown.pop()!r}; there are {', '.join(sorted(SLOTS))}")
        for part in OPTIONAL.findall(texts):
            if len(slots := SLOT.findall(part)) != 1 or slots[0] not in MAY_BE_EMPTY:
                raise ValueError(f"{path}: [{part}] must hold one slot of {', '.join(MAY_BE_EMPTY)}")
    return Task(name, KINDS[name], templates)


def wording_ids(text: str, task: Task, number: int) -> list[int]:
    """The wordings that --test_prompt_ids names, of the `number` that `task` has: `"0,2"` or `"all"`."""
    try:
        asked = list(range(number)) if text == "all" else [int(i) for i in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--test_prompt_ids {text!r}: numbers with commas, or all") from error
    if not asked or not all(0 <= i < number for i in asked) or len(set(asked)) != len(asked):
        what = "for items " if task.item_templates else ""
        raise ValueError(
            f"--test_prompt_ids {text}: {task.name} asks {what}in wordings 0 to {number - 1}, each named once"
        )
    return asked
