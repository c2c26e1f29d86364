"""Several runs in one page: groups of results that compare, training curves, codebooks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from src.common.artifacts import check_writable, file_hash, write_text
from src.common.record import commit
from src.reporting import page
from src.reporting.compared import differences_section, metrics_section, slices_section
from src.reporting.groups import Against, Group, make_groups
from src.reporting.people import people_of_runs
from src.reporting.results import KIND, OTHER, Result
from src.reporting.runs import Runs, find_runs
from src.reporting.style import SORT
from src.reporting.subjects import Part, training_parts
from src.reporting.texts import texts_of_runs
from src.reporting.tiles import Budget
from src.seqrec.results import read_predictions as read_ranked
from src.tasks.catalogue import Catalogue, load_catalogue
from src.text_generation.results import read_predictions as read_texts

MOST_RUNS = 60  # more cannot be told apart
MOST_CASES = 8  # runs whose lists are shown of each user
MOST_PICTURES = 6 << 20  # bytes; with all else a page stays small enough to be sent by mail
PLACES = {"metrics": "metrics", "slices": "slices", "differs": "what differs", "cases": "cases"}


@dataclass(frozen=True)
class SeveralConfig:
    """What is compared, and where the page goes."""

    runs: tuple[str, ...]
    data_path: Path = Path("data")  # for titles, histories and pictures of the cases
    against: Against = "best"
    output: Path = Path("results/comparison.html")
    seed: int = 42  # draws the cases


def write_comparison(config: SeveralConfig) -> Path:
    """Writes the page; gives its path.

    Raises:
        FileNotFoundError, ValueError: a RUN is missing, broken, or no run; said before anything is computed.
    """
    check_writable(config.output)
    runs = find_runs(config.runs)
    if len(runs.results) > MOST_RUNS:
        raise ValueError(f"{len(runs.results)} results: a page shows at most {MOST_RUNS}. Name fewer")
    groups = make_groups(runs.results, config.against)
    budget, training = Budget(MOST_PICTURES), training_parts(runs)
    body = [
        heading(runs, groups, training),
        *(group_body(group, place, config, budget) for place, group in enumerate(groups)),
        *(part.body for part in training),
        footer(budget),
    ]
    write_text(config.output, page.whole_page(title_of(runs, groups), "".join(body), script=SORT, wide=True))
    return config.output


# ---- around ----------------------------------------------------------------------------------------------------------
def title_of(runs: Runs, groups: Sequence[Group]) -> str:
    names = ", ".join(dict.fromkeys(group.first.dataset for group in groups))
    return f"Runs on {names}" if names else "Training runs"


def heading(runs: Runs, groups: Sequence[Group], training: Sequence[Part]) -> str:
    """What is on the page, links to it, and what is missing."""
    made = datetime.now().strftime("%Y-%m-%d %H:%M")
    counts = {
        "results": len(runs.results),
        "groups that compare": len(groups),
        "fine-tunings": len(runs.finetunings),
        "RQ-VAE runs": len(runs.rqvaes),
        "SID indexes": len(runs.indexes),
    }
    links = []
    for place, group in enumerate(groups):
        parts = ", ".join(f'<a href="#{part}-{place}">{name}</a>' for part, name in PLACES.items())
        links.append(f"<li>{page.text(group.title)}, {page.text(group.first.protocol_name)}: {parts}</li>")
    links += [f'<li><a href="#{part.anchor}">{page.text(part.title)}</a></li>' for part in training]
    title, lead = page.text(title_of(runs, groups)), f"Comparison of runs, {made}, commit {page.text(commit())}"
    nav = f'<nav aria-label="Contents">Contents<ul>{"".join(links)}</ul></nav>'
    notes = "".join(map(page.note, dict.fromkeys(runs.notes)))
    return f'<h1>{title}</h1><p class="lead">{lead}</p>{page.facts(counts)}{nav}{notes}'


def footer(budget: Budget) -> str:
    bound = f"Pictures take at most {MOST_PICTURES >> 20} MB."
    if budget.omitted:
        bound += f" {budget.omitted:,} more found no room: their titles stand for them."
    return f"<footer>Written by python -m src.report. This file holds everything it shows. {bound}</footer>"


# ---- a group ---------------------------------------------------------------------------------------------------------
def group_body(group: Group, place: int, config: SeveralConfig, budget: Budget) -> str:
    told = f"Protocol {group.first.protocol_name}. {len(group.results)} runs, which compare with each other only."
    if len(group.results) == 1:
        told = f"Protocol {group.first.protocol_name}. One run: none of the others was made in the same way."
    parts = [
        f'<h2 class="group-name">{page.text(group.title)}</h2><p class="lead">{page.text(told)}</p>',
        metrics_section(group, f"metrics-{place}"),
        slices_section(group, f"slices-{place}"),
        differences_section(group, {result.name: settings_of(result) for result in group.results}, f"differs-{place}"),
        cases_section(group, config, budget, f"cases-{place}"),
    ]
    return "".join(parts)


def settings_of(result: Result) -> dict[str, object]:
    """What the file says, where it lies, and hashes of the indexes that it names, where they are here."""
    hashes = [file_hash(path)[:12] for path in result.indexes if path.is_file()]
    return {"file": result.path, **result.settings, "sha256 of the index": ", ".join(hashes) or None}


def cases_section(group: Group, config: SeveralConfig, budget: Budget, anchor: str) -> str:
    title, written = "Cases", group.first.written
    lead = "The same items under all runs, as each wrote them." if written else (
        "The same users under all runs. Blue frame: what came next; green frame and ✓: recommended, and right."
    )  # fmt: skip
    able = [result for result in group.ordered if result.predictions.is_file()]
    notes = []
    if not able:
        missing = page.note("No predictions (*.predictions.parquet) beside the results, so no cases.")
        return page.section(title, lead, missing, anchor=anchor)
    if len(able) > MOST_CASES:
        notes.append(f"Of {len(able)} runs with predictions the best {MOST_CASES} are shown.")
        able = able[:MOST_CASES]
    try:
        catalogue = catalogue_of(config.data_path, group.first.dataset)
    except (ValueError, OSError) as error:
        catalogue = None
        notes.append(f"No {'pictures' if written else 'cases'}: {error}. It is looked for in --data_path.")
    found = {}
    for result in able:
        try:
            found[result.name] = read_texts(result.predictions) if written else read_ranked(result.predictions)[0]
        except ValueError as error:
            notes.append(f"{error}.")
    body = ""
    if found and written:
        body = texts_of_runs(catalogue, found, config.seed, budget)
    elif found and catalogue is not None:
        next_item = group.first.task in (KIND["next_item"], OTHER)
        body = people_of_runs(catalogue, found, config.seed, budget, next_item)
    return page.section(title, lead, *map(page.note, notes), body, anchor=anchor)


@cache
def catalogue_of(data_path: Path, dataset: str) -> Catalogue:
    return load_catalogue(data_path, dataset, image_path="images", needs_texts=False)
