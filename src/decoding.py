"""Exact beam search under a trie of legal SIDs, and scores of all items, through the model's own forward.

The prompt is encoded once. The K beams of a prompt are K more query tokens beside each other in its row: a mask lets
each see the prompt and its own ancestors, and position ids say how far it is. So nothing of the cache is copied or
reordered, and any model that takes an attention mask of its own and position ids can be decoded (docs/test_readme.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from src.encoded import encode
from src.trie import Trie

CHANCES_AT_ONCE = (1 << 19, 1 << 27)  # log-probabilities of the vocabulary at a time: on a CPU, in its cache; on a GPU
LOGITS_AT_ONCE = 1 << 26  # entries of a tensor of logits when all items are scored: 256 MB
NODES_AT_ONCE = 4096  # of the trie then: their mask has this number squared


class Beams(NamedTuple):
    leaves: Tensor  # (B, K) int64: leaf of each beam, best first; -1 where fewer SIDs are legal than there are beams
    scores: Tensor  # (B, K) float32: sum of log-probabilities over SID (and end of turn), by their number


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    trie: Trie,
    num_beams: int,
    end_token: int | None,
    left_out: Sequence[np.ndarray] | None = None,
    renormalize: bool = False,
) -> Beams:
    """The `num_beams` best SIDs of each prompt (all, if there are fewer), as a beam search with a full softmax does.

    Equal to `generate(num_beams=K, num_return_sequences=K, prefix_allowed_tokens_fn=...)` over the same trie, except
    that beams for which there is no legal SID are -1 instead of repeats.

    Args:
        inputs: from PromptCollator: left-padded input_ids, attention_mask (B, T), position_ids, and pictures; of an
            encoder-decoder the input_ids and attention_mask of its encoder.
        end_token: scored after the SID, as generate() does; None leaves that step out.
        left_out: for each prompt, rows of the trie that may not be recommended.
        renormalize: log-probabilities over legal tokens only, instead of the whole vocabulary.
    """
    num_beams = min(num_beams, trie.num_leaves)  # more would be dead from the start
    blocked = trie.blocked_nodes(left_out) if left_out is not None else None
    prompts = encode(model, inputs)
    logits, device, batch = prompts.logits, prompts.logits.device, len(prompts.logits)
    node = token = torch.zeros(batch, 1, dtype=torch.long, device=device)  # the root, which has no token
    scores = torch.zeros(batch, 1, device=device)
    ancestors = torch.empty(batch, num_beams, 0, dtype=torch.long, device=device)  # beam of each earlier step
    own = torch.arange(num_beams, device=device).expand(batch, -1).unsqueeze(-1)
    for level in range(trie.num_levels):
        if level:
            logits = prompts.extend(token, level, _seen(ancestors))
        child, tokens, exists = trie.children(level, node)
        if blocked is not None:
            exists = exists & ~_is_in(child, blocked[level])
        chances = _log_probabilities(logits, tokens, exists, renormalize) + scores.unsqueeze(-1)
        del logits  # before the next ones come
        width = chances.shape[-1]
        scores, place = _top(chances.flatten(1), num_beams)
        parent = place // width
        node, token = child.flatten(1).gather(1, place), tokens.flatten(1).gather(1, place)
        if level:
            ancestors = ancestors.gather(1, parent.unsqueeze(-1).expand(-1, -1, ancestors.shape[-1]))
        ancestors = torch.cat([ancestors, own], -1)
    steps = trie.num_levels
    if end_token is not None and not renormalize:  # else it is sure: after a SID no other token is legal
        scores = scores + _end_chances(prompts.extend(token, steps, _seen(ancestors)), end_token)
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        node = node.gather(1, order)
    steps += end_token is not None
    return Beams(torch.where(scores.isneginf(), -1, node), scores / steps)


@torch.inference_mode()
def score_all(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    trie: Trie,
    end_token: int | None,
    left_out: Sequence[np.ndarray] | None = None,
    renormalize: bool = False,
) -> Tensor:
    """(B, num_leaves) float32: the score that each SID has in a beam search which prunes nothing; -inf if left out.

    The nodes of the trie are run as query tokens beside each other, each seeing its own ancestors, as many at a time as
    `LOGITS_AT_ONCE` allows; so shared prefixes are computed once for all that lies under them in such a part.
    Arguments as those of `beam_search`.
    """
    blocked = trie.blocked_nodes(left_out) if left_out is not None else None
    prompts = encode(model, inputs)
    batch, _, vocabulary = prompts.logits.shape
    device, levels = prompts.logits.device, trie.num_levels
    scores_end = end_token is not None and not renormalize
    deepest = levels if scores_end else levels - 1  # nodes down to here must be run
    scores = torch.full((batch, trie.num_leaves), -torch.inf, device=device)
    for spans in _parts(trie, deepest, max(1, min(NODES_AT_ONCE, LOGITS_AT_ONCE // (batch * vocabulary)))):
        sizes = [end - begin for begin, end in spans]
        logits = prompts.logits
        if deepest:
            tokens = torch.cat([trie.token[level][begin:end].long() for level, (begin, end) in enumerate(spans)])
            depth = torch.arange(deepest, device=device).repeat_interleave(torch.tensor(sizes, device=device)) + 1
            below = prompts.extend(tokens.expand(batch, -1), depth, _seen_in_tree(trie, spans, device))
            prompts.forget(len(tokens))
            logits = torch.cat([logits, below], 1)
        chances, first, offset = torch.zeros(batch, 1, device=device), 0, 0  # of the nodes of a level, from the root on
        for level in range(levels):
            num_nodes = chances.shape[1]
            nodes = torch.arange(first, first + num_nodes, device=device).expand(batch, -1)
            child, token, exists = trie.children(level, nodes)
            if blocked is not None:
                exists = exists & ~_is_in(child, blocked[level])
            here = _log_probabilities(logits[:, offset : offset + num_nodes], token, exists, renormalize)
            here = here + chances.unsqueeze(-1)
            begin, end = spans[level] if level < deepest else (int(child[0, 0, 0]), int(child[0, -1].max()) + 1)
            chances = torch.full((batch, end - begin), -torch.inf, device=device)
            inside = exists & (child >= begin) & (child < end)
            owner = torch.arange(batch, device=device)[:, None, None].expand_as(child)[inside]
            chances[owner, child[inside] - begin] = here[inside]
            first, offset = begin, offset + num_nodes
        if end_token is not None and scores_end:
            chances = chances + _end_chances(logits[:, offset:], end_token)
        scores[:, first : first + chances.shape[1]] = chances
    return scores / (levels + (end_token is not None))


def best_of(scores: Tensor, num_beams: int) -> Beams:
    """The best `num_beams` of (B, M) scores of all leaves."""
    scores, leaves = scores.topk(min(num_beams, scores.shape[1]), -1)
    return Beams(torch.where(scores.isneginf(), -1, leaves), scores)


def _parts(trie: Trie, deepest: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """Spans of nodes of the levels 1 to `deepest`, each with all its ancestors, and of at most `most` nodes in all.

    At the deepest level the spans lie end to end and cover everything.
    """
    if deepest == 0:
        yield []
        return
    number, begin = len(trie.token[deepest - 1]), 0
    while begin < number:
        end = min(number, begin + max(1, most // deepest))  # a node has one ancestor a level at most
        spans = [(begin, end)]
        for level in range(deepest, 1, -1):
            first, last = trie.ancestors(level, np.array([spans[0][0], spans[0][1] - 1]))
            spans.insert(0, (int(first), int(last) + 1))
        yield spans
        begin = end


def _seen_in_tree(trie: Trie, spans: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(1, n, n) bool: of n nodes that lie level by level, which see which: themselves and their ancestors."""
    sizes = [end - begin for begin, end in spans]
    starts = np.cumsum([0, *sizes])
    sees = torch.eye(int(starts[-1]), dtype=torch.bool)
    for level in range(1, len(spans)):
        rows = torch.arange(int(starts[level]), int(starts[level + 1]))
        parents = trie.ancestors(level + 1, np.arange(*spans[level])) - spans[level - 1][0] + starts[level - 1]
        sees[rows] |= sees[torch.from_numpy(parents)]
    return sees[None].to(device)


def _seen(ancestors: Tensor) -> Tensor:
    """(B, K, S * K) bool: of S steps of K beams, which tokens each beam of the last step sees.

    ancestors: (B, K, S) int64, place of each beam's token in each of the S steps, the last one included.
    """
    batch, beams, steps = ancestors.shape
    sees = torch.zeros(batch, beams, steps * beams, dtype=torch.bool, device=ancestors.device)
    return sees.scatter_(2, ancestors + torch.arange(steps, device=ancestors.device) * beams, True)


def _is_in(nodes: Tensor, ascending: Tensor) -> Tensor:
    """Which of the nodes (B, ...) are among (B, M) nodes in ascending order."""
    flat = nodes.flatten(1)
    place = torch.searchsorted(ascending, flat).clamp_max_(ascending.shape[1] - 1)
    return (ascending.gather(1, place) == flat).view_as(nodes)


def _log_probabilities(logits: Tensor, tokens: Tensor, exists: Tensor, renormalize: bool) -> Tensor:
    """(B, K, C) float32 log-probability of each continuation; -inf where there is none."""
    if renormalize:
        chosen = logits.gather(-1, tokens).float().masked_fill(~exists, -torch.inf)
        return chosen.log_softmax(-1).masked_fill(~exists, -torch.inf)
    return _softmax_gather(logits, tokens).masked_fill_(~exists, -torch.inf)


def _end_chances(logits: Tensor, end_token: int) -> Tensor:
    """(B, K) float32 log-probability of the end of the turn."""
    return _softmax_gather(logits, logits.new_full((*logits.shape[:2], 1), end_token, dtype=torch.long)).squeeze(-1)


def _softmax_gather(logits: Tensor, tokens: Tensor) -> Tensor:
    """(B, K, C) float32 log-probabilities of (B, K, C) tokens; of the whole vocabulary only for some prompts at a time.

    On a CPU log_softmax takes half the time of logsumexp, which needs less.
    """
    most = CHANCES_AT_ONCE[logits.device.type == "cuda"]
    size = max(1, most // (logits.shape[1] * logits.shape[2]))
    parts = zip(logits.split(size), tokens.split(size), strict=True)
    return torch.cat([part.log_softmax(-1, dtype=torch.float32).gather(-1, wanted) for part, wanted in parts])


def _top(chances: Tensor, num_beams: int) -> tuple[Tensor, Tensor]:
    """The best `num_beams` of (B, C), filled up with dead beams where C is smaller."""
    scores, place = chances.topk(min(num_beams, chances.shape[1]), -1)
    missing = num_beams - scores.shape[1]
    if missing:
        scores = functional.pad(scores, (0, missing), value=-torch.inf)
        place = functional.pad(place, (0, missing))
    return scores, place
