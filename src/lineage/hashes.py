"""What lies there now, by its hash: files, models' folders and the pictures of datasets, each worked out once."""

from collections.abc import Callable, Iterable
from pathlib import Path

from src.common.artifacts import DatasetPaths, file_hash
from src.common.dataset_readers import find_images, load_items
from src.common.pictures import distinct, pictures_hash
from src.common.record import Entry, model_entry, model_files
from src.lineage.artefacts import Artefact


class Hasher:
    """SHA-256 in hex. `told` hears of every number of bytes read."""

    def __init__(self) -> None:
        self.told: Callable[[int], object] = lambda _: None
        self.known: dict[Path, str] = {}
        self.pictures: dict[tuple[Path, str], list[Path]] = {}

    def __call__(self, path: Path, entry: Entry | None = None) -> str:
        """Of what lies at a path now, which may be pictures as an input tells of them.

        Raises:
            FileNotFoundError, ValueError: the items cannot be read, by which pictures are found.
        """
        if entry is not None and "pictures" in entry:
            return pictures_hash(path, self.pictures_in(path, entry), hash_of=self)
        path = path.resolve()
        if path not in self.known:
            if path.is_dir():
                self.known[path] = model_entry(path, hash_of=self)["sha256"]
            else:
                self.known[path] = file_hash(path, self.told)
        return self.known[path]

    def pictures_in(self, folder: Path, entry: Entry) -> list[Path]:
        """Files of the pictures that the items of a dataset have; raises as calling does."""
        key = (folder, str(entry.get("image_path", "images")))
        if key not in self.pictures:
            paths = DatasetPaths(folder.parent, folder.name)
            self.pictures[key] = distinct(find_images(paths, load_items(paths), key[1]).values())
        return self.pictures[key]

    def bytes_to_read(self, artefacts: Iterable[Artefact]) -> int:
        """About how many: what was made, and what it was made from, where that still lies in its place."""
        places: set[Path] = set()
        for artefact in artefacts:
            found = [(artefact.place(output), output) for output in artefact.outputs.values()]
            found += [(Path(entry["path"]), entry) for entry in artefact.inputs.values()]
            for place, entry in found:
                places |= {path.resolve() for path in self._files_of(place, entry) if path.is_file()}
        return sum(path.stat().st_size for path in places)

    def _files_of(self, place: Path, entry: Entry) -> list[Path]:
        if not place.is_dir():
            return [place]
        if "pictures" not in entry:
            return model_files(place)
        try:
            return self.pictures_in(place, entry)
        except (OSError, ValueError):
            return []  # told where they are judged
