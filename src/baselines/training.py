"""What trained baselines share: epochs, early stopping on the validation split, and going on after a kill."""

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.baselines.config import TrainedConfig
from src.common.artifacts import atomic_path
from src.common.cli import check_at_least
from src.common.distributed import barrier, is_main
from src.common.log import logger
from src.common.record import plain
from src.tasks.catalogue import Catalogue
from src.tasks.task import Split

SETTLES_NOTHING = {"results_file", "split", "num_beams", "metrics", "patience", "device"}  # of the weights
SETTLES_NOTHING |= {"dataset", "data_path", "index_file"}  # which are told by what they hold, not by how they are spelt


class Training(ABC):
    """A run, and after it the model of its best epoch. Subclasses give `model`, `optimizer` and the two methods below.

    After every epoch `<results>.model/last.pth` holds the newest weights and the best: one file, so they always belong
    together.
    """

    model: nn.Module  # what is judged, and kept
    optimizer: torch.optim.Optimizer

    def __init__(
        self, catalogue: Catalogue, config: TrainedConfig, inputs: Sequence[np.ndarray] = (), settles_nothing=()
    ):
        """
        Args:
            inputs: what the weights depend on beside the sequences, their split and the items.
            settles_nothing: further settings that they do not depend on.

        Raises:
            ValueError: nothing to train on, to choose the epoch by, or to rank; or a setting out of its range.
        """
        purposes: tuple[tuple[Split, str], ...] = (
            ("train", "train on"), ("valid", "choose the epoch by"), (config.split, "rank"),
        )  # fmt: skip
        for split, purpose in purposes:
            if not len(catalogue.next_item_targets(split).users):
                raise ValueError(
                    f"{catalogue.name} has no {split} sample to {purpose}: its sequences are too short, or its"
                    f" {catalogue.paths.file('split.json').name} leaves none"
                )
        check_at_least(config, batch_size=1, epochs=1, patience=1)
        if config.learning_rate <= 0:
            raise ValueError(f"--learning_rate {config.learning_rate}: it must be above 0")
        self.catalogue, self.config = catalogue, config
        self.checkpoint = Path(config.results_file).with_suffix(".model") / "last.pth"
        self.epoch = self.best_epoch = 0
        self.best = -1.0
        self.best_weights: dict[str, Tensor] = {}
        ignored = SETTLES_NOTHING.union(settles_nothing)
        settings = {name: value for name, value in plain(config).items() if name not in ignored}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        sequences = (catalogue.sequence, catalogue.offsets, catalogue.train_end, catalogue.valid_end)
        for array in (*sequences, catalogue.item_ids, *inputs):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.key = digest.hexdigest()

    @abstractmethod
    def train_epoch(self) -> float:
        """One pass over the training samples, whose randomness depends on seed and `epoch` alone; gives the loss."""

    @abstractmethod
    def quality(self, split: Split) -> float:
        """NDCG@10 on a split."""

    def stateful(self) -> dict[str, Any]:
        """What the next epoch depends on, by its name in the checkpoint."""
        return {"model": self.model, "optimizer": self.optimizer}

    def run(self) -> None:
        """Trains until `patience` epochs have brought nothing, or `epochs` are over; ends with the best weights."""
        self._resume()
        while self.epoch < self.config.epochs and self.epoch - self.best_epoch < self.config.patience:
            started = time.monotonic()
            self.epoch += 1
            loss = self.train_epoch()
            if not math.isfinite(loss):
                raise ValueError(f"the loss of epoch {self.epoch} is {loss}: give a lower --learning_rate")
            quality = self.quality("valid")
            if quality > self.best:
                self.best, self.best_epoch = quality, self.epoch
                self.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self._save()
            seconds = time.monotonic() - started
            logger.info(
                "epoch %d of %d: loss %.4f, valid ndcg@10 %.4f (best %.4f after %d), %.0f s, %.0f min left at most",
                self.epoch, self.config.epochs, loss, quality, self.best, self.best_epoch, seconds,
                seconds * (self.config.epochs - self.epoch) / 60,
            )  # fmt: skip
        barrier()
        self.model.load_state_dict(self.best_weights)

    def load(self) -> None:
        """Takes the best weights of a run of these settings and data, and trains no more.

        Raises:
            FileNotFoundError, ValueError: there is none.
        """
        if not self.checkpoint.is_file():
            raise FileNotFoundError(
                f"{self.checkpoint} does not exist: train the baseline anew with --results_file"
                f" {self.config.results_file}"
            )
        self._resume()
        if not self.epoch:
            raise ValueError(
                f"{self.checkpoint} is of other data than {self.catalogue.paths.file('inter.json')}, or of other"
                f" settings than {self.config.results_file} tells: train the baseline anew"
            )
        self.model.load_state_dict(self.best_weights)

    def _resume(self) -> None:
        """Takes up what a killed run of the same settings and data left."""
        if not self.checkpoint.is_file():
            return
        device = next(self.model.parameters()).device
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        if state["key"] != self.key:
            logger.info("%s is of other data or settings: training starts anew", self.checkpoint)
            return
        if state["epoch"] > self.config.epochs:
            raise ValueError(
                f"{self.checkpoint} has {state['epoch']} epochs, --epochs {self.config.epochs} asks for fewer:"
                f" give another --results_file, or delete that file"
            )
        for name, part in self.stateful().items():
            part.load_state_dict(state[name])
        self.epoch, self.best, self.best_epoch = state["epoch"], state["best"], state["best_epoch"]
        self.best_weights = state["best_weights"]
        logger.info("goes on after epoch %d of %s", self.epoch, self.checkpoint)

    def _save(self) -> None:
        if is_main():
            state = {
                "key": self.key,
                "epoch": self.epoch,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "best_weights": self.best_weights,
                **{name: part.state_dict() for name, part in self.stateful().items()},
            }
            with atomic_path(self.checkpoint) as temporary:
                torch.save(state, temporary)
