"""Baselines and models beside published figures: one command a row, under one protocol.

    python -m benchmarks.published                              # the counting baselines: seconds each
    python -m benchmarks.published --list
    python -m benchmarks.published --rows 'Beauty/sasrec-*'     # trainings go on after a kill
    python -m benchmarks.published --record Instruments/tiger-text results/mine.json --seconds 5400
    python -m benchmarks.published --table                      # what docs/baselines_readme.md shows

Each run is recorded in docs/results/<dataset>/<row>.json. Data is looked for in $GREC_DATA.
"""

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.published.rows import ROWS, Row
from src.common.cli import new_parser, user_errors


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rows", nargs="+", metavar="NAME", help="rows to run; * stands for anything")
    what.add_argument("--list", action="store_true", help="print every row with its command, and run nothing")
    what.add_argument("--table", action="store_true", help="print the Markdown table of what is recorded")
    what.add_argument(
        "--record", nargs=2, metavar=("ROW", "FILE"), help="record a results file made elsewhere, if it fits the row"
    )
    parser.add_argument("--seconds", type=float, help="wall time of the run to --record")
    parser.add_argument("--cpu_seconds", type=float, help="CPU time of it (default: not known)")
    parser.add_argument("--machine", help="of it, in words, without its name (default: this machine)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the compared rows there too")
    return parser


def chosen(patterns: list[str] | None) -> list[Row]:
    """The rows that patterns name, in the order of the table; without any, those that take seconds."""
    if patterns is None:
        return [row for row in ROWS.values() if row.is_quick]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ROWS):
            raise ValueError(f"no row is called {pattern!r}: --list prints their names")
    return [row for row in ROWS.values() if any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def print_list() -> None:
    from benchmarks.published.record import read_records

    records = read_records()
    for row in ROWS.values():
        state = "recorded" if row.name in records else "not run"
        print(f"{row.name}  ({row.title}; {row.protocol.name}; {state})\n    {row.command}")


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if bool(args.record) != (args.seconds is not None):
        parser.error("--record and --seconds belong together: how long did that run take?")
    if not args.record and (args.machine or args.cpu_seconds):
        parser.error("--machine and --cpu_seconds are of a run to --record")
    with user_errors():
        rows = list(ROWS.values())
        if args.list:
            print_list()
        elif args.record:
            rows = chosen([args.record[0]])
            add_record(rows, Path(args.record[1]), args)
        elif not args.table:
            rows = run(chosen(args.rows))
        show(rows, args)


def add_record(rows: list[Row], results_file: Path, args: argparse.Namespace) -> None:
    from benchmarks.harness import machine
    from benchmarks.published.record import record_path, write_record

    if len(rows) != 1:
        raise ValueError(f"--record {args.record[0]} names {len(rows)} rows: name one")
    write_record(rows[0], results_file, args.seconds, args.cpu_seconds, args.machine or machine())
    print(f"recorded in {record_path(rows[0])}")


def run(rows: list[Row]) -> list[Row]:
    """Runs rows one after another; gives those whose data is there."""
    from benchmarks.published.record import run_row

    return [row for row in rows if run_row(row) is not None]


def show(rows: list[Row], args: argparse.Namespace) -> None:
    """The compared rows on the screen, and in --json."""
    from benchmarks.harness import machine
    from benchmarks.published.record import read_records
    from benchmarks.published.table import compared, markdown, pair
    from src.common.artifacts import write_json
    from src.common.record import commit

    records = read_records()
    table = [compared(row, records.get(row.name)) for row in rows]
    if args.table:
        print(markdown(records))
    elif not args.list:
        for found in table:
            print(f"{found['name']:34} published {pair(found['published']):16}  ours {pair(found['ours']):16}")
    if args.json:
        record = {"machine": machine(), "commit": commit(), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        write_json(args.json, {**record, "rows": table}, indent=2)


if __name__ == "__main__":
    main()
