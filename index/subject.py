"""What index/evaluate_index.py measures: the codes of a checkpoint or of an index, and what is known of their items."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from index.checkpoints import load_checkpoint
from index.config import EvaluateConfig, as_paths
from index.embeddings import EmbeddingDataset
from index.encoding import encode_all
from src.common.artifacts import DatasetPaths, file_hash
from src.common.dataset_readers import load_interactions, load_items, load_splits
from src.common.distributed import resolve_device
from src.common.index_files import load_sid_index
from src.common.log import logger

if TYPE_CHECKING:
    from index.rqvae import RQVAE

REMEDY = "Make it again with: bash index/generate.sh, or give its own files as --data_path and --dataset_dir"


class Subject(NamedTuple):
    """N items, L levels."""

    source: Path
    item_ids: np.ndarray  # (N,) int64
    codes: np.ndarray  # (N, L) int64
    codebook_sizes: tuple[int, ...]
    data_path: tuple[Path, ...] = ()  # of the embeddings
    embeddings: np.ndarray | None = None  # (N, D) float32, NaN where an item has none
    reconstructions: np.ndarray | None = None  # (N, D) float32, what the decoder makes of the codes
    losses: Mapping[str, Any] = {}  # of a checkpoint


def read_subject(config: EvaluateConfig) -> Subject:
    """The codes that `config` names, with embeddings and reconstructions where these are known.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, or the index lacks items of the embeddings.
    """
    return _of_checkpoint(config) if config.index_file is None else _of_index(config)


# ---- a checkpoint ----------------------------------------------------------------------------------------------------
def _of_checkpoint(config: EvaluateConfig) -> Subject:
    """Codes of the checkpoint's own embeddings, or of --data_path, before collisions are broken."""
    from index.collisions import quantization_error

    device = resolve_device(config.device)
    assert config.ckpt_path is not None  # read_subject has looked
    checkpoint = load_checkpoint(config.ckpt_path, device)
    data_path = config.data_path or checkpoint.data_path
    if not data_path:
        raise ValueError(f"{checkpoint.path} does not say which embeddings it was trained on: pass --data_path")
    dataset = EmbeddingDataset(data_path, device)
    encoded = encode_all(checkpoint.model, dataset, config.batch_size, with_reconstruction=True)
    return Subject(
        checkpoint.path,
        np.asarray(dataset.item_ids, np.int64),
        encoded.codes,
        checkpoint.model.config.codebook_sizes,
        data_path,
        unit_parts(dataset.rows.cpu().numpy(), dataset.widths),
        reconstruct(checkpoint.model, encoded.codes, config.batch_size),
        {
            "epoch": checkpoint.epoch,
            "reconstruction": encoded.reconstruction,
            "quantization_error": quantization_error(encoded.latents, encoded.codebooks, encoded.codes),
        },
    )


def reconstruct(model: "RQVAE", codes: np.ndarray, batch_size: int = EvaluateConfig.batch_size) -> np.ndarray:
    """(N, D) float32: embeddings as the decoder restores them from (N, L) codes.

    Levels beyond the model's codebooks, such as an added suffix, say nothing. Several embeddings of an item lie side by
    side, as `unit_parts` gives them.
    """
    import torch

    codebooks, normalizer = model.rq.codebooks, model.normalizer
    out = np.empty((len(codes), model.in_dim), np.float32)
    with torch.no_grad():
        for start in range(0, len(codes), batch_size):
            part = torch.from_numpy(codes[start : start + batch_size]).to(codebooks[0].device)
            latents = sum(codebook[part[:, level]] for level, codebook in enumerate(codebooks))
            rows = model.decoder(latents) * normalizer.scale + normalizer.mean
            out[start : start + batch_size] = rows.cpu().numpy()
    return unit_parts(out, normalizer.widths.tolist())


def unit_parts(rows: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """(N, D) rows as they are where they have one part, else every part scaled to length 1, so that all count alike."""
    if len(widths) < 2:
        return rows
    parts = np.split(rows, np.cumsum(widths)[:-1], 1)
    return np.concatenate([part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30) for part in parts], 1)


# ---- an index --------------------------------------------------------------------------------------------------------
def _of_index(config: EvaluateConfig) -> Subject:
    """Codes of an index or a .npy; embeddings are those of --data_path, or else those that its meta file names."""
    import torch

    assert config.index_file is not None  # read_subject has looked
    path, device = Path(config.index_file), resolve_device(config.device)
    subject, meta = read_codes(path)
    data_path = config.data_path or as_paths(
        unchanged_files(meta.get("embeddings"), path, "embeddings", "without neighbours. Give --data_path to have them")
    )
    if not data_path:
        return subject
    dataset = EmbeddingDataset(data_path, torch.device("cpu"))
    if path.suffix == ".npy":  # codes of a tokenizer that read these embeddings, row by row
        if len(subject.codes) != len(dataset):
            raise ValueError(
                f"{path} has {len(subject.codes)} rows and {data_path[0]} {len(dataset)}: row i of both is one item."
                f" Give the embeddings that the codes were made from"
            )
        subject = subject._replace(item_ids=np.asarray(dataset.item_ids, np.int64))
    rows = rows_of(subject.item_ids, dataset.item_ids, path, data_path[0])
    embeddings = unit_parts(dataset.rows.numpy(), dataset.widths)
    if not np.array_equal(rows, np.arange(len(subject.item_ids))):
        without = len(subject.item_ids) - len(rows)
        if without:
            logger.info(f"{data_path[0]} lacks {without} items of the index: they take no part among neighbours")
        placed = np.full((len(subject.item_ids), embeddings.shape[1]), np.nan, np.float32)
        placed[rows] = embeddings
        embeddings = placed
    reconstructions = None
    for ckpt_path in unchanged_files(meta.get("checkpoint"), path, "checkpoint", "without reconstructions"):
        model = load_checkpoint(ckpt_path, device).model
        if model.in_dim == embeddings.shape[1]:
            reconstructions = reconstruct(model, subject.codes, config.batch_size)
        else:
            logger.info(f"{ckpt_path} restores embeddings of width {model.in_dim}: measured without reconstructions")
    return subject._replace(data_path=data_path, embeddings=embeddings, reconstructions=reconstructions)


def read_codes(path: Path) -> tuple[Subject, Mapping[str, Any]]:
    """An index or a .npy of codes, and what its meta file says.

    Row i of a .npy is item i, and the size of a level its largest code + 1.
    """
    if path.suffix != ".npy":
        index = load_sid_index(path)
        return Subject(path, index.item_ids, index.codes, index.codebook_sizes), index.meta
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a SID index, or a .npy of codes")
    codes = np.load(path, allow_pickle=False)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer) or 0 in codes.shape or codes.min() < 0:
        raise ValueError(f"{path} must hold codes from 0, (items, levels) integers; holds {codes.dtype} {codes.shape}")
    sizes = tuple(int(size) for size in codes.max(0) + 1)
    return Subject(path, np.arange(len(codes)), codes.astype(np.int64), sizes), {}


def unchanged_files(named: Any, index_file: Path, what: str, consequence: str) -> list[Path]:
    """Files that an index was made from, as its meta file names them; none, which it says, where one has changed."""
    entries = [named] if isinstance(named, Mapping) else list(named or ())
    if not entries:
        logger.info(f"{index_file} does not say which {what} it was made from: measured {consequence}")
    for entry in entries:
        if not Path(entry["path"]).is_file():
            logger.info(f"{entry['path']}, which {index_file} was made from, is gone: measured {consequence}")
            return []
        if file_hash(entry["path"]) != entry["sha256"]:
            logger.info(f"{entry['path']} has changed since {index_file} was made: measured {consequence}")
            return []
    return [Path(entry["path"]) for entry in entries]


def rows_of(item_ids: np.ndarray, wanted: Sequence[int] | np.ndarray, source: Path, wanted_by: Path) -> np.ndarray:
    """(M,) int64: the row of each wanted item among (N,) item ids.

    Raises:
        ValueError: an item has none; `source` lacks what `wanted_by` names.
    """
    wanted, order = np.asarray(wanted, np.int64), np.argsort(item_ids, kind="stable")
    rows = order[np.minimum(np.searchsorted(item_ids, wanted, sorter=order), len(item_ids) - 1)]
    missing = np.unique(wanted[item_ids[rows] != wanted])
    if len(missing):
        raise ValueError(
            f"{source} lacks {len(missing)} of {len(np.unique(wanted))} items of {wanted_by}, the first being"
            f" {missing[0]}: it was made from other embeddings. {REMEDY}"
        )
    return rows


# ---- the dataset -----------------------------------------------------------------------------------------------------
def find_dataset(dataset_dir: Path | None, beside: Sequence[Path]) -> DatasetPaths | None:
    """The dataset in `dataset_dir`, or in the nearest folder above one of `beside`; None, which it says, without.

    Raises:
        FileNotFoundError: `dataset_dir` has neither items nor interactions.
    """
    folders = [dataset_dir.absolute()] if dataset_dir else chain(*(path.absolute().parents for path in beside))
    for folder in folders:
        paths = DatasetPaths(folder.parent, folder.name)
        if paths.file("item.json").is_file() or paths.file("inter.json").is_file():
            return paths
    if dataset_dir:
        raise FileNotFoundError(
            f"--dataset_dir {dataset_dir} has neither {paths.dataset}.item.json nor {paths.dataset}.inter.json: give"
            f" the folder of the dataset, such as data/Games, whose files have its name"
        )
    logger.info("no dataset lies around it: measured without categories and sequences. Give --dataset_dir to have them")
    return None


def read_categories(paths: DatasetPaths, item_ids: np.ndarray, source: Path) -> list[str] | None:
    """Categories of each of (N,) items, "" where it has none; None, which it says, where no item has any.

    Raises:
        ValueError: the dataset has an item that is not among them.
    """
    path = paths.file("item.json")
    items = load_items(paths) if path.is_file() else {}
    if not any(fields["categories"].strip() for fields in items.values()):
        logger.info(f"{path} {'has no categories' if items else 'does not exist'}: measured without them")
        return None
    rows_of(item_ids, list(items), source, path)
    if len(items) < len(item_ids):
        logger.info(f"{path} lacks {len(item_ids) - len(items)} of {len(item_ids)} items of {source}")
    return [items[item]["categories"] if item in items else "" for item in item_ids.tolist()]


def read_sequences(paths: DatasetPaths, item_ids: np.ndarray, source: Path) -> list[np.ndarray] | None:
    """The training part of each user's sequence, as rows of (N,) item ids; None, which it says, where there are none.

    Raises:
        ValueError: a sequence has an item that is not among them.
    """
    path = paths.file("inter.json")
    if not path.is_file():
        logger.info(f"{path} does not exist: measured without sequences")
        return None
    splits, training = load_splits(paths), []
    for user, items in load_interactions(paths).items():  # as src/tasks/catalogue.py splits them
        if splits is not None and user not in splits:
            raise ValueError(f"{paths.file('split.json')} lacks user {user!r} of {path}: make both in one run")
        end = splits[user][0] if splits is not None else len(items) - (2 if len(items) > 2 else 0)
        training.append(items[:end])
    ends = np.cumsum([len(items) for items in training])
    rows = rows_of(item_ids, np.fromiter(chain(*training), np.int64, int(ends[-1])), source, path)
    return np.split(rows, ends[:-1])
