"""Training and evaluation of TIGER; decoding is that of every model, under the trie of real items."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from src.baselines.core import last_items
from src.baselines.tiger import TigerConfig
from src.baselines.tiger_model import Tiger, new_model, save_tiger
from src.baselines.training import Training
from src.common.cli import check_at_least
from src.common.distributed import (
    barrier,
    gather,
    init_process_group,
    is_main,
    rank,
    resolve_device,
    shard,
    world_size,
)
from src.common.record import plain, run_record
from src.common.seed import seed_everything
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import evaluate
from src.seqrec.metrics import parse_metrics, per_sample_metrics, ranks_of
from src.seqrec.results import change_results, check_results_file
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import Split

MAX_GRADIENT_NORM = 1.0
JUDGED_BY = "ndcg@10"
JUDGING_BEAMS = 20


class TigerTraining(Training):
    """TIGER on the sliding windows of the training sequences: every item from the second on is a target."""

    config: TigerConfig

    def __init__(self, catalogue: Catalogue, config: TigerConfig):
        index = catalogue.index
        codes = index.codes[index.rows_of(catalogue.item_ids)]
        super().__init__(catalogue, config, [codes, np.array(index.codebook_sizes)], ["test_batch_size"])
        check_at_least(config, num_layers=1, hidden_size=1, num_heads=1, head_size=1, intermediate_size=1)
        check_at_least(config, max_his_len=1, max_valid_samples=0, test_batch_size=1, weight_decay=0)
        for name in ("dropout", "warmup_ratio"):
            if not 0 <= getattr(config, name) < 1:
                raise ValueError(f"--{name} {getattr(config, name)}: it must be at least 0 and below 1")
        if config.batch_size < world_size():
            raise ValueError(f"--batch_size {config.batch_size} leaves some of {world_size()} ranks without a sample")
        self.device = resolve_device(config.device)
        seed_everything(config.seed)
        self.model = new_model(config, index).to(self.device)
        asked = EvaluateConfig(
            config.dataset, config.index_file, self.checkpoint.parent, num_beams=JUDGING_BEAMS, metrics=(JUDGED_BY,),
            filter_history=config.filter_history,
        )  # fmt: skip
        self.tiger = Tiger(asked, catalogue, self.model, config.max_his_len, self.device)
        self.parallel: nn.Module = DistributedDataParallel(self.model) if world_size() > 1 else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.targets = catalogue.next_item_targets("train")
        num_samples = len(self.targets.users)
        self.steps_per_epoch = math.ceil(num_samples / config.batch_size)
        if num_samples // self.steps_per_epoch < world_size():
            raise ValueError(f"{catalogue.name} has {num_samples} training samples, too few for {world_size()} ranks")

    def train_epoch(self) -> float:
        """One pass over the samples in batches of histories of like lengths; gives the mean loss of a token."""
        self.parallel.train()
        rng = np.random.default_rng((self.config.seed, self.epoch))
        torch.manual_seed((self.config.seed * 100_003 + self.epoch) * world_size() + rank())
        lengths = np.minimum(self.targets.positions, self.config.max_his_len)
        batches = np.array_split(np.argsort(lengths + rng.uniform(0, 2, len(lengths))), self.steps_per_epoch)
        losses = torch.zeros((), device=self.device)
        for step, number in enumerate(rng.permutation(len(batches))):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.rate((self.epoch - 1) * len(batches) + step)
            own = np.array_split(batches[number], world_size())[rank()]
            users, positions = (part[own] for part in self.targets)
            columns = last_items(self.catalogue, users, positions, self.config.max_his_len)
            labels = self.tiger.answers(self.catalogue.sequence[self.catalogue.offsets[users] + positions])
            loss = self.parallel(**self.tiger.questions(columns), labels=labels).loss
            self.optimizer.zero_grad(set_to_none=True)
            # Of the batch the mean: ranks with fewer samples count for less.
            (loss * (len(own) * world_size() / len(batches[number]))).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step()
            losses += loss.detach()
        return float(np.mean(gather(float(losses / len(batches)))))

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: a linear rise, then a cosine down to 0."""
        total = self.config.epochs * self.steps_per_epoch
        warmup = max(1, round(self.config.warmup_ratio * total))
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2

    def quality(self, split: Split) -> float:
        """NDCG@10 on a seeded part of the split; equal on all ranks, which share whole batches."""
        self.model.eval()
        users, positions = self.catalogue.next_item_targets(split)
        if 0 < self.config.max_valid_samples < len(users):
            kept = np.random.default_rng(self.config.seed).permutation(len(users))[: self.config.max_valid_samples]
            users, positions = users[np.sort(kept)], positions[np.sort(kept)]
        order = np.argsort(positions, kind="stable")
        batches = np.split(order, range(self.config.test_batch_size, len(order), self.config.test_batch_size))
        total = 0.0
        for batch in shard(batches):
            samples = list(zip(users[batch].tolist(), positions[batch].tolist(), strict=True))
            ranked = self.tiger.rank(None, [self.catalogue.history(*sample) for sample in samples]).items
            ranks = ranks_of(ranked, np.array([self.catalogue.target(*sample) for sample in samples]))
            total += float(per_sample_metrics(ranks, [JUDGED_BY])[JUDGED_BY].sum())
        return sum(gather(total)) / len(users)


def run_tiger(config: TigerConfig) -> Path:
    """Trains, or goes on training, and evaluates as every model is; gives the path of the results."""
    check_at_least(config, num_beams=1)
    names = parse_metrics(config.metrics, config.num_beams)
    catalogue = load_catalogue(config.data_path, config.dataset, config.index_file, needs_texts=False)
    check_results_file(config.results_file)
    init_process_group(resolve_device(config.device))
    record = run_record(config, catalogue.input_files() if is_main() else {})
    training = TigerTraining(catalogue, config)
    training.run()
    folder = training.checkpoint.parent
    if is_main():
        best = {"best_epoch": training.best_epoch, f"valid_{JUDGED_BY}": training.best}
        save_tiger(folder, training.tiger, best, record)
    barrier()
    results_file = evaluate(
        EvaluateConfig(
            config.dataset, config.index_file, folder, data_path=config.data_path, split=config.split,
            num_beams=config.num_beams, test_batch_size=config.test_batch_size, metrics=tuple(names),
            filter_history=config.filter_history, results_file=Path(config.results_file), device=config.device,
        )
    )  # fmt: skip
    if is_main():
        change_results(results_file, config=plain(config))
    return results_file
