"""The pictures of a dataset as one input of a record."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from src.common.artifacts import file_hash
from src.common.record import Entry, recorded

READERS = 8  # threads: a disk behind a network is waited for more than worked with


def pictures_entry(folder: Path, files: Iterable[Path], image_path: str = "images") -> dict[str, Entry]:
    """All pictures that items have, as the input `pictures` of a record; nothing where there are none.

    Its path is the dataset's folder, from which `<DS>.item.json` and `image_path` lead to the pictures again. Further
    files in the folder of pictures may come and go.

    Args:
        folder: of the dataset.
        files: what `find_images` gave, broken ones too.
    """
    files = distinct(files)
    if not files:
        return {}
    digest = pictures_hash(folder, files)
    entry = {"path": recorded(folder), "sha256": digest, "pictures": len(files), "image_path": image_path}
    return {"pictures": entry}


def distinct(files: Iterable[Path]) -> list[Path]:
    """Each file once, by name: items may share one."""
    return sorted(set(files))


def pictures_hash(folder: Path, files: Sequence[Path], hash_of: Callable[[Path], str] = file_hash) -> str:
    """The hash of the list that `sha256sum` would print of `files` in the dataset's folder."""
    with ThreadPoolExecutor(READERS) as readers:
        digests = list(readers.map(hash_of, files))
    names = [os.path.relpath(file, folder) for file in files]
    listed = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()
