"""The arrays of an .npz file, mapped where they lie: they take memory only as they are read."""

from pathlib import Path
from typing import Literal
from zipfile import ZIP_STORED, ZipFile

import numpy as np

LOCAL_HEADER = 30  # bytes before the name of an entry, which end with the lengths of the name and of what follows it


def map_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name, read-only; those of a compressed file are read into memory.

    Raises:
        BadZipFile, ValueError: the file is not whole, or holds Python objects.
    """
    with ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != ZIP_STORED for entry in entries):
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    arrays = {}
    with open(path, "rb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            header = file.read(LOCAL_HEADER)
            sizes = np.frombuffer(header[-4:], "<u2")
            file.seek(int(sizes.sum()), 1)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = read(file)
            if kind.hasobject:
                raise ValueError(f"{entry.filename} holds Python objects")
            place, name = file.tell(), entry.filename.removesuffix(".npy")
            if 0 in shape:
                arrays[name] = np.empty(shape, kind)
            else:
                order: Literal["F", "C"] = "F" if fortran else "C"
                mapped = np.memmap(path, kind, mode="r", offset=place, shape=shape, order=order)
                arrays[name] = mapped.view(np.ndarray)
    return arrays
