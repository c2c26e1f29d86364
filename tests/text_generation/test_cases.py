"""A few items, printed and drawn."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from src.reporting.answers import case_lines
from src.text_generation import case
from src.text_generation.config import TextCaseConfig
from src.text_generation.judging import judge
from src.text_generation.plan import check
from tests.seqrec.toy_runs import checkpoint
from tests.text_generation.toy_runs import TEST_ITEMS, config_for, flags_for, labelled


# ---- cases -----------------------------------------------------------------------------------------------------------
def test_cases_are_shown_in_the_order_asked(tmp_path, capsys):
    items = [str(item) for item in reversed(TEST_ITEMS[:2])]
    flags = flags_for(tmp_path, checkpoint("qwen2_vl"), "--items", ",".join(items), "--html", tmp_path / "page.html")
    case.main(flags)
    out = capsys.readouterr().out
    assert re.findall(r"=== (\d+) ", out) == items
    assert "reference Lovely" in out
    assert (tmp_path / "page.html").read_text().count('class="person"') == 2
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]  # nothing else is written


@pytest.mark.parametrize("flag", ["--table_file", "--page_items"])
def test_cases_refuse_flags_that_would_change_nothing(tmp_path, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        case.main(flags_for(tmp_path, Path("gone"), flag, "3"))
    assert ended.value.code == 2
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_cases_are_those_of_the_evaluation(tmp_path):
    config = TextCaseConfig(**vars(config_for(tmp_path)))
    case.show(replace(config, sample_num=2, html=tmp_path / "page.html"))
    drawn = check(replace(config, sample_num=2)).samples.keys
    assert set(drawn) <= {str(item) for item in TEST_ITEMS}
    assert len(drawn) == 2


# ---- texts -----------------------------------------------------------------------------------------------------------
def test_cases_in_the_terminal(tmp_path):
    plan = check(config_for(tmp_path))
    config = config_for(tmp_path)
    answers = [labelled(item) for item in TEST_ITEMS]
    lines = case_lines(plan, judge(config, plan, plan.wordings[0], answers), 0)
    assert lines[0] == f"=== {TEST_ITEMS[0]}  ROUGE-L 1.000"
