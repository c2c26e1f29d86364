"""Pictures of numbers: characters that are not Latin."""

import warnings

import matplotlib
import pytest

from src.common import figures
from src.common.log import setup_logging


@pytest.fixture
def title():
    """Draws a title; what matplotlib was told of fonts is forgotten afterwards."""

    def draw(path, text):
        figure, (panel,) = figures.new_figure(1, 1, (2, 2))
        panel.set_title(text)
        setup_logging()
        figures.save_figure(figure, path, dpi=50)

    with matplotlib.rc_context():
        yield draw


def test_characters_that_no_font_has_are_told_once(tmp_path, capsys, title, monkeypatch):
    """Two lines of matplotlib's for each character used to end the log of a dataset with a Chinese name."""
    monkeypatch.setattr(figures, "WIDE_FONTS", ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        title(tmp_path / "a.png", "商店")
    (line,) = capsys.readouterr().out.splitlines()
    assert "no font of this machine has all characters" in line
    assert matplotlib.get_cachedir() in line
    title(tmp_path / "b.png", "Shop")
    assert not capsys.readouterr().out
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_fonts_that_are_installed_are_asked_in_their_order(tmp_path, title, monkeypatch):
    monkeypatch.setattr(figures, "WIDE_FONTS", ("No Such Font", "DejaVu Serif", "DejaVu Sans Mono"))
    before = list(matplotlib.rcParams["font.family"])
    title(tmp_path / "a.png", "Shop")
    title(tmp_path / "a.png", "Shop")
    assert matplotlib.rcParams["font.family"] == [*before, "DejaVu Serif"]
