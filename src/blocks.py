"""Many samples as flat arrays: the next-item samples of a batch are assembled at once, not one by one."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from src.chat import Slot
from src.prompt import PromptBuilder, Sample
from src.tasks.task import Template


class Block(NamedTuple):
    """N samples in one (C cuts, S pieces, P tokens to learn).

    A cut is a run of `source`; the cuts, end to end, are the tokens of the samples. A piece is a run of tokens of a
    sample each of which sees those before it in the run, and the first `visible` tokens of the sample. A plain sample
    is one piece, a shared one its trunk and a piece per branch. Arrays are int64 where nothing else is said.
    """

    source: np.ndarray  # (X,) token ids, int64 or int32
    cut_begins: np.ndarray  # (C,)
    cut_sizes: np.ndarray  # (C,)
    num_cuts: np.ndarray  # (N,) of each sample
    sizes: np.ndarray  # (N,) tokens of each sample
    piece_sizes: np.ndarray  # (S,)
    visible: np.ndarray  # (S,) 0 for the first piece of a sample, more for its others
    num_pieces: np.ndarray  # (N,) of each sample
    predict: np.ndarray  # (P,) places inside their sample, ascending: the token after these is to be learnt ...
    targets: np.ndarray  # (P,) ... and is this one
    num_targets: np.ndarray  # (N,) of each sample
    tasks: np.ndarray  # (N,)
    positions: np.ndarray | None = None  # (3, T), where pictures decide them; None: they follow from the pieces
    images: tuple[tuple[Mapping[str, np.ndarray], ...], ...] = ()  # of each sample; () where none has a picture

    def take(self, order: np.ndarray) -> "Block":
        """The samples in another order."""
        cuts, pieces = _members(self.num_cuts, order), _members(self.num_pieces, order)
        targets = _members(self.num_targets, order)
        return Block(
            self.source,
            self.cut_begins[cuts],
            self.cut_sizes[cuts],
            self.num_cuts[order],
            self.sizes[order],
            self.piece_sizes[pieces],
            self.visible[pieces],
            self.num_pieces[order],
            self.predict[targets],
            self.targets[targets],
            self.num_targets[order],
            self.tasks[order],
            None if self.positions is None else self.positions[:, _members(self.sizes, order)],
            tuple(self.images[i] for i in order) if self.images else (),
        )


def runs(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`sizes[0]` numbers from `begins[0]` on, `sizes[1]` numbers from `begins[1]` on, ..."""
    if not sizes.all():
        begins, sizes = begins[sizes > 0], sizes[sizes > 0]
    ends = sizes.cumsum()
    numbers = np.ones(int(sizes.sum()), np.int64)  # the step to each number, in the one large array that this takes
    numbers[:1] = begins[:1]
    numbers[ends[:-1]] += begins[1:] - begins[:-1] - sizes[:-1]
    return numbers.cumsum(out=numbers)


def starts(sizes: np.ndarray) -> np.ndarray:
    """Where each of some groups begins that lie end to end."""
    return sizes.cumsum() - sizes


def _members(sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where the members of groups stand, which lie end to end, if the groups are taken in another order."""
    if len(sizes) and (sizes == sizes[0]).all():
        return np.add.outer(order * sizes[0], np.arange(sizes[0])).reshape(-1)
    return runs(starts(sizes)[order], sizes[order])


def block_of(samples: Sequence[Sample]) -> Block:
    """The same samples as a block."""
    begins = [np.flatnonzero(np.diff(sample.start, prepend=-1)) for sample in samples]
    orders = [np.argsort(sample.predict, kind="stable") for sample in samples]
    sizes = np.array([len(sample.ids) for sample in samples])
    positions: np.ndarray | None = None
    images: tuple[Any, ...] = ()
    if any(sample.positions.ndim > 1 for sample in samples):
        positions = np.concatenate([np.broadcast_to(s.positions, (3, len(s.ids))) for s in samples], 1)
    if any(sample.images for sample in samples):
        images = tuple(sample.images for sample in samples)
    return Block(
        np.concatenate([sample.ids for sample in samples]),
        starts(sizes),
        sizes,
        np.ones_like(sizes),
        sizes,
        np.concatenate([np.diff(begin, append=size) for begin, size in zip(begins, sizes, strict=True)]),
        np.concatenate([sample.visible[begin] for sample, begin in zip(samples, begins, strict=True)]),
        np.array([len(begin) for begin in begins]),
        np.concatenate([sample.predict[order] for sample, order in zip(samples, orders, strict=True)]),
        np.concatenate([sample.targets[order] for sample, order in zip(samples, orders, strict=True)]),
        np.array([len(order) for order in orders]),
        np.array([sample.task for sample in samples]),
        positions,
        images,
    )


def join(blocks: Sequence[Block]) -> Block:
    """The samples of several blocks, one block after another."""
    if len(blocks) == 1:
        return blocks[0]
    arrays = [list(values) for values in zip(*(block[:12] for block in blocks), strict=True)]
    shifts = starts(np.array([len(block.source) for block in blocks]))
    arrays[1] = [begins + shift for begins, shift in zip(arrays[1], shifts, strict=True)]
    positions: np.ndarray | None = None
    images: tuple[Any, ...] = ()
    if any(block.positions is not None for block in blocks):
        positions = np.concatenate([_positions(block) for block in blocks], 1)
    if any(block.images for block in blocks):
        images = tuple(image for block in blocks for image in block.images or ((),) * len(block.sizes))
    return Block._make([*map(np.concatenate, arrays), positions, images])


def _positions(block: Block) -> np.ndarray:
    if block.positions is not None:
        return block.positions
    plain = runs(block.visible, block.piece_sizes)
    return np.broadcast_to(plain, (3, len(plain)))


class NextItemBlocks:
    """Assembles next-item samples of a dataset whose wordings hold a history of SIDs, and ask for one.

    The samples are those of `PromptBuilder.sample` and `PromptBuilder.shared_sample`. The tokens of all sequences are
    kept, 4 bytes each, so that a history is a single cut.
    """

    def __init__(self, builder: PromptBuilder, templates: Sequence[Template]):
        self.offsets, self.window = builder.catalogue.offsets, builder.settings.max_his_len
        self.end_token, self.num_levels = builder.end_token, builder.sids.shape[1]
        literals: list[np.ndarray] = []
        for template in templates:
            pieces, _ = builder.pieces_of(template)
            slot = next(place for place, piece in enumerate(pieces) if isinstance(piece, Slot))
            literals += [np.concatenate([np.empty(0, np.int64), *part]) for part in (pieces[:slot], pieces[slot + 1 :])]
        sizes = np.array([len(literal) for literal in literals])
        self.head_begins, self.tail_begins = starts(sizes).reshape(-1, 2).T.copy()
        self.head_sizes, self.tail_sizes = sizes.reshape(-1, 2).T.copy()
        separators = np.broadcast_to(builder.separator, (len(builder.sids), len(builder.separator)))
        items = np.concatenate([builder.sids, separators], 1).astype(np.int32)
        self.width = items.shape[1]  # tokens of an item, with what stands between two
        rows = builder.row_of[builder.catalogue.sequence]
        self.sequences_begin = int(sizes.sum())
        self.source = np.concatenate([*(literal.astype(np.int32) for literal in literals), items[rows].reshape(-1)])

    @staticmethod
    def suit(builder: PromptBuilder, templates: Sequence[Template], longest: int) -> bool:
        """Whether such samples of these wordings can be assembled here: no history of up to `longest` items is cut."""
        if builder.settings.add_prefix or any(template.has_options for template in templates):
            return False
        if not all(builder.can_share_prefix(template) for template in templates):
            return False
        longest = min(longest, builder.settings.max_his_len or longest)
        return all(builder.items_that_fit(template, longest) == longest for template in templates)

    def __call__(self, wordings: np.ndarray, spans: np.ndarray, task: int) -> Block:
        """
        Args:
            wordings: (N,) number of the template of each sample.
            spans: (N, 3) user, first and last target of each; several targets share the pass over their history.
        """
        users, first, last = spans.T
        begin = np.maximum(last - self.window, 0) if self.window else np.zeros_like(last)
        num_items, num_targets = last - begin, last - first + 1  # of the history, and after it
        shared, total = num_targets > 1, int(num_targets.sum())
        owner: np.ndarray | slice
        number: np.ndarray | int
        first_pair: np.ndarray | slice
        target_pair: np.ndarray | slice
        if shared.any():
            owner = np.arange(len(users)).repeat(num_targets)  # sample of each target
            number = np.arange(total) - starts(num_targets)[owner]  # of a target in its sample
            first_pair, target_pair = starts(num_targets + 1), np.arange(total) + owner + 1
        else:  # the same, for less
            owner, number, first_pair, target_pair = slice(None), 0, slice(0, None, 2), slice(1, None, 2)
        tokens_at = self.sequences_begin + self.offsets[users] * self.width  # where a user's sequence begins

        # Each sample is cut in pairs: head and history, and for each target the tail and its SID.
        separator = self.width - self.num_levels  # none after the last item of a history
        head_sizes, tail_sizes = self.head_sizes[wordings], self.tail_sizes[wordings]
        history_sizes = num_items * self.width - separator
        target_begins = (tokens_at + first * self.width)[owner] + number * self.width
        pairs = np.empty((2, len(users) + total, 2), np.int64)  # begins, sizes
        pairs[0, first_pair, 0], pairs[0, first_pair, 1] = self.head_begins[wordings], tokens_at + begin * self.width
        pairs[1, first_pair, 0], pairs[1, first_pair, 1] = head_sizes, history_sizes
        pairs[0, target_pair, 0], pairs[0, target_pair, 1] = self.tail_begins[wordings][owner], target_begins
        pairs[1, target_pair, 0], pairs[1, target_pair, 1] = tail_sizes[owner], self.num_levels
        cut_begins, cut_sizes = pairs.reshape(2, -1)

        trunk_sizes, branch_sizes = head_sizes + history_sizes, tail_sizes + self.num_levels
        sizes = trunk_sizes + num_targets * branch_sizes
        predict = (trunk_sizes + tail_sizes - 1)[owner] + number * branch_sizes[owner]
        targets = np.full((total, self.num_levels + 1), self.end_token)
        targets[:, :-1] = self.source[target_begins[:, None] + np.arange(self.num_levels)]

        num_pieces, piece_sizes, visible = np.ones_like(sizes), sizes, np.zeros_like(sizes)
        if shared.any():
            num_pieces = np.where(shared, num_targets + 1, 1)
            piece_sizes, visible = np.zeros((2, int(num_pieces.sum())), np.int64)
            trunk_at = starts(num_pieces)
            piece_sizes[trunk_at] = np.where(shared, trunk_sizes, sizes)
            is_branch = np.ones(len(piece_sizes), bool)
            is_branch[trunk_at] = False
            kept = shared[owner]
            piece_sizes[is_branch] = branch_sizes[owner][kept]
            seen = (first - begin)[owner] + number  # items of the history that a target's branch sees
            visible[is_branch] = (head_sizes[owner] + seen * self.width - separator)[kept]
        return Block(
            self.source, cut_begins, cut_sizes, 2 + 2 * num_targets, sizes, piece_sizes, visible, num_pieces,
            (predict[:, None] + np.arange(self.num_levels + 1)).reshape(-1), targets.reshape(-1),
            num_targets * (self.num_levels + 1), np.full(len(users), task),
        )  # fmt: skip


@lru_cache(maxsize=4)
def next_item_blocks(builder: PromptBuilder, templates: tuple[Template, ...]) -> NextItemBlocks:
    """One for all splits of a task."""
    return NextItemBlocks(builder, templates)
