"""evaluate(config): questions, beam search under the trie, ranked items, metrics. One process or many give the same."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.baselines.tiger import is_tiger
from src.common.artifacts import read_json
from src.common.cli import check_at_least
from src.common.distributed import (
    barrier,
    check_device_name,
    finish,
    gather,
    init_process_group,
    is_main,
    resolve_device,
    world_size,
)
from src.common.interactions import interaction_files
from src.common.log import logger, setup_logging
from src.common.parts import Parts as CommonParts
from src.common.parts import cut_batches as cut_by_size
from src.common.parts import key_of
from src.common.record import input_entries, model_files
from src.families import base_input, check_finetuned, check_index, check_weights
from src.prompt_settings import check_templates, checkpoint_settings
from src.seqrec.config import HOW_ASKED, EvaluateConfig
from src.seqrec.fusing import CHOSEN_ON, Answers, check_fusion, check_sasrec, fuse, member_configs
from src.seqrec.metrics import PADDING, parse_metrics
from src.seqrec.results import (
    Predictions,
    Ranked,
    check_results_file,
    predictions_path,
    summarize,
    write_results,
)
from src.tasks.catalogue import Catalogue, load_catalogue, whole_images
from src.tasks.task import ALIASES, KINDS, Split, Task, Template, load_task, wording_ids
from src.tasks.texts import add_texts

if TYPE_CHECKING:
    import torch

    from src.seqrec.ranker import Ranker


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
    asked = wording_ids(config.test_prompt_ids, task, len(task.item_templates))
    parse_metrics(config.metrics, config.num_beams)
    tiger = is_tiger(config.ckpt_model)
    if tiger and config.lora:
        raise ValueError(f"{config.ckpt_model} is a TIGER, which has no adapter: leave out --lora")
    if tiger and config.prompt_lang:
        raise ValueError(f"{config.ckpt_model} is a TIGER, which reads no words: leave out --prompt_lang")
    if not tiger:
        check_finetuned(config.ckpt_model, config.base_model, config.lora)
        check_templates(config.ckpt_model, task)
    elif task.name != "seqrec" or list(asked) != [0]:
        raise ValueError(
            f"{config.ckpt_model} is a TIGER, which reads no words: --test_task seqrec, --test_prompt_ids 0"
        )
    else:
        check_weights(config.ckpt_model)
    catalogue = load_catalogue(
        config.data_path, config.dataset, config.index_file, config.image_path, needs_texts=not tiger
    )
    catalogue = add_texts(catalogue, [task])
    check_index(config.ckpt_model, config.dataset, catalogue.index)
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
        items = catalogue.item_split(config.split, not samples_are_seen(config))
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
    """Batches of samples with histories of like lengths."""
    return cut_by_size(samples.positions, size)


class Parts(CommonParts):
    """Ranked lists made so far."""

    def __init__(
        self, config: EvaluateConfig, catalogue: Catalogue, name: str = "", inputs: dict[str, Any] | None = None
    ):
        """`name` tells the parts of one results file from each other; `inputs` are those of the results."""
        folder = predictions_path(config.results_path).with_suffix(f"{name}.parts")
        super().__init__(folder, self._key(config, catalogue, inputs))

    @staticmethod
    def _key(config: EvaluateConfig, catalogue: Catalogue, inputs: dict[str, Any] | None) -> dict:
        """What the predictions depend on: settings, prompts, data, pictures, index, models."""
        prompts = checkpoint_settings(config.ckpt_model, config.prompt_lang)
        wordings = load_task(config.test_task, prompts.prompt_lang).templates_sha256
        files = [
            *interaction_files(catalogue.paths),
            catalogue.index.file,
            *filter(Path.is_file, map(catalogue.paths.file, ("item.json", "split.json"))),
            *([catalogue.paths.file("user.json")] if catalogue.user_texts else []),
            *model_files(config.ckpt_model),
        ]
        return key_of([config, prompts, wordings], files, inputs)

    def done(self, prompt_id: int) -> Iterator[tuple[np.ndarray, Ranked]]:
        for samples, part in self.read(prompt_id):
            yield samples, Ranked(part["items"], part["scores"])

    def write(self, prompt_id: int, samples: list[np.ndarray], ranked: list[Ranked]) -> None:
        self.save(prompt_id, samples, [part._asdict() for part in ranked])


class Heard(NamedTuple):
    """What the models answered."""

    answers: dict[str, list[Answers]]  # of each model, by split; on rank 0
    parts: list[Parts]
    names: list[str]
    settings: dict[str, Any]  # of the first model, where it has some to tell
    num_tokens: int  # whose mean log-probability a score of the first model is
    num_asked: int  # by this rank


def ask_models(
    members: list[EvaluateConfig], checked: list[tuple[Task, list[int], Catalogue]], asked: dict[Split, Samples],
    several: bool, device: "torch.device", inputs: dict[str, Any],
) -> Heard:  # fmt: skip
    """Asks one model after another about the samples of each split; `inputs` are those of the results."""
    from src.seqrec.fusion import chances_of  # these import torch: after the checks, so that a fault shows at once
    from src.seqrec.ranker import load_ranker

    heard = Heard({split: [] for split in asked}, [], [], {}, 0, 0)
    for number, (member, (task, prompt_ids, catalogue)) in enumerate(zip(members, checked, strict=True), 1):
        ranker = load_ranker(member, catalogue, device)
        for split, samples in asked.items():
            batches = cut_batches(samples, member.test_batch_size)
            name = f".{number}-{split}" if several else ""
            own = member
            if split != member.split:  # parts number the samples: those of another --fuse_sample_num are others
                own = replace(member, split=split, sample_num=len(samples.users))
            with Parts(own, catalogue, name, inputs) as parts:
                done = sum(ask(ranker, task.item_templates[i], i, samples, batches, parts) for i in prompt_ids)
            heard = heard._replace(num_asked=heard.num_asked + done)
            heard.parts.append(parts)
            if is_main():
                found = [collect(parts, i, samples, catalogue, ranker.list_length) for i in prompt_ids]
                chances = [
                    chances_of(Ranked(part.ranked, part.scores), ranker.num_tokens, ranker.sharing) for part in found
                ]
                heard.answers[split].append(Answers(found, chances))
        heard.names.append(ranker.name)
        if number == 1:
            heard.settings.update(ranker.settings)
            heard = heard._replace(num_tokens=ranker.num_tokens)
        del ranker  # before the next is loaded
    return heard


def read_inputs(
    config: EvaluateConfig, members: list[EvaluateConfig], checked: list[tuple[Task, list[int], Catalogue]]
) -> dict[str, Any]:
    """`inputs` of the results file: data, and the models with their indexes."""
    inputs: dict[str, Any] = {}
    for number, (member, (task, _, catalogue)) in enumerate(zip(members, checked, strict=True), 1):
        which = f" {number}" if number > 1 else ""
        files = catalogue.input_files()
        inputs |= {name + which if name == "index" else name: path for name, path in files.items()}
        inputs[f"checkpoint{which}"] = member.ckpt_model
        if task.needs_images:
            inputs |= catalogue.input_pictures(config.image_path)
    for member in members:
        if config.base_model and member.lora:
            inputs["base model"] = base_input(member.ckpt_model, config.base_model)
    if config.fuse_results:
        inputs["SASRec results"] = config.fuse_results
    return input_entries(inputs)


def with_whole_images(
    config: EvaluateConfig, task: Task, asked: list[int], catalogue: Catalogue
) -> tuple[Task, list[int], Catalogue]:
    """What `check` gave, with the pictures that decode where any are shown: a broken one would end a long run."""
    if task.needs_images:
        catalogue = whole_images(catalogue, catalogue.image_files, config.skip_bad_images)
    return task, asked, catalogue


def evaluate(config: EvaluateConfig) -> Path:
    """Evaluates one model on one task, or several models and collaborative scores as one.

    Returns:
        the results file; per-sample predictions lie beside it.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    setup_logging()
    plan = check_fusion(config)
    members = member_configs(config)
    checked = [with_whole_images(member, *check(member)) for member in members]
    task, _, catalogue = checked[0]
    if config.fuse and task.kind != "next_item":
        raise ValueError(f"--fuse counts what follows a history, and {task.name} asks for something else")
    if task.kind == "item" and len({samples_are_seen(member) for member in members}) > 1:
        raise ValueError(
            "--ensemble: some of these models were trained with --item_split holdout and some were not, so that they"
            f" have not seen the same items of {task.name}"
        )
    asked: dict[Split, Samples] = {config.split: make_samples(config, task, catalogue)}
    if plan and plan.chooses and config.split != CHOSEN_ON:
        chosen_by = replace(config, split=CHOSEN_ON, sample_num=config.fuse_sample_num)
        asked[CHOSEN_ON] = make_samples(chosen_by, task, catalogue)
    check_results_file(config.results_path)
    if "sasrec" in config.fuse and is_main():  # which alone fuses
        check_sasrec(config, catalogue)
    if config.results_path.exists():
        logger.info("%s is there already and will be replaced", config.results_path)
    device = resolve_device(config.device)
    init_process_group(device)
    # Now, since they may change while it runs.
    inputs = gather(read_inputs(config, members, checked) if is_main() else {})[0]
    started = time.time()
    heard = ask_models(members, checked, asked, plan is not None, device, inputs)
    if is_main():
        seconds = time.time() - started
        predictions = heard.answers[config.split][0].predictions
        tiger = is_tiger(config.ckpt_model)
        extra = {
            "is_lora": config.lora,
            "base_model": config.base_model,
            "index": str(catalogue.index.file),
            "checkpoint": str(config.ckpt_model),
            "inputs": inputs,
            "test_task": task.name,
            "prompt_lang": None if tiger else checkpoint_settings(config.ckpt_model, config.prompt_lang).prompt_lang,
            "model": " + ".join([*heard.names, *config.fuse]),
            "split": "seen" if task.kind == "item" and samples_are_seen(config) else config.split,
            "filter_history": config.filter_history,
            "legal_softmax": config.legal_softmax,
            "exact": config.exact,
            "asked": {name: getattr(config, name) for name in (*HOW_ASKED, "sample_num", "seed")},
            "valid_beams": valid_share(predictions, catalogue),
            **({"settings": heard.settings} if heard.settings else {}),
            **({} if plan else {"score_tokens": heard.num_tokens}),
        }
        if plan:
            valid = heard.answers.get(CHOSEN_ON, [])
            predictions, extra["fusion"] = fuse(plan, config, catalogue, heard.answers[config.split], valid)
        summary = summarize(predictions, catalogue, config.metrics, extra)
        write_results(config.results_path, predictions, summary)
        for parts in heard.parts:
            parts.remove()
        rate = heard.num_asked * world_size() / max(seconds, 1e-9)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in summary["mean_results"].items())
        logger.info("%s, %d samples, %.0f a second: %s", task.name, summary["num_samples"], rate, shown)
        logger.info("results in %s, predictions beside it", config.results_path)
    barrier()
    finish()
    return config.results_path


def valid_share(predictions: list[Predictions], catalogue: Catalogue) -> float:
    """Share of what was ranked that are items of the catalogue: 1, or the search left the trie."""
    given = np.concatenate([part.ranked[part.ranked != PADDING] for part in predictions])
    return float(np.isin(given, catalogue.item_ids).mean())


def samples_are_seen(config: EvaluateConfig) -> bool:
    """Whether the model was trained on all items; else some were held out."""
    run = Path(config.ckpt_model) / "run.json"
    return not run.is_file() or read_json(run)["config"].get("item_split") != "holdout"


def ask(
    ranker: "Ranker",
    template: Template,
    prompt_id: int,
    samples: Samples,
    batches: list[np.ndarray],
    parts: Parts,
) -> int:
    """Ranks this rank's share of the batches that are not on disk yet; gives the number of samples asked."""

    def rank(batch: np.ndarray) -> dict[str, np.ndarray]:
        histories = [samples.history(ranker.catalogue, int(i)) for i in batch]
        return ranker.rank(template, histories, samples.targets[batch], samples.text_rows(batch))._asdict()

    return parts.work(prompt_id, batches, rank)


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
