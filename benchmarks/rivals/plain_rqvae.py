"""The rival of the SID stage: an RQ-VAE trained as public code of this kind does it, written anew.

A DataLoader that forks its workers every epoch, codebooks by scikit-learn's k-means on the first batch, a Sinkhorn loop
that normalises the whole matrix, losses fetched after every step, SIDs compared as Python strings.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class PlainConfig:
    layers: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    e_dim: int = 32
    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)
    sk_epsilons: tuple[float, ...] = (0.0, 0.0, 0.0, 0.003)
    sk_iters: int = 50
    beta: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 2048
    warmup_epochs: int = 50
    num_workers: int = 4


class Rows(Dataset):
    def __init__(self, rows: np.ndarray):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.FloatTensor(self.rows[index]), index


@torch.no_grad()
def sinkhorn_plan(distances: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Rows and columns of exp(-distances / epsilon) normalised in turn."""
    plan = torch.exp(-distances / epsilon)
    num_rows, num_columns = plan.shape
    plan /= plan.sum()
    for _ in range(num_iterations):
        plan /= plan.sum(1, keepdim=True)
        plan /= num_rows
        plan /= plan.sum(0, keepdim=True)
        plan /= num_columns
    return plan * num_rows


@torch.no_grad()
def centred(distances: Tensor) -> Tensor:
    middle = (distances.max() + distances.min()) / 2
    return (distances - middle) / (distances.max() - middle + 1e-5)


class PlainLevel(nn.Module):
    def __init__(self, size: int, width: int, epsilon: float, config: PlainConfig):
        super().__init__()
        self.epsilon, self.config, self.started = epsilon, config, False
        self.embedding = nn.Embedding(size, width)
        self.embedding.weight.data.zero_()

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.started and self.training:
            means = KMeans(len(self.embedding.weight), max_iter=100, n_init="auto").fit(vectors.detach().cpu().numpy())
            self.embedding.weight.data.copy_(torch.from_numpy(means.cluster_centers_))
            self.started = True
        book = self.embedding.weight
        distances = (vectors**2).sum(1, keepdim=True) + (book**2).sum(1).unsqueeze(0) - 2 * vectors @ book.t()
        if self.epsilon > 0 and self.training:
            plan = sinkhorn_plan(centred(distances).double(), self.epsilon, self.config.sk_iters)
            codes = plan.argmax(-1)
        else:
            codes = distances.argmin(-1)
        chosen = self.embedding(codes)
        loss = functional.mse_loss(chosen, vectors.detach())
        loss = loss + self.config.beta * functional.mse_loss(chosen.detach(), vectors)
        return vectors + (chosen - vectors).detach(), loss, codes


def perceptron(widths: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for position, (num_in, num_out) in enumerate(pairwise(widths)):
        linear = nn.Linear(num_in, num_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()] if position < len(widths) - 2 else [linear]
    return nn.Sequential(*modules)


class PlainRQVAE(nn.Module):
    def __init__(self, width: int, config: PlainConfig):
        super().__init__()
        widths = [width, *config.layers, config.e_dim]
        self.encoder, self.decoder = perceptron(widths), perceptron(widths[::-1])
        self.levels = nn.ModuleList(
            PlainLevel(size, config.e_dim, epsilon, config)
            for size, epsilon in zip(config.codebook_sizes, config.sk_epsilons, strict=True)
        )

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual = latents = self.encoder(rows)
        quantized, losses, codes = torch.zeros_like(latents), [], []
        for level in self.levels:
            chosen, loss, picked = level(residual)
            residual = residual - chosen
            quantized = quantized + chosen
            losses.append(loss)
            codes.append(picked)
        return self.decoder(quantized), torch.stack(losses).mean(), torch.stack(codes, -1)


class PlainTrainer:
    """The loop of public code: `train_epoch` as timed, `evaluate` as reported."""

    def __init__(self, rows: np.ndarray, config: PlainConfig, num_epochs: int, seed: int = 42):
        torch.manual_seed(seed)
        self.config = config
        self.model = PlainRQVAE(rows.shape[1], config)
        self.data = DataLoader(
            Rows(rows), batch_size=config.batch_size, shuffle=True, num_workers=config.num_workers, pin_memory=False
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        total, warmup = num_epochs * len(self.data), config.warmup_epochs * len(self.data)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: step / max(1, warmup) if step < warmup else (total - step) / max(1, total - warmup),
        )

    def train_epoch(self) -> float:
        self.model.train()
        total = 0.0
        for batch, _ in self.data:
            self.optimizer.zero_grad()
            output, quantization, _ = self.model(batch)
            reconstruction = functional.mse_loss(output, batch)
            loss = reconstruction + quantization
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
        return total

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Collision rate and reconstruction error over all items, with the nearest codewords."""
        self.model.eval()
        sids, error, count = set(), 0.0, 0
        for batch, _ in self.data:
            output, _, codes = self.model(batch)
            error += functional.mse_loss(output, batch).item() * len(batch)
            count += len(batch)
            for row in codes.cpu().numpy():
                sids.add("-".join(str(int(code)) for code in row))
        return {"collision_rate": (count - len(sids)) / count, "reconstruction": error / count}


def curve(rows: np.ndarray, config: PlainConfig, num_epochs: int, eval_step: int = 50) -> list[dict[str, Any]]:
    """Epoch, CPU seconds of training so far, collision rate and reconstruction error at every evaluation."""
    trainer = PlainTrainer(rows, config, num_epochs)
    points, seconds = [], 0.0
    for epoch in range(1, num_epochs + 1):
        before = time.process_time()
        trainer.train_epoch()
        seconds += time.process_time() - before
        if epoch % eval_step == 0 or epoch == num_epochs:
            points.append({"epoch": epoch, "cpu_seconds": seconds, **trainer.evaluate()})
            print(points[-1], flush=True)
    return points
