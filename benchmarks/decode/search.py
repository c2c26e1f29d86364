"""Beam search under the trie, against `generate` with the same trie and against bare matrix products."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.decode.subject import END_TOKEN, NUM_LEVELS, catalogue, prompts, small_model
from benchmarks.harness import Row, alternate, median, timed
from benchmarks.rivals.plain_search import DictionaryTrie, generate
from src.decoding import Beams, beam_search
from src.trie import Trie

GOALS = {(128, 1): 5.0, (128, 8): 11.0, (512, 8): 23.0, (1024, 8): 25.0}  # at 10k items and 20 beams
RUNS = {(128, 1): 7, (128, 8): 3, (512, 8): 1, (1024, 8): 1}  # the rival takes a minute and more
BEAMS = 20
TOLERANCE = 1e-4


def same_lists(ours: Beams, theirs: Any, sids: np.ndarray) -> tuple[bool, float]:
    """Equal ranked SIDs and scores to `TOLERANCE`; the largest difference of a score."""
    difference = float(np.abs(ours.scores.numpy() - theirs.scores).max())
    return bool((sids[ours.leaves.numpy()] == theirs.sids).all()) and difference < TOLERANCE, difference


def ratio_row(
    name: str, model: nn.Module, sids: np.ndarray, shape: tuple[int, int], num_beams: int, runs: int, goal: float | None
) -> Row:
    width, batch = shape
    inputs = prompts(batch, width)
    plain = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    trie, dictionary = Trie(sids), DictionaryTrie(sids.tolist(), END_TOKEN)
    beam_search(model, inputs, trie, num_beams, END_TOKEN)  # first pages of memory
    timings = alternate(
        lambda: beam_search(model, inputs, trie, num_beams, END_TOKEN),
        lambda: generate(model, plain, dictionary, NUM_LEVELS, num_beams, END_TOKEN),
        runs,
        warm_up=runs > 1,
    )
    equal, difference = same_lists(timings.our_result, timings.rival_result, sids)
    note = f"{median(timings.ours):.3g} s against {median(timings.rival):.3g} s, scores to {difference:.1e}"
    return timings.ratio(name, "generate(num_beams), dictionary trie", goal=goal, equal=equal, note=note)


def products(model: nn.Module, batch: int, width: int, num_beams: int) -> Callable[[], None]:
    """The matrix products that decoding cannot do without, on ready matrices: layers, attention, head.

    The prompt once (its attention over the half that is not masked, its head at the last token), then each step with
    all beams.
    """
    config = model.config
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    size = hidden // heads
    keys = size * config.num_key_value_heads
    shapes = [(hidden, hidden + 2 * keys), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    weights = [torch.randn(shape) for shape in shapes]
    head = torch.randn(hidden, config.vocab_size)
    steps = NUM_LEVELS  # after the prompt: three levels and the end of the turn
    work = []
    for rows, queries, seen, times in [
        (batch * width, width, width // 2, 1),
        (batch * num_beams, num_beams, width, steps),
    ]:
        inputs = [torch.randn(rows, shape[0]) for shape in shapes]
        outputs = [torch.empty(rows, shape[1]) for shape in shapes]
        query, key = torch.randn(batch * heads, queries, size), torch.randn(batch * heads, size, seen)
        attention = torch.empty(batch * heads, queries, seen), torch.empty(batch * heads, queries, size)
        last = torch.randn(batch if times == 1 else rows, hidden)
        work.append((inputs, outputs, query, key, attention, last, torch.empty(len(last), head.shape[1]), times))

    def run() -> None:
        for inputs, outputs, query, key, attention, last, logits, times in work:
            for _ in range(times):
                for _ in range(config.num_hidden_layers):
                    for matrix, weight, output in zip(inputs, weights, outputs, strict=True):
                        torch.mm(matrix, weight, out=output)
                    torch.bmm(query, key, out=attention[0])
                    torch.bmm(attention[0], key.transpose(1, 2), out=attention[1])
                torch.mm(last, head, out=logits)

    return run


def share_row(model: nn.Module, trie: Trie, shape: tuple[int, int], runs: int, goal: float | None) -> Row:
    width, batch = shape
    inputs = prompts(batch, width)
    floor = products(model, batch, width, BEAMS)
    shares = []
    floor(), beam_search(model, inputs, trie, BEAMS, END_TOKEN)
    for _ in range(runs):
        before = timed(floor)[0]
        ours = timed(lambda: beam_search(model, inputs, trie, BEAMS, END_TOKEN))[0]
        shares.append((before + timed(floor)[0]) / 2 / ours)
    return Row(
        f"beam search, prompts of {width} x {batch}: share of its matrix products",
        median(shares),
        "",
        goal=goal,
        rival="the same-shape products alone",
        runs=runs,
        spread=(min(shares), max(shares)),
    )


def bf16_row(model: nn.Module, sids: np.ndarray, batch: int) -> Row:
    """How many of the float32 list bfloat16 finds."""
    inputs, trie = prompts(batch, 64), Trie(sids)
    exact = beam_search(model, inputs, trie, BEAMS, END_TOKEN).leaves
    half = small_model().bfloat16()
    rough = beam_search(half, inputs, trie, BEAMS, END_TOKEN).leaves
    overlap = (exact.unsqueeze(2) == rough.unsqueeze(1)).any(2).float().mean()
    return Row(
        "bfloat16: share of the float32 list that is found", float(overlap), "", goal=0.95, rival="float32", runs=batch
    )


def rows(quick: bool) -> Iterator[Row]:
    model, sids = small_model(), catalogue(10_000)
    for shape, goal in GOALS.items():
        if quick and shape[0] > 128:
            continue
        name = f"beam search, prompts of {shape[0]} x {shape[1]}, 10,000 items"
        yield ratio_row(name, model, sids, shape, BEAMS, 1 if quick else RUNS[shape], goal)
    trie = Trie(sids)
    for shape, goal in [((512, 8), 0.7), ((1024, 8), None), ((128, 8), None)]:
        yield share_row(model, trie, shape, 1 if quick else 5, None if quick else goal)
    if quick:
        return
    for num_beams in (10, 50):
        name = f"beam search, prompts of 128 x 8, {num_beams} beams"
        yield ratio_row(name, model, sids, (128, 8), num_beams, 1, None)
    yield ratio_row("beam search, prompts of 128 x 32", model, sids, (128, 32), BEAMS, 1, None)
    name = "beam search, prompts of 128 x 8, 1,000,000 items"
    yield ratio_row(name, model, catalogue(1_000_000), (128, 8), BEAMS, 3, 11.0)
    yield bf16_row(model, sids, 64)
