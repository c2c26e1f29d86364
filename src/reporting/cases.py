"""Cases as a page: of each the history, the right answer, and what the model ranks with the tokens of its SIDs."""

from collections.abc import Mapping, Sequence
from typing import Any

from src.reporting.page import facts, section, settings_table, text
from src.reporting.tiles import Tiles, person, strip
from src.seqrec.cases import SHOWN_HISTORY, Case, wrong_levels
from src.tasks.catalogue import Catalogue

LEAD = (
    "First row: the right answer. Below it what the model ranks, with the tokens of each SID: green as in the right"
    " answer's, red the first that is not, grey what follows. Score: mean log-probability of a token."
)


def sid_chips(tokens: Sequence[str], shared: int) -> str:
    """The tokens of a SID, of which the first `shared` are right."""
    kinds = ["same"] * shared + ["wrong"] + ["after"] * len(tokens)
    chips = (f'<code class="{kind}">{text(token)}</code>' for token, kind in zip(tokens, kinds, strict=False))
    return f'<span class="sid">{"".join(chips)}</span>'


def row(tiles: Tiles, item: int, kind: str, place: str, shared: int, verdict: str, score: str) -> str:
    tokens = tiles.catalogue.sid_tokens(item)
    return (
        f'<li class="{kind}"><b>{place}</b><figure class="{kind}">{tiles.body(item)}</figure>'
        f"<div><span>{tiles.title(item)} <small>#{item}</small></span>{sid_chips(tokens, shared)}"
        f"<small>{text(verdict)}</small></div><span>{score}</span></li>"
    )


def case_card(case: Case, tiles: Tiles, top_k: int) -> str:
    letters = tiles.catalogue.index.letters
    parts = []
    if case.history:
        history = case.history[-SHOWN_HISTORY:]
        name = f"history (last {len(history)} of {len(case.history)})"
        parts.append(strip({name: "".join(tiles.tile(item) for item in history)}))
    if case.query is not None:
        parts.append(f"<p>searched for: <b>{text(case.query)}</b></p>")
    rows = [row(tiles, case.target, "target", "→", len(letters), "the right answer", "")]
    for place, (item, score, shared) in enumerate(
        zip(case.items[:top_k], case.scores[:top_k], case.shared[:top_k], strict=True), 1
    ):
        verdict = f"goes wrong at level {letters[shared]}" if shared < len(letters) else "the SID of the right answer"
        kind = "hit" if item == case.target else ""
        rows.append(row(tiles, item, kind, str(place), shared, "hit" if kind else verdict, f"{score:.3f}"))
    parts.append(f'<ol class="ranking">{"".join(rows)}</ol>')
    return person(case.name, case.verdict, bool(case.rank and case.rank <= top_k), *parts)


def cases_body(cases: Sequence[Case], catalogue: Catalogue, top_k: int, settings: Mapping[str, Any]) -> str:
    """The whole page but for its frame."""
    tiles = Tiles(catalogue)
    hits = sum(bool(case.rank and case.rank <= top_k) for case in cases)
    levels = wrong_levels(cases, catalogue.index.letters)
    counts = {"cases": len(cases), f"right among the first {top_k}": hits}
    counts |= {f"rank 1: {name}": count for name, count in levels.items()}
    heading = f'<h1>Cases on {text(catalogue.name)}</h1><p class="lead">{text(settings["ckpt_model"])}</p>'
    cards = "".join(case_card(case, tiles, top_k) for case in cases)
    folded = settings_table("Settings", settings)
    footer = "<footer>Written by python -m src.seqrec.case. This file holds everything it shows.</footer>"
    return heading + facts(counts) + section("What the model ranks", LEAD, cards, folded) + footer
