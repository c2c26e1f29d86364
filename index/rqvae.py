"""The RQ-VAE: an MLP encoder, residual quantization, and a mirrored decoder.

Module names are those of LC-Rec, so that its checkpoints load. Reference: RQ-VAE for recommendation, TIGER
(Rajput et al., 2023), https://arxiv.org/abs/2305.05065.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.clustering import squared_distances
from index.config import RQVAEConfig
from index.quantizer import ResidualVectorQuantizer

__all__ = ["RQVAE", "Losses", "Normalizer", "RQVAEConfig"]

RECONSTRUCTION_LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss}


SPREAD_ROWS = 2048  # of a batch, among which each row looks for items that share its SID
SPREAD_FLOOR = 1e-4  # squared distance, in units of the batch's variance, below which items count as equal


class Losses(NamedTuple):
    """Losses of a batch, and the codes it was given."""

    total: Tensor  # (), reconstruction + quant_loss_weight * quantization, and the spread where it is on
    reconstruction: Tensor  # (), on normalized inputs
    quantization: Tensor  # ()
    codes: Tensor  # (B, L) int64


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
    others = fixed[:SPREAD_ROWS]
    distances = squared_distances(fixed, others).fill_diagonal_(torch.inf)
    for level in range(codes.shape[1]):
        distances.masked_fill_(codes[:, level, None] != codes[:SPREAD_ROWS, level], torch.inf)
    closest, neighbours = distances.min(1)
    variance = fixed.var(0, correction=0).sum().clamp_min(torch.finfo(fixed.dtype).tiny)
    relative = (latents - latents[neighbours]).square().sum(1) / variance
    return -0.5 * (torch.log(relative + SPREAD_FLOOR) * torch.isfinite(closest)).mean()


class Perceptron(nn.Module):
    """Linear layers with ReLU between them; dropout before each, batch norm after each but the last."""

    def __init__(self, widths: Sequence[int], dropout_prob: float, bn: bool):
        super().__init__()
        modules: list[nn.Module] = []
        for position, (num_in, num_out) in enumerate(pairwise(widths)):
            linear = nn.Linear(num_in, num_out)
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            # Identity holds the place of an idle dropout: positions name the weights in a checkpoint.
            modules += [nn.Dropout(dropout_prob) if dropout_prob > 0 else nn.Identity(), linear]
            if position < len(widths) - 2:
                modules += [nn.BatchNorm1d(num_out), nn.ReLU()] if bn else [nn.ReLU()]
        self.mlp_layers = nn.Sequential(*modules)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.mlp_layers(inputs)


class Normalizer(nn.Module):
    """Scales embeddings as in training. Its statistics are buffers, so they travel with the checkpoint."""

    def __init__(self, method: str, in_dim: int):
        super().__init__()
        self.method = method
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("scale", torch.ones(in_dim))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Takes mean and standard deviation of (N, D) embeddings; a constant column keeps its scale."""
        if self.method == "standardize":
            deviation, mean = torch.std_mean(embeddings, dim=0, correction=0)
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0))

    def forward(self, embeddings: Tensor) -> Tensor:
        if self.method == "standardize":
            return (embeddings - self.mean) / self.scale
        return functional.normalize(embeddings) if self.method == "l2" else embeddings


class RQVAE(nn.Module):
    """Embeddings -> latents -> codes -> embeddings."""

    def __init__(self, config: RQVAEConfig, in_dim: int):
        super().__init__()
        self.config, self.in_dim = config, in_dim
        widths = [in_dim, *config.layers, config.e_dim]
        self.normalizer = Normalizer(config.normalize, in_dim)
        self.encoder = Perceptron(widths, config.dropout_prob, config.bn)
        self.decoder = Perceptron(widths[::-1], config.dropout_prob, config.bn)
        self.rq = ResidualVectorQuantizer(
            config.codebook_sizes, config.e_dim, config.beta, config.level_epsilons, config.sk_iters
        )

    def forward(self, embeddings: Tensor) -> Losses:
        """Losses of (B, in_dim) embeddings."""
        inputs = self.normalizer(embeddings)
        latents = self.encoder(inputs)
        quantized = self.rq(latents)
        reconstruction = RECONSTRUCTION_LOSSES[self.config.loss_type](self.decoder(quantized.latents), inputs)
        total = reconstruction + self.config.quant_loss_weight * quantized.loss
        if self.training and self.config.spread_weight > 0:
            # In units of the reconstruction, so that one weight suits embeddings of any scale.
            total = total + self.config.spread_weight * reconstruction.detach() * crowding(latents, quantized.codes)
        return Losses(total, reconstruction, quantized.loss, quantized.codes)

    def encode(self, embeddings: Tensor) -> Tensor:
        """(B, D) latents of (B, in_dim) embeddings."""
        return self.encoder(self.normalizer(embeddings))
