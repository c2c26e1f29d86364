"""`<index>.codebooks.safetensors`: the codewords that a SID index was made with, and items as the sums of theirs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.common.artifacts import atomic_path
from src.common.sid import SidIndex


def codebooks_path(index_path: str | Path) -> Path:
    return Path(index_path).with_suffix(".codebooks.safetensors")


def save_codebooks(path: Path, codebooks: Sequence[np.ndarray]) -> None:
    """`codebook_<level>`: (K, e_dim) float32 of every level of the quantizer."""
    from safetensors.numpy import save_file

    tensors = {f"codebook_{level}": np.ascontiguousarray(book, np.float32) for level, book in enumerate(codebooks)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def load_codebooks(index: SidIndex) -> list[np.ndarray]:
    """(K, e_dim) float32 of each level that has codewords, which an added last level has not.

    None at all where no file lies beside the index, or one of another grid.
    """
    path = codebooks_path(index.path) if index.path else None
    if path is None or not path.is_file():
        return []
    from safetensors.numpy import load_file

    table = load_file(path)
    books = [table[f"codebook_{level}"] for level in range(len(table)) if f"codebook_{level}" in table]
    sizes = [len(book) for book in books]
    return books if sizes == list(index.codebook_sizes[: len(sizes)]) else []


def need_codebooks(index: SidIndex) -> list[np.ndarray]:
    """What `load_codebooks` gives.

    Raises:
        ValueError: there are none.
    """
    books = load_codebooks(index)
    if not books:
        raise ValueError(
            f"{index.path} has no codebooks of its levels beside it ({codebooks_path(index.path or 'index').name}):"
            f" make the index again with bash index/generate.sh"
        )
    return books


def sid_vectors(index: SidIndex, item_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(M, e_dim) float32: all that SIDs say of items, as the sum of their codewords.

    Raises:
        ValueError: there are no codebooks beside the index.
    """
    books = need_codebooks(index)
    codes = index.codes[index.rows_of(item_ids)]
    vectors = np.zeros((len(codes), books[0].shape[1]), np.float32)
    for level, book in enumerate(books):
        vectors += book[codes[:, level]]
    return vectors
