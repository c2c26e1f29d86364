"""What a catalogue says of itself: figures, categories, and what right answers share with what came before."""

import json

import numpy as np
import pytest

from data_process.compare_embeddings import Share
from data_process.insight import category_counts, figures_of, interactions_of, items_by_category, step_measures
from src.tasks.catalogue import load_catalogue
from tests.toy import NUM_ITEMS, NUM_USERS, sequence, toy_catalogue

USERS = {"u": [0, 1, 0, 1], "v": [2, 3, 1, 4], "w": [1, 2, 3, 2], "short": [0]}
CATEGORIES = ["Shop, cups", "Shop, cups", "Shop, hats", "hats", "", "Shop, cups"]


@pytest.fixture
def catalogue(tmp_path):
    """Six items, the last of which nobody has; three users to test; training parts 0 1, 2 3, 1 2, 0."""
    folder = tmp_path / "Six"
    folder.mkdir()
    items = {item: {"title": f"item {item}", "categories": name} for item, name in enumerate(CATEGORIES)}
    (folder / "Six.item.json").write_text(json.dumps(items))
    (folder / "Six.inter.json").write_text(json.dumps(USERS))
    (folder / "Six.times.json").write_text(json.dumps({user: list(range(len(row))) for user, row in USERS.items()}))
    return load_catalogue(tmp_path, "Six")


def test_shares_equal_a_count_by_hand(catalogue):
    shares = step_measures(catalogue)
    popularity = np.array([2, 2, 2, 1, 0, 0]) / 7
    assert shares["in the history"] == Share(  # u has 1 again, w 2
        pytest.approx(2 / 3), pytest.approx((popularity[[0, 1]].sum() + 2 * popularity[[1, 2, 3]].sum()) / 3), 3
    )
    assert shares["category of the item before"] == Share(  # cups after cups; none after cups; hats after hats
        pytest.approx(2 / 3), pytest.approx((4 + 4 + 3) / 7 / 3), 3
    )
    assert "brand of the item before" not in shares  # nobody says any
    # 0 -> 1, 2 -> 3 and 1 -> 2 train: after (0 1 0) come 1 or 2, after (2 3 1) 3 or 2, after (1 2 3) 2 or 3.
    assert shares["followed one of the last 3 in training"] == Share(
        pytest.approx(2 / 3), pytest.approx((4 + 3 + 3) / 7 / 3), 3
    )
    assert shares["among the most popular tenth"] == Share(0, pytest.approx(2 / 7), 3)  # item 0 alone
    assert shares["never seen in training"] == Share(pytest.approx(1 / 3), 0, 3)  # item 4


def test_figures_and_times(catalogue):
    interactions = interactions_of(catalogue)
    assert interactions.items.tolist() == [item for row in USERS.values() for item in row]
    assert interactions.users.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3]
    assert interactions.times.tolist() == [*range(4), *range(4), *range(4), 0]
    figures = figures_of(catalogue)
    assert (figures["users"], figures["items"], figures["interactions"]) == (4, 6, 13)
    assert (figures["interactions_to_train"], figures["to_validate"], figures["to_test"]) == (7, 3, 3)
    assert figures["users_of_an_item"]["least"] == 0  # item 5: it used to be left out, being the last
    assert figures["items_without"]["categories"] == 1
    assert figures["items_without"]["picture"] == 6


def test_without_times():
    interactions = interactions_of(toy_catalogue())
    assert interactions.times is None
    assert interactions.num_rows == sum(len(sequence(user)) for user in range(NUM_USERS))
    assert figures_of(toy_catalogue())["items_without"]["picture"] == 5


def test_categories(catalogue):
    assert category_counts(catalogue) == {"cups": (3, 4), "hats": (2, 3), "": (1, 0)}
    rows = items_by_category(catalogue, count=3, each=2)
    assert list(rows) == ["cups", "hats", "(no category)"]
    assert set(rows["cups"]) < {0, 1, 5}
    assert (sorted(rows["hats"]), rows["(no category)"]) == ([2, 3], [4])
    toy = items_by_category(toy_catalogue(), count=2, each=NUM_ITEMS)
    assert all(len({item // 5 for item in row}) == 1 for row in toy.values())


def test_nothing_to_ask(tmp_path, catalogue):
    (catalogue.paths.file("inter.json")).write_text('{"u": [0, 1]}')
    catalogue.paths.file("times.json").unlink()
    with pytest.raises(ValueError, match=r"Six\.inter\.json gives no test sample"):
        step_measures(load_catalogue(tmp_path, "Six"))
