"""How fast the RQ-VAE trains: against its own matrix products, and against the loop of public code."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, alternate, median, timed
from benchmarks.rivals.plain_rqvae import PlainConfig, PlainRQVAE, PlainTrainer
from index.config import TrainConfig
from index.rqvae import RQVAE
from index.trainer import Trainer

DOCUMENTED = (768, (2048, 1024, 512, 256, 128, 64))  # width of the embeddings, hidden layers
SMALL = (64, (64,))  # next to no arithmetic: what is left is overhead, as on a GPU
CPU = torch.device("cpu")


def clustered(num_items: int, width: int, seed: int = 0) -> np.ndarray:
    """(N, width) float32 around 64 centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(64, width))
    return (centres[rng.integers(64, size=num_items)] + 0.5 * rng.normal(size=(num_items, width))).astype(np.float32)


def our_config(folder: Path, layers: tuple[int, ...]) -> TrainConfig:
    """The settings of the plain loop, for ours."""
    plain = PlainConfig()
    return TrainConfig(
        data_path=(folder / "embeddings.npy",),
        ckpt_dir=folder / "runs",
        codebook_sizes=plain.codebook_sizes,
        sk_epsilons=plain.sk_epsilons,
        layers=layers,
        weight_decay=plain.weight_decay,
        lr_scheduler_type="linear",
        device="cpu",
    )


def start(rows: np.ndarray, layers: tuple[int, ...]) -> Trainer:
    """Our trainer on `rows`, its codebooks initialised."""
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "embeddings.npy", rows)
        trainer = Trainer(our_config(Path(name), layers), CPU)
    trainer.fit_normalizer()
    trainer.start_codebooks()
    return trainer


def matrix_products(num_items: int, batch_size: int, widths: list[int]) -> Any:
    """All products of an epoch, forward and backward, on ready matrices; the input needs no gradient."""
    num_steps = -(-num_items // batch_size)
    num_rows = num_items // num_steps
    sizes = list(pairwise(widths))
    work = []
    for position, (num_in, num_out) in enumerate(sizes):
        inputs, weight, gradient = (
            torch.randn(num_rows, num_in),
            torch.randn(num_out, num_in),
            torch.randn(num_rows, num_out),
        )
        outputs = [torch.empty(num_rows, num_out), torch.empty(num_out, num_in), torch.empty(num_rows, num_in)]
        work.append((inputs, weight, gradient, outputs, position > 0))

    def epoch() -> None:
        for _ in range(num_steps):
            for inputs, weight, gradient, outputs, has_input_gradient in work:
                torch.mm(inputs, weight.t(), out=outputs[0])
                torch.mm(gradient.t(), inputs, out=outputs[1])
                if has_input_gradient:
                    torch.mm(gradient, weight, out=outputs[2])

    return epoch


def same_computation(width: int, layers: tuple[int, ...]) -> bool:
    """From equal weights, both sides give equal losses, codes and gradients, Sinkhorn included.

    Gradients are compared without the commitment: that of the deeper levels reaches our encoder, as in the paper, and
    cancels in public code, where the straight-through residual has no gradient.
    """
    return all(_same_step(width, layers, beta) for beta in (0.0, 0.25))


def _same_step(width: int, layers: tuple[int, ...], beta: float) -> bool:
    torch.manual_seed(0)
    plain_config = PlainConfig(layers=layers, beta=beta)
    plain = PlainRQVAE(width, plain_config).train()
    ours = RQVAE(replace(our_config(Path(), layers), beta=beta), width).train()
    for side in ("encoder", "decoder"):
        mine, theirs = getattr(ours, side).parameters(), getattr(plain, side).parameters()
        for weight, other in zip(mine, theirs, strict=True):
            weight.data.copy_(other)
    batch = torch.from_numpy(clustered(512, width))
    scale = plain.encoder(batch).std().item()
    for level, other in zip(ours.rq.vq_layers, plain.levels, strict=True):
        codebook = scale * torch.randn(len(level.codebook), plain_config.e_dim)
        level.initialise(codebook)
        other.embedding.weight.data.copy_(codebook)
        other.started = True
    output, quantization, codes = plain(batch)
    theirs = torch.nn.functional.mse_loss(output, batch) + quantization
    mine = ours(batch)
    theirs.backward()
    mine.total.backward()
    sides = ["decoder"] if beta else ["encoder", "decoder"]
    pairs = [
        pair
        for side in sides
        for pair in zip(getattr(ours, side).parameters(), getattr(plain, side).parameters(), strict=True)
    ]
    return (
        torch.equal(mine.codes, codes)
        and torch.allclose(mine.total, theirs, rtol=1e-5)
        and all(float((p.grad - q.grad).norm() / q.grad.norm()) < 1e-4 for p, q in pairs)
    )


def epoch_rows(num_items: int, runs: int) -> Iterator[Row]:
    """An epoch at the documented size: share of its matrix products, and the ratio to the plain loop."""
    width, layers = DOCUMENTED
    rows = clustered(num_items, width)
    trainer = start(rows, layers)
    plain = PlainTrainer(rows, PlainConfig(layers=layers, num_workers=0), num_epochs=5000)
    e_dim = trainer.config.e_dim
    products = matrix_products(num_items, trainer.config.batch_size, [width, *layers, e_dim, *layers[::-1], width])
    is_equal = same_computation(width, layers)
    trainer.train_epoch(), plain.train_epoch()
    shares, ratios = [], []
    for _ in range(runs):
        floor = timed(products)[0]
        ours = timed(trainer.train_epoch)[0]
        theirs = timed(plain.train_epoch)[0]
        floor = (floor + timed(products)[0]) / 2
        shares.append(floor / ours)
        ratios.append(theirs / ours)
    name = f"RQ-VAE epoch, {num_items:,} x {width}"
    yield Row(
        f"{name}: share of its matrix products",
        median(shares),
        "",
        goal=0.9,
        rival="the same-shape products alone",
        equal=is_equal,
        runs=runs,
        spread=(min(shares), max(shares)),
    )
    yield Row(
        f"{name}: plain loop, no workers",
        median(ratios),
        "x",
        goal=0.95,
        rival="plain loop, num_workers=0",
        equal=is_equal,
        runs=runs,
        spread=(min(ratios), max(ratios)),
        note="not slower, within the spread",
    )


def overhead_row(runs: int) -> Row:
    """An epoch where the arithmetic is nothing, against the plain loop with its four workers."""
    width, layers = SMALL
    rows = clustered(10_000, width)
    trainer = start(rows, layers)
    plain = PlainTrainer(rows, PlainConfig(layers=layers), num_epochs=5000)
    timings = alternate(trainer.train_epoch, plain.train_epoch, runs)
    return timings.ratio(
        "RQ-VAE epoch, 10,000 x 64, one hidden layer of 64: plain loop",
        "plain loop, num_workers=4",
        goal=5.0,
        equal=same_computation(width, layers),
    )


def rows(quick: bool) -> Iterator[Row]:
    yield overhead_row(3 if quick else 7)
    for num_items, runs in [(4_096, 1)] if quick else [(10_000, 5), (30_000, 3), (100_000, 3)]:
        yield from epoch_rows(num_items, runs)
