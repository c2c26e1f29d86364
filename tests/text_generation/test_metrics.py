"""Metrics against the command lines of sacrebleu and rouge-score, nltk, and numbers worked by hand."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from src.text_generation import metrics
from src.text_generation.grounding import retrieval

GENERATED = ["Red shirt, with fine stripes", "blue lamp", "", "a b c d e f g", "The mug's handle is 3.5 cm"]
REFERENCES = ["Red shirt with coarse stripes", "Blue lamp by Nora", "a vase", "a b x d e f g", "the mug has a handle"]
CHINESE = (["红色的杯子，很结实", "好看的灯"], ["红色杯子，结实耐用", "一盏好看的灯"])


def write(folder, texts):
    for name, lines in zip(("generated", "references"), texts, strict=True):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_corpus_metrics_are_those_of_the_command_line(tmp_path, language):
    texts = CHINESE if language == "zh" else (GENERATED, REFERENCES)
    write(tmp_path, texts)
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "generated", "-m", "bleu", "chrf", "-w", "10"]
    command += ["--tokenize", "zh"] if language == "zh" else []
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    ours = metrics.corpus_metrics(*texts, language, num_resamples=50)
    for theirs, name in zip(json.loads(done.stdout), ("bleu", "chrf"), strict=True):
        assert ours[name].value == pytest.approx(theirs["score"], abs=1e-6)
        assert ours[name].signature == theirs["signature"]
        low, high = ours[name].interval
        assert low <= high


def test_rouge_is_that_of_the_command_line(tmp_path):
    write(tmp_path, (GENERATED, REFERENCES))
    command = [sys.executable, "-m", "rouge_score.rouge", "--target_filepattern=references", "--noaggregate"]
    command += ["--prediction_filepattern=generated", "--output_filename=scores.csv"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    ours = metrics.sample_metrics(GENERATED, REFERENCES, "en")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"].isdecimal()]
    assert len(rows) == len(GENERATED)
    for name in ("rouge1", "rouge2", "rougeL"):
        assert ours[name] == pytest.approx([float(row[f"{name}-F"]) for row in rows], abs=1e-6)


def test_sentence_metrics_are_those_of_their_libraries():
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from sacrebleu import sentence_chrf

    ours = metrics.sample_metrics(GENERATED, REFERENCES, "en")
    words = ["red", "shirt", ",", "with", "fine", "stripes"]  # sacrebleu's 13a tokens
    wanted = ["red", "shirt", "with", "coarse", "stripes"]
    smoothing = SmoothingFunction().method1
    assert ours["sentence_bleu4"][0] == pytest.approx(sentence_bleu([wanted], words, smoothing_function=smoothing))
    assert ours["sentence_bleu1"][0] == pytest.approx(4 / 6)
    chrf = [sentence_chrf(mine, [right]).score for mine, right in zip(GENERATED, REFERENCES, strict=True)]
    assert ours["sentence_chrf"] == pytest.approx(chrf)


def test_an_empty_answer_scores_nothing():
    ours = metrics.sample_metrics([""], ["a vase"], "en", is_list=True)
    assert {name: float(values[0]) for name, values in ours.items()} == dict.fromkeys(ours, 0.0)
    assert metrics.corpus_metrics([""], ["a vase"], "en")["length_ratio"].value == 0


def test_a_right_answer_scores_all():
    ours = metrics.sample_metrics(["red; blue; a fine mug"], ["red; blue; a fine mug"], "en", is_list=True)
    assert {name: float(values[0]) for name, values in ours.items()} == pytest.approx(
        {name: 100.0 if name == "sentence_chrf" else 1.0 for name in ours}
    )
    assert metrics.corpus_metrics(["a b c d"], ["a b c d"], "en")["bleu"].value == pytest.approx(100)


def test_lists_are_judged_by_entries_and_by_words():
    ours = metrics.sample_metrics(["Blue mug; red, tall"], ["red; blue vase; tall"], "en", is_list=True)
    assert ours["tag_f1"][0] == pytest.approx(2 / 3)  # red and tall of three each
    assert ours["token_f1"][0] == pytest.approx(2 * 3 / 8)  # separators are no words
    assert "tag_f1" not in metrics.sample_metrics(["a"], ["a"], "en")


def test_chinese_is_judged_by_characters():
    ours = metrics.sample_metrics(["红杯 XL"], ["红色杯 xl"], "zh")
    assert ours["rouge1"][0] == pytest.approx(2 * 3 / 7)
    assert ours["token_f1"][0] == pytest.approx(2 * 3 / 7)
    assert metrics.sample_metrics(["红杯"], ["红色杯"], "en")["rouge1"][0] == 0  # rouge-score's own words are Latin


def test_long_answers_are_judged():
    ours = metrics.sample_metrics(["red mug " * 5000], ["a red mug"], "en")
    assert 0 < ours["rougeL"][0] < 0.001
    assert metrics.corpus_metrics(["red mug " * 5000], ["a red mug"], "en")["length_ratio"].value == 10_000 / 3


# ---- grounding -------------------------------------------------------------------------------------------------------
TITLES = ["red shirt", "blue lamp", "blue lamp", "green kettle"]


def test_titles_find_their_items():
    found = retrieval(["red shirts", "a green kettle", "red shirt"], np.array([0, 3, 3]), TITLES)
    assert found["title_hit@1"].tolist() == [1, 1, 0]
    assert found["title_mrr"][:2].tolist() == [1, 1]
    assert found["title_mrr"][2] < 1


def test_titles_that_items_share_count_as_the_guess_that_they_are():
    found = retrieval(["blue lamp", ""], np.array([2, 0]), TITLES)
    assert found["title_hit@1"].tolist() == [1 / 2, 1 / 4]
    assert found["title_mrr"].tolist() == pytest.approx([(1 + 1 / 2) / 2, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])


def test_retrieval_in_parts_is_that_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(["red", "blue", "mug", "lamp", "tall"], 3)) for _ in range(50)]
    whole = retrieval(titles, np.arange(50), titles)
    monkeypatch.setattr("src.text_generation.grounding.CELLS_AT_ONCE", 70)
    for name, values in retrieval(titles, np.arange(50), titles).items():
        np.testing.assert_allclose(values, whole[name])


def test_chinese_references_are_counted_by_characters_whatever_the_prompts():
    """Asked in English, equal Chinese texts used to have a ROUGE-2 of 0."""
    assert metrics.metric_language(["青山黑色保温杯", "USB 充电宝"], "en") == "zh"
    assert metrics.metric_language(["Cedar cushion", "Tea 茶"], "en") == "en"
    assert metrics.metric_language(["12", ""], "en") == "en"
    assert metrics.metric_language(["Cedar"], "zh") == "zh"
    text = ["青山黑色保温杯"]
    assert metrics.sample_metrics(text, text, metrics.metric_language(text, "en"), False)["rouge2"].tolist() == [1.0]
