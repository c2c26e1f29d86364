"""Residual vector quantization: every level encodes what the levels before it left over.

Shape letters used throughout index/: N items or B rows of a batch, D latent width, L levels, K codewords of a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.clustering import kmeans, nearest_codes, squared_distances
from index.transport import balanced_codes, sinkhorn_codes


class Quantized(NamedTuple):
    """What the quantizer made of a batch of latents."""

    latents: Tensor  # (B, D), sum of the chosen codewords; its gradient passes straight through to the encoder
    loss: Tensor  # (), codebook loss + beta * commitment, mean over levels
    unevenness: Tensor  # (), how far the use of the codewords is from even, mean over levels; 0 where nobody asked
    codes: Tensor  # (B, L) int64


class VectorQuantizer(nn.Module):
    """One level: a codebook, whether it has been initialised, and how often each codeword was used of late."""

    def __init__(self, codebook_size: int, e_dim: int, sk_epsilon: float = 0.0, sk_iters: int = 50):
        super().__init__()
        self.sk_epsilon, self.sk_iters = sk_epsilon, sk_iters
        self.embedding = nn.Embedding(codebook_size, e_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("usage", torch.zeros(codebook_size, dtype=torch.int64))

    @property
    def codebook(self) -> Tensor:
        return self.embedding.weight

    @torch.no_grad()
    def choose(self, residual: Tensor) -> Tensor:
        """(B,) int64: in training balanced by Sinkhorn-Knopp where this level asks for it, otherwise the nearest."""
        if self.training and self.sk_epsilon > 0:
            return sinkhorn_codes(squared_distances(residual, self.codebook), self.sk_epsilon, self.sk_iters)
        return nearest_codes(residual, self.codebook)

    @torch.no_grad()
    def initialise(self, codebook: Tensor | None = None) -> None:
        """Sets the codebook, or keeps the uniform one, and remembers that it has been initialised."""
        if codebook is not None:
            self.codebook.copy_(codebook)
        self.initialised.fill_(True)
        self.usage.zero_()

    @torch.no_grad()
    def revive(self, residual: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Moves the codewords that nobody used since the last call onto rows that are badly served.

        Nothing here waits for the device. Rows are drawn by their squared error, so a dense region gets more.

        Args:
            residual: (B, D) rows as this level sees them.
            generator: of the device; draws the rows.

        Returns:
            (K,) bool: the codewords that moved.
        """
        dead = self.usage == 0
        errors = (residual - self.codebook[nearest_codes(residual, self.codebook)]).square().sum(1)
        too_few = len(residual) < len(self.codebook)
        picked = torch.multinomial(errors + 1e-12, len(self.codebook), replacement=too_few, generator=generator)
        self.codebook.copy_(torch.where(dead[:, None], residual[picked], self.codebook))
        self.usage.zero_()
        return dead


class ResidualVectorQuantizer(nn.Module):
    """L codebooks in a row, coarsest first.

    Attributes:
        is_fixed: the codewords are given and do not learn, as the grid of FSQ; then there is no quantization loss.
        measure_unevenness: fill `Quantized.unevenness` in training.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        e_dim: int,
        beta: float = 0.25,
        sk_epsilons: Sequence[float] | None = None,
        sk_iters: int = 50,
        is_fixed: bool = False,
        measure_unevenness: bool = False,
    ):
        super().__init__()
        self.beta, self.is_fixed, self.measure_unevenness = beta, is_fixed, measure_unevenness
        epsilons = sk_epsilons if sk_epsilons is not None else [0.0] * len(codebook_sizes)
        self.vq_layers = nn.ModuleList(
            VectorQuantizer(size, e_dim, epsilon, sk_iters)
            for size, epsilon in zip(codebook_sizes, epsilons, strict=True)
        )
        if is_fixed:
            self.requires_grad_(False)

    def forward(self, latents: Tensor, given: Tensor | None = None) -> Quantized:
        """Quantizes (B, D) latents; `given` are (B, L) codes to take instead of choosing any."""
        residual, codes = latents, []
        loss = uneven = latents.new_zeros(())
        for number, level in enumerate(self.vq_layers):
            chosen = level.choose(residual.detach()) if given is None else given[:, number]
            codeword = level.embedding(chosen)
            if not self.is_fixed:
                if self.training:
                    level.usage.index_add_(0, chosen, torch.ones_like(chosen))
                    if self.measure_unevenness:
                        uneven = uneven + unevenness(residual, level.codebook)
                codebook_loss = functional.mse_loss(codeword, residual.detach())
                loss = loss + codebook_loss + self.beta * functional.mse_loss(codeword.detach(), residual)
            residual = residual - codeword.detach()
            codes.append(chosen)
        num_levels = len(self.vq_layers)
        return Quantized(latents - residual.detach(), loss / num_levels, uneven / num_levels, torch.stack(codes, 1))

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """(N, L) int64: the nearest codeword of each level, for (N, D) latents."""
        residual, codes = latents, []
        for level in self.vq_layers:
            codes.append(nearest_codes(residual, level.codebook))
            residual = residual - level.codebook[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def balanced(self, latents: Tensor) -> Tensor:
        """(N, L) int64: as `nearest`, but all codewords of a level get equally many of the (N, D) latents."""
        residual, codes = latents, []
        for level in self.vq_layers:
            codes.append(balanced_codes(residual, level.codebook))
            residual = residual - level.codebook[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def initialise(self, latents: Tensor | None, num_iterations: int, seed: int) -> None:
        """K-means on (N, D) latents, then on what each level leaves over; None keeps the uniform start."""
        residual = latents
        for number, level in enumerate(self.vq_layers):
            if residual is None:
                level.initialise()
                continue
            level.initialise(kmeans(residual, len(level.codebook), num_iterations, seed + number))
            residual = residual - level.codebook[nearest_codes(residual, level.codebook)]

    @property
    def initialised(self) -> bool:
        return all(bool(level.initialised) for level in self.vq_layers)

    @property
    def codebooks(self) -> list[Tensor]:
        """L tensors of shape (K, D), coarsest level first."""
        return [level.codebook.detach() for level in self.vq_layers]


def unevenness(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(), log K minus the entropy of how a batch uses the codewords, 0 where all are used alike.

    Use is soft, so that it has a gradient: each of the (B, D) vectors spreads over the (K, D) codewords by its
    squared distances, in units of the mean squared distance to the nearest one.

    Reference: the entropy penalty of LFQ (Yu et al., 2024, https://arxiv.org/abs/2310.05737).
    """
    distances = squared_distances(vectors, codebook)
    unit = distances.detach().amin(1).mean().clamp_min(torch.finfo(distances.dtype).tiny)
    use = torch.softmax(-distances / unit, 1).mean(0)
    return torch.log(use.new_tensor(float(len(use)))) + (use * torch.log(use.clamp_min(1e-12))).sum()
