"""What codes say of neighbours, by known answers and chance."""

import numpy as np
import pytest

from index import neighbours
from index.metrics import all_prefix_groups
from index.neighbours import expected_hits, nearest_rows, neighbour_measures, recall_by_prefix, reconstruction_error
from tests.index.conftest import clustered, random_codes


def test_nearest_rows_are_exact(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK_ROWS", 37)  # several chunks, the last of them short
    rows = np.random.default_rng(2).normal(size=(190, 8)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    queries = np.arange(3, 190, 11)
    expected = np.argsort(-similarities[queries], 1)
    assert np.array_equal(nearest_rows(rows, queries, 5), expected[:, :5])
    assert np.array_equal(nearest_rows(7 * rows, queries, 5), expected[:, :5])  # cosine: lengths do not matter
    assert np.array_equal(np.sort(nearest_rows(rows, queries, 189), 1), np.sort(expected[:, :189], 1))
    among = np.arange(0, 190, 2)
    found = among[nearest_rows(rows, np.arange(10), 4, among)]
    assert np.array_equal(found, among[np.argsort(-similarities[np.ix_(among[:10], among)], 1)[:, :4]])


def test_an_item_is_no_neighbour_of_itself_even_beside_its_twin():
    rows = np.repeat(np.eye(3, dtype=np.float32), 2, 0)
    assert nearest_rows(rows, np.arange(6), 1).ravel().tolist() == [1, 0, 3, 2, 5, 4]


def test_expected_hits_by_hand():
    sizes = np.array([[2, 4, 9], [20, 0, 3]])
    assert expected_hits(sizes, np.array([[1, 2, 3], [4, 0, 1]]), k=5).tolist() == [1 + 2 * 3 / 4, 4 * 5 / 20]


def test_recall_of_ties_is_the_mean_over_their_orders(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK_QUERIES", 7)
    rng, codes = np.random.default_rng(3), random_codes(60, (3, 3))
    groups, queries = all_prefix_groups(codes), np.arange(20)
    wanted = np.stack([rng.permutation(np.delete(np.arange(60), query))[:4] for query in queries])
    shared = (groups[:, wanted] == groups[:, queries, None]).sum(2)
    hits = 0
    for _ in range(300):  # rankings with ties broken at random
        for query, items in zip(queries, wanted, strict=True):
            lengths = (codes == codes[query]).cumprod(1).sum(1) + rng.random(60)
            lengths[query] = -1
            hits += np.isin(np.argsort(-lengths)[:10], items).sum()
    assert recall_by_prefix(groups, queries, shared, 4) == pytest.approx(hits / (300 * 20 * 4), abs=0.01)


def test_neighbours_of_clusters_share_codes():
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(20), 11)  # ten neighbours each
    embeddings = (10 * rng.normal(size=(20, 6))[clusters] + 0.01 * rng.normal(size=(220, 6))).astype(np.float32)
    codes = np.stack([clusters % 4, clusters, np.arange(220)], 1)
    table = neighbour_measures(all_prefix_groups(codes), embeddings, embeddings)
    assert table["neighbour_share"] == [1.0, 1.0, 0.0]
    assert table["random_share"] == [pytest.approx(54 / 219), pytest.approx(10 / 219), 0.0]
    assert (table["neighbour_recall"], table["reconstruction_recall"]) == (1.0, 1.0)
    assert table["reconstruction_error"] == pytest.approx(0, abs=1e-6)


def test_random_codes_recall_what_chance_does():
    codes = random_codes(3000)
    table = neighbour_measures(all_prefix_groups(codes), np.random.default_rng(5).normal(size=(3000, 8)))
    assert table["neighbour_recall_random"] == 10 / 2999
    assert table["neighbour_recall"] == pytest.approx(10 / 2999, abs=0.0015)
    assert table["neighbour_share"][0] == pytest.approx(table["random_share"][0], abs=0.01)
    assert "reconstruction_recall" not in table


def test_a_coarser_first_level_wins_nothing():
    """Most items share a coarse first code, neighbours too; the recall of the ranking does not change."""
    embeddings, codes = clustered(300), np.argsort(clustered(300)[:, :3], 1)
    with_coarse = np.concatenate([np.zeros((300, 1), np.int64), codes], 1)
    fine, coarse = (neighbour_measures(all_prefix_groups(each), embeddings) for each in (codes, with_coarse))
    assert coarse["neighbour_share"][0] == 1.0 > fine["neighbour_share"][0]
    assert coarse["neighbour_recall"] == pytest.approx(fine["neighbour_recall"])


def test_reconstructions_that_say_nothing_recall_what_chance_does():
    embeddings = clustered(300)
    nothing = np.ones_like(embeddings)
    table = neighbour_measures(all_prefix_groups(random_codes(300)), embeddings, nothing)
    assert table["reconstruction_recall"] == pytest.approx(10 / 299)
    centred = embeddings - embeddings.mean(0)
    assert reconstruction_error(centred, 5 * centred) == pytest.approx(0, abs=1e-6)  # length does not matter
    assert reconstruction_error(centred, centred[np.random.default_rng(0).permutation(300)]) > 1


def test_items_without_embedding_take_no_part():
    embeddings, codes = clustered(120), random_codes(120)
    some = embeddings.copy()
    some[100:] = np.nan
    kept = neighbour_measures(all_prefix_groups(codes[:100]), embeddings[:100], embeddings[:100])
    assert neighbour_measures(all_prefix_groups(codes), some, embeddings) == kept
    assert neighbour_measures(all_prefix_groups(codes[:1]), embeddings[:1]) == {"neighbour_queries": 0}
