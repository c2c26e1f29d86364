"""Users as strips of pictures: what they had, what came next, what was recommended."""

import base64
import io
from pathlib import Path

import numpy as np

from src.common.images import open_image
from src.reporting.page import note, text
from src.seqrec.metrics import ranks_of
from src.seqrec.results import Predictions
from src.tasks.catalogue import Catalogue

NUM_USERS, NUM_HISTORY, NUM_SHOWN = 12, 8, 5
THUMBNAIL = (124, 164)  # twice the size shown, for sharp screens
JPEG_QUALITY = 72


def thumbnail(path: Path) -> str:
    """A small JPEG of the picture as a data URI."""
    image = open_image(path)
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Tiles:
    """Pictures of items, or their titles where there is no picture; each is encoded once."""

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue
        self.pictures: dict[int, str | None] = {}

    def picture(self, item_id: int) -> str | None:
        if item_id not in self.pictures:
            path = self.catalogue.image_files.get(item_id)
            try:
                self.pictures[item_id] = thumbnail(path) if path else None
            except ValueError:  # a broken file, which the report is not the place to mend
                self.pictures[item_id] = None
        return self.pictures[item_id]

    def tile(self, item_id: int, kind: str = "", caption: str = "") -> str:
        """A card: picture, or title where there is none; below it the item's id, after `caption`."""
        title = text(self.catalogue.items[item_id]["title"].strip() or "no title")
        picture = self.picture(item_id)
        words = f'<div class="words"><span>{title}</span></div>'
        body = f'<img src="{picture}" alt="{title}" loading="lazy">' if picture else words
        below = f"<span>{title}</span>" if picture else ""
        return (
            f'<figure class="{kind}" title="item {item_id}: {title}">{body}'
            f"<figcaption><b>{caption}#{item_id}</b>{below}</figcaption></figure>"
        )


def choose_samples(ranks: np.ndarray, seed: int) -> np.ndarray:
    """Rows to show: half of them hits among the first NUM_SHOWN as far as there are any, the rest others, at random."""
    rng = np.random.default_rng(seed)
    hits, others = (rng.permutation(np.flatnonzero(mask)) for mask in (ranks < NUM_SHOWN, ranks >= NUM_SHOWN))
    num_hits = min(len(hits), max(NUM_USERS // 2, NUM_USERS - len(others)))
    return np.sort(np.concatenate([hits[:num_hits], others[: NUM_USERS - num_hits]]))


def position_of(catalogue: Catalogue, predictions: Predictions, row: int) -> tuple[int, int]:
    """User and position of a sample; without history lengths, the last time that the user had the target."""
    user = catalogue.users.index(predictions.users[row])
    if predictions.history_lengths is not None:
        return user, int(predictions.history_lengths[row])
    sequence = catalogue.history(user, int(catalogue.lengths[user]))
    return user, int(np.flatnonzero(sequence == predictions.targets[row])[-1])


def people(catalogue: Catalogue, predictions: Predictions, seed: int) -> str:
    """Strips of NUM_USERS users, and a sentence on how they were drawn."""
    strangers = sorted(set(predictions.users) - set(catalogue.users))
    if strangers:
        return note(f"The predictions name user {strangers[0]}, whom this dataset lacks: they are of another.")
    ranks = ranks_of(predictions.ranked, predictions.targets)
    tiles, rows = Tiles(catalogue), choose_samples(ranks, seed)
    shown_hits = int((ranks[rows] < NUM_SHOWN).sum())
    parts = [
        f"<p><small>Drawn at random: {shown_hits} users whose next item is among the first {NUM_SHOWN}"
        f" ({(ranks < NUM_SHOWN).mean():.1%} of all), and {len(rows) - shown_hits} of the others.</small></p>"
    ]
    for row in rows:
        user, position = position_of(catalogue, predictions, row)
        target = int(predictions.targets[row])
        history = catalogue.history(user, position, NUM_HISTORY).tolist()
        ranked = [item for item in predictions.ranked[row, :NUM_SHOWN].tolist() if item >= 0]
        rank = int(ranks[row])
        found = rank < predictions.num_beams
        verdict = f"hit at rank {rank + 1}" if found else f"not among {predictions.num_beams}"
        groups = {
            f"history (last {len(history)} of {position})": "".join(tiles.tile(item) for item in history),
            "came next": tiles.tile(target, "target"),
            f"recommended, first {len(ranked)}": "".join(
                tiles.tile(item, "hit" if item == target else "", f"{place}. ") for place, item in enumerate(ranked, 1)
            ),
        }
        strip = "".join(
            f'<div class="group"><small>{name}</small><div class="tiles">{body}</div></div>'
            for name, body in groups.items()
        )
        parts.append(
            f'<div class="person"><header><b>user {text(predictions.users[row])}</b>'
            f'<span class="badge{" hit" if rank < NUM_SHOWN else ""}">{verdict}</span></header>'
            f'<div class="strip">{strip}</div></div>'
        )
    return "".join(parts)
