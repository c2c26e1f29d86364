"""Is the second result better or worse than the first, beyond chance? Paired sample by sample, with predictions.

    python -m src.seqrec.compare results/HMWeek/base.json results/HMWeek/new.json --max_drop hit@10=.005

Prints each metric with the difference, its 95 % interval and the p value of a sign-flip test over users. With
--max_drop it exits 1 where a metric named there fell by more than that, significantly (p < .05); errors exit 2.
"""

import sys
from pathlib import Path

from src.common.cli import user_errors
from src.common.comparison import Difference, Samples, build_parser, check_protocol, differences, in_order, table

PROTOCOL = ("dataset", "split", "filter_history", "test_task")  # results that differ here do not compare


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


def compare(
    base: Path, new: Path, metrics: list[str] | None = None, drops: dict[str, float] | None = None
) -> list[Difference]:
    """The paired test of each metric.

    Raises:
        ValueError: the files are of different datasets, splits, protocols or samples.
    """
    from src.seqrec.metrics import parse_metrics
    from src.seqrec.results import read_results

    files = (base, new)
    first, second = results = [read_results(file) for file in files]
    check_protocol(files, results, PROTOCOL)
    drops = {name.lower(): drop for name, drop in (drops or {}).items()}
    shared = [name for name in first["mean_results"] if name in second["mean_results"]]
    names = parse_metrics([*(metrics or shared), *drops])
    return differences(files, [load_samples(file, names) for file in files], names, drops)


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        rows = compare(args.base, args.new, args.metrics, args.max_drop)
    print(table(rows))
    return int(any(row.regressed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
