"""The trie by itself: how soon and how small it is built, and what it costs in a step."""

import gc
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.decode.subject import NUM_LEVELS, catalogue
from benchmarks.harness import Row, median, timed
from benchmarks.rivals.plain_search import DictionaryTrie
from src.decoding import _top
from src.trie import Trie

VOCABULARY, FIRST_TOKEN = 153_088, 151_936  # as Qwen2-VL with 1,024 and some SID tokens
PROMPTS, BEAMS = 8, 20


def build_rows(num_items: int, seconds: float | None, megabytes: float | None) -> Iterator[Row]:
    sids = np.random.default_rng(1).permutation(catalogue(num_items))
    gc.collect()
    spent, trie = timed(lambda: Trie(sids))
    arrays = [trie.rows, trie.leaf_of, trie.leaf_pointer]
    size = sum(tensor.nbytes for tensor in (*trie.pointer, *trie.token)) + sum(array.nbytes for array in arrays)
    name = f"trie of {num_items:,} items"
    lower = {"higher_is_better": False, "equal": trie.num_leaves == num_items}
    yield Row(f"{name}: time to build", spent, "s", goal=seconds, **lower)
    yield Row(f"{name}: size, items of the leaves included", size / 1e6, "MB", goal=megabytes, **lower)


def step_row(num_items: int, runs: int) -> Row:
    """Level 3 of 160 beams; the log-sum-exp over the vocabulary, which both sides need, is outside ours and theirs."""
    sids = catalogue(num_items, FIRST_TOKEN)
    rng = np.random.default_rng(0)
    chosen = sids[rng.integers(len(sids), size=PROMPTS * BEAMS)]
    level = NUM_LEVELS - 1
    trie, dictionary = Trie(sids), DictionaryTrie(sids.tolist(), 0)
    lookup = {tuple(sid): number for number, sid in enumerate(np.unique(sids[:, :level], axis=0).tolist())}
    prefixes = chosen[:, :level].tolist()
    node = torch.tensor([lookup[tuple(prefix)] for prefix in prefixes]).view(PROMPTS, BEAMS)
    logits = torch.randn(PROMPTS * BEAMS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    normal = logits.log_softmax(-1).view(PROMPTS, BEAMS, -1)
    scores = -torch.arange(PROMPTS * BEAMS, dtype=torch.float32).view(PROMPTS, BEAMS) / 100

    def ours() -> tuple[Tensor, Tensor]:
        child, tokens, exists = trie.children(level, node)
        chances = normal.gather(-1, tokens).masked_fill(~exists, -torch.inf) + scores.unsqueeze(-1)
        best, place = _top(chances.flatten(1), BEAMS)
        return best, child.flatten(1).gather(1, place)

    def rival() -> tuple[Tensor, Tensor]:
        return masked_step(normal.flatten(0, 1), scores.flatten(), prefixes, dictionary)

    ours()
    our_seconds = [timed(lambda: [ours() for _ in range(100)])[0] / 100 for _ in range(runs)]
    their_seconds = [timed(rival)[0] for _ in range(runs)]
    ratios = [theirs / mine for mine, theirs in zip(our_seconds, their_seconds, strict=True)]
    equal = torch.allclose(ours()[0], rival()[0], atol=1e-5)
    return Row(
        f"constraint step, {VOCABULARY:,} tokens, {num_items:,} items, {PROMPTS * BEAMS} beams",
        median(ratios),
        "x",
        goal=1000.0 if num_items >= 1_000_000 else None,
        rival="prefix function called for every beam, masked scores of the vocabulary",
        equal=equal,
        runs=runs,
        spread=(min(ratios), max(ratios)),
        note=f"{1000 * median(our_seconds):.3g} ms against {1000 * median(their_seconds):.4g} ms",
    )


def masked_step(chances: Tensor, scores: Tensor, prefixes: list[list[int]], trie: DictionaryTrie):
    """What `generate` does with a prefix function once it has log-probabilities: it fills a mask of the vocabulary beam
    by beam, adds scores, and takes the best of beams x vocabulary."""
    mask = torch.full_like(chances, -torch.inf)
    for row, prefix in enumerate(prefixes):
        mask[row, trie.legal(prefix)] = 0
    chances = chances + mask + scores[:, None]
    return chances.view(PROMPTS, -1).topk(2 * BEAMS)[0][:, :BEAMS], None


def rows(quick: bool) -> Iterator[Row]:
    yield from build_rows(100_000, None, None)
    if not quick:
        yield from build_rows(1_000_000, 1.5, 25.0)
        yield from build_rows(10_000_000, 20.0, 300.0)
    for num_items in [10_000] if quick else [10_000, 1_000_000]:
        yield step_row(num_items, 3 if quick else 7)
