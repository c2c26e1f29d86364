"""Baseline: item-kNN, cosine similarity of the users who have both items, shrunk towards 0 for rare pairs.

    python -m src.baselines.itemknn --dataset HMWeek --results_file results/HMWeek/itemknn.json --filter_history

Shrinkage and recency weight are those of a small grid with the best NDCG@10 on the validation split, under the same
--filter_history; the results file keeps them.
"""

from typing import TYPE_CHECKING

from src.baselines.config import BaselineConfig, build_parser
from src.common.cli import user_errors

if TYPE_CHECKING:
    import numpy as np
    from scipy import sparse

    from src.baselines.core import ScoreFunction, Scorer
    from src.tasks.catalogue import Catalogue

NUM_NEIGHBOURS = 100  # kept of each item; keeping all moves NDCG@10 on valid by .001 or less (HMWeek, Scientific)
SHRINKAGES = (0, 10, 50, 100)
RECENCIES = (1.0, 0.8)  # weight of a history item against the one that came after it
BLOCK = 4096  # items whose similarities are held in full at once
SELECTED_BY = "ndcg@10"


def cosine_similarities(catalogue: "Catalogue") -> "list[sparse.csr_array]":
    """(N, N) float32 of each of SHRINKAGES: `together(i, j) / (sqrt(count(i) * count(j)) + shrinkage)`.

    Counts are of users whose training part has the item; a row keeps its NUM_NEIGHBOURS largest entries, never itself.

    Reference: Deshpande and Karypis, Item-based top-N recommendation algorithms, TOIS 22(1), 2004.
    """
    import numpy as np
    from scipy import sparse

    from src.baselines.core import tie_order, training_entries

    users, columns = training_entries(catalogue)
    num_items = len(catalogue.item_ids)
    owned = sparse.csr_array((np.ones(len(users)), (users, columns)), shape=(catalogue.num_users, num_items))
    owned.data[:] = 1  # an item counts once a user
    counts = owned.sum(axis=0)
    owners = owned.T.tocsr()
    tie_rank = np.empty(num_items, np.int64)
    tie_rank[tie_order(catalogue)] = np.arange(num_items)
    blocks: list[list[sparse.csr_array]] = [[] for _ in SHRINKAGES]
    for start in range(0, num_items, BLOCK):
        together = (owners[start : start + BLOCK] @ owned).tocoo()
        others = together.row + start != together.col
        rows, neighbours, pairs = together.row[others], together.col[others], together.data[others]
        norms = np.sqrt(counts[rows + start] * counts[neighbours])
        for kept, shrinkage in zip(blocks, SHRINKAGES, strict=True):
            values = (pairs / (norms + shrinkage)).astype(np.float32)
            order = np.lexsort((tie_rank[neighbours], -values, rows))
            place = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
            order = order[place < NUM_NEIGHBOURS]
            entries = (values[order], (rows[order], neighbours[order]))
            kept.append(sparse.csr_array(entries, shape=(min(BLOCK, num_items - start), num_items)))
    return [sparse.vstack(kept, format="csr") for kept in blocks]


def summed_similarities(catalogue: "Catalogue", similarities: "sparse.csr_array", recency: float) -> "ScoreFunction":
    """Scores: similarities to all items before the target, summed; the d-th last item weighs recency^(d - 1)."""
    import numpy as np
    from scipy import sparse

    from src.baselines.core import history_entries

    def score(users: "np.ndarray", positions: "np.ndarray") -> "sparse.csr_array":
        rows, columns, distances = history_entries(catalogue, users, positions)
        weights = (recency ** (distances - 1.0)).astype(np.float32)
        shape = (len(users), len(catalogue.item_ids))
        return sparse.csr_array((weights, (rows, columns)), shape=shape) @ similarities

    return score


def build_scorer(catalogue: "Catalogue", config: BaselineConfig) -> "Scorer":
    """The setting of the grid that ranks the validation items best."""
    from src.baselines.core import Scorer, evaluate_ranker
    from src.common.log import logger
    from src.seqrec.metrics import per_sample_metrics, ranks_of

    trials = []
    for shrinkage, similarities in zip(SHRINKAGES, cosine_similarities(catalogue), strict=True):
        for recency in RECENCIES:
            score = summed_similarities(catalogue, similarities, recency)
            valid = evaluate_ranker("itemknn", score, catalogue, "valid", config.filter_history, 10)
            ranks = ranks_of(valid.ranked, valid.targets)
            value = float(per_sample_metrics(ranks, [SELECTED_BY])[SELECTED_BY].mean())
            logger.info("itemknn: shrinkage %d, recency %.1f: %s %.4f on valid", shrinkage, recency, SELECTED_BY, value)
            trials.append((value, score, {"shrinkage": shrinkage, "recency": recency}))
    value, score, chosen = max(trials, key=lambda trial: trial[0])  # the first of equals
    return Scorer(score, {**chosen, "num_neighbours": NUM_NEIGHBOURS, f"valid_{SELECTED_BY}": value})


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.baselines.core import run_baseline
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_baseline("itemknn", BaselineConfig(**vars(args)))


if __name__ == "__main__":
    main()
