"""How well the demo dataset can be predicted at all: by who knows the process, and by who only reads the texts.

    python3 data_process/demo_oracle.py --data_path data --dataset Demo

Prints hit@10 and ndcg@10 on the test split of
- the best predictor, which knows the process but not the user's taste: it infers the taste by Bayes from the history;
- the same predictor when it knows of each history item only its text, hence its class of ten items;
- popularity: how often the training parts of all users hold an item.
No one predicts an item that the user has (`--filter_history` elsewhere). Writes results/<dataset>/oracle.json.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

if (
    not __package__
):  # run as a file: look up modules from the repository root, as `python -m data_process.demo_oracle` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data_process.demo_process import NUM_TASTES, Process, load_process
from src.common.artifacts import dataset_paths
from src.common.cli import new_parser, user_errors
from src.common.interactions import interaction_inputs, load_interactions
from src.common.record import run_record, write_record

USERS_AT_ONCE = 500  # bounds the memory of (users, tastes, items) arrays


@dataclass(frozen=True)
class OracleConfig:
    """Which dataset, and where the figures go: by default results/<dataset>/oracle.json."""

    data_path: Path = Path("data")
    dataset: str = "Demo"
    results_file: Path | None = None


def best_scores(process: Process, histories: np.ndarray) -> np.ndarray:
    """Exact probability of each item to be next, given the items of the history.

    Args:
        histories: (U, H) int64 item ids, oldest first, -1 after the last.

    Returns:
        (U, N) float64; rows sum to 1; items of the history have 0.
    """
    users = np.arange(len(histories))
    base = process.taste_probabilities()
    log_posterior = np.zeros((len(histories), NUM_TASTES))  # tastes are equally frequent
    taken = np.zeros((len(histories), process.num_items), bool)
    last = np.full(len(histories), -1)
    for step in range(histories.shape[1]):
        item = histories[:, step]
        given = item >= 0
        follow, stay = _next_parts(process, base, taken, last)
        chance = follow[users, item][:, None] + stay * base[:, item].T
        log_posterior[given] += np.log(chance[given])
        taken[users[given], item[given]] = True
        last = np.where(given, item, last)
    posterior = np.exp(log_posterior - log_posterior.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    follow, stay = _next_parts(process, base, taken, last)
    return follow + ((posterior * stay) @ base) * ~taken


def _next_parts(process: Process, base: np.ndarray, taken: np.ndarray, last: np.ndarray):
    """The two ways to the next item: (U, N) by habit, and (U, T) the factor of `base` for items not taken."""
    users = np.arange(len(last))
    follow = np.zeros(taken.shape)
    rows = users[last >= 0]
    candidates = process.successors[last[rows]]
    weights = process.successor_weights * ~taken[rows[:, None], candidates]
    total = weights.sum(1, keepdims=True)
    shares = process.habit * np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    np.add.at(follow, (rows[:, None], candidates), shares)
    by_taste = 1 - follow.sum(1, keepdims=True)
    return follow, by_taste / (1 - taken @ base.T)


def text_scores(process: Process, histories: np.ndarray) -> np.ndarray:
    """Probability of each item to be next, given only the text class of each history item.

    Follows every item that the history could have held, for every taste (the forward algorithm of a hidden Markov
    model). That users take no item twice is left out while following and applied at the end, where even the items that
    were really taken are struck out, as in every evaluation with a masked history: so the figure flatters texts.

    Args:
        histories: (U, H) int64 item ids, oldest first, -1 after the last.

    Returns:
        (U, N) float64; items of the history have 0.
    """
    base = process.taste_probabilities()
    follow = np.zeros((process.num_items, process.num_items))
    np.add.at(follow, (np.arange(process.num_items)[:, None], process.successors), process.successor_weights)

    def advance(belief: np.ndarray) -> np.ndarray:
        mass = belief.sum(2, keepdims=True)
        return process.habit * (belief.reshape(-1, len(follow)) @ follow).reshape(belief.shape) + (
            (1 - process.habit) * mass * base
        )

    belief = np.broadcast_to(base, (len(histories), *base.shape)).copy()  # of the item at this step, and of the taste
    for step in range(histories.shape[1]):
        given = histories[:, step] >= 0
        seen_class = process.text_class[histories[given, step]]
        before = belief[given] if step == 0 else advance(belief[given])
        belief[given] = before * (process.text_class == seen_class[:, None])[:, None]
        belief[given] /= belief[given].sum((1, 2), keepdims=True)
    scores = advance(belief).sum(1)
    rows, steps = np.nonzero(histories >= 0)
    scores[rows, histories[rows, steps]] = 0
    return scores


def popularity_scores(histories: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(U, N) float64: the count of each item, 0 for items of the history."""
    scores = np.tile(counts.astype(np.float64), (len(histories), 1))
    rows, steps = np.nonzero(histories >= 0)
    scores[rows, histories[rows, steps]] = 0
    return scores


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(U,) int64: how many items stand before the target; equal scores are ordered by item id."""
    own = scores[np.arange(len(targets)), targets][:, None]
    earlier = (scores == own) & (np.arange(scores.shape[1]) < targets[:, None])
    return ((scores > own) | earlier).sum(1)


def split_last(interactions: Mapping[str, list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories (U, H) padded with -1, the last item of each (U,), and training counts (N,), without the last two."""
    lists = [items for items in interactions.values() if len(items) > 2]
    longest = max(map(len, lists)) - 1
    histories = np.array([items[:-1] + [-1] * (longest + 1 - len(items)) for items in lists])
    targets = np.array([items[-1] for items in lists])
    counts = np.bincount(np.concatenate([items[:-2] for items in lists]), minlength=histories.max() + 1)
    return histories, targets, counts


def measure(score: Callable[[np.ndarray], np.ndarray], histories: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """hit@10 and ndcg@10 of a function that scores histories."""
    found = np.concatenate(
        [
            ranks(score(histories[start : start + USERS_AT_ONCE]), targets[start : start + USERS_AT_ONCE])
            for start in range(0, len(histories), USERS_AT_ONCE)
        ]
    )
    hit = found < 10
    return {"hit@10": float(hit.mean()), "ndcg@10": float(np.where(hit, 1 / np.log2(found + 2), 0).mean())}


def oracle(config: OracleConfig) -> dict[str, dict[str, float]]:
    """Measures the three predictors, prints the table, writes the results; gives metrics by predictor."""
    paths = dataset_paths(config.data_path, config.dataset)
    truth = paths.file("truth.npz")
    process, _ = load_process(truth)
    histories, targets, counts = split_last(load_interactions(paths))
    counts = np.pad(counts, (0, process.num_items - len(counts)))
    rows = {
        "best": measure(lambda part: best_scores(process, part), histories, targets),
        "text only": measure(lambda part: text_scores(process, part), histories, targets),
        "popularity": measure(lambda part: popularity_scores(part, counts), histories, targets),
    }
    print(f"{'predictor':<12}{'hit@10':>10}{'ndcg@10':>10}   {len(targets)} users, {process.num_items} items")
    for name, metrics in rows.items():
        print(f"{name:<12}{metrics['hit@10']:>10.4f}{metrics['ndcg@10']:>10.4f}")
    record = run_record(config, {"truth": truth, **interaction_inputs(paths)})
    results_file = config.results_file or Path("results") / config.dataset / "oracle.json"
    write_record(results_file, {"artefact": "oracle", **rows, "num_samples": len(targets), **record})
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--data_path", type=Path, default=OracleConfig.data_path, help="folder that holds <dataset>/")
    parser.add_argument("--dataset", default=OracleConfig.dataset, help="a dataset of make_demo_data.py")
    parser.add_argument("--results_file", type=Path, help="default: results/<dataset>/oracle.json")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        oracle(OracleConfig(**vars(args)))


if __name__ == "__main__":
    main()
