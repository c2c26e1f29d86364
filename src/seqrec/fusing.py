"""Evaluation of several models, and of models with collaborative scores: checks, the choice on valid, the lists."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.baselines.tiger import is_tiger
from src.common.cli import check_at_least
from src.common.log import logger
from src.seqrec.config import ENSEMBLE_BY, FUSED, EvaluateConfig
from src.seqrec.metrics import per_sample_metrics
from src.seqrec.results import Predictions
from src.tasks.task import Split

if TYPE_CHECKING:
    from src.seqrec.fusion import Mix, Pool
    from src.tasks.catalogue import Catalogue

CHOSEN_ON: Split = "valid"


@dataclass(frozen=True)
class FusionPlan:
    """What may be mixed, and how; checked."""

    kinds: tuple[str, ...]  # of putting models together
    scores: tuple[str, ...]  # collaborative ones
    weights: tuple[float, ...] | None  # of these; None: to be chosen

    @property
    def chooses(self) -> bool:
        return len(self.kinds) > 1 or "weighted" in self.kinds or self.weights is None


class Answers(NamedTuple):
    """What one model ranked, and the chances of that, under each wording."""

    predictions: list[Predictions]
    chances: list[np.ndarray]


def check_fusion(config: EvaluateConfig) -> FusionPlan | None:
    """The plan that the flags make; None where one model is evaluated alone.

    Raises:
        ValueError: flags that do not fit, or do nothing.
    """
    if len(set(config.fuse)) != len(config.fuse) or not set(config.fuse) <= set(FUSED):
        raise ValueError(f"--fuse {','.join(config.fuse)}: choose from {', '.join(FUSED)}, each once")
    check_at_least(config, fuse_sample_num=0)
    if config.ensemble_by != "auto" and not config.ensemble:
        raise ValueError(f"--ensemble_by {config.ensemble_by} does nothing without --ensemble")
    if ("sasrec" in config.fuse) != (config.fuse_results is not None):
        raise ValueError("--fuse sasrec and --fuse_results belong together: the results file of src.baselines.sasrec")
    weights: tuple[float, ...] | None = None
    if config.fuse_weight != "auto":
        try:
            weights = tuple(float(part) for part in config.fuse_weight.split(","))
        except ValueError as error:
            raise ValueError(f"--fuse_weight {config.fuse_weight!r}: numbers with commas, or auto") from error
        if len(weights) != len(config.fuse) or not all(w >= 0 for w in weights) or not sum(weights) <= 1 + 1e-9:
            raise ValueError(
                f"--fuse_weight {config.fuse_weight}: one number for each of --fuse {','.join(config.fuse)},"
                f" at least 0 and at most 1 together; the models have the rest"
            )
    plan = None
    if config.ensemble or config.fuse:
        kinds = ENSEMBLE_BY if config.ensemble_by == "auto" and config.ensemble else (config.ensemble_by,)
        plan = FusionPlan(("mean",) if kinds == ("auto",) else kinds, config.fuse, weights if config.fuse else ())
    if config.fuse_sample_num != EvaluateConfig.fuse_sample_num and not (plan and plan.chooses):
        raise ValueError(
            f"--fuse_sample_num {config.fuse_sample_num} does nothing where nothing is chosen: leave it out, or give"
            f" --fuse_weight auto or --ensemble_by weighted"
        )
    return plan


def check_sasrec(config: EvaluateConfig, catalogue: "Catalogue") -> None:
    """Refuses, before any model is asked, a SASRec that `fuse` could not take.

    Raises:
        ValueError, FileNotFoundError: --fuse_results is not of a SASRec on this dataset, or its weights are gone.
    """
    from src.baselines.sasrec_training import load_sasrec

    assert config.fuse_results is not None  # the plan has asked for it
    load_sasrec(config.fuse_results, catalogue, "cpu")


def member_configs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The settings of each model alone; those of --ensemble are adapters where their folders say so."""
    alone = {name: getattr(EvaluateConfig, name) for name in vars(config) if name.startswith(("ensemble", "fuse"))}
    members = [replace(config, **alone)]
    for text in config.ensemble:
        ckpt, given, index_file = text.rpartition("=")
        if not given or not ckpt or not index_file:
            raise ValueError(f"--ensemble {text}: write CKPT=INDEX, such as output/image=.index_image.json")
        lora = Path(ckpt, "adapter_config.json").is_file()
        lang = None if is_tiger(Path(ckpt)) else config.prompt_lang
        members.append(replace(members[0], ckpt_model=Path(ckpt), index_file=index_file, lora=lora, prompt_lang=lang))
    return members


def fuse(
    plan: FusionPlan, config: EvaluateConfig, catalogue: "Catalogue", asked: Sequence[Answers], valid: Sequence[Answers]
) -> tuple[list[Predictions], dict[str, Any]]:
    """The mixed lists of each wording, and what the results file says of the mix.

    Args:
        asked, valid: of each model; `valid` is what the mix is chosen by, and may be empty where the plan chooses
            nothing.
    """
    from src.seqrec.collaborative import SOURCES, make_pool, tie_rank_of
    from src.seqrec.fusion import Mix, choose_mix, mixed, rank_candidates, weight_grid

    scores = [SOURCES[name](catalogue, config) for name in plan.scores]
    length = asked[0].predictions[0].num_beams
    tie_rank = tie_rank_of(catalogue)
    names = [f"model {number + 1}" for number in range(len(asked))] + list(plan.scores)
    number_of = {user: number for number, user in enumerate(catalogue.users)}

    def pool_of(answers: Sequence[Answers], wording: int) -> "Pool":
        first = answers[0].predictions[wording]
        users = np.array([number_of[user] for user in first.users]) if scores else np.empty(0, np.int64)
        models = [(answer.predictions[wording].ranked, answer.chances[wording]) for answer in answers]
        positions = np.empty(0, np.int64) if first.history_lengths is None else first.history_lengths
        return make_pool(models, scores, catalogue, users, positions, config.filter_history, length)

    weights = weight_grid(len(plan.scores)) if plan.weights is None else [plan.weights]
    parts: dict[str, dict] = {}
    if plan.chooses:
        # One mix for all wordings; a sample of each wording counts alike.
        pools = [pool_of(valid, wording) for wording in range(len(valid[0].predictions))]
        targets = [part.targets for part in valid[0].predictions]
        mix, value = choose_mix(pools, len(asked), tie_rank, targets, plan.kinds, weights)
        parts[CHOSEN_ON] = _parts(pools, names, targets, tie_rank, mix, len(asked), config.metrics)
        how = f"{mix.ensemble_by} {mix.shares or ''}".strip()
        logger.info("chosen on %s: models by %s, weights %s, ndcg@10 %.4f", CHOSEN_ON, how, mix.weights, value)
    else:
        mix = Mix(plan.kinds[0], weights[0])
    fused, pools = [], []
    for wording, part in enumerate(asked[0].predictions):
        pools.append(pool_of(asked, wording))
        ranked = rank_candidates(pools[-1].items, mixed(pools[-1], len(asked), mix), tie_rank, length)
        fused.append(replace(part, ranked=ranked.items, scores=ranked.scores))
    targets = [part.targets for part in fused]
    parts[config.split] = _parts(pools, names, targets, tie_rank, mix, len(asked), config.metrics)
    members = member_configs(config)
    record = {
        "models": [{"checkpoint": str(member.ckpt_model), "index": member.index_file} for member in members],
        "ensemble_by": mix.ensemble_by if len(members) > 1 else None,
        "shares": list(mix.shares) or None,
        "weights": {"models": mix.rest, **dict(zip(plan.scores, mix.weights, strict=True))},
        "chosen_on": CHOSEN_ON if plan.chooses else None,
        "parts": parts,
    }
    return fused, record


def _parts(
    pools: Sequence["Pool"], names: Sequence[str], targets: Sequence[np.ndarray], tie_rank: np.ndarray, mix: "Mix",
    num_models: int, metrics: Sequence[str],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Metrics of each source alone, of the models together, and of the mix; means over samples and wordings."""
    from src.seqrec.fusion import candidate_ranks, mixed

    def row(scores_of) -> dict[str, float]:
        ranks = [
            candidate_ranks(pool.items, scores_of(pool), tie_rank, right)
            for pool, right in zip(pools, targets, strict=True)
        ]
        values = per_sample_metrics(np.concatenate(ranks), metrics)
        return {name: float(value.mean()) for name, value in values.items()}

    table = {name: row(lambda pool, number=number: pool.chances[number]) for number, name in enumerate(names)}
    if num_models > 1:
        alone = mix._replace(weights=(0.0,) * len(mix.weights))
        table["models together"] = row(lambda pool: mixed(pool, num_models, alone))
    return table | {"all together": row(lambda pool: mixed(pool, num_models, mix))}
