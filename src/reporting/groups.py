"""Results that compare: of one dataset, task and protocol. Paired tests against one of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from src.common.comparison import differences
from src.common.uncertainty import PairedTest, holm
from src.reporting.page import whose
from src.reporting.results import Result

Against = Literal["best", "first"]
PREFERRED = ("ndcg@10", "rougeL")  # the metric that decides which run is the best, where all have it


@dataclass
class Group:
    """Results under one protocol, in the order given.

    Attributes:
        tests: of each run but the reference, the paired test of each metric: run minus reference; p by Holm.
        reference: name of the run that the others are paired with; None where no two have predictions.
        notes: why tests are missing.
    """

    results: list[Result]
    tests: dict[str, dict[str, PairedTest]] = field(default_factory=dict)
    reference: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def title(self) -> str:
        return f"{self.first.dataset}: {self.first.task}"

    @property
    def metrics(self) -> list[str]:
        """Those of any run, in the order of the files."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))

    @property
    def leading(self) -> str | None:
        """The metric that orders the runs; None where no metric is there."""
        shared = [name for name in self.metrics if all(name in result.metrics for result in self.results)]
        names = [name for name in PREFERRED if name in shared] or (shared or self.metrics)[-1:]
        return names[0] if names else None

    @property
    def ordered(self) -> list[Result]:
        """Best first."""
        name = self.leading
        if name is None:
            return self.results
        return sorted(self.results, key=lambda r: -r.metrics[name].value if name in r.metrics else math.inf)


def make_groups(results: Sequence[Result], against: Against) -> list[Group]:
    """Groups in the order in which their first result was given, tests done."""
    groups = [
        Group([result for result in results if result.key == key])
        for key in dict.fromkeys(result.key for result in results)
    ]
    for group in groups:
        if len(group.results) > 1:
            test_pairs(group, against)
    return groups


def test_pairs(group: Group, against: Against) -> None:
    """Pairs every run with the reference, as `compare` does; what cannot be paired is noted."""
    able = [result for result in group.results if result.predictions.is_file()]
    lacking = [result.name for result in group.results if result not in able]
    if lacking:
        group.notes.append(
            f"No predictions (*.predictions.parquet) beside, so no paired test: {whose(lacking, group.results)}."
        )
    order = [result for result in (group.results if against == "first" else group.ordered) if result in able]
    if len(order) < 2:
        return
    reference, *others = order
    group.reference = reference.name
    if reference is not (group.results if against == "first" else group.ordered)[0]:
        group.notes.append(f"Paired with {reference.name}, the {against} that has predictions.")
    for result in others:
        try:
            group.tests[result.name] = pair(reference, result)
        except (ValueError, OSError) as error:
            group.notes.append(f"{result.name} is not paired: {error}.")
    correct(group)


def correct(group: Group) -> None:
    """Raises the p values of a metric for the number of runs that are paired in it."""
    for name in group.metrics:
        runs = [run for run, tests in group.tests.items() if name in tests]
        raised = holm([group.tests[run][name].p_value for run in runs])
        for run, p_value in zip(runs, raised.tolist(), strict=True):
            group.tests[run][name] = group.tests[run][name]._replace(p_value=p_value)


def pair(reference: Result, result: Result) -> dict[str, PairedTest]:
    """The test of each metric that both show and that single samples have.

    Raises:
        ValueError: the predictions are of other samples, or do not give what the results state.
    """
    shared = [name for name in result.metrics if name in reference.metrics]
    files = (reference.path, result.path)
    if result.written:
        from src.text_generation import compare as texts
        from src.text_generation.results import SCORE, read_predictions

        columns = read_predictions(result.predictions).columns
        rows = texts.compare(*files, [name for name in shared if SCORE + name in columns])
    else:
        from src.seqrec.compare import load_samples

        rows = differences(files, [load_samples(file, shared) for file in files], shared, {})
    return {row.metric: row.test for row in rows}
