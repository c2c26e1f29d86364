"""evaluate(config): questions, beam search under the trie, ranked items, metrics. One process or many give the same."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from src.common.artifacts import atomic_path, file_hash, read_json, write_json
from src.common.distributed import barrier, finish, init_process_group, is_main, resolve_device, shard, world_size
from src.common.log import logger, setup_logging
from src.common.record import plain
from src.models import TOKEN_META, AnswerRows, Loaded, load_finetuned
from src.prompt import PromptBuilder, PromptSettings
from src.seqrec.config import EvaluateConfig
from src.seqrec.metrics import parse_metrics
from src.seqrec.results import Predictions, predictions_path, summarize, write_results
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import KINDS, Task, Template, load_task

SAVE_SECONDS = 60  # how much work a killed run may lose


class Ranked(NamedTuple):
    items: np.ndarray  # (M, K) int64 item ids, best first, -1 where a list is shorter
    scores: np.ndarray  # (M, K) float32, -inf there


@dataclass(frozen=True)
class Samples:
    """What is asked: (M,) users and positions, or items; and the right item of each."""

    users: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    next_item: bool

    def history(self, catalogue: Catalogue, sample: int) -> np.ndarray:
        if not self.next_item:
            return np.empty(0, np.int64)
        return catalogue.history(int(self.users[sample]), int(self.positions[sample]))

    def names(self, catalogue: Catalogue) -> list[str]:
        return [catalogue.users[user] if self.next_item else str(user) for user in self.users]


class Recommender:
    """A fine-tuned model with the trie of its catalogue: ranks items for any questions about it."""

    def __init__(self, config: EvaluateConfig, catalogue: Catalogue, device: torch.device):
        self.config, self.catalogue, self.device = config, catalogue, device
        check_index(config, catalogue)
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.loaded: Loaded = load_finetuned(config.ckpt_model, config.base_model, config.lora, dtype)
        self.loaded.model.to(device).eval()
        self.answer_rows = AnswerRows(self.loaded.model)
        settings = training_settings(config)
        self.builder = PromptBuilder(
            catalogue, self.loaded.tokenizer, self.loaded.processor, settings, self.loaded.merge_size
        )
        from src.collate import PromptCollator
        from src.decoding import Trie

        self.collate = PromptCollator(self.loaded.tokenizer.pad_token_id, self.loaded.family.mrope)
        self.trie = Trie(self.builder.sids, device)
        self.items_of_leaf = self._items_of_leaf()

    def _items_of_leaf(self) -> list[np.ndarray]:
        """Items of each SID; those that share one stand by popularity in training, then by id."""
        leaves = self.trie.nodes[-1]
        items = self.catalogue.item_ids
        order = np.lexsort((items, -self.catalogue.popularity[items], leaves))
        return np.split(items[order], np.flatnonzero(np.diff(leaves[order])) + 1)

    def rank(self, template: Template, histories: Sequence[np.ndarray], items: Sequence[int]) -> Ranked:
        """Ranked items for one batch of questions; `items` fill slots such as {title} and never the answer."""
        from src.decoding import beam_search

        beams = self.config.num_beams
        reserve = self.trie.num_levels + 1
        questions = [
            self.builder.question(template, history, int(item), reserve)
            for history, item in zip(histories, items, strict=True)
        ]
        inputs = {name: value.to(self.device) for name, value in self.collate(questions).items()}
        left_out = None
        if self.config.filter_history:
            left_out = [self.builder.row_of[np.asarray(history, np.int64)] for history in histories]
        found = beam_search(
            self.loaded.model, inputs, self.trie, beams, self.builder.end_token, left_out, self.config.legal_softmax
        )
        ranked = np.full((len(questions), beams), -1, np.int64)
        scores = np.full((len(questions), beams), -np.inf, np.float32)
        leaves, leaf_scores = found.leaves.cpu().numpy(), found.scores.float().cpu().numpy()
        for row, history in enumerate(histories):
            place = 0
            for leaf, score in zip(leaves[row], leaf_scores[row], strict=True):
                members = self.items_of_leaf[leaf] if leaf >= 0 else ()
                if self.config.filter_history and len(members):
                    members = members[~np.isin(members, history)]
                taken = members[: beams - place]
                ranked[row, place : place + len(taken)] = taken
                scores[row, place : place + len(taken)] = score
                place += len(taken)
        return Ranked(ranked, scores)

    def use_pictures(self, files: dict[int, Path]) -> None:
        """Shows other picture files from now on."""
        self.catalogue = replace(self.catalogue, image_files=files)
        self.builder = self.builder.with_catalogue(self.catalogue)

    @torch.inference_mode()
    def answer_losses(self, template: Template, items: Sequence[int]) -> np.ndarray:
        """(M,) cross-entropy of the right answer to a question about each item, per token."""
        from src.collate import TrainingCollator

        samples = [self.builder.sample(template, (), int(item), task) for task, item in enumerate(items)]
        batch = TrainingCollator(self.loaded.tokenizer.pad_token_id, self.loaded.family.mrope)(samples)
        batch = {name: value.to(self.device) for name, value in batch.items()}
        labels, rows, owner = batch.pop("labels"), batch.pop("predict"), batch.pop("task_ids")
        logits = self.answer_rows.logits(self.loaded.model, rows, **batch)
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        total = torch.zeros(len(samples), device=self.device).index_add_(0, owner, losses)
        return (total / torch.bincount(owner, minlength=len(samples))).cpu().numpy()


def training_settings(config: EvaluateConfig) -> PromptSettings:
    """The settings of the checkpoint's prompts, from its run.json; --max_his_len alone may differ, which is said."""
    path = Path(config.ckpt_model) / "run.json"
    values = read_json(path)["prompt_settings"] if path.is_file() else {}
    settings = PromptSettings(**values)
    if config.max_his_len is not None and config.max_his_len != settings.max_his_len:
        logger.info("--max_his_len %d instead of the checkpoint's %d", config.max_his_len, settings.max_his_len)
        settings = PromptSettings(**{**vars(settings), "max_his_len": config.max_his_len})
    return settings


def check_index(config: EvaluateConfig, catalogue: Catalogue) -> None:
    """Refuses an index other than the one that the checkpoint was trained with."""
    path = Path(config.ckpt_model) / TOKEN_META
    if not path.is_file():
        return
    trained = read_json(path).get("index_sha256")
    index_file = catalogue.sid_index.path
    if trained and trained != file_hash(index_file):
        raise ValueError(
            f"{config.ckpt_model} was trained with another SID index than {index_file}: its tokens would name other"
            f" items. Give the index that its run.json names"
        )


def check(config: EvaluateConfig) -> tuple[Task, list[int], Catalogue]:
    """Everything that can be wrong before the model is loaded."""
    if config.test_task not in KINDS or not load_task(config.test_task).item_templates:
        able = [name for name in KINDS if load_task(name).item_templates]
        raise ValueError(f"--test_task {config.test_task!r} is not ranked here: choose from {', '.join(able)}")
    if not config.filter_items:
        raise ValueError("--filter_items False: GRec always decodes under the trie of real items")
    if config.num_beams < 1 or config.test_batch_size < 1:
        raise ValueError("--num_beams and --test_batch_size are at least 1")
    task = load_task(config.test_task)
    number = len(task.item_templates)
    try:
        asked = (
            range(number) if config.test_prompt_ids == "all" else [int(i) for i in config.test_prompt_ids.split(",")]
        )
    except ValueError as error:
        raise ValueError(f"--test_prompt_ids {config.test_prompt_ids!r}: numbers with commas, or all") from error
    if not asked or not all(0 <= i < number for i in asked) or len(set(asked)) != len(asked):
        raise ValueError(
            f"--test_prompt_ids {config.test_prompt_ids}: {task.name} asks for items in wordings 0 to {number - 1},"
            " each named once"
        )
    parse_metrics(config.metrics, config.num_beams)
    catalogue = load_catalogue(config.data_path, config.dataset, config.index_file, config.image_path)
    if task.needs_images and not catalogue.image_files:
        raise ValueError(f"{task.name} shows pictures, and {catalogue.paths.folder / config.image_path} has none")
    if task.needs_images:
        logger.info("pictures: %d of %d items", len(catalogue.image_files), len(catalogue.item_ids))
    return task, list(asked), catalogue


def make_samples(config: EvaluateConfig, task: Task, catalogue: Catalogue) -> Samples:
    """The samples of the split, or a seeded part of them."""
    if task.kind == "item":
        holdout = False
        run = Path(config.ckpt_model) / "run.json"
        if run.is_file():
            holdout = read_json(run)["config"].get("item_split") == "holdout"
        items = catalogue.item_split(config.split, holdout)
        samples = Samples(items, np.zeros_like(items), items, next_item=False)
    else:
        users, positions = catalogue.next_item_targets(config.split)
        targets = catalogue.sequence[catalogue.offsets[users] + positions]
        samples = Samples(users, positions, targets, next_item=True)
    if not len(samples.users):
        raise ValueError(f"{catalogue.name} has no {config.split} sample: every user has fewer than 3 items")
    if 0 < config.sample_num < len(samples.users):
        kept = np.sort(np.random.default_rng(config.seed).permutation(len(samples.users))[: config.sample_num])
        samples = Samples(samples.users[kept], samples.positions[kept], samples.targets[kept], samples.next_item)
    return samples


def cut_batches(samples: Samples, size: int) -> list[np.ndarray]:
    """Batches of samples with histories of like lengths, cut over the whole split: ranks take whole batches.

    So a batch holds the same samples on 1 rank and on N, and no sample is padded in or dropped.
    """
    order = np.argsort(samples.positions, kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


class Parts:
    """Predictions made so far, on disk: what one run leaves, the next goes on from, on any number of ranks."""

    def __init__(self, config: EvaluateConfig, catalogue: Catalogue):
        self.folder = predictions_path(config.results_file).with_suffix(".parts")
        key = self._key(config, catalogue)
        if is_main():
            stamp = self.folder / "run.json"
            if not stamp.is_file() or read_json(stamp) != key:
                shutil.rmtree(self.folder, ignore_errors=True)
                write_json(stamp, key)
        barrier()

    @staticmethod
    def _key(config: EvaluateConfig, catalogue: Catalogue) -> dict:
        """What the predictions depend on: settings, data, index, weights."""
        weights = sorted(Path(config.ckpt_model).glob("*.safetensors"))
        inputs = [
            catalogue.paths.file("inter.json"),
            catalogue.paths.file("item.json"),
            catalogue.sid_index.path,
            *weights,
        ]
        digest = hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode())
        for path in inputs:
            digest.update(file_hash(path).encode())
        return {"key": digest.hexdigest()}

    def done(self, prompt_id: int) -> Iterator[tuple[np.ndarray, Ranked]]:
        for path in sorted(self.folder.glob(f"{prompt_id}-*.npz")):
            with np.load(path, allow_pickle=False) as part:
                yield part["samples"], Ranked(part["items"], part["scores"])

    def write(self, prompt_id: int, samples: list[np.ndarray], ranked: list[Ranked]) -> None:
        with atomic_path(self.folder / f"{prompt_id}-{int(samples[0][0])}.npz") as temporary:
            np.savez(
                temporary,
                samples=np.concatenate(samples),
                items=np.concatenate([part.items for part in ranked]),
                scores=np.concatenate([part.scores for part in ranked]),
            )

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def evaluate(config: EvaluateConfig) -> Path:
    """Evaluates one model on one task.

    Returns:
        the results file; per-sample predictions lie beside it.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    device = resolve_device(config.device)
    init_process_group(device)
    setup_logging()
    task, prompt_ids, catalogue = check(config)
    samples = make_samples(config, task, catalogue)
    recommender = Recommender(config, catalogue, device)
    parts = Parts(config, catalogue)
    batches = cut_batches(samples, config.test_batch_size)
    started = time.time()
    asked = sum(ask(recommender, task.item_templates[i], i, samples, batches, parts) for i in prompt_ids)
    barrier()
    if is_main():
        seconds = time.time() - started
        predictions = [collect(parts, i, samples, catalogue, config.num_beams) for i in prompt_ids]
        seen = task.kind == "item" and samples_are_seen(config)
        extra = {
            "is_lora": config.lora,
            "base_model": config.base_model,
            "index": str(catalogue.sid_index.path),
            "checkpoint": str(config.ckpt_model),
            "test_task": task.name,
            "model": recommender.loaded.model.config.model_type,
            "split": "seen" if seen else config.split,
            "filter_history": config.filter_history,
            "legal_softmax": config.legal_softmax,
            "valid_beams": float(np.mean([(part.ranked >= 0).mean() for part in predictions])),
        }
        summary = summarize(predictions, catalogue, config.metrics, extra)
        write_results(config.results_file, predictions, summary)
        parts.remove()
        rate = asked * world_size() / max(seconds, 1e-9)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in summary["mean_results"].items())
        logger.info("%s, %d samples, %.0f a second: %s", task.name, len(samples.users), rate, shown)
        logger.info("results in %s, predictions beside it", config.results_file)
    barrier()
    finish()
    return config.results_file


def samples_are_seen(config: EvaluateConfig) -> bool:
    run = Path(config.ckpt_model) / "run.json"
    return not run.is_file() or read_json(run)["config"].get("item_split") != "holdout"


def ask(
    recommender: Recommender,
    template: Template,
    prompt_id: int,
    samples: Samples,
    batches: list[np.ndarray],
    parts: Parts,
) -> int:
    """Ranks this rank's share of the batches that are not on disk yet; gives the number of samples asked."""
    from tqdm import tqdm

    finished = {int(i) for numbers, _ in parts.done(prompt_id) for i in numbers}
    barrier()  # every rank has read what is done before any writes more
    mine = shard([batch for batch in batches if int(batch[0]) not in finished])
    numbers, ranked, asked, saved = [], [], 0, time.time()
    for batch in tqdm(mine, desc="decoding", unit="batch", disable=not is_main()):
        histories = [samples.history(recommender.catalogue, int(i)) for i in batch]
        numbers.append(batch)
        ranked.append(recommender.rank(template, histories, samples.targets[batch]))
        asked += len(batch)
        if time.time() - saved > SAVE_SECONDS:
            parts.write(prompt_id, numbers, ranked)
            numbers, ranked, saved = [], [], time.time()
    if numbers:
        parts.write(prompt_id, numbers, ranked)
    return asked


def collect(parts: Parts, prompt_id: int, samples: Samples, catalogue: Catalogue, num_beams: int) -> Predictions:
    """Puts all ranks' parts in the order of the samples; every sample must be there exactly once."""
    count = np.zeros(len(samples.users), np.int64)
    items = np.full((len(count), num_beams), -1, np.int64)
    scores = np.full((len(count), num_beams), -np.inf, np.float32)
    for numbers, ranked in parts.done(prompt_id):
        count[numbers] += 1
        items[numbers], scores[numbers] = ranked
    if (count != 1).any():
        raise RuntimeError(
            f"{int((count != 1).sum())} samples have no or several predictions in {parts.folder}: delete it"
        )
    lengths = samples.positions if samples.next_item else None
    return Predictions(samples.names(catalogue), samples.targets, items, scores, prompt_id, lengths)
