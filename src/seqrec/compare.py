"""Is the second result better or worse than the first, beyond chance? Paired sample by sample, with predictions.

    python -m src.seqrec.compare results/HMWeek/base.json results/HMWeek/new.json --max_drop hit@10=.005

Prints each metric with the difference, its 95 % interval and the p value of a sign-flip test over users. With
--max_drop it exits 1 where a metric named there fell by more than that, significantly (p < .05); errors exit 2.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.common.cli import add_switch, user_errors
from src.common.comparison import Difference, Samples, differences, in_order, table
from src.common.comparison import build_parser as common_parser

if TYPE_CHECKING:
    import argparse


def build_parser(description: str | None) -> "argparse.ArgumentParser":
    parser = common_parser(description)
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
    return in_order(predictions[0].users, predictions[0].targets.tolist(), values)


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
    from src.seqrec.metrics import parse_metrics
    from src.seqrec.results import read_results

    files = (base, new)
    check_protocols(base, new, any_num_beams)
    first, second = (read_results(file)["mean_results"] for file in files)
    drops = {name.lower(): drop for name, drop in (drops or {}).items()}
    shared = [name for name in first if name in second]
    names = parse_metrics([*(metrics or shared), *drops])
    return differences(files, [load_samples(file, names) for file in files], names, drops)


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        rows = compare(args.base, args.new, args.metrics, args.max_drop, args.any_num_beams)
    print(table(rows))
    return int(any(row.regressed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
