"""The quantizer behind every tokenizer: an encoder, residual quantization, and a decoder.

The RQ-VAE has a perceptron on both sides. The other tokenizers are the same object with other parts, so that
checkpoints, indices and measures are shared:

    tokenizer          encoder            codebooks
    rqvae              perceptron         learned
    fsq                perceptron, tanh   a grid on dimensions of their own for each level
    rkmeans, balanced  none               k-means of what the levels before left over
    opq                rotation           k-means in a subspace of its own for each level

Codewords that lie in orthogonal subspaces make residual quantization a product quantization: what other levels
subtract does not touch the subspace of this one.

Module names are those of LC-Rec, so that its checkpoints load. References: RQ-VAE for recommendation, TIGER (Rajput et
al., 2023), https://arxiv.org/abs/2305.05065; FSQ (Mentzer et al., 2024), https://arxiv.org/abs/2309.15505; OPQ (Ge et
al., 2013); balanced residual k-means, OneRec (Deng et al., 2025), https://arxiv.org/abs/2502.18965.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.clustering import squared_distances
from index.config import RQVAEConfig, grid_of
from index.quantizer import Quantized, ResidualVectorQuantizer

__all__ = ["LOSS_NAMES", "RQVAE", "Losses", "Normalizer", "RQVAEConfig"]

RECONSTRUCTION_LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss}
OTHER_ROWS = 2048  # of a batch, among which each row looks for items that share its SID, or that are near
SPREAD_FLOOR = 1e-4  # squared distance, in units of the batch's variance, below which items count as equal
TEMPERATURE = 0.1  # of the cosines between latents and collaborative embeddings
NEIGHBOUR_SCALE = 0.05  # of distances, the mean one being 1: what is farther than some of these hardly counts


class Losses(NamedTuple):
    """Losses of a batch, and the codes it was given. Terms that are switched off are 0."""

    total: Tensor  # (), what is minimised
    reconstruction: Tensor  # (), on normalized inputs
    quantization: Tensor  # ()
    spread: Tensor  # (), see `crowding`
    alignment: Tensor  # (), see `misalignment`
    diversity: Tensor  # (), see `unevenness` in index/quantizer.py
    neighbours: Tensor  # (), see `misplacement`
    codes: Tensor  # (B, L) int64


LOSS_NAMES = Losses._fields[:-1]


def crowding(latents: Tensor, codes: Tensor) -> Tensor:
    """(), how close items that share a SID are: minus the mean log distance to the nearest of them.

    Items with a SID of their own add nothing, so the push ends where it has done its work. The distance is measured
    against the spread of the batch, so that growing all latents gains nothing.

    Args:
        latents: (B, D) float.
        codes: (B, L) int64.

    Reference: after KoLeo (Sablayrolles et al., 2019, https://arxiv.org/abs/1806.03198), for colliding items only.
    """
    fixed = latents.detach()
    others = fixed[:OTHER_ROWS]
    distances = squared_distances(fixed, others).fill_diagonal_(torch.inf)
    for level in range(codes.shape[1]):
        distances.masked_fill_(codes[:, level, None] != codes[:OTHER_ROWS, level], torch.inf)
    closest, neighbours = distances.min(1)
    variance = fixed.var(0, correction=0).sum().clamp_min(torch.finfo(fixed.dtype).tiny)
    relative = (latents - latents[neighbours]).square().sum(1) / variance
    return -0.5 * (torch.log(relative + SPREAD_FLOOR) * torch.isfinite(closest)).mean()


def misalignment(latents: Tensor, companions: Tensor) -> Tensor:
    """(), contrastive loss between items' (B, C) latents and (B, C) collaborative embeddings, by cosine.

    Each latent must pick its own item's embedding among those of the batch. Rows of NaN have none and do not count.

    Reference: the collaborative regularization of LETTER (Wang et al., 2024), https://arxiv.org/abs/2405.07314.
    """
    known = torch.isfinite(companions).all(1)
    targets = functional.normalize(torch.where(known[:, None], companions, 0.0))
    logits = (functional.normalize(latents) @ targets.t() / TEMPERATURE).masked_fill(~known, -torch.inf)
    own = logits.diagonal() - torch.logsumexp(logits, 1)
    return -torch.where(known, own, 0.0).sum() / known.sum().clamp_min(1)


def misplacement(latents: Tensor, inputs: Tensor) -> Tensor:
    """(), how far items have other neighbours among the (B, D) latents than among their (B, in_dim) inputs, by cosine.

    Each item spreads a probability of 1 over the others, more to the near ones, on either side; the loss is the
    Kullback-Leibler divergence. Distances count in units of their mean, so that the size of the latents is free.

    Reference: stochastic neighbour embedding (Hinton and Roweis, 2002), with one scale for all items.
    """

    def log_shares(rows: Tensor) -> Tensor:
        distances = squared_distances(rows, rows[:OTHER_ROWS])
        scale = NEIGHBOUR_SCALE * distances.mean().clamp_min(torch.finfo(rows.dtype).tiny)
        own = torch.eye(*distances.shape, dtype=torch.bool, device=rows.device)
        return (-distances / scale).masked_fill(own, -torch.inf).log_softmax(1)

    wanted, found = log_shares(functional.normalize(inputs)), log_shares(latents)
    terms = torch.where(wanted.isfinite(), wanted.exp() * (wanted - found), 0.0)
    return terms.sum(1).mean()


class Perceptron(nn.Module):
    """Linear layers with ReLU between them; dropout before each, batch norm after each but the last.

    Weights start as He et al. (2015) propose for ReLU. With the smaller ones of LC-Rec signals fade on their way
    through the documented seven layers, and the same quality takes half as many epochs more.
    """

    def __init__(self, widths: Sequence[int], dropout_prob: float, bn: bool):
        super().__init__()
        modules: list[nn.Module] = []
        for position, (num_in, num_out) in enumerate(pairwise(widths)):
            linear = nn.Linear(num_in, num_out)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu" if position < len(widths) - 2 else "linear")
            nn.init.zeros_(linear.bias)
            # Identity holds the place of an idle dropout: positions name the weights in a checkpoint.
            modules += [nn.Dropout(dropout_prob) if dropout_prob > 0 else nn.Identity(), linear]
            if position < len(widths) - 2:
                relu = nn.ReLU(inplace=True)
                modules += [nn.BatchNorm1d(num_out), relu] if bn else [relu]
        self.mlp_layers = nn.Sequential(*modules)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.mlp_layers(inputs)


class Rotation(nn.Module):
    """An orthogonal map that was fitted, not trained; `back` undoes it."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.register_buffer("weight", torch.eye(out_dim, in_dim))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.t()


class InverseRotation(nn.Module):
    def __init__(self, rotation: Rotation):
        super().__init__()
        self.rotation = [rotation]  # in a list, so that its weight is stored once

    def forward(self, latents: Tensor) -> Tensor:
        return latents @ self.rotation[0].weight


class Normalizer(nn.Module):
    """Scales embeddings as in training. Its statistics are buffers, so they travel with the checkpoint.

    Where an item has several embeddings, each of them is scaled to the same total variance, so that the longest does
    not drown the others.
    """

    def __init__(self, method: str, widths: Sequence[int]):
        super().__init__()
        self.method = method
        self.register_buffer("widths", torch.tensor(list(widths)))
        self.register_buffer("mean", torch.zeros(sum(widths)))
        self.register_buffer("scale", torch.ones(sum(widths)))
        self._widths = tuple(widths)  # `widths` as plain numbers: reading a buffer would wait for the device

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Takes its statistics from (N, D) embeddings; a constant column keeps its scale."""
        if self.method == "standardize":
            deviation, mean = torch.std_mean(embeddings, dim=0, correction=0)
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0))
        if len(self._widths) > 1:
            variances = self(embeddings).var(0, correction=0).split(self._widths)
            totals = torch.stack([variance.sum() for variance in variances])
            factors = (totals.mean() / totals).sqrt()
            factors = factors.repeat_interleave(self.widths)
            self.scale.div_(factors)

    def forward(self, embeddings: Tensor) -> Tensor:
        if self.method == "l2":
            parts = [functional.normalize(part) for part in embeddings.split(self._widths, 1)]
            embeddings = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        elif self.method == "none" and len(self._widths) == 1:
            return embeddings
        return (embeddings - self.mean) / self.scale


class Gate(nn.Module):
    """Weighs the embeddings of an item against each other, by all of them; equal weights of 1 at first."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.widths = tuple(widths)
        self.scores = nn.Linear(sum(widths), len(widths))
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        weights = torch.softmax(self.scores(inputs), 1) * len(self.widths)
        parts = zip(inputs.split(self.widths, 1), weights.unbind(1), strict=True)
        return torch.cat([part * weight[:, None] for part, weight in parts], 1)


class RQVAE(nn.Module):
    """Embeddings -> latents -> codes -> embeddings."""

    def __init__(self, config: RQVAEConfig, in_dims: int | Sequence[int]):
        """`in_dims`: width of the embeddings, or of each of the embeddings of an item."""
        super().__init__()
        widths = (in_dims,) if isinstance(in_dims, int) else tuple(in_dims)
        self.config, self.in_dim = config, sum(widths)
        self.quantizes = True  # False: a plain autoencoder, and the codes of `forward` are all 0
        self.normalizer = Normalizer(config.normalize, widths)
        self.gate = Gate(widths) if config.fusion == "gated" else nn.Identity()
        self.latent_dim = latent_dim = self._latent_dim()
        if config.quantizer in ("rqvae", "fsq"):
            sizes = [self.in_dim, *config.layers, latent_dim]
            self.encoder = Perceptron(sizes, config.dropout_prob, config.bn)
            self.decoder = Perceptron(sizes[::-1], config.dropout_prob, config.bn)
        elif config.quantizer == "opq":
            self.encoder = Rotation(self.in_dim, latent_dim)
            self.decoder = InverseRotation(self.encoder)
        else:
            self.encoder, self.decoder = nn.Identity(), nn.Identity()
        self.rq = ResidualVectorQuantizer(
            config.codebook_sizes,
            latent_dim,
            config.beta,
            config.level_epsilons,
            config.sk_iters,
            is_fixed=config.quantizer == "fsq",
            measure_unevenness=config.diversity_weight > 0,
        )
        if config.quantizer == "fsq":
            for level, codebook in zip(self.rq.vq_layers, grid_codebooks(config.codebook_sizes), strict=True):
                level.initialise(codebook)

    def _latent_dim(self) -> int:
        sizes = self.config.codebook_sizes
        if self.config.quantizer == "rqvae":
            return self.config.e_dim
        if self.config.quantizer == "fsq":
            return sum(len(grid_of(size)) for size in sizes)
        if self.config.quantizer == "opq":
            return -(-self.in_dim // len(sizes)) * len(sizes)  # as many dimensions for every level
        return self.in_dim

    def forward(self, embeddings: Tensor, companions: Tensor | None = None, codes: Tensor | None = None) -> Losses:
        """Losses of (B, in_dim) embeddings, which (B, latent_dim) collaborative embeddings may accompany.

        `codes`, (B, L), are those that `codes_of` has given them among all items; else each batch chooses its own.
        """
        config = self.config
        inputs = self.normalizer(embeddings)
        latents = self._latents(inputs)
        quantized = self.rq(latents, codes) if self.quantizes else not_quantized(latents, len(config.codebook_sizes))
        reconstruction = RECONSTRUCTION_LOSSES[config.loss_type](self.decoder(quantized.latents), inputs)
        total = reconstruction + config.quant_loss_weight * quantized.loss
        spread = alignment = neighbours = reconstruction.new_zeros(())
        unit = reconstruction.detach()  # of what follows, so that one weight suits embeddings of any scale
        if self.training and self.quantizes and config.spread_weight > 0:
            spread = crowding(latents, quantized.codes)
            total = total + config.spread_weight * unit * spread
        if self.training and config.neighbour_weight > 0:
            neighbours = misplacement(latents, inputs)
            total = total + config.neighbour_weight * unit * neighbours
        if companions is not None:
            alignment = misalignment(quantized.latents, companions)
            total = total + config.cf_weight * unit * alignment
        if config.diversity_weight > 0:
            total = total + config.diversity_weight * unit * quantized.unevenness
        terms = (reconstruction, quantized.loss, spread, alignment, quantized.unevenness, neighbours)
        return Losses(total, *terms, quantized.codes)

    def _latents(self, inputs: Tensor) -> Tensor:
        latents = self.encoder(self.gate(inputs))
        return torch.tanh(latents) if self.config.quantizer == "fsq" else latents

    def encode(self, embeddings: Tensor) -> Tensor:
        """(B, D) latents of (B, in_dim) embeddings."""
        return self._latents(self.normalizer(embeddings))

    def codes_of(self, latents: Tensor) -> Tensor:
        """(N, L) int64 codes of the latents of all items: the nearest codewords, in equal shares where balanced."""
        balanced = self.config.quantizer == "balanced_rkmeans"
        return self.rq.balanced(latents) if balanced else self.rq.nearest(latents)


def not_quantized(latents: Tensor, num_levels: int) -> Quantized:
    """(B, D) latents as they are."""
    zero = latents.new_zeros(())
    return Quantized(
        latents, zero, zero, torch.zeros(len(latents), num_levels, dtype=torch.int64, device=latents.device)
    )


def grid_codebooks(codebook_sizes: Sequence[int]) -> list[Tensor]:
    """The codewords of FSQ: L tensors (K, D), each a grid on dimensions of its own and 0 on the others.

    A dimension of v values is cut into v bins of equal width between -1 and 1; the values are their middles.
    """
    grids = [grid_of(size) for size in codebook_sizes]
    width, start, codebooks = sum(map(len, grids)), 0, []
    for grid in grids:
        axes = [(2 * torch.arange(values) + 1 - values) / values for values in grid]
        codebook = torch.zeros(len(torch.cartesian_prod(*axes)), width)
        codebook[:, start : start + len(grid)] = torch.cartesian_prod(*axes).reshape(len(codebook), -1)
        codebooks.append(codebook)
        start += len(grid)
    return codebooks
