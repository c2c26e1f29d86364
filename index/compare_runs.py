"""Compare training runs: one table, and one picture of their curves.

python3 index/compare_runs.py large=data/Games/index/large none=data/Games/index/none --output_file comparison.png
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import check_writable, read_rows
from src.common.cli import new_parser, user_errors


def named_folder(text: str) -> tuple[str, Path]:
    """`name=folder`; the name is the folder's where it is left out."""
    name, _, folder = text.rpartition("=")
    return name or Path(folder).name, Path(folder)


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    parser.add_argument(
        "runs", nargs="+", type=named_folder, metavar="NAME=FOLDER", help="run folder, or the newest run below it"
    )
    parser.add_argument("--output_file", type=Path, required=True, help="the picture, a .png")
    return parser


COLUMNS = ("run", "epochs", "best loss", "at epoch", "collisions", "loss", "utilization", "perplexity of levels")


def newest_run(folder: Path) -> Path:
    """`folder` if it is a run, else the newest run in it."""
    if (folder / "metrics.jsonl").is_file():
        return folder
    runs = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(f"{folder} holds no run of index/main.py. Train one with: bash index/run.sh")
    return runs[-1].parent


def compare(runs: dict[str, Path], output_file: Path) -> str:
    """Writes the picture; gives the table.

    All columns from `at epoch` on are of one evaluation: that with the lowest collision rate, then the lowest loss, as
    in the best_collision_model.pth that `index/generate.sh` takes.
    """
    from index.plots import plot_runs

    check_writable(output_file)
    folders = {name: newest_run(folder) for name, folder in runs.items()}
    rows = {name: read_rows(folder / "metrics.jsonl") for name, folder in folders.items()}
    plot_runs(rows, output_file)
    table: list[tuple[str, ...]] = [COLUMNS]
    for name, points in rows.items():
        evaluated = [row for row in points if "eval_loss" in row]
        epochs = str(points[-1]["epoch"] if points else 0)
        if not evaluated:
            table.append((name, epochs, "not evaluated yet", *[""] * (len(COLUMNS) - 3)))
            continue
        best = min(evaluated, key=lambda row: (row["collision_rate"], row["eval_loss"]))
        table.append(
            (
                name,
                epochs,
                f"{min(row['eval_loss'] for row in evaluated):.5f}",
                str(best["epoch"]),
                f"{best['collision_rate']:.4%}",
                f"{best['eval_loss']:.5f}",
                f"{sum(best['utilization']) / len(best['utilization']):.1%}",
                " ".join(f"{perplexity:.0f}" for perplexity in best["perplexity"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*lines, *(f"{name}: {folder}" for name, folder in folders.items())])


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        print(compare(dict(args.runs), args.output_file))
    print(f"Results: {args.output_file}")


if __name__ == "__main__":
    main()
