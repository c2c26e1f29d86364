"""Tokenizers without training: residual k-means, plain or balanced, and optimized product quantization."""

import torch
from torch import Tensor

from index.clustering import kmeans, nearest_codes
from index.config import TrainConfig
from index.rqvae import RQVAE
from index.transport import balanced_codes, balanced_kmeans

OPQ_ITERATIONS = 25  # of rotation and codebooks in turn; faiss's own 50 gain less than a per mille
OPQ_ROWS = 65_536  # faiss's own limit


@torch.no_grad()
def fit(model: RQVAE, rows: Tensor, config: TrainConfig) -> None:
    """Fits the codebooks, and the rotation of opq, to (N, D) embeddings that are as the normalizer takes them."""
    inputs = model.normalizer(rows)
    if config.quantizer == "opq":
        model.encoder.weight.copy_(opq_rotation(inputs, model.encoder.weight.shape[0], len(config.codebook_sizes)))
    latents = model.encoder(inputs)
    if config.quantizer == "opq":
        width = latents.shape[1] // len(config.codebook_sizes)
        for number, level in enumerate(model.rq.vq_layers):
            columns = slice(number * width, (number + 1) * width)
            codebook = torch.zeros_like(level.codebook)
            codebook[:, columns] = kmeans(
                latents[:, columns].contiguous(), len(codebook), config.kmeans_iters, config.seed + number
            )
            level.initialise(codebook)
        return
    find, assign = (
        (balanced_kmeans, balanced_codes) if config.quantizer == "balanced_rkmeans" else (kmeans, nearest_codes)
    )
    residual = latents
    for number, level in enumerate(model.rq.vq_layers):
        level.initialise(find(residual, len(level.codebook), config.kmeans_iters, config.seed + number))
        residual = residual - level.codebook[assign(residual, level.codebook)]


def opq_rotation(inputs: Tensor, latent_dim: int, num_levels: int) -> Tensor:
    """(latent_dim, D): rotates (N, D) inputs so that `num_levels` equal parts are quantized with the least error.

    Where latent_dim is above D, inputs count as filled up with zeros.

    Reference: optimized product quantization (Ge et al., 2013), in faiss.
    """
    import faiss

    generator = torch.Generator().manual_seed(0)
    sample = inputs[torch.randperm(len(inputs), generator=generator)[:OPQ_ROWS].to(inputs.device)].float().cpu()
    padded = torch.nn.functional.pad(sample, (0, latent_dim - sample.shape[1]))
    matrix = faiss.OPQMatrix(latent_dim, num_levels, latent_dim)
    matrix.niter = OPQ_ITERATIONS
    quantizer = faiss.ProductQuantizer(latent_dim, num_levels, _bits(len(padded)))
    matrix.pq = quantizer
    matrix.train(padded.numpy())
    rotation = torch.from_numpy(faiss.vector_to_array(matrix.A).reshape(latent_dim, latent_dim).copy())
    return rotation[:, : inputs.shape[1]].to(inputs)


def _bits(num_rows: int) -> int:
    """Bits of the codes that faiss fits the rotation with: 8 where there are rows for 256 codewords."""
    return max(1, min(8, (num_rows // 4).bit_length() - 1))
