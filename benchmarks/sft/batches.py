"""The way of samples to finished tensors: what it costs each, and how full rows become."""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from benchmarks.harness import Row, alternate
from benchmarks.rivals.plain_sft import IGNORE, Asked, PlainCollator, PlainDataset, batches
from benchmarks.sft.subject import Subject, present, subject
from src.collate import TrainingCollator
from src.dataset import TaskDataset

ROW_LENGTH = 2048
LARGE, SMALL = 1024, 64  # samples, or users, of a batch
RIVAL = "tokenised in the collator, padded batches of 8"
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]  # ids of a sample, and those of them that are learnt


def asked(dataset: TaskDataset, examples: Sequence[int]) -> list[Asked]:
    """The samples of some examples, for the rival: one for each target, in the example's wording."""
    return [
        Asked(dataset.wording(int(example), 0), int(user), position)
        for example in examples
        for user, first, last in [dataset.examples[example]]
        for position in range(first, last + 1)
    ]


def padded_sequences(padded: Sequence[dict[str, Tensor]]) -> Sequences:
    """What the rival's batches hold, sorted."""
    found = []
    for batch in padded:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True):
            found.append((tuple(ids[mask].tolist()), tuple(labels[labels != IGNORE].tolist())))
    return sorted(found)


def packed_sequences(batch: dict[str, Tensor]) -> Sequences:
    """What our rows hold, sorted: the samples as the pieces of their rows put them together, if positions agree."""
    ids, positions, predict = (batch[name].reshape(-1).tolist() for name in ("input_ids", "position_ids", "predict"))
    labels = iter(batch["labels"].tolist())
    found, begin, trunk = [], 0, 0
    for size, visible in batch["attention_mask"][0, 0].tolist():
        trunk = trunk if visible else begin
        places = [*range(trunk, trunk + visible), *range(begin, begin + size)]
        learnt = tuple(next(labels) for place in range(begin, begin + size) if predict[place])
        if [positions[place] for place in places] != list(range(len(places))):
            raise ValueError(f"positions of the piece at {begin} do not count from 0")
        if learnt:  # else a trunk, or padding
            found.append((tuple(ids[place] for place in places) + learnt[-1:], learnt))
        begin += size
    return sorted(found)


def cost_row(name: str, subject: Subject, share_prefix: bool, batch_size: int, quick: bool) -> Row:
    dataset = subject.dataset(share_prefix)
    order = np.random.default_rng(0).permutation(len(dataset))
    num_batches = min(32 * LARGE, len(order)) // batch_size
    ours_of = [order[i * batch_size : (i + 1) * batch_size].tolist() for i in range(num_batches)]
    collate = TrainingCollator(subject.builder.tokenizer.pad_token_id, mrope=False, row_length=ROW_LENGTH)
    num_ours = sum(int((dataset.examples[examples] @ (0, -1, 1) + 1).sum()) for examples in ours_of)
    plain = PlainDataset(subject.catalogue, asked(dataset, order[:2048])[: 256 if quick else 1024])
    plain_collate = PlainCollator(subject.builder.tokenizer)

    timings = alternate(
        lambda: deque((collate(dataset.__getitems__(examples)) for examples in ours_of), maxlen=0),
        lambda: deque(batches(plain, plain_collate), maxlen=0),
        5 if quick else 11,
    )
    same = order[: 256 if quick else LARGE]
    whole = PlainDataset(subject.catalogue, asked(dataset, same))
    is_equal = packed_sequences(collate(dataset.__getitems__(same))) == padded_sequences(
        list(batches(whole, plain_collate))
    )
    per_sample = timings._replace(
        ours=[seconds / num_ours for seconds in timings.ours],
        rival=[seconds / len(plain) for seconds in timings.rival],
    )
    ours, theirs = (1e6 * sorted(seconds)[len(seconds) // 2] for seconds in (per_sample.ours, per_sample.rival))
    return per_sample.ratio(
        f"data, {name}, {'shared prefixes' if share_prefix else 'independent'}, batches of {batch_size}",
        RIVAL,
        goal=200.0 if batch_size == LARGE else None,
        equal=is_equal,
        note=f"{ours:.2f} us a sample against {theirs:.0f} us; aim 300",
    )


def fill_row(name: str, subject: Subject, share_prefix: bool, quick: bool) -> Row:
    dataset = subject.dataset(share_prefix)
    order = np.random.default_rng(1).permutation(len(dataset))
    collate = TrainingCollator(subject.builder.tokenizer.pad_token_id, mrope=False, row_length=ROW_LENGTH)
    begins = range(0, len(dataset), LARGE)[: 4 if quick else None]
    tokens = places = widest = 0
    for begin in begins:
        block = dataset.__getitems__(order[begin : begin + LARGE])
        batch = collate(block)["input_ids"]
        tokens, places, widest = tokens + int(block.sizes.sum()), places + batch.numel(), max(widest, batch.shape[1])
    if widest > ROW_LENGTH:
        raise ValueError(f"a row of {widest} tokens is longer than {ROW_LENGTH}")
    return Row(
        f"rows of {ROW_LENGTH:,}, {name}, {'shared prefixes' if share_prefix else 'independent'}: full to",
        100 * tokens / places,
        "%",
        goal=98.5,
        rival="tokens / elements of input_ids",
        note=f"{tokens:,} tokens in batches of {LARGE:,}",
    )


def rows(quick: bool) -> Iterator[Row]:
    for name in present():
        for share_prefix in (False, True):
            for batch_size in (LARGE,) if quick else (LARGE, SMALL):
                yield cost_row(name, subject(name), share_prefix, batch_size, quick)
            yield fill_row(name, subject(name), share_prefix, quick)
