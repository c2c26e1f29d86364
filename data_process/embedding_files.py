"""What every extractor writes: embeddings, the item of each row, and what they were made from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.embedding_inputs import InputConfig
from src.common.artifacts import DatasetPaths, embedding_ids_path, save_embeddings
from src.common.record import write_record

if TYPE_CHECKING:
    import numpy as np


def record_path(path: Path) -> Path:
    """`X.emb-NAME.npy` -> `X.emb-NAME.run.json`: what the embeddings were made from."""
    return path.with_suffix(".run.json")


def item_files(config: InputConfig) -> dict[str, Path]:
    """The tables that texts of items come from."""
    file = DatasetPaths(config.data_path, config.dataset).file
    inputs = {"items": file("item.json")}
    return inputs if config.mode == "orig" else inputs | {"enriched items": file("item_enriched_v2.json")}


def write_embeddings(path: Path, vectors: "np.ndarray", item_ids: Sequence[int], record: Mapping[str, Any]) -> None:
    """Writes (N, D) embeddings, their ids and their record, a `run_record`."""
    record_path(path).unlink(missing_ok=True)  # never the record of one run beside the rows of another
    save_embeddings(path, vectors, item_ids)
    outputs = {"embeddings": path, "ids": embedding_ids_path(path)}
    write_record(record_path(path), {"artefact": "embeddings", **record}, outputs)
