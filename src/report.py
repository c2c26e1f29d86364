"""One HTML file that tells what a run did and how well: no server, no network, nothing beside it.

    python -m src.report --dataset HMWeek --predictions results/HMWeek/grec.predictions.parquet

Reads results/<dataset>/summary.json and whatever of the index, the logs and the predictions there is; what is missing
is left out with a note. Writes results/<dataset>/report.html.
"""

import argparse
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.common.cli import add_dataset_flags, new_parser, user_errors

if TYPE_CHECKING:
    from src.common.sid import SidIndex
    from src.tasks.catalogue import Catalogue


@dataclass(frozen=True)
class ReportConfig:
    """Where the pieces of a report lie; None is looked for, and left out with a note where there is nothing."""

    dataset: str
    data_path: Path = Path("data")
    results_dir: Path | None = None  # results/<dataset>
    index_file: str | None = None  # a path or a suffix; else the only index of the dataset
    rqvae_dir: Path | None = None  # a run folder; else the newest of the dataset
    sft_dir: Path | None = None  # output of fine-tuning
    predictions: Path | None = None  # else the newest *.predictions.parquet of results_dir
    output: Path | None = None  # <results_dir>/report.html
    seed: int = 42  # draws the users that are shown


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--results_dir", type=Path, help="folder with summary.json (default: results/<dataset>)")
    parser.add_argument("--index_file", help="SID index, a path or a suffix (default: the dataset's only one)")
    parser.add_argument("--rqvae_dir", type=Path, help="run folder with metrics.jsonl (default: the newest)")
    parser.add_argument("--sft_dir", type=Path, help="--output_dir of the fine-tuning, with trainer_log.jsonl")
    parser.add_argument("--predictions", type=Path, help="*.predictions.parquet to show users of (default: the newest)")
    parser.add_argument("--output", type=Path, help="HTML to write (default: <results_dir>/report.html)")
    parser.add_argument("--seed", type=int, default=ReportConfig.seed, help="draws the users that are shown")
    return parser


def newest(paths: "list[Path]") -> Path | None:
    return max(paths, key=lambda path: (path.stat().st_mtime, str(path)), default=None)


def read_lines(path: Path | None) -> list[dict[str, Any]]:
    """Rows of a .jsonl that may still be written to: a half-written last line is left out; no file, no rows."""
    import json

    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_settings(path: Path | None) -> dict[str, Any] | None:
    """The resolved settings in a config.json or run.json; None where there is no such file."""
    from src.common.artifacts import read_json

    if path is None or not path.is_file():
        return None
    record = read_json(path)
    return {**record["config"], "commit": record.get("commit", "unknown")} if "config" in record else record


def find_index(config: ReportConfig, catalogue: "Catalogue") -> "SidIndex | None":
    """The index named, or the only one of the dataset; a name that fits nothing is an error."""
    from src.common.index_files import load_sid_index, resolve_index_file

    if config.index_file:
        return load_sid_index(resolve_index_file(config.index_file, catalogue.paths))
    pattern = f"{catalogue.name}.index_*"
    folder = catalogue.paths.folder
    places = [*folder.glob(f"index/*/{pattern}"), *folder.glob(pattern)]
    found = [path for path in places if path.suffix in (".json", ".npz") and not path.name.endswith(".meta.json")]
    return load_sid_index(found[0]) if len(found) == 1 else None


def people_section(config: ReportConfig, catalogue: "Catalogue", results_dir: Path) -> str:
    from src.reporting import page
    from src.reporting.people import people
    from src.seqrec.results import read_predictions

    path = config.predictions or newest(list(results_dir.glob("*.predictions.parquet")))
    if path is None or not path.is_file():
        message = f"No predictions: {path or results_dir / '*.predictions.parquet'} does not exist."
        return page.section("Twelve users", "", page.note(message))
    lead = f"From {path.name}. Blue frame: the item that came next; green frame: recommended, and right."
    return page.section("Twelve users", lead, people(catalogue, read_predictions(path)[0], config.seed))


def heading(catalogue: "Catalogue") -> str:
    from src.common.record import commit
    from src.reporting import page

    lengths, pictures = catalogue.lengths, len(catalogue.image_files)
    pairs = {
        "users": f"{catalogue.num_users:,}",
        "items": f"{len(catalogue.item_ids):,}",
        "interactions": f"{len(catalogue.sequence):,}",
        "items a user": f"{lengths.mean():.1f}",
        "density": f"{len(catalogue.sequence) / catalogue.num_users / len(catalogue.item_ids):.3%}",
        "items with a picture": f"{pictures / len(catalogue.item_ids):.0%}",
    }
    made = datetime.now().strftime("%Y-%m-%d %H:%M")
    about = f"Generative recommendation: run report, {made}, commit {commit()}"
    return f'<h1>GRec on {page.text(catalogue.name)}</h1><p class="lead">{page.text(about)}</p>{page.facts(pairs)}'


def write_report(config: ReportConfig) -> Path:
    """Writes the report; gives its path.

    Raises:
        FileNotFoundError: there is no summary, no dataset, or no index of the name given.
    """
    from src.common.artifacts import read_json, write_text
    from src.reporting import page, sections
    from src.tasks.catalogue import load_catalogue

    results_dir = config.results_dir or Path("results") / config.dataset
    remedy = "The quickstart writes it: bash scripts/quickstart.sh"
    summary = read_json(results_dir / "summary.json", remedy)
    catalogue = load_catalogue(config.data_path, config.dataset, image_path="images")
    rqvae_dir = config.rqvae_dir
    if rqvae_dir is None:
        log = newest(list(catalogue.paths.folder.glob("index/*/*/metrics.jsonl")))
        rqvae_dir = log.parent if log else None
    rqvae_log, rqvae_settings = (rqvae_dir / name if rqvae_dir else None for name in ("metrics.jsonl", "config.json"))
    sft_log, sft_settings = (
        config.sft_dir / name if config.sft_dir else None for name in ("trainer_log.jsonl", "run.json")
    )
    body = "".join(
        [
            heading(catalogue),
            sections.results_section(summary.get("rows") or []),
            people_section(config, catalogue, results_dir),
            sections.codebook_section(find_index(config, catalogue)),
            sections.rqvae_section(read_lines(rqvae_log), read_settings(rqvae_settings)),
            sections.sft_section(read_lines(sft_log), read_settings(sft_settings)),
            sections.pipeline_section(summary.get("seconds") or {}),
            "<footer>Written by python -m src.report. This file holds everything it shows.</footer>",
        ]
    )
    output = config.output or results_dir / "report.html"
    write_text(output, page.whole_page(f"GRec on {config.dataset}", body))
    return output


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        print(f"report: {write_report(ReportConfig(**vars(args)))}")


if __name__ == "__main__":
    main()
