"""What a long job has done, one JSON line each, so that a killed run goes on where it was."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.common.artifacts import check_writable


class Journal:
    """A JSONL file that only grows; of several lines with one key the last counts. One process at a time writes it.

    A line is handed to the system as soon as it is known, so a killed process loses none; a line that was cut off (the
    machine went down, the disk was full) is taken away when the file is opened.
    """

    def __init__(self, path: Path, key: str):
        """Opens, or makes, the journal at `path`, whose lines are told apart by the field `key`.

        Raises:
            ValueError: it cannot be written, another process has it open, or a line before the last is broken.
        """
        self.path, self.key = path, key
        check_writable(path)
        self._file = open(path, "a+b")  # noqa: SIM115 (open as long as the journal)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ValueError(f"{path} is being written by another process: wait for it, or stop it") from None
        self.rows: dict[str, dict[str, Any]] = {row[key]: row for row in self._read()}

    def _read(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        end, number = 0, 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                row[self.key]
            except (ValueError, KeyError, TypeError) as error:
                self._file.close()
                raise ValueError(
                    f"{self.path}:{number} is no JSON line with {self.key!r} ({error}): delete that line"
                ) from error
            end += len(line)
            yield row
        self._file.truncate(end)  # a line that was cut off

    def write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        self.rows[row[self.key]] = row

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
