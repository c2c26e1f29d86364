"""Amazon 2018, or RecBole's atomic files -> data/<DS>/, as GRec and as RecBole read it.

    python3 data_process/amazon18_recbole_data_process.py --dataset Games --input_path raw/amazon18
    python3 data_process/amazon18_recbole_data_process.py --dataset ml --input_path raw/ml --input_format recbole

Beside what amazon18_data_process.py writes: <DS>.inter, <DS>.item, and <DS>.train.inter, <DS>.valid.inter,
<DS>.test.inter, one line a sample.
With --input_format recbole it reads <DS>.inter (user_id, item_id, perhaps timestamp) and, where it is, <DS>.item.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process import amazon18_data_process
from data_process.amazon_files import AmazonConfig, add_amazon_flags
from data_process.preparation import Source, prepare
from src.common.cli import check_at_least, new_parser, user_errors
from src.common.log import logger, setup_logging

INPUT_FORMATS = ("amazon18", "recbole")


@dataclass(frozen=True, kw_only=True)
class RecBoleConfig(AmazonConfig):
    """What is read, and how long the histories of samples are."""

    input_format: str = "amazon18"
    max_his_len: int = 50

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, max_his_len=1)
        if self.input_format not in INPUT_FORMATS:
            raise ValueError(f"--input_format {self.input_format}: choose one of {', '.join(INPUT_FORMATS)}")
        if self.input_format == "recbole" and self.category:
            raise ValueError("--category belongs to --input_format amazon18: RecBole's files are called as the dataset")


def open_source(config: RecBoleConfig) -> Source:
    if config.input_format == "amazon18":
        return amazon18_data_process.open_source(config)
    from data_process.raw_files import Tally, find_file, header_columns
    from data_process.recbole_files import TICKS, TIME_FIELD, interaction_blocks, item_blocks

    name = config.dataset
    file = find_file(config.input_path, [f"{name}.inter"], "--interactions_file", config.interactions_file)
    if file.resolve() == config.paths.file("inter").resolve():
        raise ValueError(f"{file} would be read and written: choose another --output_path or --dataset")
    interactions = Tally(file)
    tallies, items = [interactions], None
    if config.metadata_file or file.with_name(f"{name}.item").is_file():
        file = find_file(config.input_path, [f"{name}.item"], "--metadata_file", config.metadata_file)
        tallies.append(Tally(file))
        items = item_blocks(tallies[1], header_columns(file, "\t"))
    logger.info("reading %s", ", ".join(str(tally.path) for tally in tallies))
    has_times = TIME_FIELD in header_columns(interactions.path, "\t").names
    return Source(interaction_blocks(interactions), items, has_times, TICKS, tallies)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_amazon_flags(parser)
    parser.add_argument(
        "--input_format", choices=INPUT_FORMATS, default=RecBoleConfig.input_format, help="what --input_path holds"
    )
    parser.add_argument(
        "--max_his_len",
        type=int,
        default=RecBoleConfig.max_his_len,
        help="latest items in the history of a sample",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    setup_logging()
    with user_errors():
        config = RecBoleConfig(**vars(args))
        source = open_source(config)
        prepared = prepare(config, source)
        from data_process.recbole_files import write_atomic_files

        write_atomic_files(config.paths, prepared, source.ticks, config.max_his_len)


if __name__ == "__main__":
    main()
