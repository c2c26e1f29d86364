"""Baseline: recommend what stands most often in the training parts.

python -m src.baselines.popularity --dataset HMWeek --results_file results/HMWeek/popularity.json --filter_history
"""

from typing import TYPE_CHECKING

from src.baselines.config import BaselineConfig, build_parser
from src.common.cli import user_errors

if TYPE_CHECKING:
    from src.baselines.core import Scorer
    from src.tasks.catalogue import Catalogue


def build_scorer(catalogue: "Catalogue", config: BaselineConfig) -> "Scorer":
    """The score of an item is its training count, the same for everybody."""
    import numpy as np
    from scipy import sparse

    from src.baselines.core import Scorer, tie_order

    # As many items as a list can need: its length and, at most, a whole history to leave out.
    head = np.sort(tie_order(catalogue)[: config.num_beams + int(catalogue.lengths.max())])
    counts = catalogue.popularity[catalogue.item_ids[head]]

    def score(users: np.ndarray, positions: np.ndarray) -> sparse.csr_array:
        ends = np.arange(len(users) + 1) * len(head)
        entries = (np.tile(counts, len(users)), np.tile(head, len(users)), ends)
        return sparse.csr_array(entries, shape=(len(users), len(catalogue.item_ids)))

    return Scorer(score, {})


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    from src.baselines.core import run_baseline
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_baseline("popularity", BaselineConfig(**vars(args)))


if __name__ == "__main__":
    main()
