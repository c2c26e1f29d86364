"""Rows of a long extraction that are done already, kept in files so that a run can go on after a failure."""

import hashlib
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

    def write(self, vectors: dict[int, np.ndarray]) -> None:
        if not vectors:
            return
        ids = np.fromiter(vectors, np.int64, len(vectors))
        prints = [self.fingerprints[item] for item in vectors]
        name = hashlib.sha256("".join(prints).encode()).hexdigest()[:16]
        with atomic_path(self.folder / f"items-{name}.npz") as temporary:
            np.savez(temporary, item_ids=ids, fingerprints=prints, vectors=np.stack(list(vectors.values())))

    def read(self) -> dict[int, np.ndarray]:
        """Vector of each item that is done."""
        vectors: dict[int, np.ndarray] = {}
        for file in sorted(self.folder.glob("items-*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                rows = zip(arrays["item_ids"].tolist(), arrays["fingerprints"].tolist(), arrays["vectors"], strict=True)
                vectors.update((item, row) for item, seal, row in rows if self.fingerprints.get(item) == seal)
        return vectors


def _fingerprint(text: str, image: Path | None) -> str:
    stat = image.stat() if image else None
    picture = (image.name, stat.st_size, stat.st_mtime_ns) if stat else None
    return hashlib.sha256(f"{text}\0{picture}".encode()).hexdigest()[:16]
