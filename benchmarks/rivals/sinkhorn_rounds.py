"""The rival of index generation: SIDs as public code of this kind makes them, written anew.

Items are encoded 64 at a time, and their SIDs kept as lists of tokens and as strings. Where strings are equal, each
group of items is encoded again and spread over the last codebook by 100 Sinkhorn iterations in float64, for 20 rounds.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.rivals.plain_rqvae import PlainRQVAE, Rows

BATCH_SIZE = 64
NUM_ROUNDS = 20


class SinkhornRounds:
    """The items of one dataset on their way to SIDs: `encode`, then `resolve`, then `write`."""

    def __init__(self, model: PlainRQVAE, rows: np.ndarray):
        """`model` balances its last level only, and its codebooks are initialised."""
        self.model, self.data = model, Rows(rows)
        self.tokens: list[list[str]] = []
        self.sids: list[str] = []

    def encode(self) -> None:
        """Gives every item the nearest codes."""
        self.model.eval()
        self.tokens, self.sids = [], []
        for batch, _ in DataLoader(self.data, BATCH_SIZE, shuffle=False):
            for codes in choose_codes(self.model, batch).numpy():
                self.tokens.append(as_tokens(codes))
                self.sids.append(str(self.tokens[-1]))

    def resolve(self) -> None:
        self.model.train()  # in which the last level balances
        for _ in range(NUM_ROUNDS):
            groups = self.colliding()
            if not groups:
                break
            for items in groups:
                for item, codes in zip(items, choose_codes(self.model, self.data[items][0]).numpy(), strict=True):
                    self.tokens[item] = as_tokens(codes)
                    self.sids[item] = str(self.tokens[item])

    def colliding(self) -> list[list[int]]:
        """The items of every SID that several items have."""
        items_of: dict[str, list[int]] = {}
        for item, sid in enumerate(self.sids):
            items_of.setdefault(sid, []).append(item)
        return [items for items in items_of.values() if len(items) > 1]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dict(enumerate(self.tokens))))

    def codes(self) -> np.ndarray:
        """(N, L) int64."""
        return np.asarray([[int(token[3:-1]) for token in tokens] for tokens in self.tokens])


def as_tokens(codes: np.ndarray) -> list[str]:
    return [f"<{letter}_{int(code)}>" for letter, code in zip("abcdefgh", codes, strict=False)]


@torch.no_grad()
def choose_codes(model: PlainRQVAE, batch: Tensor) -> Tensor:
    """(B, L) codes of (B, D) embeddings: the nearest, but on the last level balanced where the model trains."""
    residual, codes = model.encoder(batch), []
    for level in model.levels:
        codeword, _, chosen = level(residual)
        residual = residual - codeword
        codes.append(chosen)
    return torch.stack(codes, -1)
