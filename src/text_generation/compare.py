"""Are the second model's texts better or worse than the first's, beyond chance? Paired sample by sample.

    python -m src.text_generation.compare results/Demo/base.json results/Demo/new.json --max_drop rougeL=.01

Prints each sample metric with the difference, its 95 % interval and the p value of a sign-flip test. With --max_drop it
exits 1 where a metric named there fell by more than that, significantly (p < .05); errors exit 2. Corpus metrics (bleu,
chrf, length_ratio) have no value per sample: sentence_bleu4 and sentence_chrf stand for them here.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.common.cli import user_errors
from src.common.comparison import Difference, Samples, build_parser, check_protocol, differences, in_order, table

if TYPE_CHECKING:
    import polars as pl

PROTOCOL = ("dataset", "split", "test_task", "prompt_lang")  # results that differ here do not compare
TWINS = {"bleu": "sentence_bleu4", "chrf": "sentence_chrf"}


def load_samples(results_file: Path, names: list[str]) -> Samples:
    """Every sample's metrics, averaged over the wordings.

    Raises:
        ValueError: a metric that the samples lack, or predictions that do not give the means of the results.
    """
    import numpy as np

    from src.text_generation.results import SCORE, predictions_path, read_predictions, read_results

    frame, stated = read_predictions(predictions_path(results_file)), read_results(results_file)["mean_results"]
    parts = frame.partition_by("prompt_id", maintain_order=True)
    values = {}
    for name in names:
        if SCORE + name not in frame.columns:
            twin = f": take {TWINS[name.rpartition('.')[2]]}" if name.rpartition(".")[2] in TWINS else ""
            raise ValueError(f"{results_file} has no {name} of single samples{twin}")
        columns = [part[SCORE + name].to_numpy().astype(float) for part in parts]
        columns = [column for column in columns if not np.isnan(column).all()]  # wordings may ask for other fields
        values[name] = np.mean(columns, axis=0)
        mean = float(np.mean([np.nanmean(column) for column in columns]))
        if name in stated and abs(mean - stated[name]) > 1e-9:
            raise ValueError(
                f"{results_file} states {name} {stated[name]:.6f}, its predictions give {mean:.6f}: they are of"
                f" different runs. Run the evaluation again"
            )
    return in_order(parts[0]["key"].to_list(), parts[0]["item"].to_list(), values)


def right_answers(frame: "pl.DataFrame") -> set[tuple]:
    """Each sample's key, item and right fields, once for all wordings that ask for the same."""
    fields = sorted(name for name in frame.columns if name.startswith("reference:"))
    return {(*row[:2], *zip(fields, row[2:], strict=True)) for row in frame.select("key", "item", *fields).iter_rows()}


def compare(
    base: Path, new: Path, metrics: list[str] | None = None, drops: dict[str, float] | None = None
) -> list[Difference]:
    """The paired test of each metric, over the samples that have it.

    Raises:
        ValueError: the files are of different datasets, splits, tasks, samples or right answers.
    """
    import numpy as np

    from src.text_generation.results import SCORE, predictions_path, read_predictions, read_results

    files, drops = (base, new), drops or {}
    check_protocol(files, [read_results(file) for file in files], PROTOCOL)
    first, second = (read_predictions(predictions_path(file)) for file in files)
    shared = [name.removeprefix(SCORE) for name in first.columns if name.startswith(SCORE) and name in second.columns]
    names = list(dict.fromkeys([*(metrics or shared), *drops]))
    sides = [load_samples(file, names) for file in files]
    if sides[0].keys == sides[1].keys and right_answers(first) != right_answers(second):
        raise ValueError(
            f"{base} and {new} were judged by other right answers: only results of the same texts compare. Evaluate"
            f" both on the same data, and in wordings that ask for the same fields"
        )
    rows = []
    for name in names:  # a field that some items lack is compared where it is there
        parts = []
        for side in sides:
            kept = np.flatnonzero(~np.isnan(side.values[name]))
            parts.append(Samples([side.keys[i] for i in kept], {name: side.values[name][kept]}))
        rows += differences(files, parts, [name], drops)
    return rows


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__, "rougeL=.01,tags.tag_f1=.02").parse_args(argv)
    with user_errors():
        rows = compare(args.base, args.new, args.metrics, args.max_drop)
    print(table(rows, "items"))
    return int(any(row.regressed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
