"""From embeddings to unique SIDs: against group-by-group Sinkhorn rounds, and against the encoder's own products."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.harness import Row, median, peak_megabytes, timed
from benchmarks.rivals.plain_rqvae import PlainConfig, PlainRQVAE
from benchmarks.rivals.sinkhorn_rounds import SinkhornRounds
from index.checkpoints import checkpoint_table, load_checkpoint, save_checkpoint
from index.clustering import nearest_codes
from index.collisions import quantization_error, resolve_collisions
from index.config import GenerateConfig, RQVAEConfig
from index.embeddings import EmbeddingDataset
from index.encoding import MIN_PASS, encode_all
from index.generate_indices import generate
from index.metrics import measure
from index.rqvae import RQVAE
from src.common.index_files import load_sid_index

WIDTH, LAYERS, CODEBOOK_SIZES = 768, (2048, 1024, 512, 256, 128, 64), (256, 256, 256, 256)
CPU = torch.device("cpu")


def embeddings(num_items: int, seed: int = 0) -> np.ndarray:
    """(N, 768) float32 in 2048 clusters around 64 centres; 0.3 % are exact copies of another item.

    The scales give collision rates of 2 % among 10k items and 12 % among 100k.
    """
    rng = np.random.default_rng(0)  # the clusters are the same for every seed
    coarse = rng.normal(size=(64, WIDTH)).astype(np.float32)
    fine = coarse.repeat(32, 0) + 0.5 * rng.normal(size=(2048, WIDTH)).astype(np.float32)
    rng = np.random.default_rng((1, seed))
    rows = 0.14 * rng.standard_normal((num_items, WIDTH), dtype=np.float32)
    rows += fine[rng.integers(len(fine), size=num_items)]
    copies = rng.choice(num_items, size=round(0.003 * num_items), replace=False)
    rows[copies] = rows[rng.integers(num_items, size=len(copies))]
    return rows


def save_model(path: Path, num_items: int, epochs: int) -> None:
    """A checkpoint: encoder and decoder trained for a few epochs, and k-means of what each level left over."""
    torch.manual_seed(0)
    config = RQVAEConfig(codebook_sizes=CODEBOOK_SIZES, layers=LAYERS)
    model = RQVAE(config, WIDTH)
    rows = torch.from_numpy(embeddings(num_items, seed=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in rows[torch.randperm(num_items)].split(1024):
            loss = torch.nn.functional.mse_loss(model.decoder(model.encode(batch)), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        model.rq.initialise(model.encode(rows), 50, 0)
    save_checkpoint(path, checkpoint_table(model, config, epochs))


def rival_model(model: RQVAE) -> PlainRQVAE:
    """The rival's model with the weights of ours."""
    plain = PlainRQVAE(WIDTH, PlainConfig(layers=LAYERS, sk_iters=100))
    for weight, other in zip(plain.encoder.parameters(), model.encoder.parameters(), strict=True):
        weight.data.copy_(other)
    for level, codebook in zip(plain.levels, model.rq.codebooks, strict=True):
        level.embedding.weight.data.copy_(codebook)
        level.started = True
    return plain


def encoder_products(num_items: int) -> Callable[[], None]:
    """The matrix products of encoding, on ready matrices."""
    work = [
        (torch.randn(MIN_PASS, num_in), torch.randn(num_out, num_in), torch.empty(MIN_PASS, num_out))
        for num_in, num_out in pairwise((WIDTH, *LAYERS, RQVAEConfig.e_dim))
    ]

    def run() -> None:
        for start in range(0, num_items, MIN_PASS):
            size = min(MIN_PASS, num_items - start)
            for inputs, weight, outputs in work:
                torch.mm(inputs[:size], weight.t(), out=outputs[:size])

    return run


class Run(NamedTuple):
    """CPU seconds of one run."""

    products: float
    whole: float
    resolve: float
    rival_whole: float
    rival_resolve: float


def generation_rows(checkpoint: Path, num_items: int, runs: int) -> Iterator[Row]:
    """Index generation at one size: ours and the rival's, from the same weights."""
    folder = checkpoint.parent
    data_path = folder / f"{num_items}.npy"
    np.save(data_path, embeddings(num_items))
    model = load_checkpoint(checkpoint, CPU).model
    latents, codes, codebooks, _ = encode_all(model, EmbeddingDataset(data_path, CPU), MIN_PASS)
    plain = rival_model(model)
    config = GenerateConfig(
        dataset="Bench", ckpt_path=checkpoint, data_path=(data_path,), output_dir=folder, device="cpu"
    )
    products = encoder_products(num_items)

    def resolve() -> np.ndarray:
        return resolve_collisions(latents, codebooks, codes).codes

    def run_rival() -> tuple[np.ndarray, np.ndarray, float]:
        rival = SinkhornRounds(plain, np.load(data_path))
        rival.encode()
        nearest = rival.codes()
        seconds = timed(rival.resolve)[0]
        rival.write(folder / "rival.json")
        return nearest, rival.codes(), seconds

    products(), resolve()
    timings = []
    for _ in range(runs):
        floor = timed(products)[0]
        whole, path = timed(lambda: generate(config))
        floor = (floor + timed(products)[0]) / 2
        resolution = median([timed(resolve)[0] for _ in range(5)])
        rival_whole, (nearest, theirs, rival_resolution) = timed(run_rival)
        timings.append(Run(floor, whole, resolution, rival_whole, rival_resolution))
    ours = load_sid_index(path).codes
    is_equal = bool((nearest == codes).all(1).mean() > 0.999)  # by rounding, near ties may fall either way
    is_equal = is_equal and np.array_equal(ours, resolve())

    name, common = f"SID index of {num_items:,} items", {"rival": "group-by-group Sinkhorn rounds", "equal": is_equal}
    before, left = measure(codes, CODEBOOK_SIZES), measure(theirs, CODEBOOK_SIZES)
    yield Row(
        f"{name}: items that share a SID",
        float(measure(ours, CODEBOOK_SIZES).colliding_items),
        "items",
        higher_is_better=False,
        goal=0,
        note=f"{before.colliding_items:,} before, collision rate {before.collision_rate:.2%}; rounds leave"
        f" {left.colliding_items:,}",
        **common,
    )
    error, our_error, their_error = (quantization_error(latents, codebooks, chosen) for chosen in (codes, ours, theirs))
    yield Row(
        f"{name}: error added, share of what rounds add",
        (our_error - error) / (their_error - error),
        "",
        higher_is_better=False,
        goal=0.1,
        note=f"{our_error / error - 1:+.2%} against {their_error / error - 1:+.2%}",
        **common,
    )
    is_large = num_items >= 100_000  # where the fixed cost of a job no longer counts
    yield ratio_row(f"{name}: resolution", timings, "rival_resolve", "resolve", goal=150, **common)
    yield ratio_row(f"{name}: whole job", timings, "rival_whole", "whole", goal=8 if is_large else None, **common)
    yield ratio_row(
        f"{name}: share of the encoder's products",
        timings,
        "products",
        "whole",
        unit="",
        goal=0.8 if is_large else None,
        rival="the same-shape products alone",
        equal=is_equal,
    )


def ratio_row(name: str, timings: list[Run], rival_side: str, our_side: str, unit: str = "x", **more: Any) -> Row:
    theirs, ours = ([getattr(run, side) for run in timings] for side in (rival_side, our_side))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return Row(
        name,
        median(ratios),
        unit,
        runs=len(ratios),
        spread=(min(ratios), max(ratios)),
        note=f"{median(ours):.3g} s against {median(theirs):.3g} s",
        **more,
    )


# ---- ten million items -----------------------------------------------------------------------------------------------
def save_large(folder: Path, num_items: int, width: int = 32, chunk: int = 1 << 18) -> None:
    """Latents, codebooks and nearest codes, of which some 10 % collide: codewords are drawn unevenly, as real ones."""
    rng = np.random.default_rng(0)
    codebooks = [rng.standard_normal((size, width), np.float32) / 2**level for level, size in enumerate(CODEBOOK_SIZES)]
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float32, (num_items, width))
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.int64, (num_items, len(codebooks)))
    for start in range(0, num_items, chunk):
        rows = 0.02 * rng.standard_normal((min(chunk, num_items - start), width), np.float32)
        for codebook in codebooks:
            shares = np.cumsum(np.arange(1, len(codebook) + 1) ** -0.77)
            rows += codebook[np.searchsorted(shares, shares[-1] * rng.random(len(rows)))]
        rows[: len(rows) // 300] = rows[-(len(rows) // 300) :]  # exact copies
        latents[start : start + chunk] = rows
        residual = torch.from_numpy(rows)
        for level, codebook in enumerate(map(torch.from_numpy, codebooks)):
            chosen = nearest_codes(residual, codebook)
            residual = residual - codebook[chosen]
            codes[start : start + chunk, level] = chosen.numpy()
    np.savez(folder / "codebooks.npz", *codebooks)


class Large(NamedTuple):
    seconds: float  # CPU
    megabytes: float  # peak of the whole process, pages of the memory map included
    rate_before: float
    rate_after: float
    num_moved: int


def resolve_large(folder: Path) -> Large:
    """Resolves what `save_large` left; in a process of its own, whose memory is measured."""
    latents = np.load(folder / "latents.npy", mmap_mode="r")
    codes = np.load(folder / "codes.npy")
    codebooks = list(np.load(folder / "codebooks.npz").values())
    seconds, resolution = timed(lambda: resolve_collisions(latents, codebooks, codes))
    megabytes = peak_megabytes()
    return Large(seconds, megabytes, collision_rate(codes), collision_rate(resolution.codes), resolution.num_moved)


def collision_rate(codes: np.ndarray) -> float:
    keys = np.ravel_multi_index(tuple(codes.T), CODEBOOK_SIZES)
    return 1 - len(np.unique(keys)) / len(keys)


def large_rows(num_items: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        save_large(Path(folder), num_items)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(resolve_large, Path(folder)).result()
    is_unique = result.rate_after == 0
    name = f"{num_items:,} x {len(CODEBOOK_SIZES)} codes made unique, memory-mapped latents"
    note = f"collision rate {result.rate_before:.2%} before, {result.num_moved:,} items moved"
    yield Row(f"{name}: time", result.seconds, "s", higher_is_better=False, goal=90, equal=is_unique, note=note)
    yield Row(f"{name}: peak", result.megabytes, "MB", higher_is_better=False, goal=4096, equal=is_unique)


def rows(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "run" / "model.pth"
        save_model(checkpoint, *(3_000, 1) if quick else (12_000, 2))
        for num_items, runs in [(3_000, 1)] if quick else [(10_000, 3), (30_000, 3), (100_000, 1)]:
            yield from generation_rows(checkpoint, num_items, runs)
    if not quick:
        yield from large_rows(10_000_000)
