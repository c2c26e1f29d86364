"""Run the notebooks without a browser, on the artefacts of one dataset; the quickstart's by default.

    bash scripts/quickstart.sh --small
    python3 scripts/run_notebooks.py

Writes them with their outputs to --out_dir; notebook/ itself stays without. A notebook that fails is named with its
message, and the exit status is 1.
"""

import argparse
import base64
import io
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m scripts...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import atomic_path, check_writable
from src.common.cli import check_at_least, name_list, new_parser, user_errors

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("data", "embeddings", "sid_space", "beam_search")
PICTURE = "picture"  # metadata of a cell: its name under --pictures
PICTURE_WIDTH, PICTURE_QUALITY = 900, 80  # pixels; of WebP


@dataclass(frozen=True, kw_only=True)
class NotebookConfig:
    dataset: str = "DemoSmall"
    data_path: Path = Path("data")
    index_file: str = ".index_simple.json"
    results_file: Path | None = None  # else results/<dataset>/grec.json
    num_questions: int = 200
    notebooks: tuple[str, ...] = NAMES
    out_dir: Path | None = None  # else results/<dataset>/notebooks
    pictures: Path | None = None
    timeout: int = 600

    def __post_init__(self):
        check_at_least(self, num_questions=0, timeout=1)
        if unknown := [name for name in self.notebooks if name not in NAMES]:
            raise ValueError(f"--notebooks {unknown[0]}: there are {', '.join(NAMES)}")

    def environment(self) -> dict[str, str]:
        """What the first cells of the notebooks read."""
        results = self.results_file or Path("results", self.dataset, "grec.json")
        return {
            "DATASET": self.dataset,
            "DATA_PATH": str(self.data_path),
            "INDEX_FILE": self.index_file,
            "RESULTS_FILE": str(results),
            "NUM_QUESTIONS": str(self.num_questions),
        }


def run_notebooks(config: NotebookConfig) -> list[str]:
    """Runs one after the other; gives what went wrong, a message for each that failed."""
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    folder = config.out_dir or Path("results", config.dataset, "notebooks")
    for name in config.notebooks:
        check_writable(folder / f"{name}.ipynb")
    failed = []
    for name in config.notebooks:
        started = time.time()
        notebook = nbformat.read(ROOT / "notebook" / f"{name}.ipynb", as_version=4)
        try:
            run(notebook, config.environment(), config.timeout)
            outcome = "done"
        except CellExecutionError as error:
            outcome = f"{error.ename}: {error.evalue}"
            failed.append(f"{name}: {outcome}")
        except CellTimeoutError:
            outcome = f"a cell took longer than --timeout {config.timeout} seconds"
            failed.append(f"{name}: {outcome}")
        with atomic_path(folder / f"{name}.ipynb") as temporary:  # a failed one too: the cell shows its traceback
            nbformat.write(notebook, temporary)
        print(f"{name}: {outcome}, {time.time() - started:.0f} s, {folder / name}.ipynb", flush=True)
        if config.pictures:
            for path in save_pictures(notebook, config.pictures):
                print(f"  {path}, {path.stat().st_size / 1000:.0f} kB")
    return failed


def run(notebook: Any, environment: dict[str, str], timeout: int) -> None:
    """Fills in the outputs, as Jupyter does with all cells from top to bottom.

    Raises:
        CellExecutionError: a cell failed; its traceback is among its outputs.
    """
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(ROOT / "notebook")}}
    with TemporaryDirectory(prefix="grec-notebook-") as folder:  # sockets of its own: no port that others can reach
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        client = NotebookClient(notebook, km=kernel, timeout=timeout, startup_timeout=timeout, resources=where)
        client.execute(env={**os.environ, **environment}, cleanup_kc=True)  # the latter ends the kernel


def save_pictures(notebook: Any, folder: Path) -> list[Path]:
    """The first picture of each cell that names one, as WebP of a width for documents."""
    from PIL import Image

    saved = []
    for cell in notebook.cells:
        shown = [
            output.data["image/png"] for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
        ]
        if PICTURE in cell.metadata and shown:
            image = Image.open(io.BytesIO(base64.b64decode(shown[0]))).convert("RGB")
            image.thumbnail((PICTURE_WIDTH, 10 * PICTURE_WIDTH))
            path = folder / f"{cell.metadata[PICTURE]}.webp"
            with atomic_path(path) as temporary:
                image.save(temporary, "WEBP", quality=PICTURE_QUALITY, method=6)
            saved.append(path)
    return saved


def build_parser() -> argparse.ArgumentParser:
    parser, d = new_parser(__doc__), NotebookConfig
    add = parser.add_argument
    add("--dataset", default=d.dataset, help="name of the dataset")
    add("--data_path", type=Path, default=d.data_path, help="folder that holds <dataset>/")
    add("--index_file", default=d.index_file, help="SID index: a path, or a suffix such as .index_qwen7B.json")
    add(
        "--results_file", type=Path,
        help="of src.seqrec.metric_ddp, for beam_search (default: results/<dataset>/grec.json)",
    )  # fmt: skip
    add("--num_questions", type=int, default=d.num_questions, help="that beam_search follows level by level; 0: all")
    add("--notebooks", type=name_list, default=list(d.notebooks), help=f"by commas: {', '.join(NAMES)}")
    add("--out_dir", type=Path, help="for the notebooks with outputs (default: results/<dataset>/notebooks)")
    add("--pictures", type=Path, metavar="DIR", help="write the pictures that documents show there too (default: none)")
    add("--timeout", type=int, default=d.timeout, help="seconds that a cell may take")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        try:
            import nbclient  # noqa: F401
        except ImportError as error:
            raise ValueError("notebooks need nbclient and ipykernel: pip install -e '.[notebook]'") from error
        failed = run_notebooks(NotebookConfig(**{**vars(args), "notebooks": tuple(args.notebooks)}))
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
