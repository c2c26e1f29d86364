"""Training and evaluation of TIGER; decoding is that of every model, under the trie of real items."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import T5Config, T5ForConditionalGeneration

from src.baselines.core import last_items, tie_order
from src.baselines.tiger import TigerConfig
from src.baselines.training import Training
from src.common.artifacts import check_writable
from src.common.cli import check_at_least
from src.common.distributed import (
    barrier,
    finish,
    gather,
    init_process_group,
    is_main,
    rank,
    resolve_device,
    shard,
    world_size,
)
from src.common.log import logger
from src.common.seed import seed_everything
from src.decoding import beam_search
from src.seqrec.metrics import list_length, parse_metrics, per_sample_metrics, ranks_of
from src.seqrec.ranking import items_of_leaves
from src.seqrec.results import Predictions, summarize, write_results
from src.tasks.catalogue import Catalogue, Split, load_catalogue
from src.trie import Trie

PAD, END, FIRST_TOKEN = 0, 1, 2
MAX_GRADIENT_NORM = 1.0
JUDGED_BY = "ndcg@10"
JUDGING_BEAMS = 20


class TigerTraining(Training):
    """TIGER on the sliding windows of the training sequences: every item from the second on is a target."""

    def __init__(self, catalogue: Catalogue, config: TigerConfig):
        index = catalogue.sid_index
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
        starts = FIRST_TOKEN + np.cumsum([0, *index.codebook_sizes[:-1]])
        self.sids = codes + starts  # of each column of the catalogue
        self.order = tie_order(catalogue)  # rows of the trie: so stand items that share a SID
        self.place_of = np.argsort(self.order)
        self.trie = Trie(self.sids[self.order], self.device)
        seed_everything(config.seed)
        self.model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=int(FIRST_TOKEN + sum(index.codebook_sizes)), d_model=config.hidden_size,
                d_kv=config.head_size, d_ff=config.intermediate_size, num_layers=config.num_layers,
                num_heads=config.num_heads, dropout_rate=config.dropout, decoder_start_token_id=PAD, pad_token_id=PAD,
                eos_token_id=END,
            )
        ).to(self.device)  # fmt: skip
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
            labels = self.answers(users, positions)
            loss = self.parallel(**self.questions(users, positions), labels=labels).loss
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

    def questions(self, users: np.ndarray, positions: np.ndarray) -> dict[str, Tensor]:
        """Inputs of the encoder: SIDs of the latest items before each position and an end, padded on the right."""
        columns = last_items(self.catalogue, users, positions, self.config.max_his_len)
        tokens = np.where(columns[..., None] >= 0, self.sids[columns], PAD).reshape(len(users), -1)
        tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
        tokens[np.arange(len(users)), (columns >= 0).sum(1) * self.sids.shape[1]] = END
        ids = torch.from_numpy(tokens).to(self.device)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    def answers(self, users: np.ndarray, positions: np.ndarray) -> Tensor:
        """(B, L + 1): SID of the item at each position, and the end."""
        items = self.catalogue.sequence[self.catalogue.offsets[users] + positions]
        sids = self.sids[np.searchsorted(self.catalogue.item_ids, items)]
        return torch.from_numpy(np.pad(sids, ((0, 0), (0, 1)), constant_values=END)).to(self.device)

    def quality(self, split: Split) -> float:
        """NDCG@10 on a seeded part of the split; equal on all ranks."""
        found = self.predict(split, JUDGING_BEAMS, self.config.max_valid_samples)
        ranks = ranks_of(found.ranked, found.targets)
        return float(per_sample_metrics(ranks, [JUDGED_BY])[JUDGED_BY].mean())

    def predict(self, split: Split, num_beams: int, most: int = 0) -> Predictions:
        """Ranked lists for the samples of a split, or for `most` of them; ranks share whole batches."""
        self.model.eval()
        users, positions = self.catalogue.next_item_targets(split)
        if not len(users):
            raise ValueError(f"{self.catalogue.name} has no {split} sample: every user has fewer than 3 items")
        if 0 < most < len(users):
            kept = np.sort(np.random.default_rng(self.config.seed).permutation(len(users))[:most])
            users, positions = users[kept], positions[kept]
        order = np.argsort(positions, kind="stable")
        batches = np.split(order, range(self.config.test_batch_size, len(order), self.config.test_batch_size))
        parts = [
            (number, *self.rank_batch(users[batches[number]], positions[batches[number]], num_beams))
            for number in shard(list(range(len(batches))))
        ]
        ranked = np.full((len(users), num_beams), -1, np.int64)
        scores = np.full(ranked.shape, -np.inf, np.float32)
        for part in gather(parts):
            for number, items, values in part:
                ranked[batches[number]], scores[batches[number]] = items, values
        targets = self.catalogue.sequence[self.catalogue.offsets[users] + positions]
        names = [self.catalogue.users[user] for user in users]
        return Predictions(names, targets, ranked, scores, history_lengths=positions)

    def rank_batch(self, users: np.ndarray, positions: np.ndarray, num_beams: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, num_beams) item ids and scores."""
        left_out = None
        if self.config.filter_history:
            histories = [self.catalogue.history(*sample) for sample in zip(users, positions, strict=True)]
            left_out = [self.place_of[np.searchsorted(self.catalogue.item_ids, history)] for history in histories]
        found = beam_search(self.model, self.questions(users, positions), self.trie, num_beams, END, left_out)
        rows, scores = items_of_leaves(
            found.leaves.cpu().numpy(), found.scores.cpu().numpy(), self.trie, num_beams, left_out
        )
        return np.where(rows >= 0, self.catalogue.item_ids[self.order[rows]], -1), scores


def run_tiger(config: TigerConfig) -> Path:
    """Trains, or goes on training, ranks, and writes results as model evaluation does; gives their path."""
    check_at_least(config, num_beams=1)
    names = parse_metrics(config.metrics, config.num_beams)
    catalogue = load_catalogue(config.data_path, config.dataset, config.index_file, needs_texts=False)
    check_writable(config.results_file)
    init_process_group(resolve_device(config.device))
    training = TigerTraining(catalogue, config)
    training.run()
    predictions = training.predict(config.split, list_length(config.num_beams, len(catalogue.item_ids), names))
    if is_main():
        extra = {
            "model": "tiger",
            "is_lora": False,
            "index": str(catalogue.sid_index.path),
            "split": config.split,
            "filter_history": config.filter_history,
            "test_task": "seqrec",
            "settings": {"best_epoch": training.best_epoch, f"valid_{JUDGED_BY}": training.best},
            "config": vars(config),
        }
        results = summarize(predictions, catalogue, names, extra)
        write_results(config.results_file, predictions, results)
        shown = "  ".join(f"{metric} {value:.4f}" for metric, value in results["mean_results"].items())
        logger.info("tiger on %s (%s, %d samples): %s", config.dataset, config.split, results["num_samples"], shown)
        logger.info("results: %s", config.results_file)
    barrier()
    finish()
    return Path(config.results_file)
