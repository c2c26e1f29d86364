"""Compare training runs: a table of their best collision rates and losses, and a picture of their curves.

python3 index/compare_runs.py large=data/Games/index/large none=data/Games/index/none --output_file comparison.png
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.cli import new_parser


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


def newest_run(folder: Path) -> Path:
    """`folder` if it is a run, else the newest run in it."""
    if (folder / "metrics.jsonl").is_file():
        return folder
    runs = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(f"{folder} holds no run of index/main.py. Train one with: bash index/run.sh")
    return runs[-1].parent


def compare(runs: dict[str, Path], output_file: Path) -> str:
    """Writes the picture; gives the table."""
    from index.plots import plot_runs
    from index.rows import read_rows

    folders = {name: newest_run(folder) for name, folder in runs.items()}
    rows = {name: read_rows(folder / "metrics.jsonl") for name, folder in folders.items()}
    plot_runs(rows, output_file)
    lines = [f"{'run':12} {'epochs':>7} {'best loss':>10} {'best collision':>14} {'best utilization':>16}  folder"]
    for name, points in rows.items():
        evaluated = [row for row in points if "eval_loss" in row]
        if not evaluated:
            lines.append(f"{name:12} {len(points):7}  not evaluated yet  {folders[name]}")
            continue
        loss = min(row["eval_loss"] for row in evaluated)
        collision = min(row["collision_rate"] for row in evaluated)
        used = max(sum(row["utilization"]) / len(row["utilization"]) for row in evaluated)
        lines.append(f"{name:12} {points[-1]['epoch']:7} {loss:10.5f} {collision:14.4%} {used:16.1%}  {folders[name]}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    print(compare(dict(args.runs), args.output_file))
    print(f"Results: {args.output_file}")


if __name__ == "__main__":
    main()
