"""One HTML file that tells what runs did and how well: no server, no network, nothing beside it.

    python -m src.report results/HMWeek/sasrec.json results/HMWeek/grec.json output/HMWeek/grec
    python -m src.report --dataset HMWeek --predictions results/HMWeek/grec.predictions.parquet

RUN... compares runs: results files (of src.seqrec, src.baselines, src.text_generation, docs/results), folders of them,
output folders of fine-tuning and of the RQ-VAE, in any mix. Only results of one dataset, task and protocol stand in one
table. What belongs to a run (predictions beside it, its checkpoint and index) is found where it lies; what is missing
is named on the page.

--dataset without RUN shows the run of one dataset that the quickstart made: results/<dataset>/summary.json and
whatever of the index, the logs and the predictions there is.
"""

import argparse
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

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
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="results or training runs to compare; NAME=RUN names one"
    )
    add_dataset_flags(parser, "show the run of this dataset instead of comparing RUN...", required=False)
    parser.add_argument("--against", choices=("best", "first"), help="RUN... are paired with it (default: best)")
    parser.add_argument("--results_dir", type=Path, help="folder with summary.json (default: results/<dataset>)")
    parser.add_argument("--index_file", help="SID index, a path or a suffix (default: the dataset's only one)")
    parser.add_argument("--rqvae_dir", type=Path, help="run folder with metrics.jsonl (default: the newest)")
    parser.add_argument("--sft_dir", type=Path, help="--output_dir of the fine-tuning, with trainer_log.jsonl")
    parser.add_argument("--predictions", type=Path, help="*.predictions.parquet to show users of (default: the newest)")
    parser.add_argument(
        "--output",
        type=Path,
        help="HTML to write (default: <results_dir>/report.html; of RUN... results/comparison.html)",
    )
    parser.add_argument("--seed", type=int, default=ReportConfig.seed, help="draws the users that are shown")
    return parser


def newest(paths: "list[Path]") -> Path | None:
    return max(paths, key=lambda path: (path.stat().st_mtime, str(path)), default=None)


def check_named(config: ReportConfig) -> None:
    """What a flag names must be there; only what is looked for may be missing.

    Raises:
        FileNotFoundError: it is not.
    """
    folders = {"--rqvae_dir": config.rqvae_dir, "--sft_dir": config.sft_dir}
    for flag, path in {**folders, "--predictions": config.predictions}.items():
        if path is not None and not (path.is_dir() if flag in folders else path.is_file()):
            raise FileNotFoundError(f"{flag} {path} does not exist: correct it, or leave {flag} out")


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
    if path is None:
        message = f"No predictions: {results_dir / '*.predictions.parquet'} does not exist."
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
        FileNotFoundError: there is no summary, no dataset, or not what a flag names.
    """
    from src.common.artifacts import read_json, write_text
    from src.reporting import page, sections
    from src.reporting.codebooks import codebook_section
    from src.reporting.runs import FINETUNING, RQVAE, read_log
    from src.reporting.training import rqvae_section, sft_section
    from src.tasks.catalogue import load_catalogue

    results_dir = config.results_dir or Path("results") / config.dataset
    remedy = "The quickstart writes it: bash scripts/quickstart.sh"
    summary = read_json(results_dir / "summary.json", remedy)
    check_named(config)
    catalogue = load_catalogue(config.data_path, config.dataset, image_path="images")
    rqvae_dir = config.rqvae_dir
    if rqvae_dir is None:
        log = newest(list(catalogue.paths.folder.glob("index/*/*/metrics.jsonl")))
        rqvae_dir = log.parent if log else None
    rqvaes = {rqvae_dir.name: read_log(rqvae_dir, RQVAE)} if rqvae_dir else {}
    finetunings = {config.sft_dir.name: read_log(config.sft_dir, FINETUNING)} if config.sft_dir else {}
    index = find_index(config, catalogue)
    body = "".join(
        [
            heading(catalogue),
            sections.results_section(summary.get("rows") or []),
            people_section(config, catalogue, results_dir),
            codebook_section({} if index is None else {catalogue.name: index}),
            rqvae_section(rqvaes),
            sft_section(finetunings),
            sections.pipeline_section(summary.get("seconds") or {}),
            "<footer>Written by python -m src.report. This file holds everything it shows.</footer>",
        ]
    )
    output = config.output or results_dir / "report.html"
    write_text(output, page.whole_page(f"GRec on {config.dataset}", body))
    return output


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses flags of the one form beside the other: they would do nothing."""
    if not args.runs and args.dataset is None:
        parser.error("give RUN... to compare runs, or --dataset to show the run of one dataset")
    if not args.runs:
        foreign, form = ["against"], "RUN..."
    else:
        foreign, form = ["dataset", "results_dir", "index_file", "rqvae_dir", "sft_dir", "predictions"], "--dataset"
    for name in foreign:
        if getattr(args, name) is not None:
            parser.error(f"--{name} {getattr(args, name)} belongs to a report of {form}: leave out one of the two")


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    check_flags(parser, args)
    with user_errors():
        if args.runs:
            from src.reporting.several import SeveralConfig, write_comparison

            given = {name: getattr(args, name) for name in ("data_path", "against", "output", "seed")}
            given = {name: value for name, value in given.items() if value is not None}
            path = write_comparison(SeveralConfig(tuple(args.runs), **given))
        else:
            path = write_report(
                ReportConfig(**{field.name: getattr(args, field.name) for field in fields(ReportConfig)})
            )
    print(f"report: {path}")


if __name__ == "__main__":
    main()
