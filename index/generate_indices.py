"""Give every item its semantic ID, and write the SID index.

python3 index/generate_indices.py --dataset Games --ckpt_path data/Games/index/qwen7B/2025-01-31_12-00-00
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from index.config import DEDUP_METHODS, GenerateConfig
from src.common.artifacts import embedding_ids_path, file_hash, read_json
from src.common.cli import add_device_flag, new_parser, user_errors
from src.common.index_files import index_meta_path, load_sid_index, save_sid_index
from src.common.sid import SidIndex, level_letters


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add = parser.add_argument
    add("--dataset", required=True, help="name of the dataset; it names the index")
    add("--ckpt_path", type=Path, required=True, help="checkpoint, or run folder (its best_collision_model.pth)")
    add("--output_dir", type=Path, help="default: the folder that holds the run folder")
    add("--output_file", help="file name, .json or .npz; default: <dataset>.index_<name of output_dir>.json")
    add(
        "--data_path",
        type=Path,
        nargs="+",
        default=(),
        metavar="NPY",
        help="embeddings; default: those that the checkpoint was trained on",
    )
    add("--batch_size", type=int, default=GenerateConfig.batch_size, help="items encoded at a time; at least 2048 are")
    add(
        "--dedup",
        choices=DEDUP_METHODS,
        default=GenerateConfig.dedup,
        help="how items that share a SID are told apart; none leaves them",
    )
    add("--extend", type=Path, metavar="OLD_INDEX", help="keep the SIDs of this index, and add the items it lacks")
    add_device_flag(parser)
    return parser


def warn_of_unfinished(run: Path) -> None:
    """Says where a run was killed, or is still at work: its record names what it made when it ends."""
    from src.common.log import logger

    record = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    if record.get("artefact") == "RQ-VAE run" and "outputs" not in record:
        logger.warning("the training in %s has not ended: to go on with it, index/main.py --resume %s", run, run)


def generate(config: GenerateConfig) -> Path:
    """Writes the SID index, its `.meta.json`, and its `.codebooks.safetensors`.

    Returns:
        Path of the index.

    Raises:
        FileNotFoundError, ValueError: the checkpoint, the embeddings or the old index do not fit each other.
    """
    from index.checkpoints import load_checkpoint
    from index.collisions import SINKHORN_EPSILON, quantization_error, resolve_collisions
    from index.embeddings import EmbeddingDataset
    from index.encoding import encode_all
    from index.metrics import format_table, measure
    from src.common.codebooks import codebooks_path, save_codebooks
    from src.common.distributed import resolve_device
    from src.common.log import logger
    from src.common.record import add_outputs, file_entry, run_record

    device = resolve_device(config.device)
    checkpoint = load_checkpoint(config.ckpt_path, device)
    model_config = checkpoint.model.config
    data_path = config.data_path or checkpoint.data_path
    if not data_path:
        raise ValueError(f"{checkpoint.path} does not say which embeddings it was trained on: pass --data_path")
    warn_of_unfinished(checkpoint.path.parent)
    output = output_path(config, checkpoint.path)
    dataset = EmbeddingDataset(data_path, device)
    encoded = encode_all(checkpoint.model, dataset, config.batch_size)
    codebooks, num_levels = encoded.codebooks, len(encoded.codebooks)

    ckpt_hash = file_hash(checkpoint.path)
    old = load_old_index(config.extend, model_config.codebook_sizes, ckpt_hash) if config.extend else None
    all_ids = np.asarray(dataset.item_ids, np.int64)
    rows = np.argsort(all_ids, kind="stable")
    if old is not None:
        rows = rows[~np.isin(all_ids[rows], old.item_ids)]
    item_ids, latents, codes = (_take(array, rows) for array in (all_ids, encoded.latents, encoded.codes))
    resolution = resolve_collisions(
        latents,
        codebooks,
        codes,
        config.dedup,
        reserved=None if old is None else old.codes,
        sk_epsilon=model_config.level_epsilons[-1] or SINKHORN_EPSILON,
        sk_iters=model_config.sk_iters,
    )
    final_ids, final_codes = item_ids, resolution.codes
    suffix_size = resolution.suffix_size
    if old is not None:
        if old.codes.shape[1] > final_codes.shape[1]:  # --dedup none beside an old suffix level
            raise ValueError(f"{config.extend} has an extra level, which --dedup none cannot fill: pass --dedup assign")
        suffix_size = max(suffix_size, *old.codebook_sizes[num_levels:], 0)
        final_ids, final_codes = np.r_[old.item_ids, item_ids], np.concatenate([old.codes, final_codes])
        order = np.argsort(final_ids, kind="stable")
        final_ids, final_codes = final_ids[order], final_codes[order]
    sizes = model_config.codebook_sizes + ((suffix_size,) if final_codes.shape[1] > num_levels else ())
    index = SidIndex(final_ids, final_codes, level_letters(len(sizes)), sizes)
    before = measure(codes, model_config.codebook_sizes) if len(codes) else None
    after = measure(final_codes, sizes)
    error_before, error_after = (
        quantization_error(latents, codebooks, chosen) if len(codes) else 0.0 for chosen in (codes, resolution.codes)
    )

    meta: dict[str, Any] = {
        "dataset": config.dataset,
        "num_items": len(final_ids),
        "dedup": config.dedup,
        "collisions_before": before.table() if before else None,
        "collisions_after": after.table(),
        "utilization": list(after.utilization),
        "perplexity": list(after.perplexity),
        "items_moved": resolution.num_moved,
        "items_spilled": resolution.num_spilled,
        "suffix_level": len(sizes) - 1 if len(sizes) > num_levels else None,
        "quantization_error_before": error_before,
        "quantization_error_after": error_after,
        "error_added": error_after - error_before,
        "codebooks_file": codebooks_path(output).name,
        "levels_with_codebook": num_levels,
        "items_kept": 0 if old is None else len(old.item_ids),
        "items_kept_without_embedding": 0 if old is None else int((~np.isin(old.item_ids, all_ids)).sum()),
        "embeddings": [file_entry(path) for path in data_path],
        "checkpoint": {"path": str(checkpoint.path), "sha256": ckpt_hash, "epoch": checkpoint.epoch},
    }
    inputs: dict[str, Any] = {"checkpoint": checkpoint.path}
    for number, (path, entry) in enumerate(zip(data_path, meta["embeddings"], strict=True)):
        which = f"_{number}" if len(data_path) > 1 else ""
        inputs |= {f"embeddings{which}": entry, f"ids{which}": embedding_ids_path(path)}
    if config.extend:
        inputs["extended index"] = config.extend
    meta |= {"artefact": "SID index", **run_record(config, inputs)}
    save_codebooks(codebooks_path(output), codebooks)
    save_sid_index(output, index, meta)
    add_outputs(index_meta_path(output), {"index": output, "codebooks": codebooks_path(output)})

    if before:
        logger.info(f"before: collision rate {before.collision_rate:.4%}, {before.colliding_items} items share a SID")
    logger.info("after:\n" + format_table(after, sizes))
    if suffix_size and config.dedup != "suffix" and old is None:
        logger.info(f"{len(final_ids)} items do not fit into {'x'.join(map(str, sizes[:-1]))} SIDs: added a level")
    added = (error_after / error_before - 1) if error_before else 0.0
    logger.info(
        f"{resolution.num_moved} items moved ({resolution.num_spilled} to another prefix), quantization error"
        f" {added:+.2%}. Index: {output}"
    )
    return output


def _take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, without a copy where that is all of it in its order."""
    return array if np.array_equal(rows, np.arange(len(array))) else array[rows]


def output_path(config: GenerateConfig, checkpoint_path: Path) -> Path:
    """Where the index goes: beside the run folder, named after the folder, unless flags say otherwise."""
    folder = Path(config.output_dir) if config.output_dir else checkpoint_path.resolve().parents[1]
    path = folder / (config.output_file or f"{config.dataset}.index_{folder.name}.json")
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"--output_file {path.name}: an index ends in .json, or in .npz for large catalogues")
    return path


def load_old_index(path: Path, codebook_sizes: tuple[int, ...], ckpt_hash: str) -> SidIndex:
    """The index to extend, if the same checkpoint made it."""
    old = load_sid_index(path)
    num_levels = len(codebook_sizes)
    if not num_levels <= old.num_levels <= num_levels + 1 or old.letters != level_letters(old.num_levels):
        raise ValueError(
            f"--extend {path} has the levels {' '.join(old.letters)}, the checkpoint has {num_levels}: give the index"
            f" that this checkpoint made"
        )
    made_by = old.meta.get("checkpoint", {}).get("sha256", ckpt_hash)
    if made_by != ckpt_hash or (old.codes[:, :num_levels] >= np.asarray(codebook_sizes)).any():
        raise ValueError(
            f"--extend {path} was made by another checkpoint"
            f" ({old.meta.get('checkpoint', {}).get('path', 'with larger codebooks')}): pass that one as --ckpt_path"
        )
    return old


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    args = parser.parse_args(argv)
    try:
        config = GenerateConfig(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    from src.common.log import setup_logging  # imports torch: after parsing, so that --help and a typo answer at once

    setup_logging()
    with user_errors():
        generate(config)


if __name__ == "__main__":
    main()
