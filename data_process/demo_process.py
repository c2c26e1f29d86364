"""The process behind the demo dataset: which items there are, and how users come to take them.

An item is a drawn product: kind, colour, pattern, size and tone of the motif. Its text tells the kind and the maker.
A maker prints one family of patterns only; so about ten items share every word and differ in the picture alone.

A user has one taste, which is a pair of colours. The first item is drawn by taste: popularity, times `taste_boost` for
the colours of the taste. After that a habit decides with probability `habit`: the next item is drawn from the few
successors of the last one, by weight; otherwise taste decides again. No user takes an item twice: both draws leave out
what the user has (a habit whose successors are all taken gives way to taste). So masking the history is legitimate.

Text tells one half of where habit leads, pictures the other: the class of an item has three successor classes, and in
each of them those two items come next that stand where the item itself stands in the order of colours and motifs, or
about a third or two thirds of the way round from there. So the texts of a history tell which thirty items may be next,
and its pictures which six.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.artifacts import DatasetPaths, atomic_path

# Values of each attribute that a picture shows; names serve the drawing and the texts.
KINDS = ("T-shirt", "mug", "bag", "cap", "dress", "vase", "bottle", "cushion", "umbrella", "sock")
COLOURS = ("red", "orange", "yellow", "lime", "green", "turquoise", "blue", "violet", "pink", "grey")
PATTERNS = ("stripes", "bars", "dots", "crosses", "checks", "zigzag")
FAMILIES = ("lines", "spots", "blocks")  # of two patterns each, in their order
SIZES = ("fine", "coarse")
TONES = ("light", "dark")

NUM_TASTES = len(COLOURS) // 2
ITEMS_PER_CLASS = 10
MIN_LENGTH, MAX_LENGTH = 5, 15
HABITS = ((1, 0.0), (2, 0.3), (3, 0.6))  # steps from an item's class, and round the circle of colours, to successors
HABIT_WEIGHTS = (0.4, 0.33, 0.27)
NEARNESS_WEIGHTS = (0.65, 0.35)
SUCCESSORS_PER_HABIT = len(NEARNESS_WEIGHTS)
MIN_ITEMS = ITEMS_PER_CLASS * (len(HABITS) + 1)  # so that the habits lead to different classes, and none to itself
USERS_AT_ONCE = 100_000  # bounds the memory of the comparison with all earlier items


@dataclass(frozen=True)
class Process:
    """Everything that decides what users do.

    Shape letters: N items, T tastes, S successors of an item, U users.

    Attributes:
        attributes: (N, 5) int64: kind, colour, pattern, size, tone.
        text_class: (N,) int64: items of one class have the same text.
        popularity: (N,) float64, sums to 1.
        taste_boost: how much more a user takes of items in the colours of their taste.
        habit: probability that the last item decides on the next.
        successors: (N, S) int64 item ids.
        successor_weights: (S,) float64, sums to 1.
    """

    attributes: np.ndarray
    text_class: np.ndarray
    popularity: np.ndarray
    taste_boost: float
    habit: float
    successors: np.ndarray
    successor_weights: np.ndarray

    @property
    def num_items(self) -> int:
        return len(self.attributes)

    def taste_probabilities(self) -> np.ndarray:
        """(T, N) float64: what a user of each taste takes when taste decides, nothing taken yet. Rows sum to 1."""
        likes = self.attributes[:, 1] % NUM_TASTES == np.arange(NUM_TASTES)[:, None]
        weights = self.popularity * np.where(likes, self.taste_boost, 1.0)
        return weights / weights.sum(1, keepdims=True)


def make_process(num_items: int, seed: int, habit: float, taste_boost: float, popularity_spread: float) -> Process:
    """Draws the items of a catalogue and their successors."""
    if num_items < MIN_ITEMS:
        raise ValueError(f"--items {num_items} is too few for the habits of the demo: at least {MIN_ITEMS}")
    rng = np.random.default_rng([seed, 0])
    num_classes = round(num_items / ITEMS_PER_CLASS)
    order = rng.permutation(num_items)  # item ids must not tell the class
    text_class = order % num_classes
    attributes = _draw_attributes(text_class, order // num_classes, rng)
    popularity = rng.lognormal(sigma=popularity_spread, size=num_items)
    weights = np.repeat(HABIT_WEIGHTS, SUCCESSORS_PER_HABIT) * np.tile(NEARNESS_WEIGHTS, len(HABITS))
    return Process(
        attributes=attributes,
        text_class=text_class,
        popularity=popularity / popularity.sum(),
        taste_boost=taste_boost,
        habit=habit,
        successors=_find_successors(attributes, text_class),
        successor_weights=weights / weights.sum(),
    )


def _draw_attributes(text_class: np.ndarray, variant: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Different attributes for every item of a kind and family of patterns, as long as combinations last."""
    kind, family = text_class % len(KINDS), text_class // len(KINDS) % len(FAMILIES)
    makers = text_class.max() // (len(KINDS) * len(FAMILIES)) + 1  # that share a kind and a family
    place = variant * makers + text_class // (len(KINDS) * len(FAMILIES))
    shape = (len(COLOURS), 2, len(SIZES), len(TONES))
    num_groups, num_codes = len(KINDS) * len(FAMILIES), int(np.prod(shape))
    codes = rng.permuted(np.tile(np.arange(num_codes), (num_groups, 1)), axis=1)
    chosen = codes[kind * len(FAMILIES) + family, place % num_codes]
    colour, pattern, size, tone = np.unravel_index(chosen, shape)
    return np.stack([kind, colour, 2 * family + pattern, size, tone], 1)


def _find_successors(attributes: np.ndarray, text_class: np.ndarray) -> np.ndarray:
    """(N, S): for each habit, the items of the next class that stand where the item stands in its own, and after.

    Each class is a circle in the order of colour, then pattern, size and tone. Going by place rather than by nearest
    colour gives every item of a class equally many predecessors: else texts would tell the few that habits end in.
    """
    order = np.lexsort((*attributes.T[::-1], text_class))
    class_sizes = np.bincount(text_class)
    class_starts = np.cumsum(class_sizes) - class_sizes
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - class_starts[text_class[order]]
    turn = place / class_sizes[text_class]  # 0 to 1
    found = []
    for class_step, turn_step in HABITS:
        next_class = (text_class + class_step) % len(class_sizes)
        size = class_sizes[next_class][:, None]
        first = np.floor((turn + turn_step)[:, None] * size + 1e-9).astype(np.int64)
        places = (first + np.arange(SUCCESSORS_PER_HABIT)) % size
        found.append(order[class_starts[next_class][:, None] + places])
    return np.concatenate(found, 1)


# ---- users -----------------------------------------------------------------------------------------------------------
def draw_users(process: Process, num_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What users take.

    Returns:
        histories: (U, MAX_LENGTH) int64 item ids, oldest first, -1 after the last.
        lengths: (U,) int64, MIN_LENGTH to MAX_LENGTH.
        tastes: (U,) int64.
    """
    rng = np.random.default_rng([seed, 1])
    lengths = rng.integers(MIN_LENGTH, MAX_LENGTH + 1, num_users)
    tastes = rng.integers(NUM_TASTES, size=num_users)
    # One sorted line for all tastes: taste t lies between t and t + 1.
    line = (process.taste_probabilities().cumsum(1) + np.arange(NUM_TASTES)[:, None]).ravel()
    histories = np.full((num_users, MAX_LENGTH), -1)
    for start in range(0, num_users, USERS_AT_ONCE):
        rows = slice(start, start + USERS_AT_ONCE)
        histories[rows] = _draw_histories(process, tastes[rows], line, rng)
    histories[np.arange(MAX_LENGTH) >= lengths[:, None]] = -1
    return histories, lengths, tastes


def _draw_histories(process: Process, tastes: np.ndarray, line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    histories = np.full((len(tastes), MAX_LENGTH), -1)
    for step in range(MAX_LENGTH):
        taken = histories[:, :step]
        chosen = np.full(len(tastes), -1)
        if step:
            candidates = process.successors[taken[:, -1]]
            weights = process.successor_weights * ~(candidates[:, :, None] == taken[:, None]).any(2)
            total = weights.cumsum(1)
            follows = (rng.random(len(tastes)) < process.habit) & (total[:, -1] > 0)
            # 1 - random is above 0, so that a successor of weight 0 is never met.
            pick = (total < (1 - rng.random(len(tastes)))[:, None] * total[:, -1:]).sum(1)
            pick = np.minimum(pick, candidates.shape[1] - 1)
            chosen[follows] = candidates[np.arange(len(tastes)), pick][follows]
        while (open_rows := np.flatnonzero(chosen < 0)).size:  # draws of taken items are thrown back
            spot = np.searchsorted(line, tastes[open_rows] + rng.random(len(open_rows)), side="right")
            spot = np.minimum(spot, len(line) - 1) % process.num_items
            fresh = ~(taken[open_rows] == spot[:, None]).any(1)
            chosen[open_rows[fresh]] = spot[fresh]
        histories[:, step] = chosen
    return histories


# ---- file ------------------------------------------------------------------------------------------------------------
def save_process(paths: DatasetPaths, process: Process, tastes: np.ndarray) -> None:
    """`<DS>.truth.npz`: what the best predictor may know, and the taste of each user, which it must infer."""
    with atomic_path(paths.file("truth.npz")) as temporary:
        np.savez_compressed(temporary, user_tastes=tastes, **vars(process))


def load_process(path: Path) -> tuple[Process, np.ndarray]:
    """The process and the tastes of users 0 to U-1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Make it with: python3 data_process/make_demo_data.py")
    with np.load(path, allow_pickle=False) as arrays:
        fields = {name: arrays[name] for name in Process.__dataclass_fields__}
        tastes = arrays["user_tastes"]
    scalars: dict[str, Any] = {name: float(fields.pop(name)) for name in ("taste_boost", "habit")}
    return Process(**fields, **scalars), tastes
