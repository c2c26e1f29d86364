"""How near generated texts are to their references. Pure functions of two lists of texts.

Corpus metrics are those of whole lists (`bleu`, `chrf`: sacrebleu's, 0 to 100; `length_ratio`: words written by words
of the reference). Sample metrics are means over samples, 0 to 1, but for `sentence_chrf`, 0 to 100.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from src.text_generation.parse import entries

CORPUS_METRICS = ("bleu", "chrf", "length_ratio")
SAMPLE_METRICS = ("sentence_bleu1", "sentence_bleu4", "sentence_chrf", "rouge1", "rouge2", "rougeL", "token_f1")
LIST_METRICS = ("tag_f1",)  # further sample metrics of fields that are lists
NUM_RESAMPLES = 1000
WORDS = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")


class CharacterTokenizer:
    """For ROUGE in Chinese: each character by itself, Latin words whole."""

    def tokenize(self, text: str) -> list[str]:
        return WORDS.findall(text.lower())


@cache
def bleu_of(language: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="zh" if language == "zh" else "13a")


@cache
def chrf_of() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@cache
def rouge_of(language: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    tokenizer = CharacterTokenizer() if language == "zh" else None
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=tokenizer)


@cache
def _splitter(language: str) -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    return TokenizerZh() if language == "zh" else Tokenizer13a()


def words_of(text: str, language: str) -> list[str]:
    """Words as BLEU counts them, in lower case."""
    return _splitter(language)(text).lower().split()


class Corpus(NamedTuple):
    """A metric of a whole list, its interval (95 %, bootstrap) and, for sacrebleu's, the signature."""

    value: float
    interval: tuple[float, float]
    signature: str | None


def corpus_metrics(generated: Sequence[str], references: Sequence[str], language: str) -> dict[str, Corpus]:
    """BLEU and chrF as sacrebleu's command line gives them, with its bootstrap of 1,000 resamples; length ratio."""
    found = {}
    for name, metric in (("bleu", bleu_of(language)), ("chrf", chrf_of())):
        score = metric.corpus_score(list(generated), [list(references)], n_bootstrap=NUM_RESAMPLES)
        low, high = score._mean - score._ci, score._mean + score._ci
        metric.n_bootstrap = None  # the signature is that of the score itself
        found[name] = Corpus(float(score.score), (float(low), float(high)), str(metric.get_signature()))
    written, wanted = (
        np.array([len(words_of(text, language)) for text in texts], np.float64) for texts in (generated, references)
    )
    rng = np.random.default_rng(42)
    drawn = rng.integers(len(written), size=(NUM_RESAMPLES, len(written)))
    ratios = written[drawn].sum(1) / np.maximum(wanted[drawn].sum(1), 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    ratio = float(written.sum() / max(wanted.sum(), 1))
    return found | {"length_ratio": Corpus(ratio, (float(low), float(high)), None)}


def sample_metrics(
    generated: Sequence[str], references: Sequence[str], language: str, is_list: bool = False
) -> dict[str, np.ndarray]:
    """Each sample metric: (M,) float64.

    `sentence_bleu1`, `sentence_bleu4`: nltk's sentence BLEU of up to 1 and 4 words, smoothing method 1 (Chen and
    Cherry, 2014), on sacrebleu's tokens in lower case, as papers on generated reviews and captions report it.
    `token_f1`: words in common, as SQuAD counts them. `tag_f1`: entries of a list in common.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing, rouge, chrf = SmoothingFunction().method1, rouge_of(language), chrf_of()
    weights = [(1.0,), (0.25,) * 4]
    columns: dict[str, list[float]] = {name: [] for name in SAMPLE_METRICS + LIST_METRICS * is_list}
    for text, reference in zip(generated, references, strict=True):
        words, wanted = words_of(text, language), words_of(reference, language)
        one, four = sentence_bleu([wanted], words, weights, smoothing) if words else (0.0, 0.0)
        scores = rouge.score(reference, text)
        row = {
            "sentence_bleu1": one,
            "sentence_bleu4": four,
            "sentence_chrf": chrf.sentence_score(text, [reference]).score,
            "token_f1": f1(Counter(words), Counter(wanted)),
            **{name: score.fmeasure for name, score in scores.items()},
        }
        if is_list:
            row["tag_f1"] = f1(Counter(entries(text)), Counter(entries(reference)))
        for name, value in row.items():
            columns[name].append(float(value))
    return {name: np.array(column, np.float64) for name, column in columns.items()}


def f1(written: Counter, wanted: Counter) -> float:
    """Harmonic mean of the shares of what was written and of what was wanted that are in common; 0 if nothing is."""
    common = (written & wanted).total()
    return 2 * common / (written.total() + wanted.total()) if common else 0.0
