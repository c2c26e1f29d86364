"""Rows of a long extraction that are done already, kept in files so that a run can go on after a failure."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_process.embedding_inputs import EmbeddingInputs
from src.common.artifacts import atomic_path, read_json, write_json


class Parts:
    """The rows that are done, in files of their own. A row counts as long as its text and its picture stay the same."""

    def __init__(self, folder: Path, inputs: EmbeddingInputs):
        self.folder = folder
        self.fingerprints = {item: _fingerprint(text, image) for item, text, image in zip(*inputs, strict=True)}

    def claim(self, settings: dict[str, Any]) -> None:
        """Makes the folder, or checks that it belongs to the same model and settings."""
        found = self.folder / "settings.json"
        if found.is_file() and read_json(found) != settings:
            raise ValueError(
                f"{self.folder} holds the beginning of a run with other settings. Give this run another --name, or"
                f" start anew: rm -r {self.folder}"
            )
        write_json(found, settings, indent=2)

    def digest(self) -> str:
        """What the texts and pictures of all items come to."""
        text = "".join(f"{item}:{seal} " for item, seal in self.fingerprints.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, vectors: dict[int, np.ndarray]) -> None:
        if not vectors:
            return
        ids = np.fromiter(vectors, np.int64, len(vectors))
        prints = [self.fingerprints[item] for item in vectors]
        name = hashlib.sha256("".join(prints).encode() + ids.tobytes()).hexdigest()[:16]
        with atomic_path(self.folder / f"items-{name}.npz") as temporary:
            np.savez(temporary, item_ids=ids, fingerprints=prints, vectors=np.stack(list(vectors.values())))

    def done(self) -> set[int]:
        """The items that need not be embedded again."""
        return {item for _, items, _ in self._files(with_vectors=False) for item in items}

    def join(self, item_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) float32 on disk, in the folder of the parts: row i is `item_ids[i]`, or the mean where it has no row;
        and (N,) bool: which items have one.

        Raises:
            ValueError: no item has one.
        """
        rows = {item: row for row, item in enumerate(item_ids)}
        known = np.zeros(len(item_ids), bool)
        table, total = None, 0.0
        for places, items, vectors in self._files():
            if table is None:
                shape = (len(item_ids), vectors.shape[1])
                table = np.lib.format.open_memmap(self.folder / "joined.npy", "w+", np.float32, shape)
            here = [rows[item] for item in items]
            new = ~known[here]  # an item may have been embedded twice, before and after a kill
            table[here] = vectors[places]
            total = total + vectors[places][new].sum(0, dtype=np.float64)
            known[here] = True
        if table is None:
            raise ValueError(f"no item has a text or a picture to embed: there is nothing to write for {self.folder}")
        table[~known] = total / known.sum()
        return table, known

    def _files(self, with_vectors: bool = True) -> Iterator[tuple[list[int], list[int], Any]]:
        """Of each file: which of its rows count, their item ids, and all its vectors."""
        for file in sorted(self.folder.glob("items-*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                ids, prints = arrays["item_ids"].tolist(), arrays["fingerprints"].tolist()
                places = [place for place, item in enumerate(ids) if self.fingerprints.get(item) == prints[place]]
                if places:
                    yield places, [ids[place] for place in places], arrays["vectors"] if with_vectors else None


def _fingerprint(text: str, image: Path | None) -> str:
    picture = None
    if image is not None:
        stat = image.stat()
        picture = (image.name, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(f"{text}\0{picture}".encode()).hexdigest()[:16]
