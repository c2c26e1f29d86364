"""Generated texts as a page: of each item its picture, what was asked, and each field beside the right one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from src.reporting.page import details, facts, note, section, settings_table, shorten, text
from src.reporting.tiles import Tiles, person, strip

if TYPE_CHECKING:
    from src.text_generation.plan import Plan
    from src.text_generation.results import Answered, Scores

LEAD = (
    "Each item with its picture, what the model read, and what it wrote beside the reference. Of every field ROUGE-L:"
    " 1 where all words are there in their order, 0 where none is."
)
FACTS = {"samples": "num_samples", "parsed": "parsed", "BLEU": "bleu", "chrF": "chrf", "ROUGE-L": "rougeL"}
SHOWN_AS = {"parsed": ".1%", "bleu": ".1f", "chrf": ".1f"}
SHOWN_HISTORY = 8
LONGEST_FIELD = 1500  # characters; a model that does not stop would fill the page


def number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def field_rows(answered: "Answered", scores: "Scores", row: int) -> list[tuple[str, str, str, float]]:
    """Name, written and right text, and ROUGE-L of each field of a sample."""
    written, right = answered.fields[row], answered.references[row]
    rows = []
    for name in dict.fromkeys([*right, *written]):
        column = scores.samples.get(f"{name}.rougeL", scores.samples["rougeL"])
        value = float(column[row]) if name in right else float("nan")
        rows.append((name.replace("_", " "), written.get(name, ""), right.get(name, ""), value))
    return rows


def question(plan: "Plan", row: int) -> str:
    """What the model read, one question or one for each field."""
    return "\n".join(plan.texts.prompt(template, row) for template in plan.wordings[0].questions.values())


def folded_text(title: str, words: str) -> str:
    return details(title, f'<p class="asked">{text(words)}</p>')


def field_block(name: str, right: str, written: Mapping[str, tuple[str, float]]) -> str:
    """A field: what each of `written` made of it, with its ROUGE-L, and the reference."""
    answers = []
    for who, (mine, value) in written.items():
        score = f'<span class="score">{number(value)}</span>'
        label = f"<small>{text(who)}{f' {score}' if len(written) > 1 else ''}</small>"
        kind = "right" if value == 1 else "written"
        answers.append(f'<p class="{kind}">{label}{text(shorten(mine or "nothing", LONGEST_FIELD))}</p>')
    reference = f"<p><small>reference</small>{text(shorten(right or 'nothing', LONGEST_FIELD))}</p>"
    parts = [score, *answers, reference] if len(written) == 1 else [reference, *answers]
    return f'<div class="field"><b>{text(name)}</b>{"".join(parts)}</div>'


def card(plan: "Plan", judged: "tuple[Answered, Scores]", row: int, tiles: Tiles) -> str:
    answered, scores = judged
    item = int(plan.samples.items[row])
    rows = field_rows(answered, scores, row)
    cells = "".join(field_block(name, theirs, {"generated": (mine, value)}) for name, mine, theirs, value in rows)
    shown = [item] if item >= 0 else plan.samples.history(plan.catalogue, row)[-SHOWN_HISTORY:].tolist()
    folded = folded_text("what the model read", question(plan, row))
    folded += folded_text("the answer as it was written", answered.answers[row] or "nothing")
    body = f'<div class="fields">{cells}</div>{folded}'
    left = strip({"picture" if item >= 0 else "history": "".join(tiles.tile(i) for i in shown)})
    verdict = f"ROUGE-L {number(float(scores.samples['rougeL'][row]))}"
    name = f"{'item' if item >= 0 else 'user'} {plan.samples.keys[row]}"
    whole = all(value == 1 for _, _, _, value in rows)
    return person(name, verdict, whole, f'<div class="answer">{left}<div>{body}</div></div>')


def answers_body(
    plan: "Plan",
    judged: "tuple[Answered, Scores]",
    rows: np.ndarray,
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """The whole page but for its frame: the figures of all samples, and a card for each of `rows`."""
    means = {**summary, **summary["mean_results"]}
    pairs = {}
    for name, key in FACTS.items():
        pairs[name] = means[key] if key == "num_samples" else f"{means[key]:{SHOWN_AS.get(key, '.3f')}}"
    heading = f'<h1>Texts of {text(summary["model_name"])}</h1><p class="lead">{text(summary["test_task"])} on'
    heading += f" {text(summary['dataset'])}, {text(summary['split'])} split</p>"
    warning = (
        note("Each item was shown the picture of another (--shuffle_images).") if summary["shuffle_images"] else ""
    )
    tiles = Tiles(plan.catalogue)
    cards = "".join(card(plan, judged, int(row), tiles) for row in rows)
    title = f"{len(rows)} of {len(plan.samples)} samples"
    folded = settings_table("Settings", settings)
    footer = "<footer>Written by src.text_generation. This file holds everything it shows.</footer>"
    return heading + facts(pairs) + warning + section(title, LEAD, cards, folded) + footer


def case_lines(plan: "Plan", judged: "tuple[Answered, Scores]", row: int) -> list[str]:
    """One sample as lines for the terminal."""
    answered, scores = judged
    lines = [f"=== {plan.samples.keys[row]}  ROUGE-L {number(float(scores.samples['rougeL'][row]))}"]
    lines.append(f"  asked       {' '.join(question(plan, row).split())}")
    for name, mine, theirs, value in field_rows(answered, scores, row):
        lines += [f"  {name} ({number(value)})", f"    generated {mine or '-'}", f"    reference {theirs or '-'}"]
    return lines
