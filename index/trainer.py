"""The training loop of the quantizers, and which checkpoints it keeps."""

import json
import math
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from index.checkpoints import LAST, checkpoint_table, read_checkpoint, resolve_checkpoint
from index.config import TRAINED, TrainConfig, flag_of
from index.embeddings import EVALUATION_ROWS, EmbeddingDataset
from index.epoch_order import EpochOrder
from index.fitted import fit
from index.metrics import measure
from index.rows import Evaluation, evaluation_row, flat
from index.rqvae import LOSS_NAMES, RQVAE
from index.run_folder import RunFolder, new_run_folder
from src.common.artifacts import file_hash
from src.common.distributed import gather, init_process_group, is_main, rank, resolve_device, world_size
from src.common.log import logger, progress
from src.common.record import add_outputs, plain, run_record, write_record
from src.common.seed import seed_everything

__all__ = ["TrainConfig", "train"]

MAX_GRADIENT_NORM = 1.0  # LC-Rec's
ROWS_PER_CODEWORD = 256  # of the k-means sample, as in faiss
MIN_STEPS_UNUSED = 20  # a codeword that no row took for so long is dead
SECONDS_BETWEEN_READINGS = 2.0  # losses stay on the device in between
SECONDS_BETWEEN_PLOTS = 60.0
FREE_ON_RESUME = {"data_path", "ckpt_dir", "epochs", "eval_step", "save_limit", "device", "num_workers", "resume"}
FREE_ON_RESUME |= {"use_wandb", "wandb_project", "wandb_name", "cf_path"}
OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
}


def train(config: TrainConfig) -> Path:
    """Trains an RQ-VAE, or fits another tokenizer. Under torchrun each rank holds its share of the items.

    Returns:
        The run folder `<ckpt_dir>/<timestamp>`: best_{loss,collision,utilization}_model.pth, last.pth, epoch_*.pth,
        config.json, metrics.jsonl and training.png.

    Raises:
        ValueError: the data does not fit the settings, or the loss became NaN.
    """
    device = resolve_device(config.device)
    init_process_group(device)
    num_threads = torch.get_num_threads()
    if config.num_workers:
        torch.set_num_threads(config.num_workers)
    try:
        return Trainer(config, device).fit()
    finally:
        torch.set_num_threads(num_threads)


class Trainer:
    """One run: the model, its optimizer, and its folder."""

    def __init__(self, config: TrainConfig, device: torch.device):
        self.config, self.device = config, device
        self.dataset = EmbeddingDataset(config.data_path, device, sharded=world_size() > 1)
        self.dataset.check_codebooks(config.codebook_sizes)
        self.data_hash = [file_hash(path) for path in (*config.data_path, *filter(None, [config.cf_path]))]
        largest_share = math.ceil(self.dataset.total / world_size())  # all ranks take as many steps
        self.steps_per_epoch = math.ceil(largest_share / config.batch_size)
        seed_everything(config.seed)
        self.model = RQVAE(config, self.dataset.widths).to(device)
        if config.cf_path is not None:
            self.dataset.add_companions(config.cf_path, self.model.latent_dim)
        self.parallel = self.model  # what computes losses: all ranks together where there are several
        if world_size() > 1 and config.quantizer in TRAINED:
            self.parallel = DistributedDataParallel(
                self.model,
                broadcast_buffers=False,
                find_unused_parameters=config.pretrain_epochs > 0,  # codebooks wait
            )
        torch.manual_seed(config.seed + rank())  # weights are equal on all ranks, batches are not
        self.optimizer = make_optimizer(config, self.model, device)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.learning_rate_factor)
        self.epoch = 0
        self.steps_since_revival = 0
        self.order = EpochOrder(self.dataset, self.model, config)
        self.unread: list[tuple[int, float, Tensor]] = []  # epoch, learning rate, losses that are still on the device
        if config.resume is None:
            path = Path(gather(str(new_run_folder(config.ckpt_dir)) if is_main() else "")[0])
        else:
            path = resolve_checkpoint(config.resume, LAST).parent
        self.folder = RunFolder(path, config.save_limit)
        if config.resume is not None:
            self.load(resolve_checkpoint(config.resume, LAST))

    def learning_rate_factor(self, step: int) -> float:
        """Share of --lr at a step: a linear rise over --warmup_epochs, then as --lr_scheduler_type says."""
        warmup = self.config.warmup_epochs * self.steps_per_epoch
        total = self.config.epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
            self.config.lr_scheduler_type
        ]

    def fit(self) -> Path:
        """Trains up to --epochs, evaluates every --eval_step epochs and at the end; gives the run folder."""
        config, started = self.config, time.monotonic()
        if is_main():
            record = {"artefact": "RQ-VAE run", **run_record(config, self.inputs())}
            write_record(self.folder.path / "config.json", record)
        logger.info(f"config: {json.dumps(plain(config), ensure_ascii=False)}")
        if config.quantizer not in TRAINED:
            return self.fit_at_once(started)
        if config.warmup_epochs >= config.epochs and self.epoch == 0:
            logger.info(
                f"--warmup_epochs {config.warmup_epochs} takes up all {config.epochs} epochs: --lr is never held"
            )
        wandb_run = start_wandb(config) if config.use_wandb and is_main() else None
        if self.epoch == 0:
            self.fit_normalizer()
        last_reading = last_plot = time.monotonic()
        bar = progress(total=config.epochs, initial=self.epoch, desc=config.quantizer, unit="epoch")
        while self.epoch < config.epochs:
            self.epoch += 1
            self.model.quantizes = self.epoch > config.pretrain_epochs
            if self.epoch == config.pretrain_epochs + 1:
                self.start_codebooks()
            self.train_epoch()
            bar.update()
            is_due = self.epoch % config.eval_step == 0 or self.epoch == config.epochs
            # Ranks read together, so they must agree on when: only the clock of a single process counts.
            if is_due or (world_size() == 1 and time.monotonic() - last_reading > SECONDS_BETWEEN_READINGS):
                rows = self.read_losses()
                last_reading = time.monotonic()
                bar.set_postfix(loss=f"{rows[-1]['loss']:.5f}", refresh=False)
                if is_due and self.model.quantizes:
                    evaluation = self.evaluate()
                    rows[-1].update(evaluation_row(evaluation))
                self.folder.log(rows)
                if wandb_run is not None:
                    for row in rows:
                        wandb_run.log(flat(row), step=row["epoch"])
                if is_due and not self.model.quantizes:
                    self.save_last(self.table())
                elif is_due:
                    self.keep(evaluation)
                    if time.monotonic() - last_plot > SECONDS_BETWEEN_PLOTS:
                        self.folder.plot()
                        last_plot = time.monotonic()
        bar.close()
        self.folder.plot()
        if wandb_run is not None:
            wandb_run.finish()
        self.seal()
        logger.info(self.summary(time.monotonic() - started))
        return self.folder.path

    def fit_at_once(self, started: float) -> Path:
        """A tokenizer without training: fits it to all items, and writes what a training run of one epoch would."""
        if self.epoch == 0:
            if world_size() > 1:
                raise ValueError(
                    f"--quantizer {self.config.quantizer} is fitted by one process: start it without torchrun"
                )
            self.fit_normalizer()
            rows = (
                self.dataset.rows if self.config.quantizer == "balanced_rkmeans" else self.sample(self.num_kmeans_rows)
            )
            fit(self.model, rows.to(self.device), self.config)
            self.epoch = 1
            evaluation = self.evaluate()
            self.folder.log([{"epoch": 1, **evaluation_row(evaluation)}])
            self.keep(evaluation)
            self.folder.plot()
        self.seal()
        logger.info(self.summary(time.monotonic() - started))
        return self.folder.path

    @property
    def num_kmeans_rows(self) -> int:
        return ROWS_PER_CODEWORD * max(self.config.codebook_sizes)

    def sample(self, num_rows: int, seed: int | None = None) -> Tensor:
        """(num_rows, D): a seeded sample of the rows of all ranks, equal on all; all rows if there are fewer."""
        generator = torch.Generator().manual_seed((self.config.seed if seed is None else seed) + rank())
        own = math.ceil(num_rows / world_size())
        rows = self.dataset.batch(torch.randperm(len(self.dataset), generator=generator)[:own])
        if world_size() == 1:
            return rows
        return torch.cat([part.to(self.device) for part in gather(rows.cpu())])

    def fit_normalizer(self) -> None:
        """Statistics of the inputs: of all rows, or under torchrun of a sample that is equal on all ranks."""
        self.model.normalizer.fit(self.dataset.rows if world_size() == 1 else self.sample(self.num_kmeans_rows))

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """K-means on a seeded sample of all latents (large) or of a batch (small), or the uniform start."""
        config = self.config
        if config.quantizer == "fsq":
            return
        latents = None
        if config.kmeans_init:
            sample = self.sample(self.num_kmeans_rows if config.large_scale_kmeans else config.batch_size)
            self.model.eval()
            latents = torch.cat([self.model.encode(rows) for rows in sample.split(EVALUATION_ROWS)])
        self.model.rq.initialise(latents, config.kmeans_iters, config.seed)

    def train_epoch(self) -> None:
        """One pass over all rows in batches of equal size; nothing here waits for the device."""
        self.parallel.train()
        learning_rate = self.schedule.get_last_lr()[0]
        totals = torch.zeros(len(LOSS_NAMES), device=self.device)
        for positions in self.order.draw().tensor_split(self.steps_per_epoch):
            losses = self.parallel(self.dataset.batch(positions), self.dataset.companions_of(positions))
            self.optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            self.schedule.step()
            self.order.note(positions, losses.codes)
            totals += torch.stack(losses[:-1]).detach() * (len(positions) / len(self.dataset))
        self.unread.append((self.epoch, learning_rate, totals))
        self.steps_since_revival += self.steps_per_epoch * self.model.quantizes
        if self.steps_since_revival >= MIN_STEPS_UNUSED and not self.model.rq.is_fixed:
            self.revive_dead_codewords()
            self.steps_since_revival = 0

    @torch.no_grad()
    def revive_dead_codewords(self) -> None:
        """Moves unused codewords of every level, and forgets their momentum."""
        self.model.eval()
        generator = None
        if world_size() == 1:
            positions = torch.randperm(len(self.dataset), device=self.device)[: max(self.config.batch_size, 1024)]
            rows = self.dataset.batch(positions)
        else:  # the same rows and the same draws on every rank, so that codebooks stay equal
            rows = self.sample(max(self.config.batch_size, 1024), seed=self.config.seed + self.epoch * world_size())
            generator = torch.Generator(self.device).manual_seed(self.config.seed + self.epoch)
            for level in self.model.rq.vq_layers:
                torch.distributed.all_reduce(level.usage)
        residual = self.model.encode(rows)
        for level in self.model.rq.vq_layers:
            dead = level.revive(residual, generator)
            for moment in self.optimizer.state.get(level.codebook, {}).values():
                if isinstance(moment, Tensor) and moment.shape == level.codebook.shape:
                    moment.masked_fill_(dead[:, None], 0)
            residual = residual - level.codebook[level.choose(residual)]

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Losses and codes of all items, without dropout and Sinkhorn."""
        self.model.eval()
        totals, codes = torch.zeros(3, device=self.device), []
        given: Iterator[Tensor | None] = repeat(None)
        if self.config.quantizer == "balanced_rkmeans":  # its codes depend on all items
            latents = torch.cat([self.model.encode(rows) for rows in self.dataset.in_order(EVALUATION_ROWS)])
            given = iter(self.model.codes_of(latents).split(EVALUATION_ROWS))
        for rows in self.dataset.in_order(EVALUATION_ROWS):
            losses = self.model(rows, codes=next(given))
            totals += torch.stack(losses[:3]) * (len(rows) / self.dataset.total)
            codes.append(losses.codes.int())
        codes = torch.cat(codes).cpu()
        if world_size() > 1:
            torch.distributed.all_reduce(totals)
            codes = torch.cat(gather(codes))
        loss, reconstruction, quantization = totals.tolist()
        return Evaluation(loss, reconstruction, quantization, measure(codes.numpy(), self.config.codebook_sizes))

    def read_losses(self) -> list[dict[str, Any]]:
        """Fetches the losses of the epochs since the last reading: one row each."""
        values = torch.stack([losses for _, _, losses in self.unread])
        if world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= world_size()
        rows = [
            {"epoch": epoch, "learning_rate": rate, **dict(zip(LOSS_NAMES, losses, strict=True))}
            for (epoch, rate, _), losses in zip(self.unread, values.tolist(), strict=True)
        ]
        off = {"spread": "spread_weight", "alignment": "cf_weight", "diversity": "diversity_weight"}
        off |= {"neighbours": "neighbour_weight"}
        for row in rows:
            row["loss"] = row.pop("total")
            for name, weight in off.items():
                if not getattr(self.config, weight):
                    del row[name]
        self.unread.clear()
        for row in rows:
            if not math.isfinite(row["loss"]):
                raise ValueError(
                    f"the loss became {row['loss']} in epoch {row['epoch']}: lower --lr, or pass"
                    f" --normalize standardize. {self.folder.path / LAST} holds the last good state"
                )
        return rows

    def keep(self, evaluation: Evaluation) -> None:
        """Writes this epoch's checkpoint, the best ones where it is better, and last.pth."""
        table = self.table(metrics=evaluation_row(evaluation))
        self.folder.keep(evaluation, table)
        self.save_last(table)

    def save_last(self, table: dict[str, Any]) -> None:
        """Writes what --resume takes: all ranks give their part, rank 0 writes."""
        self.folder.save(LAST, {**table, **self.training_state()})

    def table(self, **more: Any) -> dict[str, Any]:
        return checkpoint_table(self.model, self.config, self.epoch, data_sha256=self.data_hash, **more)

    def training_state(self) -> dict[str, Any]:
        """What last.pth holds beyond the model, so that a resumed run continues to the last digit."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps_since_revival": self.steps_since_revival,
            "seen": gather(None if self.order.seen is None else self.order.seen.cpu()),
            "best": {name: list(score) for name, score in self.folder.best.items()},
            "rng": gather({"cpu": torch.get_rng_state(), "cuda": None if cuda is None else cuda.cpu()}),
        }

    def load(self, path: Path) -> None:
        """Takes up the run that wrote `path`."""
        table = read_checkpoint(path)
        if "optimizer" not in table or "rng" not in table:
            raise ValueError(f"--resume {path} holds weights only: give a run folder, or its {LAST}")
        now, before = plain(self.config), table["settings"]
        differing = [name for name in now if name not in FREE_ON_RESUME and now[name] != before.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"--resume {path}: {flag_of(name)} was {before.get(name)} and is now {now[name]}."
                f" Leave the flag out, or start a new run without --resume"
            )
        if table["data_sha256"] != self.data_hash:
            raise ValueError(f"--resume {path}: {self.config.data_path} has changed since. Start a new run")
        self.model.load_state_dict(table["state_dict"])
        self.optimizer.load_state_dict(table["optimizer"])
        self.schedule.load_state_dict(table["schedule"])
        self.epoch, self.folder.best = table["epoch"], table["best"]
        self.steps_since_revival = table["steps_since_revival"]
        if len(table["rng"]) != world_size():
            raise ValueError(f"--resume {path} was written by {len(table['rng'])} processes: go on with as many")
        if self.order.seen is not None:
            self.order.seen.copy_(table["seen"][rank()])
        rng = table["rng"][rank()]
        torch.set_rng_state(rng["cpu"].cpu())
        if self.device.type == "cuda" and rng["cuda"] is not None:
            torch.cuda.set_rng_state(rng["cuda"].cpu(), self.device)
        self.folder.forget_after(self.epoch)
        logger.info(f"resuming {path.parent} after epoch {self.epoch} of {self.config.epochs}")

    def inputs(self) -> dict[str, Path]:
        """Input files by what they are."""
        paths = self.config.data_path
        names = ["embeddings"] if len(paths) == 1 else [f"embeddings_{number}" for number in range(len(paths))]
        collaborative = {} if self.config.cf_path is None else {"collaborative": self.config.cf_path}
        return {**dict(zip(names, paths, strict=True)), **collaborative}

    def seal(self) -> None:
        """Adds the hashes of the best checkpoints to config.json; the others may go when their time is over."""
        if is_main():
            folder = self.folder.path
            add_outputs(folder / "config.json", {path.name: path for path in folder.glob("best_*.pth")})

    def summary(self, seconds: float) -> str:
        best = self.folder.best
        if not math.isfinite(best["loss"][0]):
            return f"nothing to train; {self.folder.path}"
        what = f"{self.epoch} epochs" if self.config.quantizer in TRAINED else f"{self.config.quantizer} fitted"
        return (
            f"{what} in {seconds:.0f} s: best loss {best['loss'][0]:.5f}, collision rate"
            f" {best['collision'][0]:.4%}, utilization {-best['utilization'][0]:.1%}. Results: {self.folder.path}"
        )


def make_optimizer(config: TrainConfig, model: RQVAE, device: torch.device) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.learner in ("AdamW", "Adam"):
        settings["fused"] = device.type in ("cpu", "cuda")
    return OPTIMIZERS[config.learner](model.parameters(), **settings)


def start_wandb(config: TrainConfig) -> Any:
    import wandb

    return wandb.init(project=config.wandb_project, name=config.wandb_name, config=plain(config))
