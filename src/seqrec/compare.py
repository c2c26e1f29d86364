"""Is the second result better or worse than the first, beyond chance? Paired sample by sample, with predictions.

    python -m src.seqrec.compare results/HMWeek/base.json results/HMWeek/new.json --max_drop hit@10=.005

Prints each metric with the difference, its 95 % interval and the p value of a sign-flip test over users. With
--max_drop it exits 1 where a metric named there fell by more than that, significantly (p < .05); errors exit 2.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from src.common.cli import add_switch, name_list, new_parser, user_errors

if TYPE_CHECKING:
    import numpy as np

    from src.seqrec.metrics import PairedTest

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
            drops[name.strip().lower()] = float(number)
        except ValueError:
            drops = {}
        if drops.get(name.strip().lower(), -1) < 0:
            raise argparse.ArgumentTypeError(f"expected metric=largest drop, such as hit@10=.005, got {part!r}")
    return drops


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    parser.add_argument("base", type=Path, help="results file to compare with")
    parser.add_argument("new", type=Path, help="results file to judge")
    parser.add_argument("--metrics", type=name_list, help="metrics to compare (default: those that both files hold)")
    parser.add_argument(
        "--max_drop",
        type=max_drops,
        default={},
        help="largest drop to accept, a metric: hit@10=.005,ndcg@10=.003 (default: any)",
    )
    add_switch(
        parser,
        "--any_num_beams",
        help="compare lists of unequal lengths too, to learn what the length does; all else must be one protocol",
    )
    return parser


def load_samples(results_file: Path, metrics: list[str]) -> Samples:
    """Every sample's metrics, averaged over the wordings, from the predictions beside `results_file`.

    Raises:
        ValueError: the predictions do not give the means that the results file states.
    """
    import numpy as np

    from src.seqrec.metrics import parse_metrics
    from src.seqrec.results import mean_over_prompts, predictions_path, read_predictions, read_results

    predictions = read_predictions(predictions_path(results_file))
    parse_metrics(metrics, predictions[0].num_beams)
    values, _ = mean_over_prompts(predictions, metrics)
    stated = read_results(results_file)["mean_results"]
    for name in values.keys() & stated.keys():
        if abs(float(values[name].mean()) - stated[name]) > 1e-9:
            raise ValueError(
                f"{results_file} states {name} {stated[name]:.6f}, its predictions give {values[name].mean():.6f}:"
                f" they are of different runs. Run the evaluation again"
            )
    seen: dict[tuple[str, int], int] = {}
    keys = []
    for user, target in zip(predictions[0].users, predictions[0].targets.tolist(), strict=True):
        occurrence = seen[user, target] = seen.get((user, target), -1) + 1  # a user may buy the same item twice
        keys.append((user, target, occurrence))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Samples([keys[row] for row in order], {name: row[np.array(order)] for name, row in values.items()})


def check_protocols(base: Path, new: Path, any_num_beams: bool = False) -> None:
    """Refuses two results files of different datasets or protocols; what an older file does not say is passed over."""
    from src.seqrec.protocol import protocol_of
    from src.seqrec.results import read_results

    first, second = read_results(base), read_results(new)
    names = [results.get("dataset") for results in (first, second)]
    if None not in names and names[0] != names[1]:
        raise ValueError(f"{base} is of the dataset {names[0]}, {new} of {names[1]}: give two of one dataset")
    left, right = protocol_of(first, str(base)), protocol_of(second, str(new))
    for field in left.differences(right):
        if field == "num_beams" and any_num_beams:
            continue
        cure = " or allow it with --any_num_beams" if field == "num_beams" else ""
        raise ValueError(
            f"{base} has {field} {getattr(left, field)!r} ({left.name}), {new} {getattr(right, field)!r}"
            f" ({right.name}): only results of one protocol compare. Evaluate both the same way{cure}"
        )


def compare(
    base: Path,
    new: Path,
    metrics: list[str] | None = None,
    drops: dict[str, float] | None = None,
    any_num_beams: bool = False,
) -> list[Difference]:
    """The paired test of each metric.

    Args:
        any_num_beams: of all that makes a protocol, the lists may differ in their length.

    Raises:
        ValueError: the files are of different datasets, protocols or samples.
    """
    from src.seqrec.metrics import paired_test, parse_metrics
    from src.seqrec.results import read_results

    drops = drops or {}
    check_protocols(base, new, any_num_beams)
    first, second = (read_results(file)["mean_results"] for file in (base, new))
    shared = [name for name in first if name in second]
    names = parse_metrics([*(metrics or shared), *drops])
    left, right = load_samples(base, names), load_samples(new, names)
    if left.keys != right.keys:
        only_left, only_right = sorted(set(left.keys) - set(right.keys)), sorted(set(right.keys) - set(left.keys))
        example = (only_left or only_right)[0]
        raise ValueError(
            f"{base} has {len(left.keys)} samples and {new} {len(right.keys)}; {len(only_left)} are only in the first,"
            f" {len(only_right)} only in the second, such as user {example[0]!r} with target {example[1]}."
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


def table(differences: list[Difference]) -> str:
    """The comparison as lines for people."""
    lines = [f"{'metric':<10} {'base':>8} {'new':>8} {'difference':>11} {'95 % interval':>19} {'p':>7} {'effect':>7}"]
    for row in differences:
        verdict = ""
        if row.max_drop is not None:
            verdict = f"  {'DROPPED by more than' if row.regressed else 'ok, max_drop'} {row.max_drop:g}"
        elif row.test.p_value < SIGNIFICANT:
            verdict = "  *"
        interval = f"[{row.test.low:+.4f}, {row.test.high:+.4f}]"
        lines.append(
            f"{row.metric:<10} {row.base:8.4f} {row.new:8.4f} {row.test.difference:+11.4f} {interval:>19}"
            f" {row.test.p_value:7.4f} {row.test.effect_size:+7.3f}{verdict}"
        )
    lines.append(f"{differences[0].test.num_users} users, paired; * p < {SIGNIFICANT:g}; effect: Cohen's d over users")
    lines.append(
        "p decides, here and for --max_drop: how often random signs of the users' differences would give as much;\n"
        "the interval draws users anew instead, so near the border it may leave out 0 while p does not fall below"
        f" {SIGNIFICANT:g}, or the reverse."
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        differences = compare(args.base, args.new, args.metrics, args.max_drop, args.any_num_beams)
    print(table(differences))
    return int(any(row.regressed for row in differences))


if __name__ == "__main__":
    sys.exit(main())
