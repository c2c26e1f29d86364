"""What codes say of categories and sequences, by known answers."""

import json

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from index.metrics import all_prefix_groups, measure
from index.semantics import (
    agreement,
    category_measures,
    format_semantics,
    measure_all,
    sequence_measures,
    top_categories,
)
from tests.index.conftest import clustered, random_codes


# ---- categories ------------------------------------------------------------------------------------------------------
def test_purity_by_hand():
    purity, _ = agreement(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert purity == 0.75


@pytest.mark.parametrize(("num_groups", "num_labels"), [(1, 1), (1, 5), (5, 1), (4, 6), (150, 3)])
def test_mutual_information_is_sklearns(num_groups, num_labels):
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(num_groups, size=200), rng.integers(num_labels, size=200)
    _, information = agreement(groups, labels)
    assert information == pytest.approx(normalized_mutual_info_score(labels, groups), abs=1e-9)


def test_codes_that_are_categories_are_pure():
    codes = random_codes(sizes=(6, 7))
    table = category_measures(all_prefix_groups(codes), [f"kind {top}, part {full}" for top, full in codes])
    assert (table["top_categories"], table["full_categories"]) == (6, 42)
    assert table["purity_top"] == [1.0, 1.0]
    assert table["nmi_top"][0] == pytest.approx(1.0)
    assert table["nmi_full"][1] == pytest.approx(1.0)
    assert table["purity_top_shuffled"][0] < 0.4


def test_random_codes_are_as_pure_as_shuffled_ones():
    """Purity alone says little: 42 prefixes for 400 items reach .4 by chance."""
    codes = random_codes(sizes=(6, 7))
    table = category_measures(all_prefix_groups(codes), [f"kind {top}" for top in random_codes(seed=9)[:, 0]])
    for name in ("purity_top", "nmi_top"):
        assert table[name] == pytest.approx(table[f"{name}_shuffled"], abs=0.05)


def test_items_without_a_category_do_not_count():
    groups = all_prefix_groups(np.array([[0], [0], [1], [1]]))
    table = category_measures(groups, ["Strings", " ", "Drums", "Strings"])
    assert (table["categorised_items"], table["purity_top"]) == (3, [2 / 3])
    assert category_measures(groups, [""] * 4) == {"categorised_items": 0}


def test_the_name_of_the_shop_is_no_category():
    """Published Amazon categories all begin with the department, which made every prefix pure."""
    shop = ["Music,Strings,Guitar", "Music,Strings", "Music,Drums,Snare", "Music"]
    assert top_categories(shop) == ["Strings", "Strings", "Drums", "Music"]
    assert top_categories([*shop * 10, "Books, Poems"]) == ["Strings", "Strings", "Drums", "Music"] * 10 + ["Poems"]
    assert top_categories(["Strings, Guitar", "Drums"]) == ["Strings", "Drums"]
    assert top_categories(["Music", "Music"]) == ["Music", "Music"]


# ---- sequences -------------------------------------------------------------------------------------------------------
def test_lift_by_hand():
    groups = all_prefix_groups(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    table = sequence_measures(groups, [[0, 1, 2, 3], [], [2], [3, 3]])
    # Pairs 0-1, 1-2, 2-3. By chance {0, 1, 2} meets {1, 2, 3}: of 9 pairs 2 are of one item, 2 others share a code.
    assert table["sequence_pairs"] == 3
    assert table["sequence_share"] == [pytest.approx(2 / 3), 0.0]
    assert table["sequence_share_random"] == [pytest.approx(2 / 7), 0.0]
    assert table["sequence_lift"] == [pytest.approx(7 / 3), None]
    assert table["sequence_recall"] == 1.0  # there are only three other items
    assert sequence_measures(groups, [[2], [1, 1], []]) == {"sequence_pairs": 0}
    assert sequence_measures(groups, []) == {"sequence_pairs": 0}


def test_random_codes_have_no_lift_however_popular_some_items_are():
    rng = np.random.default_rng(6)
    popularity = rng.dirichlet(np.full(300, 0.3))
    sequences = [rng.choice(300, 8, p=popularity) for _ in range(3000)]
    table = sequence_measures(all_prefix_groups(random_codes(300, (5, 4))), sequences)
    assert table["sequence_lift"] == pytest.approx([1.0, 1.0], abs=0.05)


def test_sequences_within_a_code_have_lift():
    rng, codes = np.random.default_rng(7), random_codes(300, (5, 4))
    sequences = [rng.choice(np.flatnonzero(codes[:, 0] == user % 5), 6) for user in range(500)]
    table = sequence_measures(all_prefix_groups(codes), sequences)
    assert table["sequence_share"][0] == 1.0
    assert table["sequence_lift"][0] == pytest.approx(5, rel=0.1)
    assert table["sequence_recall"] > 2 * 10 / 299


# ---- all at once -----------------------------------------------------------------------------------------------------
def test_order_of_items_and_names_of_codes_do_not_matter():
    rng, codes, embeddings = np.random.default_rng(8), random_codes(120), clustered(120)
    categories = [f"kind {kind}" for kind in rng.integers(4, size=120)]
    sequences = [rng.permutation(120)[:9] for _ in range(60)]
    first = measure_all(codes, (6, 7, 8), embeddings, categories, sequences, embeddings)
    order = rng.permutation(120)
    place = np.argsort(order)
    renamed = np.stack([rng.permutation(8)[column] for column in codes[order].T], 1)
    second = measure_all(
        renamed,
        (8, 8, 8),
        embeddings[order],
        [categories[row] for row in order],
        [place[items] for items in sequences],
        embeddings[order],
    )
    assert first.keys() == second.keys()
    for name in first:
        if name != "utilization" and not name.endswith("_shuffled"):
            assert second[name] == pytest.approx(first[name]), name
    assert "recall@10" in format_semantics(first)


def test_only_what_is_given_is_measured():
    table = measure_all(random_codes(), (6, 7, 8))
    assert set(table) == set(measure(random_codes(), (6, 7, 8))._fields)
    assert format_semantics(table) == ""
    assert json.loads(json.dumps(measure_all(random_codes(), (6, 7, 8), sequences=[[0, 1, 2]])))["sequence_pairs"] == 2
