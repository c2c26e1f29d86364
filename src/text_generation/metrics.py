"""How near generated texts are to their references. Pure functions of two lists of texts.

Corpus metrics are those of whole lists (`bleu`, `chrf`: sacrebleu's, 0 to 100; `length_ratio`: words written by words
of the reference). Sample metrics are means over samples, 0 to 1, but for `sentence_chrf`, 0 to 100.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from src.text_generation.parse import entries

SAMPLE_METRICS = ("sentence_bleu1", "sentence_bleu4", "sentence_chrf", "rouge1", "rouge2", "rougeL", "token_f1")
LIST_METRICS = ("tag_f1",)  # further sample metrics of fields that are lists
WORDS = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


def metric_language(references: Iterable[str], prompt_lang: str) -> str:
    """Whose words are counted: those of the prompts, or Chinese where most letters of the references are."""
    letters = [sign for text in references for sign in text if sign.isalpha()]
    is_chinese = 2 * sum("\u3400" <= sign <= "\u9fff" for sign in letters) > len(letters)
    return "zh" if is_chinese else prompt_lang


class CharacterTokenizer:
    """For ROUGE in Chinese, and words in common: each Chinese character by itself, other words whole."""

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
    """A metric of a whole list, its interval (95 %, bootstrap over samples) and, for sacrebleu's, the signature."""

    value: float
    interval: tuple[float, float] | None
    signature: str | None


def corpus_metrics(
    generated: Sequence[str], references: Sequence[str], language: str, num_resamples: int = 0
) -> dict[str, Corpus]:
    """BLEU and chrF as sacrebleu's command line gives them, and the length ratio.

    Args:
        num_resamples: of the bootstrap; 0: no intervals.
    """
    found = {}
    for name, metric in (("bleu", bleu_of(language)), ("chrf", chrf_of())):
        score = metric.corpus_score(list(generated), [list(references)])
        interval = None
        if num_resamples:
            stats = np.array(metric._extract_corpus_statistics(list(generated), [list(references)]), np.float64)

            def score_of(row: np.ndarray, metric: Any = metric) -> float:
                return metric._compute_score_from_stats(row).score

            interval = _interval(stats, score_of, num_resamples)
        found[name] = Corpus(float(score.score), interval, str(metric.get_signature()))
    sizes = [[len(words_of(text, language)) for text in pair] for pair in zip(generated, references, strict=True)]
    stats = np.array(sizes, np.float64)

    def ratio(row: np.ndarray) -> float:
        return float(row[0] / max(row[1], 1))

    interval = _interval(stats, ratio, num_resamples) if num_resamples else None
    return found | {"length_ratio": Corpus(ratio(stats.sum(0)), interval, None)}


def _interval(
    stats: np.ndarray, score_of: Callable[[np.ndarray], float], num_resamples: int, seed: int = 42
) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of a metric that is a function of summed counts: (M, C) of each sample.

    sacrebleu's own bootstrap needs M x 1,000 x C numbers at a time, and fails where a resample scores 0.
    """
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(num_resamples):
        times = np.bincount(rng.integers(len(stats), size=len(stats)), minlength=len(stats)).astype(np.float64)
        scores.append(float(score_of(times @ stats)))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


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
    bag = CharacterTokenizer().tokenize
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
            "token_f1": f1(Counter(bag(text)), Counter(bag(reference))),
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
