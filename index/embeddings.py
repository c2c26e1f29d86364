"""The embeddings of one dataset, kept on the device that trains on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from index.config import as_paths
from src.common.artifacts import load_embeddings
from src.common.distributed import rank, world_size
from src.common.log import logger

EVALUATION_ROWS = 8192  # that a model reads at once where nothing is learnt
MAX_SHARE_OF_GPU = 0.6  # of its free memory; the rest is for activations and the optimizer


class EmbeddingDataset:
    """Every row of one .npy file, or of several with the same items, side by side.

    There is no DataLoader: a batch is one index_select on the device, which costs less than forking workers each epoch.

    Attributes:
        rows: (N, D) float32, on the device where it fits, else in pinned host memory.
        widths: columns that each file gave; they add up to D.
        item_ids: item id of each row.
        companions: (N, C) float32 beside the rows, e.g. collaborative embeddings, NaN where an item has none; or None.
        total: items of all ranks; `rows` holds this rank's part where `sharded`.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], device: torch.device, sharded: bool = False):
        self.paths, self.device = as_paths(paths), device
        parts = [load_embeddings(path) for path in self.paths]
        self.item_ids = parts[0][1]
        arrays = [parts[0][0]]
        for path, (array, item_ids) in zip(self.paths[1:], parts[1:], strict=True):
            arrays.append(array[self._positions(path, item_ids)])
        for path, array in zip(self.paths, arrays, strict=True):
            if (array[:2] == array[0]).all() and (array == array[0]).all():
                raise ValueError(
                    f"{path}: all {len(array)} embeddings are equal (zero variance), so no quantizer can tell items"
                    f" apart. Make the embeddings again with: python3 data_process/qwen_embeddings.py"
                )
        self.widths = tuple(array.shape[1] for array in arrays)
        self.total = len(self.item_ids)
        self.companions: Tensor | None = None
        mine = slice(rank(), None, world_size()) if sharded else slice(None)
        self.item_ids = self.item_ids[mine]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, 1)
        self.rows = self._placed(torch.from_numpy(np.ascontiguousarray(rows[mine])))

    def add_companions(self, path: Path, width: int) -> None:
        """Puts the embeddings of another file beside the rows, by item id, and brings them to `width` columns.

        Wider ones are cut to their first principal directions and narrower ones filled up with zeros: lengths and
        angles stay, as far as `width` directions can hold them.
        """
        array, item_ids = load_embeddings(path)
        if array.shape[1] > width:
            directions = np.linalg.svd(array.T @ array)[0][:, :width]
            array = array @ directions
        array = np.pad(array, ((0, 0), (0, width - array.shape[1])))
        row_of = {item: row for row, item in enumerate(item_ids)}
        found = np.asarray([row_of.get(item, -1) for item in self.item_ids])
        if (found < 0).all():
            raise ValueError(f"{path} has none of the items of {self.paths[0]}: give embeddings of the same dataset")
        if (found < 0).any():
            logger.info(f"{path} lacks {int((found < 0).sum())} of {len(found)} items: they are not aligned")
        self.companions = self._placed(
            torch.from_numpy(np.where(found[:, None] >= 0, array[found], np.float32("nan")).astype(np.float32))
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def batch(self, positions: Tensor) -> Tensor:
        """(B, D) float32 on the device: the rows at `positions`, (B,) int64."""
        return self._pick(self.rows, positions)

    def companions_of(self, positions: Tensor) -> Tensor | None:
        """(B, C) float32 on the device, or None where there are no companions."""
        return None if self.companions is None else self._pick(self.companions, positions)

    def in_order(self, batch_size: int):
        """All rows in the order of the file, (batch_size, D) at a time, on the device."""
        for rows in self.rows.split(batch_size):
            yield rows.to(self.device, non_blocking=True)

    def check_codebooks(self, codebook_sizes: tuple[int, ...]) -> None:
        """Refuses codebooks with more codewords than there are items."""
        if self.total < max(codebook_sizes):
            smaller = " ".join([str(max(2, self.total // 8))] * len(codebook_sizes))
            raise ValueError(
                f"{self.paths[0]} has {self.total} rows, fewer than the {max(codebook_sizes)} codewords of a level."
                f" Make the codebooks smaller, e.g. --num_emb_list {smaller}"
            )

    def _positions(self, path: Path, item_ids: Sequence[int]) -> np.ndarray:
        """Row of each of our items in a file whose rows are `item_ids`."""
        if set(item_ids) != set(self.item_ids):
            odd = min(set(item_ids) ^ set(self.item_ids))
            raise ValueError(
                f"{path} and {self.paths[0]} are of different items, e.g. item {odd}: make both embeddings of the same"
                f" dataset"
            )
        row_of = {item: row for row, item in enumerate(item_ids)}
        return np.asarray([row_of[item] for item in self.item_ids])

    def _pick(self, rows: Tensor, positions: Tensor) -> Tensor:
        return rows.index_select(0, positions.to(rows.device)).to(self.device, non_blocking=True)

    def _placed(self, rows: Tensor) -> Tensor:
        """`rows` on the device where they fit, else in pinned host memory."""
        if self.device.type != "cuda":
            return rows
        if rows.nbytes <= MAX_SHARE_OF_GPU * torch.cuda.mem_get_info(self.device)[0]:
            return rows.to(self.device)
        logger.info(f"{rows.nbytes / 2**30:.1f} GiB of embeddings stay in host memory, batches are copied")
        return rows.pin_memory()
