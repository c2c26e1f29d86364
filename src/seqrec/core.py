"""evaluate(config): questions, beam search under the trie, ranked items, metrics. One process or many give the same."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.common.artifacts import (
    TOKEN_META,
    atomic_path,
    check_writable,
    file_hash,
    load_token_meta,
    read_json,
    write_json,
)
from src.common.cli import check_at_least
from src.common.distributed import (
    barrier,
    check_device_name,
    finish,
    init_process_group,
    is_main,
    resolve_device,
    shard,
    world_size,
)
from src.common.log import logger, setup_logging
from src.common.record import plain
from src.common.sid import SidIndex
from src.families import check_finetuned
from src.prompt import check_templates, checkpoint_settings
from src.seqrec.config import EvaluateConfig
from src.seqrec.metrics import PADDING, parse_metrics
from src.seqrec.results import Predictions, Ranked, predictions_path, summarize, write_results
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import ALIASES, KINDS, Task, Template, load_task
from src.tasks.texts import add_texts

if TYPE_CHECKING:
    from src.seqrec.recommender import Recommender

SAVE_SECONDS = 60  # how much work a killed run may lose


@dataclass(frozen=True)
class Samples:
    """What is asked: (M,) users and positions, or items, or rows of the texts about users; and the right items."""

    users: np.ndarray
    positions: np.ndarray  # length of the history
    targets: np.ndarray
    next_item: bool
    texts: np.ndarray | None = None  # rows of catalogue.user_texts["query"]

    def history(self, catalogue: Catalogue, sample: int) -> np.ndarray:
        if self.texts is not None:
            return catalogue.user_texts["query"].histories[self.texts[sample]]
        if not self.next_item:
            return np.empty(0, np.int64)
        return catalogue.history(int(self.users[sample]), int(self.positions[sample]))

    def names(self, catalogue: Catalogue) -> list[str]:
        return [catalogue.users[user] if self.next_item else str(user) for user in self.users]

    def text_rows(self, samples: np.ndarray) -> np.ndarray:
        """Row of the text that each sample speaks of; -1 where it speaks of none."""
        return np.full(len(samples), -1) if self.texts is None else self.texts[samples]

    def pick(self, kept: np.ndarray) -> "Samples":
        texts = None if self.texts is None else self.texts[kept]
        return Samples(self.users[kept], self.positions[kept], self.targets[kept], self.next_item, texts)


def check_index(config: EvaluateConfig, index: SidIndex) -> None:
    """Refuses an index other than the one that the checkpoint was trained with, and a model that knows no SIDs."""
    meta = load_token_meta(config.ckpt_model)
    if meta is not None:
        indexes = meta.get("indexes", {})
        known = {meta.get("index_sha256"), *indexes.values()} - {None}
        if config.dataset in indexes:
            known = {indexes[config.dataset]}
        if known and file_hash(index.path) not in known:
            raise ValueError(
                f"{config.ckpt_model} was trained with another SID index than {index.path}: its tokens would name other"
                f" items. Give the index that its run.json names"
            )
        return
    # A model of another system passes if its tokenizer has the tokens of the index.
    token = index.all_tokens[0]
    files = [Path(config.ckpt_model, name) for name in ("tokenizer.json", "added_tokens.json")]
    if not any(f'"{token}"' in file.read_text(encoding="utf-8") for file in files if file.is_file()):
        raise ValueError(
            f"{config.ckpt_model} was not fine-tuned on SIDs: it has no {TOKEN_META}, and its tokenizer does not know"
            f" {token}. Fine-tune it first (python -m src.finetune.train_ddp_vl) and give that --output_dir"
        )


def parse_prompt_ids(text: str, task: Task) -> list[int]:
    """The wordings that --test_prompt_ids names: numbers with commas, or all that ask for an item."""
    number = len(task.item_templates)
    try:
        asked = list(range(number)) if text == "all" else [int(i) for i in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--test_prompt_ids {text!r}: numbers with commas, or all") from error
    if not asked or not all(0 <= i < number for i in asked) or len(set(asked)) != len(asked):
        raise ValueError(
            f"--test_prompt_ids {text}: {task.name} asks for items in wordings 0 to {number - 1}, each named once"
        )
    return asked


def check(config: EvaluateConfig) -> tuple[Task, list[int], Catalogue]:
    """Everything that can be wrong before torch is imported and the model loaded."""
    settings = checkpoint_settings(config.ckpt_model, config.prompt_lang)
    tasks = {name: load_task(name, settings.prompt_lang) for name in (*KINDS, *ALIASES)}
    task = tasks.get(config.test_task)
    if task is None or not task.item_templates:
        able = ", ".join(name for name, task in tasks.items() if task.item_templates)
        other = " Its answers are texts: use python -m src.text_generation.evaluate" if task else ""
        raise ValueError(f"--test_task {config.test_task!r} is not ranked here: choose from {able}.{other}")
    if not config.filter_items:
        raise ValueError("--filter_items False: GRec always decodes under the trie of real items")
    check_device_name(config.device)
    check_at_least(config, num_beams=1, test_batch_size=1, sample_num=0)
    if config.max_his_len is not None:
        check_at_least(config, max_his_len=0)
    asked = parse_prompt_ids(config.test_prompt_ids, task)
    parse_metrics(config.metrics, config.num_beams)
    check_finetuned(config.ckpt_model, config.base_model, config.lora)
    check_templates(config.ckpt_model, task)
    catalogue = add_texts(
        load_catalogue(config.data_path, config.dataset, config.index_file, config.image_path), [task]
    )
    check_index(config, catalogue.sid_index)
    if task.needs_images and not catalogue.image_files:
        raise ValueError(f"{task.name} shows pictures, and {catalogue.paths.folder / config.image_path} has none")
    if task.needs_images:
        logger.info("pictures: %d of %d items", len(catalogue.image_files), len(catalogue.item_ids))
    return task, asked, catalogue


def make_samples(config: EvaluateConfig, task: Task, catalogue: Catalogue) -> Samples:
    """The samples of the split, or a seeded part of them."""
    if task.kind == "query":
        texts = catalogue.user_texts["query"]
        rows = task.example_ids(catalogue, config.split)
        lengths = np.array([len(texts.histories[row]) for row in rows], np.int64)
        samples = Samples(texts.users[rows], lengths, texts.items[rows], next_item=True, texts=rows)
    elif task.kind == "item":
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
        why = "user.json has no query for it" if task.kind == "query" else "every user has fewer than 3 items"
        raise ValueError(f"{catalogue.name} has no {config.split} sample: {why}")
    if 0 < config.sample_num < len(samples.users):
        kept = np.sort(np.random.default_rng(config.seed).permutation(len(samples.users))[: config.sample_num])
        samples = samples.pick(kept)
    return samples


def cut_batches(samples: Samples, size: int) -> list[np.ndarray]:
    """Batches of samples with histories of like lengths, cut over the whole split: ranks take whole batches.

    So a batch holds the same samples on 1 rank and on N, and no sample is padded in or dropped.
    """
    order = np.argsort(samples.positions, kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


class Parts:
    """Predictions made so far, on disk: what one run leaves, the next goes on from, on any number of ranks.

    A context: a failure leaves the folder only if there is something in it to go on from.
    """

    def __init__(self, config: EvaluateConfig, catalogue: Catalogue):
        self.folder = predictions_path(config.results_file).with_suffix(".parts")
        key = self._key(config, catalogue)
        if is_main():
            stamp = self.folder / "run.json"
            if not stamp.is_file() or read_json(stamp) != key:
                shutil.rmtree(self.folder, ignore_errors=True)
                write_json(stamp, key)
        barrier()

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_) -> None:
        if is_main() and not any(self.folder.glob("*.npz")):
            self.remove()

    @staticmethod
    def _key(config: EvaluateConfig, catalogue: Catalogue) -> dict:
        """What the predictions depend on: settings, prompts, data, index, weights."""
        prompts = checkpoint_settings(config.ckpt_model, config.prompt_lang)
        wordings = load_task(config.test_task, prompts.prompt_lang).templates_sha256
        weights = sorted(Path(config.ckpt_model).glob("*.safetensors"))
        inputs = [
            catalogue.paths.file("inter.json"),
            catalogue.paths.file("item.json"),
            catalogue.sid_index.path,
            *filter(Path.is_file, [catalogue.paths.file("split.json")]),
            *([catalogue.paths.file("user.json")] if catalogue.user_texts else []),
            *weights,
        ]
        digest = hashlib.sha256(json.dumps(plain([config, prompts, wordings]), sort_keys=True).encode())
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
    setup_logging()
    task, prompt_ids, catalogue = check(config)
    samples = make_samples(config, task, catalogue)
    check_writable(config.results_file)
    if config.results_file.exists():
        logger.info("%s is there already and will be replaced", config.results_file)
    from src.seqrec.recommender import Recommender  # imports torch: after the checks, so that a fault shows at once

    device = resolve_device(config.device)
    init_process_group(device)
    recommender = Recommender(config, catalogue, device)
    batches = cut_batches(samples, config.test_batch_size)
    started = time.time()
    with Parts(config, catalogue) as parts:
        asked = sum(ask(recommender, task.item_templates[i], i, samples, batches, parts) for i in prompt_ids)
    barrier()
    if is_main():
        seconds = time.time() - started
        predictions = [collect(parts, i, samples, catalogue, recommender.list_length) for i in prompt_ids]
        seen = task.kind == "item" and samples_are_seen(config)
        extra = {
            "is_lora": config.lora,
            "base_model": config.base_model,
            "index": str(catalogue.sid_index.path),
            "checkpoint": str(config.ckpt_model),
            "test_task": task.name,
            "prompt_lang": recommender.builder.settings.prompt_lang,
            "model": recommender.loaded.model.config.model_type,
            "split": "seen" if seen else config.split,
            "filter_history": config.filter_history,
            "legal_softmax": config.legal_softmax,
            "exact": config.exact,
            "valid_beams": valid_share(predictions, catalogue),
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


def valid_share(predictions: list[Predictions], catalogue: Catalogue) -> float:
    """Share of what was ranked that are items of the catalogue: 1, or the search left the trie."""
    given = np.concatenate([part.ranked[part.ranked != PADDING] for part in predictions])
    return float(np.isin(given, catalogue.item_ids).mean())


def samples_are_seen(config: EvaluateConfig) -> bool:
    run = Path(config.ckpt_model) / "run.json"
    return not run.is_file() or read_json(run)["config"].get("item_split") != "holdout"


def ask(
    recommender: "Recommender",
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
        ranked.append(recommender.rank(template, histories, samples.targets[batch], samples.text_rows(batch)))
        asked += len(batch)
        if time.time() - saved > SAVE_SECONDS:
            parts.write(prompt_id, numbers, ranked)
            numbers, ranked, saved = [], [], time.time()
    if numbers:
        parts.write(prompt_id, numbers, ranked)
    return asked


def collect(parts: Parts, prompt_id: int, samples: Samples, catalogue: Catalogue, list_length: int) -> Predictions:
    """Puts all ranks' parts in the order of the samples; every sample must be there exactly once."""
    count = np.zeros(len(samples.users), np.int64)
    items = np.full((len(count), list_length), -1, np.int64)
    scores = np.full((len(count), list_length), -np.inf, np.float32)
    for numbers, ranked in parts.done(prompt_id):
        count[numbers] += 1
        items[numbers], scores[numbers] = ranked
    if (count != 1).any():
        raise RuntimeError(
            f"{int((count != 1).sum())} samples have no or several predictions in {parts.folder}: delete it"
        )
    lengths = samples.positions if samples.next_item else None
    return Predictions(samples.names(catalogue), samples.targets, items, scores, prompt_id, lengths)
