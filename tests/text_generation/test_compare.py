"""Two results of texts against each other."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from src.text_generation import compare
from src.text_generation.core import evaluate as run
from tests.text_generation.toy_runs import config_for, fake_answers, labelled
from tests.toy import item_fields, scratch, toy_catalogue


@cache
def two_runs() -> tuple[Path, Path]:
    folder = scratch() / "text_runs"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(type(toy_catalogue()), "enriched_split", lambda self, split: self.item_ids[8:38])
        fake_answers(monkeypatch, labelled)
        good = run(config_for(folder / "good"))
        fake_answers(monkeypatch, lambda item: labelled(item).replace("kind", "sort").replace("Lovely", "Nice"))
        return good, run(config_for(folder / "worse"))


def test_compare_is_a_gate(capsys):
    good, worse = map(str, two_runs())
    assert compare.main([good, worse]) == 0
    assert "30 items, paired" in capsys.readouterr().out
    assert compare.main([good, worse, "--max_drop", "rougeL=.01"]) == 1
    assert "DROPPED" in capsys.readouterr().out
    assert compare.main([good, worse, "--max_drop", "rougeL=.5"]) == 0
    assert compare.main([worse, good, "--max_drop", "rougeL=.01,tags.rougeL=0"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics", "bleu"], "has no bleu of single samples: take sentence_bleu4"),
        (["--max_drop", "tags.chrf=1"], "has no tags.chrf of single samples: take sentence_chrf"),
        (["--metrics", "clarity"], "has no clarity of single samples"),
    ],
)
def test_what_does_not_compare_says_why(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main([*map(str, two_runs()), *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_wordings_that_ask_for_other_fields_compare(tmp_path, monkeypatch, capsys):
    """Some of index2item ask for titles, some for descriptions: metrics of titles used to have no sample at all."""
    fake_answers(monkeypatch, lambda item: "\n".join(item_fields(item)[name] for name in ("title", "description")))
    config = config_for(tmp_path / "all", "qwen2", test_task="index2item", test_prompt_ids="0,2", sample_num=10)
    both, title, description = (
        str(run(replace(config, test_prompt_ids=ids, results_file=tmp_path / ids / "results.json")))
        for ids in ("0,2", "0", "2")
    )
    assert compare.main([both, both, "--metrics", "title_hit@1,rougeL"]) == 0
    assert "title_hit@1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        compare.main([title, description])
    assert ended.value.code == 2
    assert "were judged by other right answers" in capsys.readouterr().err


def test_results_of_other_samples_do_not_compare(tmp_path, monkeypatch, capsys):
    fake_answers(monkeypatch, labelled)
    other = run(config_for(tmp_path))
    with pytest.raises(SystemExit):
        compare.main([str(two_runs()[0]), str(other)])
    assert "30 samples" in capsys.readouterr().err
