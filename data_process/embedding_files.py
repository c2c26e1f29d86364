"""What every extractor writes: embeddings, the item of each row, and what they were made from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.embedding_inputs import InputConfig
from src.common.artifacts import DatasetPaths, embedding_ids_path, save_embeddings
from src.common.pictures import pictures_entry
from src.common.record import Entry, write_record

if TYPE_CHECKING:
    import numpy as np


def record_path(path: Path) -> Path:
    """`X.emb-NAME.npy` -> `X.emb-NAME.run.json`: what the embeddings were made from."""
    return path.with_suffix(".run.json")


def item_inputs(config: InputConfig, images: Iterable[Path | None]) -> dict[str, Path | Entry]:
    """The tables that texts of items come from, and `images`, their pictures."""
    paths = DatasetPaths(config.data_path, config.dataset)
    inputs: dict[str, Path | Entry] = {"items": paths.file("item.json")}
    if config.mode != "orig":
        inputs["enriched items"] = paths.file("item_enriched_v2.json")
    return inputs | pictures_entry(paths.folder, filter(None, images), config.image_path)


def write_embeddings(path: Path, vectors: "np.ndarray", item_ids: Sequence[int], record: Mapping[str, Any]) -> None:
    """Writes (N, D) embeddings, their ids and their record, a `run_record`."""
    record_path(path).unlink(missing_ok=True)  # never the record of one run beside the rows of another
    save_embeddings(path, vectors, item_ids)
    outputs = {"embeddings": path, "ids": embedding_ids_path(path)}
    write_record(record_path(path), {"artefact": "embeddings", **record}, outputs)
