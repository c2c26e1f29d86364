"""The rival of decoding: transformers' own beam search with a trie of dictionaries, as public code does it."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig


class DictionaryTrie:
    """Legal next tokens of every prefix, in nested dictionaries."""

    def __init__(self, sids: Iterable[Sequence[int]], end_token: int):
        self.root: dict[int, dict] = {}
        for sid in sids:
            node = self.root
            for token in sid:
                node = node.setdefault(token, {})
            node[end_token] = {}

    def legal(self, prefix: Sequence[int]) -> list[int]:
        node = self.root
        for token in prefix:
            if token not in node:
                return []
            node = node[token]
        return list(node)


class Found(NamedTuple):
    sids: np.ndarray  # (B, K, L) int64
    scores: np.ndarray  # (B, K) float32


def generate(
    model: nn.Module, inputs: dict[str, Tensor], trie: DictionaryTrie, num_levels: int, num_beams: int, end_token: int
) -> Found:
    """`model.generate` with `prefix_allowed_tokens_fn`: a Python call for every beam and step."""
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]

    def allowed(_: int, so_far: Tensor) -> list[int]:
        return trie.legal(so_far[start:].tolist()) or [end_token]

    settings: dict[str, Any] = {
        "num_beams": num_beams,
        "num_return_sequences": num_beams,
        "max_new_tokens": num_levels + 1,
        "do_sample": False,
        "eos_token_id": end_token,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    if model.config.is_encoder_decoder:
        settings["decoder_start_token_id"] = model.config.decoder_start_token_id
    with torch.inference_mode():
        made = model.generate(
            **inputs, generation_config=GenerationConfig(**settings), prefix_allowed_tokens_fn=allowed
        )
    sids = made.sequences[:, start : start + num_levels]
    batch = len(inputs["input_ids"])
    return Found(sids.reshape(batch, num_beams, -1).numpy(), made.sequences_scores.reshape(batch, -1).float().numpy())
