"""What a check of a dataset has found: the fault, where it is, and how to mend it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
ERROR, WARNING = "error", "warning"


class Finding(NamedTuple):
    """`level`: an error breaks the contract of docs/data_format.md, a warning is worth knowing."""

    level: str
    file: str
    message: str
    remedy: str = ""

    def text(self) -> str:
        remedy = f"\n         mend: {self.remedy}" if self.remedy else ""
        return f"{self.level:7}  {self.file}: {self.message}{remedy}"


class Findings:
    """Findings so far, and the files that were looked at."""

    def __init__(self):
        self.rows: list[Finding] = []
        self.checked: list[str] = []

    def error(self, path: Path, message: str, remedy: str = "") -> None:
        self.rows.append(Finding(ERROR, path.name, message, remedy))

    def warn(self, path: Path, message: str, remedy: str = "") -> None:
        self.rows.append(Finding(WARNING, path.name, message, remedy))

    def read(self, path: Path, reader: Callable[[], T]) -> T | None:
        """What a reader of src/common/ gives; None where it finds the file at fault, which is noted."""
        self.checked.append(path.name)
        try:
            return reader()
        except (ValueError, OSError) as error:
            self.error(path, str(error).removeprefix(f"{path}: ").removeprefix(f"{path} "))
        except (TypeError, AttributeError, KeyError) as error:  # a list where a table should be, and the like
            self.error(path, f"it has another structure than docs/data_format.md shows ({error})")
        return None

    def count(self, level: str) -> int:
        return sum(row.level == level for row in self.rows)


def some(values: Iterable[Any], limit: int = 3) -> str:
    """The first few of many, for a message."""
    values = list(values)
    return ", ".join(map(str, values[:limit])) + (", ..." if len(values) > limit else "")
