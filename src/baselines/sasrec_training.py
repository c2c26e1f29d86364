"""Training SASRec on batches of users with sequences of like lengths."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from src.baselines.core import history_entries, last_items
from src.baselines.sasrec import SASRecConfig
from src.baselines.sasrec_model import LOSSES, SASRec
from src.baselines.training import Training
from src.common.cli import check_at_least
from src.common.distributed import resolve_device, world_size
from src.common.seed import seed_everything
from src.seqrec.results import read_results
from src.tasks.catalogue import Catalogue
from src.tasks.task import Split

EVALUATED = 128  # users scored at a time: their scores stay in the processor's cache
MAX_GRADIENT_NORM = 5.0


class SASRecTraining(Training):
    """SASRec on the users of a dataset."""

    config: SASRecConfig

    def __init__(self, catalogue: Catalogue, config: SASRecConfig):
        super().__init__(catalogue, config, settles_nothing=["epochs"])
        check_at_least(config, hidden_size=1, num_layers=1, num_heads=1, max_his_len=1)
        if config.hidden_size % config.num_heads:
            raise ValueError(f"--hidden_size {config.hidden_size} is no multiple of --num_heads {config.num_heads}")
        if not 0 <= config.dropout < 1:
            raise ValueError(f"--dropout {config.dropout}: it must be at least 0 and below 1")
        check_at_least(config, average_epochs=0)
        self.device = resolve_device(config.device)
        seed_everything(config.seed)
        shape = (config.max_his_len, config.hidden_size, config.num_layers, config.num_heads, config.dropout)
        self.learner = SASRec(len(catalogue.item_ids), *shape).to(self.device)
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=config.learning_rate, betas=(0.9, 0.98))
        self.users = np.flatnonzero(catalogue.train_end > 1)
        length = config.average_epochs * math.ceil(len(self.users) / config.batch_size)  # in steps
        decay = math.exp(-1 / length) if length else 0.0
        self.average = AveragedModel(self.learner, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.model = self.average.module

    def run(self) -> None:
        if world_size() > 1:  # to score is allowed, as one rank does in a fusion
            raise ValueError("SASRec trains in one process: start it without torchrun")
        super().run()

    def train_epoch(self) -> float:
        """One pass over the users in batches of like lengths, drawn by seed and epoch; gives the mean loss."""
        self.learner.train()
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
            loss = LOSSES[self.config.loss](self.learner, self.learner(inputs)[known], targets[known])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            self.average.update_parameters(self.learner)
            rows = int((lengths[batches[number]] - 1).sum())
            total += loss.detach() * rows
            count += rows
        return float(total / count)

    def stateful(self) -> dict[str, Any]:
        """The weights that learn and their mean, which is the model."""
        return {"learner": self.learner, "average": self.average, "optimizer": self.optimizer}

    def sequences(self, users: np.ndarray, ends: np.ndarray, length: int) -> Tensor:
        """(B, T) int64: the last `length` items before `ends` of each user's sequence, 0 to the right of them."""
        return torch.from_numpy(last_items(self.catalogue, users, ends, length) + 1).to(self.device)

    @torch.no_grad()
    def score(self, users: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(B, N) float32 scores of all items for the item at each position."""
        self.model.eval()
        states = self.model.last(self.sequences(users, positions, self.config.max_his_len))
        return self.model.scores(states).cpu().numpy()

    @torch.no_grad()
    def quality(self, split: Split) -> float:
        """NDCG@10 on a split, by the rank of each target alone; equal scores count as better."""
        self.model.eval()
        targets = self.catalogue.next_item_targets(split)
        total = 0.0
        for start in range(0, len(targets.users), EVALUATED):
            users, positions = (part[start : start + EVALUATED] for part in targets)
            scores = torch.from_numpy(self.score(users, positions))
            targets_here = self.catalogue.sequence[self.catalogue.offsets[users] + positions]
            right = torch.from_numpy(np.searchsorted(self.catalogue.item_ids, targets_here))
            own = scores.gather(1, right[:, None])
            if self.config.filter_history:
                rows, columns, _ = history_entries(self.catalogue, users, positions)
                scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
            may_be_found = scores.gather(1, right[:, None]).isfinite().squeeze(1)  # not what the user had already
            ranks = (scores >= own).sum(1) - 1
            total += float((1 / torch.log2(ranks.double() + 2))[may_be_found & (ranks < 10)].sum())
        return total / max(1, len(targets.users))


def load_sasrec(results_file: str | Path, catalogue: Catalogue, device: str = "auto") -> SASRecTraining:
    """The SASRec behind a results file of `src.baselines.sasrec`, trained on this catalogue.

    Raises:
        FileNotFoundError, ValueError: it is of another model or dataset, or the weights beside it are gone.
    """
    results = read_results(results_file)
    if results.get("model") != "sasrec":
        raise ValueError(f"{results_file} is of the model {results.get('model')}: give results of src.baselines.sasrec")
    settings = {**results["config"], "results_file": Path(results_file), "device": device}
    training = SASRecTraining(catalogue, SASRecConfig(**settings))
    training.load()
    return training
