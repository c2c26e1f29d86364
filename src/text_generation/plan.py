"""What is asked and in which words: checked before torch is imported and a model loaded."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.common.artifacts import read_json
from src.common.cli import check_at_least
from src.common.distributed import check_device_name
from src.common.log import logger
from src.families import CAPTIONERS, caption_type, check_finetuned, check_index, check_weights, family_of_config
from src.prompt_settings import PromptSettings, check_templates, checkpoint_settings
from src.tasks.catalogue import Catalogue, load_catalogue, whole_images
from src.tasks.task import ALIASES, KINDS, Split, Task, Template, load_task, wording_ids
from src.tasks.texts import add_texts
from src.text_generation.config import TextConfig
from src.text_generation.decoding import Decoding, decoding_of
from src.text_generation.parse import labels_of
from src.text_generation.questions import Samples, Texts, make_samples, zero_shot_templates
from src.text_generation.semantic import check_encoder


@dataclass(frozen=True)
class Wording:
    """One way to ask: a template for the whole answer, or one for each field.

    Attributes:
        answer: template of the right answer.
        labels: slot -> label, where the answer's lines have labels.
        questions: field -> template; `None` is the field of a question for the whole answer.
    """

    prompt_id: int
    answer: Template
    labels: dict[str, str]
    questions: dict[str | None, Template]

    @property
    def shows_pictures(self) -> bool:
        return any("image" in template.slots for template in self.questions.values())


@dataclass(frozen=True)
class Plan:
    """All that is known before a model is loaded."""

    task: Task
    catalogue: Catalogue
    samples: Samples
    wordings: list[Wording]
    language: str
    decoding: Decoding
    without_picture: int

    @property
    def texts(self) -> Texts:
        return Texts(self.catalogue, self.samples, self.language)


def check(config: TextConfig) -> Plan:
    """Everything that can be wrong before torch is imported and the model loaded."""
    captioner = caption_type(config.ckpt_model) if config.ckpt_model.is_dir() else None
    if captioner and (config.lora or not config.zero_shot):
        raise ValueError(
            f"--ckpt_model {config.ckpt_model} is a {captioner}, which GRec does not fine-tune"
            f" ({', '.join(sorted(CAPTIONERS))}): ask it with --zero_shot, and without --lora"
        )
    settings = PromptSettings(prompt_lang=config.prompt_lang or "en")
    if not captioner:
        settings = prompt_settings(config)
    task = load_text_task(config, settings.prompt_lang)
    check_device_name(config.device)
    check_at_least(config, test_batch_size=1, sample_num=0, max_new_tokens=0, page_items=0)
    if not captioner and config.max_new_tokens >= settings.model_max_length:
        raise ValueError(
            f"--max_new_tokens {config.max_new_tokens} leaves no room for a prompt: {config.ckpt_model} takes"
            f" {settings.model_max_length} tokens together, as it was trained"
        )
    decoding = decoding_of(config)
    wordings = make_wordings(config, task, settings.prompt_lang, bool(captioner))
    if captioner:
        check_weights(config.ckpt_model)
    else:
        check_finetuned(config.ckpt_model, config.base_model, config.lora)
        check_pictures(config, task, wordings)
        if not config.zero_shot:
            check_templates(config.ckpt_model, task)
    needs_sids = any({"sid", "history"} & t.slots for wording in wordings for t in wording.questions.values())
    if needs_sids and config.index_file is None:
        raise ValueError(
            f"{task.name} names items by their SIDs: give --index_file; or ask a model that knows none with --zero_shot"
        )
    if not needs_sids and config.zero_shot and config.index_file is not None:
        raise ValueError("--index_file changes nothing with --zero_shot, whose wordings hold no SIDs: leave it out")
    check_encoder("bertscore_model", config.bertscore_model)
    check_encoder("embedding_model", config.embedding_model)
    if config.bertscore_layer is not None and config.bertscore_model is None:
        raise ValueError("--bertscore_layer changes nothing without --bertscore_model")
    index_file = config.index_file if needs_sids else None
    catalogue = load_catalogue(config.data_path, config.dataset, index_file, config.image_path)
    catalogue = add_texts(catalogue, [task])
    if needs_sids:
        check_index(config.ckpt_model, config.dataset, catalogue.index)
    samples = chosen_samples(config, task, catalogue, wordings, settings.prompt_lang)
    pictured = [wording.shows_pictures for wording in wordings]
    if any(pictured):
        catalogue = whole_images(catalogue, samples.items.tolist(), config.skip_bad_images)
    without_picture = sum(int(item) not in catalogue.image_files for item in samples.items) if any(pictured) else 0
    if any(pictured):
        if not catalogue.image_files:
            raise ValueError(f"{task.name} shows pictures, and {catalogue.paths.folder / config.image_path} has none")
        logger.info("pictures: %d of %d samples", len(samples) - without_picture, len(samples))
    if config.shuffle_images:
        if not all(pictured):
            raise ValueError(f"--shuffle_images: not every wording of {task.name} that is asked shows a picture")
        catalogue = replace(catalogue, image_files=shuffled(catalogue.image_files, samples.items, config.seed))
    return Plan(task, catalogue, samples, wordings, settings.prompt_lang, decoding, without_picture)


def prompt_settings(config: TextConfig) -> PromptSettings:
    """Those of the fine-tuning; a published model, which had none, takes as many tokens as its positions go."""
    settings = checkpoint_settings(config.ckpt_model, config.prompt_lang)
    table = config.ckpt_model / "config.json"
    if (config.ckpt_model / "run.json").is_file() or not table.is_file():
        return settings
    model = read_json(table)
    positions = {**model, **model.get("text_config", {})}.get("max_position_embeddings")
    return replace(settings, model_max_length=positions or settings.model_max_length)


def check_pictures(config: TextConfig, task: Task, wordings: list[Wording]) -> None:
    """Refuses to show pictures to a model that takes none."""
    model = Path(config.base_model) if config.lora and config.base_model else config.ckpt_model
    if (model / "config.json").is_file() and any(wording.shows_pictures for wording in wordings):
        kind = read_json(model / "config.json").get("model_type")
        if not family_of_config(model, kind).vision:
            raise ValueError(f"{task.name} shows pictures, and {model} is a {kind}, which takes only texts")


def load_text_task(config: TextConfig, language: str) -> Task:
    tasks = {name: load_task(name, language) for name in (*KINDS, *ALIASES)}
    able = [name for name, task in tasks.items() if not task.item_templates]
    if config.test_task not in able:
        other = " Its answers are items: use python -m src.seqrec.metric_ddp" if config.test_task in tasks else ""
        raise ValueError(f"--test_task {config.test_task!r} is not written here: choose from {', '.join(able)}.{other}")
    task = tasks[config.test_task]
    if config.zero_shot and task.kind != "enriched_item":
        raise ValueError(
            f"--zero_shot: {task.name} asks about SIDs, which a model that was not fine-tuned here does not know;"
            f" choose from {', '.join(name for name in able if tasks[name].kind == 'enriched_item')}"
        )
    return task


def make_wordings(config: TextConfig, task: Task, language: str, by_field: bool) -> list[Wording]:
    if not config.zero_shot:
        asked = wording_ids(config.test_prompt_ids, task, len(task.templates))
        chosen = [(number, task.templates[number]) for number in asked]
        return [Wording(number, template, labels_of(template), {None: template}) for number, template in chosen]
    templates = list(zero_shot_templates(language, by_field=False).values())
    if not by_field:
        asked = wording_ids(config.test_prompt_ids, task, len(templates))
        return [Wording(i, templates[i], labels_of(templates[i]), {None: templates[i]}) for i in asked]
    wording_ids(config.test_prompt_ids, task, 1)
    questions: dict[str | None, Template] = {
        field: replace(t, prompt="{image}" + t.prompt) for field, t in zero_shot_templates(language, True).items()
    }
    return [Wording(0, templates[0], labels_of(templates[0]), questions)]


def chosen_samples(
    config: TextConfig, task: Task, catalogue: Catalogue, wordings: list[Wording], language: str
) -> Samples:
    """The samples of the split that every wording has an answer for, or a seeded part of them."""
    samples = make_samples(task, catalogue, config.split, holdout_of(config))
    texts = Texts(catalogue, samples, language)
    kept = [i for i in range(len(samples)) if all(texts.reference(w.answer, w.labels, i) for w in wordings)]
    if len(kept) < len(samples):
        logger.warning(
            "%d of %d samples have no right answer, and are left out", len(samples) - len(kept), len(samples)
        )
    if not kept:
        raise ValueError(f"{catalogue.name} has no {config.split} sample of {task.name} with a right answer")
    if 0 < config.sample_num < len(kept):
        drawn = np.random.default_rng(config.seed).permutation(len(kept))[: config.sample_num]
        kept = [kept[i] for i in np.sort(drawn)]
    return samples.pick(kept)


def holdout_of(config: TextConfig) -> bool:
    run = config.ckpt_model / "run.json"
    return run.is_file() and read_json(run)["config"].get("item_split") == "holdout"


def shuffled(files: dict[int, Path], items: np.ndarray, seed: int) -> dict[int, Path]:
    """Each of the items shows the picture of another of them; none keeps its own."""
    pictured = [int(item) for item in items if int(item) in files]
    if len(pictured) < 2:
        raise ValueError("--shuffle_images needs two items with pictures at least")
    order = np.random.default_rng(seed).permutation(pictured).tolist()
    following = [*order[1:], order[0]]
    return {**files, **{item: files[other] for item, other in zip(order, following, strict=True)}}


# ---- a few samples ---------------------------------------------------------------------------------------------------
def one_wording(plan: Plan, config: TextConfig) -> Plan:
    if len(plan.wordings) > 1:
        first = plan.wordings[0].prompt_id
        raise ValueError(f"--test_prompt_ids {config.test_prompt_ids}: one wording is asked here, such as {first}")
    return plan


def pick_items(plan: Plan, names: tuple[str, ...], split: Split) -> Plan:
    """The samples about those items or users, in the order in which they are named."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(plan.samples.keys):
        rows.setdefault(key, []).append(row)
    for name in names:
        if name not in rows:
            known = name in plan.catalogue.users or (name.isdecimal() and int(name) in plan.catalogue.items)
            why = f"is not in the {split} split of {plan.task.name}" if known else f"{plan.catalogue.name} has none"
            raise ValueError(f"--items {name}: {why}; one that is asked about is {plan.samples.keys[0]}")
    return replace(plan, samples=plan.samples.pick([row for name in dict.fromkeys(names) for row in rows[name]]))
