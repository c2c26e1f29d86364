"""The folder of a training run: its log, its picture, and which checkpoints it keeps."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from index.checkpoints import save_checkpoint
from index.plots import plot_runs
from index.rows import Evaluation, append_rows
from src.common.artifacts import read_rows, write_text
from src.common.distributed import is_main

LOG = "metrics.jsonl"
LOSS_TOLERANCE = 1.1  # the best by collisions or use must be trained: a loss at most this far above the lowest


class RunFolder:
    """What a run writes; rank 0 does so, all ranks call alike."""

    def __init__(self, path: Path, save_limit: int):
        self.path, self.save_limit = path, save_limit
        self.best = {
            "loss": [math.inf, math.inf],
            "collision": [math.inf, math.inf],
            "utilization": [math.inf, math.inf],
        }

    def save(self, name: str, table: Mapping[str, Any]) -> None:
        if is_main():
            save_checkpoint(self.path / name, table)

    def keep(self, evaluation: Evaluation, table: Mapping[str, Any]) -> None:
        """Writes the epoch's checkpoint, `table`, as the best ones where it is better, and deletes old ones."""
        scores = {
            "loss": [evaluation.loss, evaluation.loss],
            "collision": [evaluation.measures.collision_rate, evaluation.loss],
            "utilization": [-evaluation.utilization, evaluation.loss],
        }
        tolerable = LOSS_TOLERANCE * min(evaluation.loss, self.best["loss"][0])
        for name, score in scores.items():
            old = self.best[name]
            if evaluation.loss <= tolerable and (score < old or old[-1] > tolerable):
                self.best[name] = score
                self.save(f"best_{name}_model.pth", table)
        if self.save_limit:
            self.save(f"epoch_{table['epoch']}.pth", table)
        if is_main():
            kept = sorted(self.path.glob("epoch_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
            for path in kept[: max(0, len(kept) - self.save_limit)]:
                path.unlink()

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if is_main():
            append_rows(self.path / LOG, rows)

    def forget_after(self, epoch: int) -> None:
        """Drops the rows of later epochs, which a resumed run makes again."""
        if is_main():
            kept = [row for row in read_rows(self.path / LOG) if row["epoch"] <= epoch]
            write_text(self.path / LOG, "".join(json.dumps(row) + "\n" for row in kept))

    def plot(self) -> None:
        if is_main():
            plot_runs({"training": read_rows(self.path / LOG)}, self.path / "training.png")


def new_run_folder(parent: Path) -> Path:
    """Makes `<parent>/<timestamp>`; a second run of the same second gets `-2` and so on."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
