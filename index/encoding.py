"""Latents and codes of all items under a trained RQ-VAE."""

from typing import NamedTuple

import numpy as np
import torch

from index.embeddings import EmbeddingDataset
from index.rqvae import RQVAE

MIN_PASS = 2048  # rows: enough to make the most of a matrix product, and few enough for the cache and the allocator


class Encoded(NamedTuple):
    """What a model makes of a dataset, in the order of its rows."""

    latents: np.ndarray  # (N, D) float32
    codes: np.ndarray  # (N, L) int64, as `RQVAE.codes_of` gives them
    codebooks: list[np.ndarray]  # L arrays of shape (K, D) float32
    reconstruction: float | None  # loss of these codes on normalized inputs, where it was asked for


@torch.no_grad()
def encode_all(model: RQVAE, dataset: EmbeddingDataset, batch_size: int, with_reconstruction: bool = False) -> Encoded:
    """Encodes every item; codes as `RQVAE.codes_of` gives them, without Sinkhorn and dropout.

    Args:
        batch_size: rows of a pass, where that is more than MIN_PASS.

    Raises:
        ValueError: the embeddings have another width than the model's input.
    """
    if dataset.width != model.in_dim:
        raise ValueError(
            f"{dataset.paths[0]} has embeddings of width {dataset.width}, the checkpoint takes {model.in_dim}: pass the"
            f" embeddings it was trained on as --data_path"
        )
    model.eval()
    size = max(batch_size, MIN_PASS)
    latents = torch.cat([model.encode(rows) for rows in dataset.in_order(size)])
    codes = model.codes_of(latents)
    reconstruction = torch.zeros((), dtype=torch.float64, device=dataset.device)
    for rows, own in zip(dataset.in_order(size), codes.split(size), strict=True) if with_reconstruction else ():
        reconstruction += model(rows, codes=own).reconstruction * (len(rows) / len(dataset))
    return Encoded(
        latents.cpu().numpy(),
        codes.cpu().numpy(),
        [codebook.cpu().numpy() for codebook in model.rq.codebooks],
        float(reconstruction) if with_reconstruction else None,
    )
