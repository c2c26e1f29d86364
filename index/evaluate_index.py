"""Measure a checkpoint or a SID index, of ours or of others: print tables, write a JSON and a picture.

python3 index/evaluate_index.py --ckpt_path data/Games/index/qwen7B/2025-01-31_12-00-00 --batch_size 2048
python3 index/evaluate_index.py --index_file data/Games/index/qwen7B/Games.index_qwen7B.json

Collisions, utilization, perplexity and entropy need only the codes. Prefixes are compared with categories and sequences
where the dataset is found, and with neighbours where the embeddings are; a line says what was left out.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from index.config import EvaluateConfig
from src.common.artifacts import check_writable
from src.common.cli import add_device_flag, new_parser, user_errors


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ckpt_path", type=Path, help="checkpoint, or run folder (its best_collision_model.pth)")
    what.add_argument("--index_file", type=Path, help="SID index (.json, .npz), or codes of any tokenizer (.npy)")
    add = parser.add_argument
    add(
        "--data_path",
        type=Path,
        nargs="+",
        default=(),
        metavar="NPY",
        help="embeddings; default: those that the checkpoint or the index was made from",
    )
    add(
        "--dataset_dir",
        type=Path,
        help="folder of the dataset, such as data/Games; default: the nearest one above the embeddings or the index",
    )
    add("--output_file", type=Path, help="default: beside what is measured, *.evaluation.json; the picture is a .png")
    add("--batch_size", type=int, default=EvaluateConfig.batch_size, help="items encoded at a time")
    add("--num_queries", type=int, default=EvaluateConfig.num_queries, help="items whose neighbours are looked up")
    add("--seed", type=int, default=EvaluateConfig.seed, help="of these items, and of the shuffled categories")
    add_device_flag(parser)
    return parser


def evaluate(config: EvaluateConfig) -> Path:
    """Measures, prints, writes the JSON and beside it the picture.

    Returns:
        Path of the JSON.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, or the index lacks items of the embeddings or of
            the dataset.
    """
    from index.checkpoints import resolve_checkpoint
    from index.metrics import format_table, measure
    from index.plots import plot_evaluation
    from index.semantics import format_semantics, measure_all
    from index.subject import find_dataset, read_categories, read_sequences, read_subject
    from src.common.interactions import interaction_inputs
    from src.common.log import logger
    from src.common.record import commit, input_entries, write_record

    source = config.index_file
    if source is None:
        assert config.ckpt_path is not None  # the config wants one of both
        source = resolve_checkpoint(config.ckpt_path)
    output = config.output_file or source.with_suffix(".evaluation.json")
    picture = output.with_suffix(".png")
    check_writable(output)
    subject = read_subject(config)
    dataset = find_dataset(config.dataset_dir, (*subject.data_path, source))
    items = (subject.item_ids, source)
    measures = measure_all(
        subject.codes,
        subject.codebook_sizes,
        embeddings=subject.embeddings,
        categories=read_categories(dataset, *items) if dataset else None,
        sequences=read_sequences(dataset, *items) if dataset else None,
        reconstructions=subject.reconstructions,
        num_queries=config.num_queries,
        seed=config.seed,
    )
    origin = {
        "source": str(source),
        "dataset_dir": str(dataset.folder) if dataset else None,
        "data_path": [str(path) for path in subject.data_path],
        "codebook_sizes": list(subject.codebook_sizes),
    }
    inputs = {"index" if config.index_file else "checkpoint": source}
    inputs |= {f"embeddings_{number}": path for number, path in enumerate(subject.data_path)}
    if dataset:
        inputs |= {"items": dataset.file("item.json"), "split": dataset.file("split.json")}
        inputs |= interaction_inputs(dataset)
    record = {"artefact": "evaluation of an index", "commit": commit(), "inputs": input_entries(inputs)}
    write_record(output, {**origin, **measures, **subject.losses, **record})
    plot_evaluation(subject.codes, subject.codebook_sizes, measures, str(source), picture)
    tables = [format_table(measure(subject.codes, subject.codebook_sizes), subject.codebook_sizes)]
    tables += [format_semantics(measures), *(f"{name} {value:.5g}" for name, value in subject.losses.items())]
    logger.info("\n".join([str(source), *filter(None, tables)]))
    logger.info(f"Results: {output}, {picture}")
    return output


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    args = parser.parse_args(argv)
    try:
        config = EvaluateConfig(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    from src.common.log import setup_logging  # imports torch: after parsing, so that --help and a typo answer at once

    setup_logging()
    with user_errors():
        evaluate(config)


if __name__ == "__main__":
    main()
