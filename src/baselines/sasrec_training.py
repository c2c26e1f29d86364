"""Training SASRec: epochs over users, early stopping on the validation split, and going on after a kill."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.baselines.core import history_entries
from src.baselines.sasrec import SASRecConfig
from src.baselines.sasrec_model import LOSSES, SASRec
from src.common.artifacts import atomic_path, file_hash
from src.common.cli import check_at_least
from src.common.distributed import resolve_device
from src.common.log import logger
from src.common.record import plain
from src.common.seed import seed_everything
from src.tasks.catalogue import Catalogue

EVALUATED = 128  # users scored at a time: their scores stay in the processor's cache
MAX_GRADIENT_NORM = 5.0
SETTLES_NOTHING = ("results_file", "split", "num_beams", "metrics", "epochs", "patience", "device")  # of the weights


class Training:
    """A run, and after it the model of its best epoch."""

    def __init__(self, catalogue: Catalogue, config: SASRecConfig):
        check_at_least(
            config, hidden_size=1, num_layers=1, num_heads=1, max_his_len=1, batch_size=1, epochs=1, patience=1
        )
        if config.hidden_size % config.num_heads:
            raise ValueError(f"--hidden_size {config.hidden_size} is no multiple of --num_heads {config.num_heads}")
        if not 0 <= config.dropout < 1 or config.learning_rate <= 0:
            raise ValueError("--dropout must be at least 0 and below 1, --learning_rate above 0")
        self.catalogue, self.config, self.device = catalogue, config, resolve_device(config.device)
        self.folder = Path(config.results_file).with_suffix(".model")
        seed_everything(config.seed)
        shape = (config.max_his_len, config.hidden_size, config.num_layers, config.num_heads, config.dropout)
        self.model = SASRec(len(catalogue.item_ids), *shape).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
        self.columns = np.searchsorted(catalogue.item_ids, catalogue.sequence) + 1
        self.users = np.flatnonzero(catalogue.train_end > 1)
        if not len(self.users):
            raise ValueError(f"{catalogue.name} has no user with two items to train on")
        self.epoch = self.best_epoch = 0
        self.best = -1.0

    def run(self) -> None:
        """Trains until `patience` epochs have brought nothing, or `epochs` are over; ends with the best weights."""
        key = self._key()
        self._resume(key)
        while self.epoch < self.config.epochs and self.epoch - self.best_epoch < self.config.patience:
            started = time.monotonic()
            self.epoch += 1
            loss = self._train_epoch()
            quality = self.quality("valid")
            if quality > self.best:
                self.best, self.best_epoch = quality, self.epoch
                self._save("best.pth", {"model": self.model.state_dict()})
            self._save(
                "last.pth",
                {
                    "key": key,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "epoch": self.epoch,
                    "best": self.best,
                    "best_epoch": self.best_epoch,
                },
            )
            logger.info(
                "epoch %d of at most %d: loss %.4f, valid ndcg@10 %.4f (best %.4f after %d), %.0f s",
                self.epoch, self.config.epochs, loss, quality, self.best, self.best_epoch, time.monotonic() - started,
            )  # fmt: skip
        self.model.load_state_dict(self._read("best.pth")["model"])

    def _train_epoch(self) -> float:
        """One pass over the users in batches of like lengths, drawn by seed and epoch; gives the mean loss."""
        self.model.train()
        rng = np.random.default_rng((self.config.seed, self.epoch))
        torch.manual_seed(self.config.seed * 100_003 + self.epoch)  # dropout: equal after a resumption
        lengths = np.minimum(self.catalogue.train_end[self.users], self.config.max_his_len + 1)
        order = np.argsort(lengths + rng.uniform(0, 2, len(lengths)))  # nearly: company changes from epoch to epoch
        batches = np.split(order, range(self.config.batch_size, len(order), self.config.batch_size))
        total, count = torch.zeros((), device=self.device), 0
        for number in rng.permutation(len(batches)):
            users = self.users[batches[number]]
            sequences = self.sequences(users, self.catalogue.train_end[users], self.config.max_his_len + 1)
            inputs, targets = sequences[:, :-1], sequences[:, 1:]
            known = targets > 0
            loss = LOSSES[self.config.loss](self.model, self.model(inputs)[known], targets[known])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            rows = int((lengths[batches[number]] - 1).sum())
            total += loss.detach() * rows
            count += rows
        return float(total / count)

    def sequences(self, users: np.ndarray, ends: np.ndarray, length: int) -> Tensor:
        """(B, T) int64: the last `length` items before `ends` of each user's sequence, 0 to the right of them."""
        sizes = np.minimum(ends, length)
        table = np.zeros((len(users), max(1, int(sizes.max()))), np.int64)
        rows = np.repeat(np.arange(len(users)), sizes)
        within = np.arange(len(rows)) - np.repeat(sizes.cumsum() - sizes, sizes)
        begins = self.catalogue.offsets[users] + ends - sizes
        table[rows, within] = self.columns[begins[rows] + within]
        return torch.from_numpy(table).to(self.device)

    @torch.no_grad()
    def score(self, users: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(B, N) float32 scores of all items for the item at each position."""
        self.model.eval()
        states = self.model.last(self.sequences(users, positions, self.config.max_his_len))
        return self.model.scores(states).cpu().numpy()

    @torch.no_grad()
    def quality(self, split: str) -> float:
        """NDCG@10 on a split, by the rank of each target alone; equal scores count as better."""
        self.model.eval()
        targets = self.catalogue.next_item_targets(split)
        total = 0.0
        for start in range(0, len(targets.users), EVALUATED):
            users, positions = (part[start : start + EVALUATED] for part in targets)
            scores = torch.from_numpy(self.score(users, positions))
            right = torch.from_numpy(self.columns[self.catalogue.offsets[users] + positions] - 1)
            own = scores.gather(1, right[:, None])
            if self.config.filter_history:
                rows, columns, _ = history_entries(self.catalogue, users, positions)
                scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
            may_be_found = scores.gather(1, right[:, None]).isfinite().squeeze(1)  # not what the user had already
            ranks = (scores >= own).sum(1) - 1
            total += float((1 / torch.log2(ranks.double() + 2))[may_be_found & (ranks < 10)].sum())
        return total / max(1, len(targets.users))

    def _key(self) -> str:
        """What the weights depend on."""
        settings = {name: value for name, value in plain(self.config).items() if name not in SETTLES_NOTHING}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(file_hash(self.catalogue.paths.file("inter.json")).encode())
        return digest.hexdigest()

    def _resume(self, key: str) -> None:
        if not (self.folder / "last.pth").is_file():
            return
        state = self._read("last.pth")
        if state["key"] != key:
            logger.info("%s is of other data or settings: training starts anew", self.folder)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best, self.best_epoch = state["epoch"], state["best"], state["best_epoch"]
        logger.info("goes on after epoch %d of %s", self.epoch, self.folder)

    def _save(self, name: str, table: dict) -> None:
        with atomic_path(self.folder / name) as temporary:
            torch.save(table, temporary)

    def _read(self, name: str) -> dict:
        return torch.load(self.folder / name, map_location=self.device, weights_only=True)
