"""Users as strips of pictures: what they had, what came next, what was recommended."""

import numpy as np

from src.reporting.page import note
from src.reporting.tiles import Tiles, person, strip
from src.seqrec.metrics import ranks_of
from src.seqrec.results import Predictions
from src.tasks.catalogue import Catalogue

NUM_USERS, NUM_HISTORY, NUM_SHOWN = 12, 8, 5


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
        parts.append(person(f"user {predictions.users[row]}", verdict, rank < NUM_SHOWN, strip(groups)))
    return "".join(parts)
