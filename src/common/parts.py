"""Long work in batches that ranks share: what is done lies on disk, and the next run goes on from there."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from src.common.artifacts import atomic_path, file_hash, read_json, write_json
from src.common.distributed import barrier, gather, is_main, shard
from src.common.log import progress
from src.common.machines import check_same, check_shared, wait_until_seen
from src.common.record import Entry, plain

SAVE_SECONDS = 60  # how much work a killed run may lose
LARGE_INPUTS = ("base model", "pictures")

Arrays = dict[str, np.ndarray]


def key_of(settings: Any, files: Iterable[Path], inputs: Mapping[str, Entry] | None = None) -> dict[str, str]:
    """What predictions depend on, as a hash: settings, and the content of files.

    Args:
        inputs: of the results, as rank 0 has hashed them; of these what is too much for every rank counts.
    """
    hashes = {name: entry["sha256"] for name, entry in (inputs or {}).items() if name in LARGE_INPUTS}
    digest = hashlib.sha256(json.dumps(plain([settings, hashes]), sort_keys=True).encode())
    for path in files:
        digest.update(file_hash(path).encode())
    return {"key": digest.hexdigest()}


def cut_batches(sizes: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of samples of like sizes, cut over the whole split: ranks take whole batches.

    So a batch holds the same samples on 1 rank and on N, and no sample is padded in or dropped.
    """
    order = np.argsort(sizes, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


class Parts:
    """Predictions made so far, on disk: what one run leaves, the next goes on from, on any number of ranks.

    A context: a failure leaves the folder only if there is something in it to go on from.
    """

    def __init__(self, folder: Path, key: dict[str, str]):
        self.folder = folder
        check_shared(folder.parent, "--results_file")
        check_same(key, "data, checkpoint or settings")
        if is_main():
            stamp = folder / "run.json"
            if not stamp.is_file() or read_json(stamp) != key:
                shutil.rmtree(folder, ignore_errors=True)
                write_json(stamp, key)
        barrier()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        if is_main() and not any(self.folder.glob("*.npz")):
            self.remove()

    def read(self, prompt_id: int) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Numbers of samples, and what there is of them."""
        for path in sorted(self.folder.glob(f"{prompt_id}-*.npz")):
            with np.load(path, allow_pickle=False) as part:
                yield part["samples"], {name: part[name] for name in part.files if name != "samples"}

    def save(self, prompt_id: int, samples: Sequence[np.ndarray], arrays: Sequence[Arrays]) -> str:
        """Writes what was made of some batches; gives the file's name."""
        tables: dict[str, Any] = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
        tables["samples"] = np.concatenate(samples)
        name = f"{prompt_id}-{int(samples[0][0])}.npz"
        with atomic_path(self.folder / name) as temporary:
            np.savez(temporary, **tables)
        return name

    def work(
        self,
        prompt_id: int,
        batches: Sequence[np.ndarray],
        answer: Callable[[np.ndarray], Arrays],
        what: str = "decoding",
    ) -> int:
        """Does this rank's share of the batches that are not on disk yet; gives the number of samples.

        All ranks leave together, when rank 0 sees what they have written.
        """
        seen = [numbers for numbers, _ in self.read(prompt_id)]
        # What rank 0 has read counts for all, before any writes more: they share one rest, though storage that several
        # machines mount may show one of them less.
        finished = set(gather(np.concatenate([np.empty(0, np.int64), *seen]))[0].tolist())
        mine = shard([batch for batch in batches if int(batch[0]) not in finished])
        numbers, arrays, asked, saved = [], [], 0, time.time()
        written: list[str] = []
        for batch in progress(mine, desc=what, unit="batch"):
            arrays.append(answer(batch))
            numbers.append(batch)
            asked += len(batch)
            if time.time() - saved > SAVE_SECONDS:
                written.append(self.save(prompt_id, numbers, arrays))
                numbers, arrays, saved = [], [], time.time()
        if numbers:
            written.append(self.save(prompt_id, numbers, arrays))
        wait_until_seen(self.folder, written)
        return asked

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
