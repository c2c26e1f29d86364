"""Where a beam search loses the right answer: the beams of every level, and whether looking at all items would help.

Shape letters: M questions, L levels, K beams.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.common.artifacts import read_json
from src.common.distributed import resolve_device
from src.seqrec.cases import Case, one_wording, without_metrics
from src.seqrec.config import HOW_ASKED, EvaluateConfig
from src.seqrec.core import Samples, check, cut_batches, make_samples
from src.seqrec.metrics import ranks_of
from src.seqrec.ranker import Ranker, load_ranker
from src.seqrec.results import Ranked
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template

SETTINGS = (  # of a results file, that decide what is asked and how
    "dataset", "base_model", "is_lora", "test_task", "test_prompt_ids", "split", "num_beams", "filter_history",
    "legal_softmax", "asked",
)  # fmt: skip
KEPT = "found"
LEFT_OUT = "left out, being in the history"


@dataclass(frozen=True)
class Trace:
    """What a beam search did, question by question.

    Attributes:
        samples: the questions.
        letters: of the levels.
        places: (M, L) int64, where the right prefix stands among the beams after each level, from 0; -1 where it has
            fallen out.
        scores: (M, L, K) float32, sums of log-probabilities of the beams after each level, best first; -inf where there
            is no beam.
        found, exact: ranked items of the beam search, and of the scores of all items.
        left_out: (M,) bool, whether the right answer may not be recommended, since the history has it.
    """

    samples: Samples
    letters: tuple[str, ...]
    places: np.ndarray
    scores: np.ndarray
    found: Ranked
    exact: Ranked
    left_out: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.samples.targets

    @property
    def lost_at(self) -> np.ndarray:
        """(M,) int64: level after which the right prefix was no longer among the beams; L where it stayed."""
        gone = self.places < 0
        return np.where(gone.any(1), gone.argmax(1), self.places.shape[1])

    @property
    def ranks(self) -> np.ndarray:
        """(M,) int64: of the right answer in the list, from 0; the length of the list where it is missing."""
        return ranks_of(self.found.items, self.targets)

    @property
    def exact_ranks(self) -> np.ndarray:
        """The same for the scores of all items."""
        return ranks_of(self.exact.items, self.targets)


def config_of_results(results_file: str | Path, data_path: str | Path, sample_num: int) -> EvaluateConfig:
    """The settings with which a model was evaluated, for a part of its questions.

    Of several wordings the first; of several models that were ranked together the first.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or not of a model that `src.seqrec` evaluated.
    """
    results = read_json(results_file, "It is written by python -m src.seqrec.metric_ddp")
    missing = [name for name in ("checkpoint", "index") if not results.get(name)]
    if missing := missing or [name for name in SETTINGS if name not in results]:
        raise ValueError(
            f"{results_file} does not name {', '.join(missing)}: give results of python -m src.seqrec.metric_ddp"
        )
    return EvaluateConfig(
        dataset=results["dataset"],
        data_path=Path(data_path),
        index_file=results["index"],
        ckpt_model=Path(results["checkpoint"]),
        base_model=results["base_model"],
        lora=bool(results["is_lora"]),
        test_task=results["test_task"],
        test_prompt_ids=str(results["test_prompt_ids"][0]),
        split="valid" if results["split"] == "valid" else "test",
        num_beams=results["num_beams"],
        filter_history=results["filter_history"],
        legal_softmax=results["legal_softmax"],
        sample_num=sample_num,
        **{name: results["asked"][name] for name in HOW_ASKED},
    )


def trace(config: EvaluateConfig) -> tuple[Trace, Catalogue]:
    """Follows the beams for `config.sample_num` questions (0: all), and scores all items for each as well.

    The latter costs as much as `--exact`; take some hundred questions of a large catalogue.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    config = replace(without_metrics(config), exact=False)
    task, prompt_ids, catalogue = check(config)
    template = one_wording(task.item_templates, prompt_ids, config.test_prompt_ids)
    samples = make_samples(config, task, catalogue)
    ranker = load_ranker(config, catalogue, resolve_device(config.device))
    return trace_samples(ranker, template, samples), catalogue


def trace_samples(ranker: Ranker, template: Template, samples: Samples) -> Trace:
    """Asks the model about the samples twice: by beam search, and by the scores of all items."""
    config, catalogue, trie = ranker.config, ranker.catalogue, ranker.trie
    number, length = len(samples.targets), ranker.list_length
    places = np.full((number, trie.num_levels), -1, np.int64)
    scores = np.full((number, trie.num_levels, min(length, trie.num_leaves)), -np.inf, np.float32)
    both = [
        Ranked(np.full((number, length), -1, np.int64), np.full((number, length), -np.inf, np.float32))
        for _ in range(2)
    ]
    left_out = np.zeros(number, bool)
    for batch in cut_batches(samples, config.test_batch_size):
        histories = [samples.history(catalogue, int(row)) for row in batch]
        asked = (template, histories, samples.targets[batch], samples.text_rows(batch))
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        ranker.watch = lambda nodes, sums, seen=seen: seen.append((nodes.cpu().numpy(), sums.float().cpu().numpy()))
        for ranked, exact in zip(both, (False, True), strict=True):
            ranker.config = replace(config, exact=exact)
            ranked.items[batch], ranked.scores[batch] = ranker.rank(*asked)
        right = right_nodes(ranker, samples.targets[batch])
        for level, (nodes, sums) in enumerate(seen):
            scores[batch, level, : sums.shape[1]] = sums
            is_right = (nodes == right[:, level, None]) & np.isfinite(sums)
            places[batch, level] = np.where(is_right.any(1), is_right.argmax(1), -1)
        if config.filter_history:
            left_out[batch] = [target in part for target, part in zip(asked[2], histories, strict=True)]
    ranker.watch, ranker.config = None, config
    return Trace(samples, catalogue.index.letters, places, scores, both[0], both[1], left_out)


def right_nodes(ranker: Ranker, targets: np.ndarray) -> np.ndarray:
    """(M, L) int64: nodes of the trie on the way to each target."""
    trie = ranker.trie
    nodes = trie.leaf_of[ranker.place_of[np.searchsorted(ranker.catalogue.item_ids, targets)]].astype(np.int64)
    way = [nodes]
    for level in range(trie.num_levels, 1, -1):
        way.insert(0, trie.ancestors(level, way[0]))
    return np.stack(way, 1)


# ---- what a trace says -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """What became of some of the questions.

    Attributes:
        name: the level at which the right prefix was lost, or another end.
        questions: how many.
        search_lost: of these, how many a search that prunes nothing finds.
    """

    name: str
    questions: int
    search_lost: int


def outcomes(trace: Trace) -> list[Outcome]:
    """What became of the questions; together they are all of them.

    The right answer was found; left the beam at a level; or could not be recommended. One that the beam lost and that
    stands in the list of all scores fell to the search; the model itself ranks the others lower than that.
    """
    hits, exact_hits = (ranks < trace.found.items.shape[1] for ranks in (trace.ranks, trace.exact_ranks))
    ends = [(KEPT, hits)]
    # A right SID may stay and its item miss the list: where items share SIDs, others may fill it.
    lost_at = np.minimum(trace.lost_at, len(trace.letters) - 1)
    ends += [
        (f"lost at level {letter}", ~hits & ~trace.left_out & (lost_at == n)) for n, letter in enumerate(trace.letters)
    ]
    ends += [(LEFT_OUT, trace.left_out & ~hits)] if trace.left_out.any() else []
    return [Outcome(name, int(those.sum()), int((those & ~hits & exact_hits).sum())) for name, those in ends]


def survival(trace: Trace, widths: Sequence[int]) -> dict[int, np.ndarray]:
    """By width: (L,) float64 share of the questions whose right prefix is among so many best beams after each level."""
    possible = ~trace.left_out
    if not possible.any():
        raise ValueError("every right answer stands in its history and is left out: pass filter_history=False")
    places = trace.places[possible]
    return {width: ((places >= 0) & (places < width)).mean(0) for width in widths}


def traced_cases(trace: Trace, catalogue: Catalogue, rows: Sequence[int]) -> list[Case]:
    """Some of the questions with their ranked items, as `src.seqrec.case` shows them."""
    index, names = catalogue.index, trace.samples.names(catalogue)
    cases = []
    for row in rows:
        target = int(trace.targets[row])
        items = trace.found.items[row][trace.found.items[row] >= 0]
        shared = index.num_shared_levels(int(index.rows_of([target])[0]), index.rows_of(items))
        scores = trace.found.scores[row, : len(items)].tolist()
        history = trace.samples.history(catalogue, row).tolist()
        name = f"{'user' if trace.samples.next_item else 'item'} {names[row]}"
        cases.append(Case(name, history, target, items.tolist(), scores, shared.tolist()))
    return cases
