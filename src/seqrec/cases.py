"""Single samples looked at closely: what the model ranks, and at which level each SID leaves the right one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from src.common.artifacts import check_writable
from src.common.cli import check_at_least
from src.common.distributed import resolve_device
from src.seqrec.config import CaseConfig, EvaluateConfig, RecommendConfig
from src.seqrec.core import Samples, check, make_samples
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template

SHOWN_HISTORY = 8


@dataclass(frozen=True)
class Case:
    """One question and its answer.

    Attributes:
        name: user, or item where the task is about one.
        history: item ids, oldest first; empty where the task shows none.
        target: the right item.
        items, scores: what the model ranks, best first.
        shared: of each ranked item, the leading levels on which its SID agrees with the target's.
        query: what the user searched for; None where the task has no query.
    """

    name: str
    history: list[int]
    target: int
    items: list[int]
    scores: list[float]
    shared: list[int]
    query: str | None = None

    @property
    def rank(self) -> int | None:
        """Of the target, from 1; None where it is not in the list."""
        return self.items.index(self.target) + 1 if self.target in self.items else None

    @property
    def verdict(self) -> str:
        return f"rank {self.rank}" if self.rank else f"not among {len(self.items)}"


def one_wording(templates: Sequence[Template], prompt_ids: Sequence[int], asked: str) -> Template:
    if len(prompt_ids) > 1:
        raise ValueError(f"--test_prompt_ids {asked}: one wording is asked here, such as {prompt_ids[0]}")
    return templates[prompt_ids[0]]


Settings = TypeVar("Settings", bound=EvaluateConfig)


def check_top_k(config: CaseConfig | RecommendConfig) -> None:
    check_at_least(config, top_k=1)
    if config.top_k > config.num_beams:
        raise ValueError(
            f"--top_k {config.top_k} needs as many beams, --num_beams is {config.num_beams}: raise it or lower --top_k"
        )


def without_metrics(config: Settings) -> Settings:
    """The settings where no metric is worked out, so that none asks for longer lists."""
    return replace(config, metrics=("hit@1",))


def pick_users(samples: Samples, users: Sequence[str], catalogue: Catalogue, split: str) -> Samples:
    """The samples of those users, or about those items, in the order in which they are named.

    Raises:
        ValueError: one of them is unknown, or has no sample.
    """
    names = samples.names(catalogue)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    for name in users:
        if name not in rows:
            if not samples.next_item:
                raise ValueError(f"--users {name}: the task asks about items such as {names[0]}, and not about this")
            if name in catalogue.users:
                raise ValueError(f"--users {name}: this user has no {split} sample, having too few items or no query")
            raise ValueError(
                f"--users {name}: {catalogue.paths.file('inter.json')} has no such user; one is {names[0]}"
            )
    return samples.pick(np.array([row for name in dict.fromkeys(users) for row in rows[name]]))


def make_cases(config: CaseConfig) -> tuple[list[Case], Catalogue]:
    """Asks the model about the chosen users, or about those that `metric_ddp` would draw under the same settings.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    config = without_metrics(config)
    check_top_k(config)
    task, prompt_ids, catalogue = check(config)
    template = one_wording(task.item_templates, prompt_ids, config.test_prompt_ids)
    samples = make_samples(replace(config, sample_num=0) if config.users else config, task, catalogue)
    if config.users:
        samples = pick_users(samples, config.users, catalogue, config.split)
    check_writable(config.page_path)
    from src.seqrec.ranker import load_ranker  # imports torch: after the checks, so that a fault shows at once

    ranker = load_ranker(config, catalogue, resolve_device(config.device))
    index, cases = catalogue.index, []
    for number, name in enumerate(samples.names(catalogue)):
        history, target = samples.history(catalogue, number), int(samples.targets[number])
        text = int(samples.text_rows(np.array([number]))[0])
        ranked = ranker.rank(template, [history], [target], [text])
        items = ranked.items[0][ranked.items[0] >= 0]
        (row,) = index.rows_of([target])
        shared = index.num_shared_levels(int(row), index.rows_of(items))
        query = catalogue.user_texts["query"].texts[text] if text >= 0 else None
        scores = ranked.scores[0, : len(items)].tolist()
        name = f"{'user' if samples.next_item else 'item'} {name}"
        cases.append(Case(name, history.tolist(), target, items.tolist(), scores, shared.tolist(), query))
    return cases, catalogue


def wrong_levels(cases: Sequence[Case], letters: Sequence[str]) -> dict[str, int]:
    """Of how many cases the first recommendation leaves the right SID at each level, or nowhere."""
    counts = Counter(case.shared[0] for case in cases if case.items)
    wrong = {f"wrong at level {letter}": counts[level] for level, letter in enumerate(letters)}
    return wrong | {"right SID": counts[len(letters)]}


# ---- for the terminal ------------------------------------------------------------------------------------------------
def case_lines(case: Case, catalogue: Catalogue, top_k: int) -> list[str]:
    """One case as lines for people. Of each SID the letters of the leading levels that are right are shown."""
    letters = catalogue.index.letters
    history, items = case.history[-SHOWN_HISTORY:], case.items[:top_k]
    sids = {item: "".join(catalogue.sid_tokens(item)) for item in (*history, case.target, *items)}
    width, widest = sum(map(len, letters)), max(map(len, sids.values()))

    def line(start: str, item: int) -> str:
        return f"  {start:<{18 + width}}  {sids[item]:<{widest}}  {item:>6}  {catalogue.items[item]['title'][:60]}"

    lines = [f"=== {case.name}", *(line("had", item) for item in history)]
    if case.query is not None:
        lines.append(f"  asked   {case.query}")
    lines.append(f"{line('target', case.target)}  ({case.verdict})")
    shown = zip(items, case.scores[:top_k], case.shared[:top_k], strict=True)
    for place, (item, score, shared) in enumerate(shown, 1):
        agrees = "".join(letters[:shared]) + "-" * sum(map(len, letters[shared:]))
        mark = "HIT" if item == case.target else ""
        lines.append(line(f"{place:>3} {mark:<3} {score:8.3f}  {agrees}", item))
    return lines


def legend_lines(cases: Sequence[Case], catalogue: Catalogue) -> list[str]:
    letters = catalogue.index.letters
    counts = ", ".join(f"{name} {count}" for name, count in wrong_levels(cases, letters).items())
    example = letters[0] + "-" * sum(map(len, letters[1:]))
    return [
        f"rank, score (mean log-probability of a token), levels of the SID that are right ({example}: only the first)",
        f"first recommendation of {len(cases)}: {counts}",
    ]
