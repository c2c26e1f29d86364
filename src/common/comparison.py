"""Two results files of the same samples, compared metric by metric: what ranked and generated results share."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from src.common.cli import name_list, new_parser

if TYPE_CHECKING:
    import numpy as np

    from src.common.uncertainty import PairedTest

SIGNIFICANT = 0.05


class Samples(NamedTuple):
    """(user, target, occurrence) of each sample in a sorted order, and (M,) values of each metric in that order."""

    keys: list[tuple[str, int, int]]
    values: "dict[str, np.ndarray]"


class Difference(NamedTuple):
    """One metric of both results."""

    metric: str
    base: float
    new: float
    test: "PairedTest"
    max_drop: float | None  # None: not asked

    @property
    def regressed(self) -> bool:
        return self.max_drop is not None and self.test.difference < -self.max_drop and self.test.p_value < SIGNIFICANT


def max_drops(text: str) -> dict[str, float]:
    """`"hit@10=.005,ndcg@10=.003"` -> `{"hit@10": 0.005, "ndcg@10": 0.003}`."""
    drops = {}
    for part in name_list(text):
        name, _, number = part.partition("=")
        try:
            drops[name.strip()] = float(number)
        except ValueError:
            drops = {}
        if drops.get(name.strip(), -1) < 0:
            raise argparse.ArgumentTypeError(f"expected metric=largest drop, such as hit@10=.005, got {part!r}")
    return drops


def build_parser(description: str | None, example: str = "hit@10=.005,ndcg@10=.003") -> argparse.ArgumentParser:
    parser = new_parser(description)
    parser.add_argument("base", type=Path, help="results file to compare with")
    parser.add_argument("new", type=Path, help="results file to judge")
    parser.add_argument("--metrics", type=name_list, help="metrics to compare (default: those that both files hold)")
    parser.add_argument(
        "--max_drop", type=max_drops, default={}, help=f"largest drop to accept, a metric: {example} (default: any)"
    )
    return parser


def check_protocol(files: Sequence[Path], results: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Refuses results that were not made in the same way."""
    first, second = results
    for field in fields:
        if field in first and field in second and first[field] != second[field]:
            raise ValueError(
                f"{files[0]} has {field} {first[field]!r}, {files[1]} has {second[field]!r}: only results of one"
                f" protocol compare. Evaluate both the same way"
            )


def in_order(users: Sequence[str], targets: Sequence[int], values: "Mapping[str, np.ndarray]") -> Samples:
    """Samples in the order of their keys, which is one for all files."""
    seen: dict[tuple[str, int], int] = {}
    keys = []
    for user, target in zip(users, targets, strict=True):
        occurrence = seen[user, target] = seen.get((user, target), -1) + 1  # a user may buy the same item twice
        keys.append((user, target, occurrence))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Samples([keys[row] for row in order], {name: row[order] for name, row in values.items()})


def differences(
    files: Sequence[Path], sides: Sequence[Samples], names: Sequence[str], drops: Mapping[str, float]
) -> list[Difference]:
    """The paired test of each metric.

    Raises:
        ValueError: the files hold other samples.
    """
    from src.common.uncertainty import paired_test

    left, right = sides
    if left.keys != right.keys:
        only_left, only_right = sorted(set(left.keys) - set(right.keys)), sorted(set(right.keys) - set(left.keys))
        example = (only_left or only_right)[0]
        raise ValueError(
            f"{files[0]} has {len(left.keys)} samples and {files[1]} {len(right.keys)}; {len(only_left)} are only in"
            f" the first, {len(only_right)} only in the second, such as user {example[0]!r} with target {example[1]}."
            f" Evaluate both on the same dataset, split and --sample_num"
        )
    users = [user for user, _, _ in left.keys]
    return [
        Difference(
            name,
            float(left.values[name].mean()),
            float(right.values[name].mean()),
            paired_test(left.values[name], right.values[name], users),
            drops.get(name),
        )
        for name in names
    ]


def table(rows: Sequence[Difference], who: str = "users") -> str:
    """The comparison as lines for people; `who` the samples belong to."""
    width = max(10, *(len(row.metric) for row in rows))
    lines = [
        f"{'metric':<{width}} {'base':>8} {'new':>8} {'difference':>11} {'95 % interval':>19} {'p':>7} {'effect':>7}"
    ]
    for row in rows:
        verdict = ""
        if row.max_drop is not None:
            verdict = f"  {'DROPPED by more than' if row.regressed else 'ok, max_drop'} {row.max_drop:g}"
        elif row.test.p_value < SIGNIFICANT:
            verdict = "  *"
        interval = f"[{row.test.low:+.4f}, {row.test.high:+.4f}]"
        lines.append(
            f"{row.metric:<{width}} {row.base:8.4f} {row.new:8.4f} {row.test.difference:+11.4f} {interval:>19}"
            f" {row.test.p_value:7.4f} {row.test.effect_size:+7.3f}{verdict}"
        )
    lines.append(f"{rows[0].test.num_users} {who}, paired; * p < {SIGNIFICANT:g}; effect: Cohen's d over {who}")
    lines.append(
        f"p decides, here and for --max_drop: how often random signs of the {who}' differences would give as much;\n"
        f"the interval draws {who} anew instead, so near the border it may leave out 0 while p does not fall below"
        f" {SIGNIFICANT:g}, or the reverse."
    )
    return "\n".join(lines)
