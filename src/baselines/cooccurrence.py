"""Baseline: co-transition counts, what tends to follow the last three items.

python -m src.baselines.cooccurrence --dataset HMWeek --results_file results/HMWeek/cooccurrence.json
"""

from typing import TYPE_CHECKING

from src.baselines.config import BaselineConfig, build_parser
from src.common.cli import user_errors

if TYPE_CHECKING:
    from scipy import sparse

    from src.baselines.core import Scorer
    from src.tasks.catalogue import Catalogue

MAX_DISTANCE = 3
WEIGHTS = {1: 6, 2: 3, 3: 2}  # 6 / distance: whole numbers, so that ties are exact


def transition_counts(catalogue: "Catalogue") -> "sparse.csr_array":
    """(N, N) int64: row i, column j has 6/d for every time that j follows i at distance d <= 3 in a training part."""
    import numpy as np
    from scipy import sparse

    from src.baselines.core import training_entries

    users, columns = training_entries(catalogue)
    earlier, later, weights = [], [], []
    for distance, weight in WEIGHTS.items():
        together = users[distance:] == users[:-distance]
        earlier.append(columns[:-distance][together])
        later.append(columns[distance:][together])
        weights.append(np.full(int(together.sum()), weight, np.int64))
    entries = (np.concatenate(weights), (np.concatenate(earlier), np.concatenate(later)))
    return sparse.coo_array(entries, shape=(len(catalogue.item_ids),) * 2).tocsr()  # adds up equal pairs


def build_scorer(catalogue: "Catalogue", config: BaselineConfig) -> "Scorer":
    """An item's score sums, over the last 3 history items at distance d from the target, its counts times 6/d."""
    import numpy as np
    from scipy import sparse

    from src.baselines.core import Scorer, history_entries

    counts = transition_counts(catalogue)

    def score(users: np.ndarray, positions: np.ndarray) -> sparse.csr_array:
        rows, columns, distances = history_entries(catalogue, users, positions)
        recent = distances <= MAX_DISTANCE
        weights = np.array([0, *WEIGHTS.values()], np.int64)[distances[recent]]
        shape = (len(users), len(catalogue.item_ids))
        return sparse.coo_array((weights, (rows[recent], columns[recent])), shape=shape).tocsr() @ counts

    return Scorer(score, {"max_distance": MAX_DISTANCE})


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.baselines.core import run_baseline
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_baseline("cooccurrence", BaselineConfig(**vars(args)))


if __name__ == "__main__":
    main()
