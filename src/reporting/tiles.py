"""Items as pictures, and the card of one user around them: what the report and the cases are built of."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from src.common.images import open_image
from src.reporting.page import shorten, text
from src.tasks.catalogue import Catalogue

THUMBNAIL = (124, 164)  # twice the size shown, for sharp screens
JPEG_QUALITY = 72
LONGEST_TITLE = 160


@dataclass
class Budget:
    """Bytes that the pictures of a page may still take, and how many times there was no room for one."""

    left: int
    omitted: int = 0

    def take(self, picture: str) -> bool:
        if len(picture) > self.left:
            self.omitted += 1
            return False
        self.left -= len(picture)
        return True


def thumbnail(path: Path) -> str:
    """A small JPEG of the picture as a data URI."""
    image = open_image(path)
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Tiles:
    """Pictures of items, or their titles where there is no picture; each is encoded once."""

    def __init__(self, catalogue: Catalogue, budget: Budget | None = None):
        """Without a budget there is no bound."""
        self.catalogue, self.budget = catalogue, budget
        self.pictures: dict[int, str | None] = {}

    def picture(self, item_id: int) -> str | None:
        if item_id not in self.pictures:
            path = self.catalogue.image_files.get(item_id)
            try:
                self.pictures[item_id] = thumbnail(path) if path else None
            except ValueError:  # a broken file, which a page is not the place to mend
                self.pictures[item_id] = None
        return self.pictures[item_id]

    def title(self, item_id: int) -> str:
        """The title, safe inside HTML; a long one is cut."""
        return text(shorten(self.catalogue.items[item_id]["title"].strip() or "no title", LONGEST_TITLE))

    def body(self, item_id: int) -> str:
        """The picture, or a card with the title where there is none or no room for it."""
        title, picture = self.title(item_id), self.picture(item_id)
        if picture and (self.budget is None or self.budget.take(picture)):
            return f'<img src="{picture}" alt="{title}" loading="lazy">'
        return f'<div class="words"><span>{title}</span></div>'

    def tile(self, item_id: int, kind: str = "", caption: str = "") -> str:
        """A card: picture or title; below it the item's id, after `caption`."""
        title, body = self.title(item_id), self.body(item_id)
        below = f"<span>{title}</span>" if body.startswith("<img") else ""
        return (
            f'<figure class="{kind}" title="item {item_id}: {title}">{body}'
            f"<figcaption><b>{caption}#{item_id}</b>{below}</figcaption></figure>"
        )


def strip(groups: Mapping[str, str]) -> str:
    """Groups of tiles side by side, each below its name."""
    parts = (
        f'<div class="group"><small>{text(name)}</small><div class="tiles">{body}</div></div>'
        for name, body in groups.items()
    )
    return f'<div class="strip">{"".join(parts)}</div>'


def person(name: str, verdict: str, is_hit: bool, *parts: str) -> str:
    """The card of one user: name and verdict, and below them the parts."""
    badge = f'<span class="badge{" hit" if is_hit else ""}">{text(verdict)}</span>'
    return f'<div class="person"><header><b>{text(name)}</b>{badge}</header>{"".join(parts)}</div>'
