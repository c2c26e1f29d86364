"""From answers to metrics, and what a results file and a table say of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.distributed import resolve_device
from src.common.record import commit
from src.text_generation.config import TextConfig
from src.text_generation.metrics import metric_language
from src.text_generation.parse import parse
from src.text_generation.plan import Plan, Wording, holdout_of
from src.text_generation.questions import Samples, Texts, field_of
from src.text_generation.results import Answered, Scores, intervals, score, whole

if TYPE_CHECKING:
    from src.text_generation.generator import Answers

COPIES = ("copy title", "copy input")  # what a system without a model can say
SHOWN = ("parsed", "bleu", "chrf", "sentence_bleu4", "rouge1", "rouge2", "rougeL", "length_ratio", "title_hit@1")


def judge(
    config: TextConfig, plan: Plan, wording: Wording, answers: list[str], num_resamples: int = 0
) -> tuple[Answered, Scores]:
    """Fields and metrics of one system's answers; intervals of corpus metrics where resamples are asked for."""
    texts = plan.texts
    references = [texts.reference(wording.answer, wording.labels, i) for i in range(len(plan.samples))]
    only = field_of(wording.answer)
    if wording.labels:
        fields = [parse(answer, wording.labels) for answer in answers]
    else:
        fields = [{only: words} if (words := " ".join(answer.split())) else {} for answer in answers]
    answered = Answered(plan.samples.keys, plan.samples.items, answers, fields, references, wording.prompt_id)
    answered = replace(answered, extra=grounding(plan, answered) | likeness(config, answered))
    language = metric_language((words for fields in references for words in fields.values()), plan.language)
    return answered, score(answered, language, num_resamples)


def grounding(plan: Plan, answered: Answered) -> dict[str, np.ndarray]:
    """How well generated titles find their items; nothing where no title is asked for."""
    asked = {name for fields in answered.references for name in fields}
    slot = next((name for name in ("enhanced_title", "title") if name in asked), None)
    if slot is None:
        return {}
    from src.text_generation.grounding import retrieval

    catalogue = plan.catalogue
    items = np.array(sorted(catalogue.enriched) if slot == "enhanced_title" else catalogue.item_ids)
    every = Texts(catalogue, Samples(items, np.full(len(items), -1), [str(item) for item in items]), plan.language)
    titles = [every.slot(slot, i) for i in range(len(items))]
    own = np.searchsorted(items, answered.items)
    return retrieval([fields.get(slot, "") for fields in answered.fields], own, titles)


def likeness(config: TextConfig, answered: Answered) -> dict[str, np.ndarray]:
    """BERTScore and embedding similarity of whole answers, where encoders are given."""
    if config.bertscore_model is None and config.embedding_model is None:
        return {}
    from src.text_generation.semantic import Encoder

    order = list(dict.fromkeys(name for fields in answered.references for name in fields))
    sides = [[whole(fields, order) for fields in rows] for rows in (answered.fields, answered.references)]
    device, found = resolve_device(config.device), {}
    if config.bertscore_model is not None:
        found["bertscore"] = Encoder(config.bertscore_model, device, config.bertscore_layer).bertscore(*sides)
    if config.embedding_model is not None:
        found["embedding_similarity"] = Encoder(config.embedding_model, device).similarity(*sides)
    return found


def copied(plan: Plan, wording: Wording, kind: str) -> list[str]:
    """Answers of a baseline: the same text in every field."""
    texts = [plan.texts.to_copy(kind, i) for i in range(len(plan.samples))]
    if not wording.labels:
        return texts
    return ["\n".join(f"{label}: {text}" for label in wording.labels.values()) if text else "" for text in texts]


def summarize(
    config: TextConfig,
    plan: Plan,
    judged: list[tuple[Answered, Scores]],
    copies: dict[str, Scores],
    answers: dict[int, "Answers"],
    told: dict[str, Any],
) -> dict[str, Any]:
    """The content of a results file (docs/test_readme.md)."""
    scores = [part for _, part in judged]
    per_prompt = [part.means() for part in scores]
    names = [name for name in per_prompt[0] if all(name in means for means in per_prompt)]
    columns = {name: [means[name] for means in per_prompt] for name in names}
    ends = intervals(scores, plan.samples.keys)
    return {
        "model_name": config.name,
        "test_task": plan.task.name,
        "dataset": plan.catalogue.name,
        "split": "seen" if plan.task.kind == "item" and not holdout_of(config) else config.split,
        "num_samples": len(plan.samples),
        "test_prompt_ids": [wording.prompt_id for wording in plan.wordings],
        "prompt_lang": plan.language,
        "zero_shot": config.zero_shot,
        "asked_by_field": None not in plan.wordings[0].questions,
        "shuffle_images": config.shuffle_images,
        "samples_without_picture": plan.without_picture,
        "decoding": plan.decoding._asdict(),
        "use_generation_config": config.use_generation_config,
        "mean_results": {name: float(np.mean(column)) for name, column in columns.items()},
        "min_results": {name: min(column) for name, column in columns.items()},
        "max_results": {name: max(column) for name, column in columns.items()},
        "all_prompt_results": per_prompt,
        "confidence_intervals": {name: ends[name] for name in names if name in ends},
        "signatures": {name: c.signature for name, c in scores[0].corpus.items() if c.signature and "." not in name},
        "baselines": {kind: part.means() for kind, part in copies.items()},
        "ended_by_limit": float(np.mean([part.cut.mean() for part in answers.values()])),
        "held_control_tokens": float(np.mean([part.control.mean() for part in answers.values()])),
        **told,
        "is_lora": config.lora,
        "base_model": config.base_model,
        "checkpoint": str(config.ckpt_model),
        "index": None if plan.catalogue.sid_index is None else str(plan.catalogue.sid_index.path),
        "bertscore_model": config.bertscore_model,
        "embedding_model": config.embedding_model,
        "commit": commit(),
    }


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table: of the model, and of what can be copied."""
    pictures = "others'" if summary["shuffle_images"] else "own"
    shared = {
        "dataset": summary["dataset"],
        "task": summary["test_task"],
        "split": summary["split"],
        "prompts": ",".join(map(str, summary["test_prompt_ids"])),
        "num_samples": summary["num_samples"],
        "commit": summary["commit"],
    }
    rows = [{"model": summary["model_name"], "pictures": pictures, **shared, **summary["mean_results"]}]
    for kind, means in summary["baselines"].items():
        rows.append({"model": kind, "pictures": "none", **shared, **means})
    return rows


def table_lines(summary: dict[str, Any]) -> list[str]:
    """The table for people: the model beside what can be copied."""
    rows = rows_of(summary)
    names = [name for name in (*SHOWN, "tags.tag_f1") if name in rows[0]]
    width = max(len(row["model"]) for row in rows)
    lines = [f"{'':<{width}}  " + "  ".join(f"{name:>{max(7, len(name))}}" for name in names)]
    for row in rows:
        cells = (
            f"{row[name]:>{max(7, len(name))}.3f}" if name in row else "-".rjust(max(7, len(name))) for name in names
        )
        lines.append(f"{row['model']:<{width}}  " + "  ".join(cells))
    if not summary["baselines"]:
        lines.append("the prompt holds no words that a baseline could copy")
    return lines
