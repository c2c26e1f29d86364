"""Trie of legal SIDs in tensors, and exact beam search under it through the model's own forward.

The prompt is encoded once. The K beams of a prompt are K more query tokens beside each other in its row: a mask lets
each see the prompt and its own ancestors, and position ids say how far it is. So nothing of the cache is copied or
reordered, and any model that takes an attention mask of its own and position ids can be decoded (docs/test_readme.md).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Trie:
    """Level-wise compressed rows over the sorted SIDs of all items.

    Node n of level l (a distinct prefix of l tokens) has as children the entries pointer[l][n] : pointer[l][n + 1] of
    token[l], and the place of an entry is the child's node number in level l + 1. Leaves are numbered likewise.
    """

    def __init__(self, sids: np.ndarray, device: torch.device | str = "cpu"):
        """
        Args:
            sids: (N, L) int64 token ids; several items may share a SID.
        """
        self.num_levels = sids.shape[1]
        order = np.lexsort(sids.T[::-1])
        ordered = sids[order]
        fresh = np.zeros(len(ordered), bool)
        fresh[0] = True  # the first item opens a node of every level
        node_of = np.zeros(len(ordered), np.int64)
        self.pointer: list[Tensor] = []
        self.token: list[Tensor] = []
        self.nodes = [np.zeros(len(sids), np.int64)]  # of every item, at each level
        num_nodes = 1
        for level in range(self.num_levels):
            fresh[1:] |= ordered[1:, level] != ordered[:-1, level]
            first = np.flatnonzero(fresh)
            counts = np.bincount(node_of[first], minlength=num_nodes)
            self.pointer.append(torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(device))
            self.token.append(torch.from_numpy(ordered[first, level]).to(device))
            node_of = np.cumsum(fresh) - 1
            num_nodes = len(first)
            nodes = np.empty(len(sids), np.int64)
            nodes[order] = node_of
            self.nodes.append(nodes)
        self.num_leaves = num_nodes
        self.leaf_sizes = [np.bincount(nodes) for nodes in self.nodes]  # items under each node

    def children(self, level: int, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Children of nodes (...): their numbers, their tokens, and which of the C places hold one; each (..., C)."""
        start = self.pointer[level][node]
        size = self.pointer[level][node + 1] - start
        place = torch.arange(int(size.max()), device=node.device)
        exists = place < size[..., None]
        child = torch.where(exists, start[..., None] + place, start[..., None].clamp_max(len(self.token[level]) - 1))
        return child, self.token[level][child], exists

    def blocked_nodes(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """Nodes that hold nothing but left-out items.

        Args:
            rows: for each prompt, rows (in the `sids` that the trie was made of) of the items to leave out.

        Returns:
            one (B, M) int64 tensor per level 1..L, filled up with -1.
        """
        levels = []
        for level in range(1, self.num_levels + 1):
            full = []
            for items in rows:
                nodes, counts = np.unique(self.nodes[level][np.unique(items)], return_counts=True)
                full.append(nodes[counts == self.leaf_sizes[level][nodes]])
            width = max(1, *map(len, full)) if full else 1
            table = np.full((len(rows), width), -1, np.int64)
            for number, nodes in enumerate(full):
                table[number, : len(nodes)] = nodes
            levels.append(torch.from_numpy(table).to(self.token[0].device))
        return levels


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
        inputs: from PromptCollator: left-padded input_ids, attention_mask (B, T), position_ids, and pictures.
        end_token: scored after the SID, as generate() does; None leaves that step out.
        left_out: for each prompt, rows of items that may not be recommended.
        renormalize: log-probabilities over legal tokens only, instead of the whole vocabulary.
    """
    num_beams = min(num_beams, trie.num_leaves)  # more would be dead from the start
    mask = inputs["attention_mask"].bool()
    device, batch = mask.device, len(mask)
    position_ids = inputs["position_ids"]
    mrope = position_ids.dim() == 3
    next_position = (position_ids.amax(0) if mrope else position_ids).amax(-1) + 1  # (B,)
    blocked = trie.blocked_nodes(left_out) if left_out is not None else None

    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits  # (B, 1, V)
    node = token = torch.zeros(batch, 1, dtype=torch.long, device=device)  # the root, which has no token
    scores = torch.zeros(batch, 1, device=device)
    ancestors = torch.empty(batch, num_beams, 0, dtype=torch.long, device=device)  # beam of each earlier step
    for level in range(trie.num_levels):
        if level:
            logits, cache = _step(model, token, cache, mask, next_position + level - 1, ancestors, mrope)
        child, tokens, exists = trie.children(level, node)
        if blocked is not None:
            exists = exists & ~(child.unsqueeze(-1) == blocked[level][:, None, None, :]).any(-1)
        chances = _log_probabilities(logits, tokens, exists, renormalize) + scores.unsqueeze(-1)
        width = chances.shape[-1]
        scores, place = _top(chances.flatten(1), num_beams)
        parent = place // width
        node, token = child.flatten(1).gather(1, place), tokens.flatten(1).gather(1, place)
        if level:
            ancestors = ancestors.gather(1, parent.unsqueeze(-1).expand(-1, -1, ancestors.shape[-1]))
        own = torch.arange(num_beams, device=device).expand(batch, -1)
        ancestors = torch.cat([ancestors, own.unsqueeze(-1)], -1)
    steps = trie.num_levels
    if end_token is not None and not renormalize:  # else it is sure: after a SID no other token is legal
        logits, cache = _step(model, token, cache, mask, next_position + steps - 1, ancestors, mrope)
        scores = scores + logits.float()[..., end_token] - logits.float().logsumexp(-1)
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        node = node.gather(1, order)
    steps += end_token is not None
    return Beams(torch.where(scores.isneginf(), -1, node), scores / steps)


def _step(
    model: nn.Module, token: Tensor, cache, mask: Tensor, position: Tensor, ancestors: Tensor, mrope: bool
) -> tuple[Tensor, object]:
    """Runs all beams one token further: (B, K, V) logits and the longer cache.

    ancestors: (B, K, S) int64, place of each beam's token in each of the S steps so far, this one last.
    """
    batch, beams, steps = ancestors.shape
    sees = torch.zeros(batch, beams, steps * beams, dtype=torch.bool, device=mask.device)
    sees.scatter_(2, ancestors + torch.arange(steps, device=mask.device) * beams, True)
    sees = torch.cat([mask[:, None].expand(-1, beams, -1), sees], -1)
    positions = position[:, None].expand(-1, beams)
    output = model(
        input_ids=token,
        attention_mask=sees[:, None],
        position_ids=positions.expand(3, -1, -1) if mrope else positions,
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits, output.past_key_values


def _log_probabilities(logits: Tensor, tokens: Tensor, exists: Tensor, renormalize: bool) -> Tensor:
    """(B, K, C) float32 log-probability of each continuation; -inf where there is none."""
    logits = logits.float()
    chosen = logits.gather(-1, tokens).masked_fill(~exists, -torch.inf)
    if renormalize:
        return chosen.log_softmax(-1).masked_fill(~exists, -torch.inf)
    return chosen - logits.logsumexp(-1, keepdim=True)


def _top(chances: Tensor, num_beams: int) -> tuple[Tensor, Tensor]:
    """The best `num_beams` of (B, C), filled up with dead beams where C is smaller."""
    scores, place = chances.topk(min(num_beams, chances.shape[1]), -1)
    missing = num_beams - scores.shape[1]
    if missing:
        scores = nn.functional.pad(scores, (0, missing), value=-torch.inf)
        place = nn.functional.pad(place, (0, missing))
    return scores, place
