"""What a dataset that lies ready is like: figures, categories, and what a next item has to do with those before.

Functions of a catalogue, for notebook/data.ipynb; the data stage itself writes data_process/dataset_statistics.py's.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from data_process.compare_embeddings import Share, last_entry
from data_process.dataset_statistics import measure
from data_process.interactions import Interactions
from src.common.dataset_readers import ITEM_FIELDS, load_times
from src.tasks.catalogue import Catalogue, Split

FIELDS = {"category": "categories", "brand": "brand"}


def interactions_of(catalogue: Catalogue) -> Interactions:
    """All interactions as the data stage holds them, with times in seconds where the dataset has them."""
    sequences: list[Any] = np.split(catalogue.sequence, catalogue.offsets[1:-1])
    times = load_times(catalogue.paths, dict(zip(catalogue.users, sequences, strict=True)))
    return Interactions(
        np.repeat(np.arange(catalogue.num_users, dtype=np.uint32), catalogue.lengths),
        np.searchsorted(catalogue.item_ids, catalogue.sequence).astype(np.uint32),
        None if times is None else np.concatenate([np.asarray(times[user], np.int64) for user in catalogue.users]),
        pl.Series("user", catalogue.users),
        pl.Series("item", [str(item) for item in catalogue.item_ids]),
    )


def figures_of(catalogue: Catalogue) -> dict[str, Any]:
    """As `measure` gives them."""
    items = pl.DataFrame(
        {field: [catalogue.items[item][field] for item in catalogue.item_ids.tolist()] for field in ITEM_FIELDS}
    )
    ends = np.stack([catalogue.train_end, catalogue.valid_end - catalogue.train_end], 1)
    figures = measure(interactions_of(catalogue), items, 1, ends)
    figures["items_without"]["picture"] = len(catalogue.item_ids) - len(catalogue.image_files)
    return figures


def category_counts(catalogue: Catalogue) -> dict[str, tuple[int, int]]:
    """Of each category (the last that an item names): items, and their interactions in training; largest first."""
    items: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for item in catalogue.item_ids.tolist():
        name = last_entry(catalogue.items[item]["categories"])
        items[name] += 1
        sold[name] += int(catalogue.popularity[item])
    return {name: (items[name], sold[name]) for name, _ in sold.most_common()}


def items_by_category(catalogue: Catalogue, count: int = 4, each: int = 8, seed: int = 42) -> dict[str, list[int]]:
    """Up to `each` items, drawn by the seed, of the `count` categories that sell most."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[int]] = {name: [] for name in list(category_counts(catalogue))[:count]}
    for item in rng.permutation(catalogue.item_ids).tolist():
        row = rows.get(last_entry(catalogue.items[item]["categories"]))
        if row is not None and len(row) < each:
            row.append(item)
    return {name or "(no category)": row for name, row in rows.items()}


def step_measures(catalogue: Catalogue, split: Split = "test") -> dict[str, Share]:
    """What right answers have in common with what a user had before, beside the same of items drawn by popularity.

    Popularity is that of the training parts, and so are the counts of what followed what.

    Returns:
        by relation: in the history already; of the category, or brand, of the item before (where items have any);
        followed one of the last three items in some training part; among the most popular tenth of items; never seen
        in training, which chance gives 0.

    Raises:
        ValueError: the split has no samples, or nothing trains.
    """
    from src.baselines.cooccurrence import MAX_DISTANCE, transition_counts

    users, positions = catalogue.next_item_targets(split)
    popularity = catalogue.popularity[catalogue.item_ids].astype(np.float64)
    if not len(users) or not popularity.sum():
        raise ValueError(f"{catalogue.interactions_path} gives no {split} sample, or none to train on")
    popularity /= popularity.sum()
    starts = catalogue.offsets[users]
    columns = np.searchsorted(catalogue.item_ids, catalogue.sequence)
    targets, before = columns[starts + positions], columns[starts + positions - 1]

    def share(of: Callable[[int], np.ndarray]) -> Share:
        """Of columns that count for each sample: is the target among them, and what do they have of all popularity?"""
        found, chance = np.zeros(len(users), bool), np.zeros(len(users))
        for sample in range(len(users)):
            those = np.unique(of(sample))
            found[sample], chance[sample] = targets[sample] in those, popularity[those].sum()
        return Share(float(found.mean()), float(chance.mean()), len(users))

    counts = transition_counts(catalogue)
    top = np.argsort(-popularity, kind="stable")[: -(-len(popularity) // 10)]
    shares = {"in the history": share(lambda i: columns[starts[i] : starts[i] + positions[i]])}
    for relation, field in FIELDS.items():
        names = [last_entry(catalogue.items[item][field]) for item in catalogue.item_ids.tolist()]
        labels = np.unique(names, return_inverse=True)[1]
        if len(set(names) - {""}) > 1:
            mass = np.bincount(labels, popularity)[labels[before]]
            same = (labels[targets] == labels[before])[known := np.array(names)[before] != ""]
            shares[f"{relation} of the item before"] = Share(
                float(same.mean()), float(mass[known].mean()), int(known.sum())
            )
    shares[f"followed one of the last {MAX_DISTANCE} in training"] = share(
        lambda i: counts[columns[starts[i] + max(0, positions[i] - MAX_DISTANCE) : starts[i] + positions[i]]].indices
    )
    shares["among the most popular tenth"] = Share(
        float(np.isin(targets, top).mean()), float(popularity[top].sum()), len(users)
    )
    shares["never seen in training"] = Share(float((popularity[targets] == 0).mean()), 0.0, len(users))
    return shares
