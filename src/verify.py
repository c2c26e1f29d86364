"""Walk the chain from data to results: is everything still what it was, and made from what is there now?

    python -m src.verify data/Games output/Games results/Games

Every artefact carries the SHA-256 of what it was made from (docs/data_format.md). Each is shown below the latest of its
inputs, with one of:

    ok             it is as it was written, and its inputs were found by their hashes, wherever they lie now
    changed        it, or its record, was edited or replaced after it was written
    missing        a file of it is gone
    other version  made from another version of an input than the one that is there now
    missing input  what it was made from is nowhere
    unreadable     its record is cut off
    unknown        made before there were records, or elsewhere: nothing speaks against it
    source         a file that nothing of ours has made

What an artefact was made from is followed outside of the given folders, too. Exit status: 0 where no link is broken, 1
where one is, 2 where there is nothing to verify.
"""

import argparse
from pathlib import Path

from src.common.cli import new_parser, user_errors

SHOWN_FROM = 1 << 28  # bytes to read from which on there is a progress bar


def verify(paths: list[Path], may_lack: list[str], json_file: Path | None = None) -> bool:
    """Prints the tree and the summary; gives whether no link is broken.

    Args:
        may_lack: patterns of paths of inputs that may be gone.
        json_file: gets the same for programs.

    Raises:
        FileNotFoundError: a path does not exist, or there is no artefact below the paths.
    """
    from src.common.artifacts import check_writable, write_json
    from src.common.log import progress
    from src.lineage.artefacts import find_artefacts
    from src.lineage.hashes import Hasher
    from src.lineage.links import Graph
    from src.lineage.tree import Order, lines, summary, table

    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give folders or files of artefacts, such as results/Games")
    if json_file:
        check_writable(json_file)
    artefacts, files = find_artefacts(paths)
    if not artefacts:
        raise FileNotFoundError(
            f"there is no artefact below {', '.join(map(str, paths))}: give folders that runs of GRec have written to"
        )
    hasher = Hasher()
    total = hasher.bytes_to_read(artefacts)
    bar = progress(total=total, desc="reading", unit="B", unit_scale=True) if total > SHOWN_FROM else None
    if bar is not None:
        hasher.told = bar.update
    graph = Graph(artefacts, files, hasher, may_lack)
    if bar is not None:
        bar.close()
    order = Order(graph.nodes.values())
    print("\n".join([*lines(order), summary(order)]))
    found = table(graph, order)
    if json_file:
        write_json(json_file, found, indent=2)
    return found["whole"]


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR_OR_FILE", help="where artefacts are looked for")
    parser.add_argument(
        "--may_lack",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="inputs that may be gone, by path as recorded, such as 'raw/*': then that breaks nothing (default: none)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found to this file (default: none)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        whole = verify(args.paths, args.may_lack, args.json)
    if not whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
