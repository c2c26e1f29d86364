"""Figures show the numbers they were given, in words that name them, and in colours of one palette."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data_process.compare_embeddings import Share
from data_process.plots import draw_agreement, draw_categories, draw_shares, draw_steps
from index.codebook_map import Meaning
from index.plots import draw_codebooks
from src.common.figures import GREY, PALETTE, new_figure
from src.reporting.gallery import draw_cases, draw_items, lines_of
from src.seqrec.calibration import Promises, reliability
from src.seqrec.cases import Case
from src.seqrec.plots import draw_outcomes, draw_promises, draw_reliability, draw_survival
from src.seqrec.tracing import Outcome
from tests.toy import WITHOUT_PICTURE, item_fields, toy_catalogue


def words(figure) -> str:
    """Every text of a figure, as it would be drawn."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


# Machado et al., A Physiologically-based Model for Simulation of Color Vision Deficiency (2009): no long, no medium, no
# short cones.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_are_told_apart_whatever_cones_lack(kind):
    from matplotlib.colors import to_rgb

    def least_distance(colours) -> float:
        seen = np.array([to_rgb(colour) for colour in colours]) ** 2.2 @ np.transpose(BLINDNESS[kind])
        seen = np.clip(seen, 0, 1) ** (1 / 2.2)
        return (np.linalg.norm(seen[:, None] - seen, axis=-1) + 9 * np.eye(len(seen))).min()

    matplotlibs = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")
    enough = {"protan": 0.19, "deutan": 0.19, "tritan": 0.11}[kind]
    assert least_distance((*PALETTE, GREY)) > enough
    assert least_distance(matplotlibs) < enough


def test_panels_take_the_palette():
    _, panels = new_figure(2, 2, (4, 4))
    assert len(panels) == 4
    assert [panels[3].plot([0, 1])[0].get_color() for _ in range(2)] == list(PALETTE[:2])


def test_shares_and_chance():
    shares = {
        "text": {"brand": Share(0.25, 0.125, 9)},
        "SID": {"brand": Share(0.5, 0.625, 9), "category": Share(1, 0, 9)},
    }
    for figure in (draw_shares(shares), draw_steps(shares["SID"])):
        shown = words(figure)
        assert {"0.500", "brand", "category", "by chance"} <= set(shown.splitlines())
    assert "0.250" in words(draw_shares(shares))
    assert "0.625" not in words(draw_shares(shares))  # chance is a line


def test_categories_and_agreement():
    counts = {f"kind {number}": (30 - number, 10) for number in range(30)} | {"": (1, 0)}
    shown = words(draw_categories(counts))
    assert "the 20 largest of 31" in shown
    assert "kind 19" in shown
    assert "kind 20" not in shown
    assert "0.37" in words(draw_agreement(["one", "two"], np.array([[1, 0.37], [0.37, 1]])))


def test_codebooks():
    of_level = [
        Meaning(9, "cup", 1),
        Meaning(3, "hat", 0.5),
        Meaning(0, "", 0),
        *[Meaning(1, f"x{n}", 1) for n in range(9)],
    ]
    figure = draw_codebooks([np.random.default_rng(0).normal(size=(12, 2))], [of_level])
    shown = words(figure).splitlines()
    assert "level 0: 11 of 12 codewords used" in shown
    assert {"cup", "hat", "others", "unused"} <= set(shown)
    assert len([name for name in shown if name.startswith("x")]) == len(PALETTE) - 1 - 2
    assert "others" not in words(draw_codebooks([np.eye(2)], [[Meaning(1, "cup", 1), Meaning(0, "", 0)]]))


def test_outcomes_and_survival():
    shown = words(draw_outcomes([Outcome("found", 3, 0), Outcome("lost at level a", 5, 2)]))
    assert {"37.5%", "62.5%", "lost at level a"} <= set(shown.splitlines())
    shown = words(draw_survival({1: np.array([0.5, 0.25]), 20: np.array([0.9, 0.875])}, ("a", "b")))
    ends = {"among the best 20: 0.875 at the end", "the best: 0.250 at the end"}
    assert {*ends, "level b"} <= set(shown.splitlines())


def test_promises_and_reliability():
    chances = np.array([[0.5, 0.2], [0.3, 0.2], [0.4, 0]])
    shown = words(draw_promises(Promises(chances, np.array([1, 2, 2]))))
    assert "right item in the list (1)" in shown
    assert "not in the list (2)" in shown
    assert "on average 0.533" in shown
    assert "with the item 0.333" in shown
    all_found = words(draw_promises(Promises(chances, np.array([0, 0, 0]))))
    assert "not in the list" not in all_found
    bins = reliability(chances, np.arange(2) == np.array([[1], [2], [2]]), 3)
    assert f"lists: mean error {bins.error:.4f}" in words(draw_reliability({"lists": bins}))


def test_reliability_shows_bins_in_which_nothing_came_true_and_labels_stand_apart():
    """They were left out; and labels of a short range stood one over the other."""
    chances = np.repeat(np.geomspace(2e-3, 5e-2, 8), 100)
    came_true = np.arange(800) % 100 < 3
    came_true[:100] = False
    bins = reliability(chances, came_true, 8)
    figure = draw_reliability({"lists": bins})
    shown = words(figure)
    (panel,) = figure.axes
    (marks,) = (line for line in panel.lines if line.get_marker() == "v")
    assert marks.get_xydata().tolist() == [[bins.promised[0], bins.high[0]]]
    labels = [label for label in panel.xaxis.get_ticklabels(which="both") if label.get_text()]
    boxes = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in labels))
    assert len(boxes) >= 4, shown
    assert all(left[1] < right[0] for left, right in pairwise(boxes))


def test_items_as_pictures():
    without = WITHOUT_PICTURE[0]
    figure = draw_items(
        toy_catalogue(), {"first row": [0, 1, without], "second": [2]}, marked={"first row": 1, "second": 0}
    )
    shown = " ".join(words(figure).split())
    assert all(item_fields(item)["title"] in shown for item in (0, 1, 2, without))
    assert "first row" in shown
    drawn = [panel for panel in figure.axes if panel.images]
    assert len(drawn) == 3
    framed = [panel for panel in drawn if panel.axison and panel.spines["top"].get_linewidth() > 2]
    assert framed == [drawn[1]]


def test_cases_as_pictures():
    case = Case("user 7", list(range(20)), 33, [30, 33, 31], [-1, -2, -3], [0, 3, 1])
    figure = draw_cases(toy_catalogue(), [case], top_k=2)
    shown = " ".join(words(figure).split())
    assert "user 7 had, then" in shown
    assert "user 7 is shown (rank 2)" in shown
    assert item_fields(19)["title"] in shown  # the end of the history
    assert item_fields(12)["title"] not in shown
    assert item_fields(31)["title"] not in shown


def test_a_case_marks_its_own_answer_only():
    """The answer to one used to be framed in the history of the other."""
    cases = [Case("user 7", [5, 33], 6, [6], [-1], [3]), Case("user 8", [6], 33, [30], [-1], [0])]
    figure = draw_cases(toy_catalogue(), cases)
    framed = [panel.get_title() for panel in figure.axes if panel.images and panel.axison]
    assert [" ".join(title.split()) for title in framed] == [item_fields(item)["title"] for item in (6, 6, 33)]


@pytest.mark.parametrize("title", ["", "a very long title " * 9, r"$\nope{$", "<b>\\alpha"])
@pytest.mark.parametrize("with_picture", [True, False])
def test_titles_are_shown_as_they_are(title, with_picture):
    """A dollar would begin a formula, and a wrong formula end the notebook."""
    files = toy_catalogue().image_files if with_picture else {}
    catalogue = replace(toy_catalogue(), items={0: {"title": title}}, image_files=files)
    figure = draw_items(catalogue, {f"row of {title[:9]}": [0]})
    assert (title[:9] or "item 0") in words(figure).replace("\n", " ")


def test_titles_without_blanks_are_cut_by_their_width():
    """A long Chinese title was one word, of which only the three dots were left; a short one was twice too wide."""
    assert lines_of("夏季新款男士纯棉短袖上衣宽松圆领", 18, 2) == ["夏季新款男士纯棉短", "袖上衣宽松圆领"]
    assert lines_of("夏季新款男士纯棉短袖上衣宽松圆领青年学生", 18, 2) == ["夏季新款男士纯棉短", "袖上衣宽松圆领青 …"]
    assert lines_of("Cedar black nylon cushion, model 4 of 7", 18, 2) == ["Cedar black nylon", "cushion, model 4 …"]
    assert lines_of("", 18, 2) == []


def test_names_of_categories_are_no_formulas():
    name = r"$\nope{$"
    assert name in words(draw_categories({name: (1, 1)}))
    assert name in words(draw_codebooks([np.eye(2)], [[Meaning(1, name, 1), Meaning(0, "", 0)]]))
