"""What can be asked, and what the right answer is: the table of tasks. A new task is a template file and a row here."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

TEMPLATE_DIR = Path(__file__).parent / "templates"
SLOT = re.compile(r"\{(\w+)\}")

ITEM_TEXTS = ("title", "description", "brand", "categories")  # slots filled with words of the target item
SLOTS = {"history", "history_titles", "history_images", "sid", "image", *ITEM_TEXTS}
OPTIONAL = re.compile(r"\[([^\[\]]*)\]")  # "[ Brand: {brand}]" in a wording: goes where the item has no brand
STAND_IN = {"{description}": "{title}"}  # what fills a slot that a wording cannot do without


@dataclass(frozen=True)
class Template:
    """One wording: texts with {named} slots.

    Slots: `history` (SIDs of the items before), `history_titles`, `history_images` (pictures of the last of them), and
    of the target item `sid`, `image`, `title`, `description`, `brand`, `categories`. A part in square brackets holds
    one of the last four, and is left out with its label where the item's field is empty (`without`).
    """

    prompt: str
    answer: str
    prompt_without_image: str | None = None  # asked where there is no picture to show

    @cached_property
    def slots(self) -> frozenset[str]:
        """Slots of the prompt (with images) and the answer."""
        return frozenset(SLOT.findall(self.prompt + self.answer))

    @property
    def answers_with_item(self) -> bool:
        return self.answer == "{sid}"

    def without(self, empty: Collection[str]) -> "Template":
        """The wording for an item whose `empty` fields are empty: no brackets are left, and no label without its words.

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
    """What is asked. Splitting, sampling and tokenising belong elsewhere."""

    name: str  # the word users write in --tasks
    kind: Literal["next_item", "item"]  # an example is a place in a user's sequence, or an item
    templates: tuple[Template, ...]

    @property
    def needs_images(self) -> bool:
        return any({"image", "history_images"} & template.slots for template in self.templates)

    @property
    def item_templates(self) -> tuple[Template, ...]:
        """The wordings whose answer is a SID: those that ranking metrics can judge."""
        return tuple(template for template in self.templates if template.answers_with_item)


KINDS: dict[str, Literal["next_item", "item"]] = {
    "seqrec": "next_item",
    "mmseqrec": "next_item",
    "fusionseqrec": "next_item",
    "item2index": "item",
    "index2item": "item",
    "mmitem2index": "item",
}


def load_task(name: str) -> Task:
    """The task that users call `name`.

    Raises:
        ValueError: there is no such task, or its template file uses a slot that does not exist.
    """
    if name not in KINDS:
        raise ValueError(f"unknown task {name!r}: --tasks takes {', '.join(KINDS)}")
    path = TEMPLATE_DIR / f"{name}.json"
    templates = tuple(Template(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    for template in templates:
        texts = f"{template.prompt} {template.answer} {template.prompt_without_image or ''}"
        if unknown := set(SLOT.findall(texts)) - SLOTS:
            raise ValueError(f"{path}: there is no slot {unknown.pop()!r}; there are {', '.join(sorted(SLOTS))}")
        for part in OPTIONAL.findall(texts):
            if len(slots := SLOT.findall(part)) != 1 or slots[0] not in ITEM_TEXTS:
                raise ValueError(f"{path}: [{part}] must hold one slot of {', '.join(ITEM_TEXTS)}")
    return Task(name, KINDS[name], templates)
