"""The embeddings of one dataset, kept on the device that trains on them."""

from pathlib import Path

import torch
from torch import Tensor

from src.common.artifacts import load_embeddings
from src.common.log import logger

MAX_SHARE_OF_GPU = 0.6  # of its free memory; the rest is for activations and the optimizer


class EmbeddingDataset:
    """Every row of one .npy file.

    There is no DataLoader: a batch is one index_select on the device, which costs less than forking workers each epoch.

    Attributes:
        rows: (N, D) float32, on the device where it fits, else in pinned host memory.
        item_ids: item id of each row.
    """

    def __init__(self, path: str | Path, device: torch.device):
        array, self.item_ids = load_embeddings(path)
        self.path, self.device = Path(path), device
        if len(array) < 2 or not (array != array[0]).any():
            raise ValueError(
                f"{path}: all {len(array)} embeddings are equal (zero variance), so no quantizer can tell items apart."
                f" Make the embeddings again with: python3 data_process/qwen_embeddings.py"
            )
        rows = torch.from_numpy(array)
        if device.type == "cuda":
            if rows.nbytes <= MAX_SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]:
                rows = rows.to(device)
            else:
                logger.info(f"{path} takes {rows.nbytes / 2**30:.1f} GiB: it stays in host memory, batches are copied")
                rows = rows.pin_memory()
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def batch(self, positions: Tensor) -> Tensor:
        """(B, D) float32 on the device: the rows at `positions`, (B,) int64."""
        picked = self.rows.index_select(0, positions.to(self.rows.device))
        return picked.to(self.device, non_blocking=True)

    def in_order(self, batch_size: int):
        """All rows in the order of the file, (batch_size, D) at a time, on the device."""
        for rows in self.rows.split(batch_size):
            yield rows.to(self.device, non_blocking=True)

    def check_codebooks(self, codebook_sizes: tuple[int, ...]) -> None:
        """Refuses codebooks with more codewords than there are items."""
        if len(self) < max(codebook_sizes):
            smaller = " ".join([str(max(2, len(self) // 8))] * len(codebook_sizes))
            raise ValueError(
                f"{self.path} has {len(self)} rows, fewer than the {max(codebook_sizes)} codewords of a level."
                f" Make the codebooks smaller, e.g. --num_emb_list {smaller}"
            )
