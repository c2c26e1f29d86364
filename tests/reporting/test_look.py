"""The look of a page: colours that everybody can tell apart, widths, and heads that sort."""

import html
import re

import numpy as np
import pytest

from src.reporting.style import SORT, STYLE
from tests.reporting.pages import CHROMIUM, dump_dom, page_of

SEEN = {  # Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen without red, green or blue
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SEEN)
def test_colours_stay_apart(sight):
    colours = [linear(re.search(rf"--c{place}: (#\w+)", STYLE)[1]) for place in range(6)]
    seen = np.array([lab(np.array(SEEN[sight]) @ colour) for colour in colours])
    distances = np.linalg.norm(seen[:, None] - seen, axis=2) + 1000 * np.eye(6)
    assert distances.min() > 15  # CIE 1976; about 2 can be told apart side by side


def test_contrast_on_white():
    def contrast(name):
        return 1.05 / (TO_XYZ[1] @ linear(re.search(rf"--{name}: (#\w+)", STYLE)[1]) + 0.05)

    assert min(contrast(f"c{place}") for place in range(6)) >= 3  # WCAG 1.4.11, graphics
    assert min(map(contrast, ("ink", "faint", "hit", "wrong"))) >= 4.5  # 1.4.3, texts


@pytest.mark.slow
def test_nothing_is_wider_than_the_window(made):
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    long = made.ranked("a-name-without-any-place-to-break-that-is-longer-than-a-telephone-is-wide", 0.5)
    page = page_of(made, long, made.ranked("two", 0.4), made.finetuning("a", 3.0), made.rqvae("small", 1.0))
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{html.escape(page)}"></iframe>' for w in (390, 1440))
    script = (
        "addEventListener('load', () => { document.title = [...document.querySelectorAll('iframe')].map((frame) =>"
        " frame.contentDocument.documentElement.scrollWidth).join(' ') })"
    )
    found = dump_dom(f"<!doctype html><title></title>{frames}<script>{script}</script>", made.folder)
    narrow, wide = map(int, re.search(r"<title>(\d+) (\d+)</title>", found).groups())
    assert 300 < narrow <= 390
    assert 1300 < wide <= 1440


@pytest.mark.slow
def test_a_press_on_a_head_sorts(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    numbers = {"a": ' data-sort="9"', "b": "", "c": ' data-sort="10"'}
    rows = "".join(f'<tr><th data-sort="{n}">{n}</th><td{number}>x</td></tr>' for n, number in numbers.items())
    table = f'<table class="sortable"><thead><tr><th>run</th><th>m</th></tr></thead><tbody>{rows}</tbody></table>'
    press = """
      const seen = [], heads = document.querySelectorAll('thead button');
      for (const head of [1, 1, 0]) {
        heads[head].click();
        seen.push([...document.querySelectorAll('tbody th')].map((cell) => cell.textContent).join(''));
      }
      document.title = seen.join(' ') + ' ' + document.querySelector('th').getAttribute('aria-sort');
    """
    found = dump_dom(f"<!doctype html><title></title>{table}<script>{SORT}</script><script>{press}</script>", tmp_path)
    assert re.search("<title>(.*?)</title>", found)[1] == "cab acb cba descending"
