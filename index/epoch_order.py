"""In which order an epoch takes the items: at random, or so that those whom a loss compares meet in one batch."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from index.clustering import nearest_codes
from index.config import RQVAEConfig
from index.embeddings import EVALUATION_ROWS, EmbeddingDataset
from index.rqvae import RQVAE

ITEMS_A_PIVOT, MOST_PIVOTS = 16, 256  # near items in one batch, at no more than the cost of a k-means iteration


class EpochOrder:
    """The orders of one run, and what they are drawn from."""

    def __init__(self, dataset: EmbeddingDataset, model: RQVAE, config: RQVAEConfig):
        self.dataset, self.model, self.config = dataset, model, config
        # (N,) int64, a key of the SID that each item had last, where the spread asks for it
        self.seen: Tensor | None = None
        if config.spread_weight > 0 and not config.neighbour_weight > 0:  # which brings near items together
            self.seen = torch.arange(len(dataset), device=dataset.device)

    def note(self, positions: Tensor, codes: Tensor) -> None:
        """Remembers the (B, L) codes that the items at `positions` were just given."""
        if self.seen is not None:
            self.seen[positions] = sid_keys(codes)

    def draw(self) -> Tensor:
        """(N,) int64, the order of an epoch: at random, where no loss needs certain items in one batch.

        Those of the neighbours are around the same one of some random items. Those of the spread shared their SID when
        they were last seen.
        """
        if self.config.neighbour_weight > 0:
            groups = self.around_random_items()
        elif self.seen is not None:
            groups = torch.unique(self.seen, return_inverse=True)[1]
        else:
            return torch.randperm(len(self.dataset), device=self.dataset.device)
        return torch.rand(len(groups), device=self.dataset.device)[groups].argsort()

    @torch.no_grad()
    def around_random_items(self) -> Tensor:
        """(N,) int64: which of some random items each item is nearest to, by cosine."""
        number = min(MOST_PIVOTS, math.ceil(len(self.dataset) / ITEMS_A_PIVOT))
        pivots = self.dataset.batch(torch.randperm(len(self.dataset), device=self.dataset.device)[:number])
        pivots = functional.normalize(self.model.normalizer(pivots))
        parts = [
            nearest_codes(functional.normalize(self.model.normalizer(rows)), pivots)
            for rows in self.dataset.in_order(EVALUATION_ROWS)
        ]
        return torch.cat(parts)


def sid_keys(codes: Tensor) -> Tensor:
    """(B,) int64: equal for equal rows of (B, L) codes, and for others but by a chance of 2^-64."""
    keys = torch.zeros_like(codes[:, 0])
    for column in codes.unbind(1):
        keys = keys * 6364136223846793005 + column + 1442695040888963407  # Knuth's generator, modulo 2^64
    return keys
