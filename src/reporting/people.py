"""Users as strips of pictures: what they had, what came next, what one run or several recommended."""

from collections.abc import Mapping

import numpy as np

from src.common.comparison import in_order
from src.reporting.page import note, text
from src.reporting.tiles import Budget, Tiles, person, strip
from src.seqrec.metrics import ranks_of
from src.seqrec.results import Predictions
from src.tasks.catalogue import Catalogue

NUM_USERS, NUM_HISTORY, NUM_SHOWN = 12, 8, 5


# ---- who is shown ----------------------------------------------------------------------------------------------------
def choose_samples(ranks: np.ndarray, seed: int) -> np.ndarray:
    """Rows to show: half of them hits among the first NUM_SHOWN as far as there are any, the rest others, at random."""
    rng = np.random.default_rng(seed)
    hits, others = (rng.permutation(np.flatnonzero(mask)) for mask in (ranks < NUM_SHOWN, ranks >= NUM_SHOWN))
    num_hits = min(len(hits), max(NUM_USERS // 2, NUM_USERS - len(others)))
    return np.sort(np.concatenate([hits[:num_hits], others[: NUM_USERS - num_hits]]))


def choose_disputed(values: np.ndarray, seed: int, count: int = NUM_USERS) -> tuple[np.ndarray, np.ndarray]:
    """Rows on which runs differ most, and others at random.

    Args:
        values: (R, M) how well each of R runs did on each sample.

    Returns:
        (count / 2,) rows with the largest spread among runs, ties at random; (count / 2,) of the rest, at random.
        Rows on which all runs are equal are never among the first.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(values.shape[1])
    spread = values.std(axis=0)[drawn]
    disputed = drawn[np.argsort(-spread, kind="stable")][: count // 2]
    disputed = disputed[values.std(axis=0)[disputed] > 0]
    rest = drawn[~np.isin(drawn, disputed)][: count - len(disputed)]
    return disputed, rest


def shared_rows(runs: Mapping[str, Predictions]) -> dict[str, np.ndarray]:
    """Of each run the rows of the samples that all have, in one order."""
    orders = {}
    for name, part in runs.items():
        rows = {"row": np.arange(len(part.users))}
        samples = in_order(part.users, part.targets.tolist(), rows)
        orders[name] = dict(zip(samples.keys, samples.values["row"].tolist(), strict=True))
    first, *others = orders.values()
    keys = [key for key in first if all(key in other for other in others)]
    return {name: np.array([rows[key] for key in keys], np.int64) for name, rows in orders.items()}


# ---- their cards -----------------------------------------------------------------------------------------------------
def position_of(catalogue: Catalogue, predictions: Predictions, row: int) -> tuple[int, int]:
    """User and position of a sample; without history lengths, the last time that the user had the target."""
    user = catalogue.users.index(predictions.users[row])
    if predictions.history_lengths is not None:
        return user, int(predictions.history_lengths[row])
    sequence = catalogue.history(user, int(catalogue.lengths[user]))
    return user, int(np.flatnonzero(sequence == predictions.targets[row])[-1])


def asked_of(catalogue: Catalogue, predictions: Predictions, row: int, tiles: Tiles) -> dict[str, str]:
    """Strips of what a user had, and of what came next."""
    right = tiles.tile(int(predictions.targets[row]), "target")
    user, position = position_of(catalogue, predictions, row)
    history = catalogue.history(user, position, NUM_HISTORY).tolist()
    return {f"history (last {len(history)} of {position})": "".join(map(tiles.tile, history)), "came next": right}


def recommended(predictions: Predictions, row: int, tiles: Tiles) -> str:
    target = int(predictions.targets[row])
    ranked = [item for item in predictions.ranked[row, :NUM_SHOWN].tolist() if item >= 0]
    return "".join(
        tiles.tile(item, "hit" if item == target else "", f"{place}{'✓' if item == target else '.'} ")
        for place, item in enumerate(ranked, 1)
    )


def verdict_of(predictions: Predictions, rank: int) -> str:
    return f"hit at rank {rank + 1}" if rank < predictions.num_beams else f"not among {predictions.num_beams}"


def people(catalogue: Catalogue, predictions: Predictions, seed: int) -> str:
    """Strips of NUM_USERS users of one run, and a sentence on how they were drawn."""
    if strangers := unknown(catalogue, predictions):
        return strangers
    ranks = ranks_of(predictions.ranked, predictions.targets)
    tiles, rows = Tiles(catalogue), choose_samples(ranks, seed)
    shown_hits = int((ranks[rows] < NUM_SHOWN).sum())
    parts = [
        f"<p><small>Drawn at random: {shown_hits} users whose next item is among the first {NUM_SHOWN}"
        f" ({(ranks < NUM_SHOWN).mean():.1%} of all), and {len(rows) - shown_hits} of the others.</small></p>"
    ]
    for row in rows:
        rank = int(ranks[row])
        groups = asked_of(catalogue, predictions, row, tiles)
        groups[f"recommended, first {(predictions.ranked[row, :NUM_SHOWN] >= 0).sum()}"] = recommended(
            predictions, row, tiles
        )
        verdict = verdict_of(predictions, rank)
        parts.append(person(f"user {predictions.users[row]}", verdict, rank < NUM_SHOWN, strip(groups)))
    return "".join(parts)


def unknown(catalogue: Catalogue, predictions: Predictions, next_item: bool = True) -> str:
    """A note where the predictions are not of this dataset; empty where they are."""
    strangers = sorted(set(predictions.users) - set(catalogue.users)) if next_item else []
    if strangers:
        return note(f"The predictions name user {strangers[0]}, whom this dataset lacks: they are of another.")
    named = np.unique(np.append(predictions.ranked, predictions.targets))
    strange = named[(named >= 0) & ~np.isin(named, catalogue.item_ids)]
    if len(strange):
        return note(f"The predictions name item {strange[0]}, which this dataset lacks: they are of another.")
    return ""


def people_of_runs(
    catalogue: Catalogue, runs: Mapping[str, Predictions], seed: int, budget: Budget, next_item: bool = True
) -> str:
    """The same samples under several runs: those on which the runs differ most, and others at random.

    Args:
        next_item: what came next after a history was asked for; else an item by other words, and no history is shown.
    """
    for predictions in runs.values():
        if strangers := unknown(catalogue, predictions, next_item):
            return strangers
    rows, tiles = shared_rows(runs), Tiles(catalogue, budget)
    num_shared = len(next(iter(rows.values())))
    if not num_shared:
        return note("The runs have no sample in common.")
    ranks = {name: ranks_of(part.ranked, part.targets)[rows[name]] for name, part in runs.items()}
    # What counts is how far up the right answer stands, and a miss is as bad as any other.
    found = np.stack([np.where(ranks[name] < part.num_beams, 1 / (1 + ranks[name]), 0) for name, part in runs.items()])
    first_name, first = next(iter(runs.items()))
    parts = []
    for title, chosen in zip(("The runs differ most", "Drawn at random"), choose_disputed(found, seed), strict=True):
        cards = []
        for sample in chosen.tolist():
            place = int(rows[first_name][sample])
            hits = sum(int(ranks[name][sample]) < NUM_SHOWN for name in runs)
            verdict = f"{hits} of {len(runs)} runs have it among their first {NUM_SHOWN}"
            groups = []
            for name, part in runs.items():
                told = f"<b>{text(name)}</b>: {verdict_of(part, int(ranks[name][sample]))}"
                shown = recommended(part, int(rows[name][sample]), tiles)
                groups.append(f'<div class="group five"><small>{told}</small><div class="tiles">{shown}</div></div>')
            asked = {"asked for": tiles.tile(int(first.targets[place]), "target")}
            if next_item:
                asked = asked_of(catalogue, first, place, tiles)
            lists = f'<div class="runs">{"".join(groups)}</div>'
            name = f"{'user' if next_item else 'sample'} {first.users[place]}"
            cards.append(person(name, verdict, hits > 0, strip(asked), lists))
        if cards:
            parts.append(f"<h3>{title} ({len(cards)} of {num_shared:,})</h3>{''.join(cards)}")
    return "".join(parts)
