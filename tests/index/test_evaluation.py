"""Measures of codes by known answers, and the evaluation of checkpoints, indices and tables of others."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score

from index import neighbours
from index.checkpoints import load_checkpoint
from index.compare_runs import compare
from index.config import EvaluateConfig, GenerateConfig
from index.embeddings import EmbeddingDataset
from index.encoding import encode_all
from index.evaluate_index import evaluate, main
from index.generate_indices import generate
from index.metrics import all_prefix_groups, entropy, format_table, measure, prefix_groups
from index.neighbours import (
    expected_hits,
    nearest_rows,
    neighbour_measures,
    recall_by_prefix,
    reconstruction_error,
)
from index.semantics import (
    agreement,
    category_measures,
    format_semantics,
    measure_all,
    sequence_measures,
    top_categories,
)
from index.subject import reconstruct
from index.trainer import train
from src.common.artifacts import load_sid_index, save_embeddings
from tests.index.conftest import clustered

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("GREC_DATA", ROOT.parent / "shared" / "data"))


def random_codes(num_items: int = 400, sizes=(6, 7, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(sizes, size=(num_items, len(sizes)))


# ---- codes alone -----------------------------------------------------------------------------------------------------
def test_measures_of_a_tiny_index():
    metrics = measure(np.array([[0, 0], [0, 0], [0, 1], [2, 1], [2, 1], [2, 1]]), (4, 2))
    assert (metrics.num_items, metrics.num_sids, metrics.collision_rate) == (6, 3, 0.5)
    assert (metrics.colliding_items, metrics.colliding_groups, metrics.largest_group) == (5, 2, 3)
    assert metrics.utilization == (0.5, 1.0)
    assert metrics.entropy == pytest.approx((1.0, stats.entropy([2, 4], base=2)))
    assert metrics.perplexity == pytest.approx((2.0, np.exp(stats.entropy([2, 4]))))
    assert (metrics.prefixes, metrics.mean_prefix_group, metrics.largest_prefix_group) == ((2, 3), (3.0, 2.0), (3, 3))
    assert "50.0000%" in format_table(metrics, (4, 2))


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [7, 0, 0], [1, 2, 3, 0, 94]])
def test_entropy_is_scipys_in_bits(counts):
    assert entropy(np.array(counts)) == pytest.approx(stats.entropy(counts, base=2))


def test_groups_of_all_prefixes_are_those_of_each():
    codes = random_codes()
    for length, groups in enumerate(all_prefix_groups(codes), 1):
        assert np.array_equal(groups, prefix_groups(codes, length))


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


# ---- neighbours ------------------------------------------------------------------------------------------------------
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


# ---- the entry -------------------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(monkeypatch) -> list[Path]:
    """Half a second each, so most tests do without: the paths where pictures would lie."""
    paths: list[Path] = []
    monkeypatch.setattr("index.plots.plot_evaluation", lambda *given: paths.append(given[-1]))
    return paths


@pytest.fixture
def dataset(tmp_path) -> Path:
    """data/Shop: 120 items with categories, 30 users, an index of another tokenizer, and embeddings."""
    folder = tmp_path / "data" / "Shop"
    (folder / "index" / "theirs").mkdir(parents=True)
    items = {str(item): {"title": f"item {item}", "categories": ["Shop", f"kind {item % 4}"]} for item in range(120)}
    (folder / "Shop.item.json").write_text(json.dumps(items))
    users = {f"user {user}": [(4 * step + user) % 120 for step in range(10)] for user in range(30)}
    (folder / "Shop.inter.json").write_text(json.dumps({**users, "short": [5, 9], "shortest": [7]}))
    sids = {str(item): [f"<A_{item % 4}>", f"<B_{item // 8}>"] for item in range(120)}
    (folder / "index" / "theirs" / "Shop.index_theirs.json").write_text(json.dumps(sids))
    np.save(folder / "Shop.emb-toy.npy", clustered())
    return folder


def table_of(**given) -> dict:
    return json.loads(evaluate(EvaluateConfig(**given, device="cpu")).read_text())


def theirs(dataset: Path) -> Path:
    return dataset / "index" / "theirs" / "Shop.index_theirs.json"


def test_a_table_of_others_finds_its_dataset(dataset):
    table = table_of(index_file=theirs(dataset))
    path = theirs(dataset).with_suffix(".evaluation.json")
    assert json.loads(path.read_text()) == table
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert table["dataset_dir"] == str(dataset)
    assert (table["codebook_sizes"], table["colliding_items"], table["colliding_groups"]) == ([4, 15], 120, 60)
    assert table["purity_top"] == [1.0, 1.0]
    assert table["sequence_share"][0] == 1.0  # users go from one item to the fourth after it
    assert table["sequence_pairs"] == 30 * 7 + 1  # without the last two items; short users train only
    assert "neighbour_recall" not in table


def test_splits_by_time_are_kept(dataset, drawn):
    splits = {f"user {user}": [3, 1] for user in range(30)} | {"short": [1, 0], "shortest": [1, 0]}
    (dataset / "Shop.split.json").write_text(json.dumps(splits))
    assert table_of(index_file=theirs(dataset))["sequence_pairs"] == 30 * 2
    del splits["short"]
    (dataset / "Shop.split.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match="lacks user 'short'"):
        table_of(index_file=theirs(dataset))


def test_rows_follow_the_items(dataset, drawn, tmp_path):
    plain = table_of(index_file=theirs(dataset), data_path=dataset / "Shop.emb-toy.npy")
    assert 0 < plain["neighbour_recall"] < 1
    shuffled = np.random.default_rng(0).permutation(120)
    save_embeddings(tmp_path / "shuffled.npy", clustered()[shuffled], shuffled.tolist())
    given = {"data_path": tmp_path / "shuffled.npy", "dataset_dir": dataset, "output_file": tmp_path / "out.json"}
    again = table_of(index_file=theirs(dataset), **given)
    np.save(tmp_path / "codes.npy", load_sid_index(theirs(dataset)).codes[shuffled])
    codes = table_of(index_file=tmp_path / "codes.npy", **given)
    for name in plain.keys() - {"source", "data_path"}:
        assert again[name] == pytest.approx(plain[name]), name
        if not name.endswith("_shuffled"):
            assert codes[name] == pytest.approx(plain[name]), name
    assert drawn[-1] == tmp_path / "out.png"


def test_an_index_that_lacks_items_is_refused(dataset, drawn, tmp_path):
    np.save(tmp_path / "more.npy", clustered(125))
    given = {"index_file": theirs(dataset), "output_file": tmp_path / "out.json"}
    with pytest.raises(ValueError, match=r"lacks 5 of 125 items of .*more\.npy, the first being 120"):
        table_of(**given, data_path=tmp_path / "more.npy")
    np.save(tmp_path / "codes.npy", random_codes(100))
    with pytest.raises(ValueError, match=r"lacks 20 of 120 items of .*Shop\.item\.json, the first being 100"):
        table_of(index_file=tmp_path / "codes.npy", dataset_dir=dataset)
    (dataset / "Shop.item.json").unlink()
    np.save(tmp_path / "codes.npy", random_codes(50))
    with pytest.raises(ValueError, match=r"lacks 8 of 58 items of .*Shop\.inter\.json, the first being 50"):
        table_of(index_file=tmp_path / "codes.npy", dataset_dir=dataset)
    with pytest.raises(ValueError, match="has 50 rows and"):
        table_of(index_file=tmp_path / "codes.npy", data_path=tmp_path / "more.npy")
    with pytest.raises(FileNotFoundError, match="has neither"):
        table_of(**given, dataset_dir=tmp_path)
    assert not (tmp_path / "out.json").exists()


def test_an_index_of_ours_knows_its_embeddings_and_its_decoder(run_folder, embeddings_path, drawn):
    """The measures of a checkpoint, and of an index made of it without moving anybody, are the same."""
    path = generate(GenerateConfig(dataset="Toy", ckpt_path=run_folder, dedup="none", device="cpu"))
    ours, index = table_of(ckpt_path=run_folder), table_of(index_file=path)
    assert {"reconstruction_recall", "reconstruction_error", "neighbour_recall"} < index.keys()
    for name in index.keys() - {"source"}:
        assert ours[name] == pytest.approx(index[name]), name
    assert ours["reconstruction_recall"] > 3 * ours["neighbour_recall_random"]
    suffixed = generate(GenerateConfig(dataset="Toy", ckpt_path=run_folder, dedup="suffix", device="cpu"))
    assert table_of(index_file=suffixed)["reconstruction_error"] == pytest.approx(ours["reconstruction_error"])
    np.save(embeddings_path, clustered(seed=5))
    assert "neighbour_recall" not in table_of(index_file=path)  # these are other embeddings by now
    assert "neighbour_recall" in table_of(index_file=path, data_path=embeddings_path)


def test_reconstructions_are_embeddings_as_they_came(config, drawn):
    """The decoder restores normalized inputs, and what is compared with embeddings must be scaled back."""
    folder = train(replace(config, quantizer="rkmeans", normalize="standardize"))
    model = load_checkpoint(folder, torch.device("cpu")).model
    encoded = encode_all(model, EmbeddingDataset(config.data_path, torch.device("cpu")), 50)
    total = sum(book[encoded.codes[:, level]] for level, book in enumerate(encoded.codebooks))
    expected = total * clustered().std(0) + clustered().mean(0)
    assert np.allclose(reconstruct(model, encoded.codes, batch_size=7), expected, atol=1e-5)
    table = table_of(ckpt_path=folder)
    assert table["reconstruction_error"] == pytest.approx(reconstruction_error(clustered(), expected), rel=1e-4)
    assert table["reconstruction_error"] < 0.3
    assert table["reconstruction_recall"] > table["neighbour_recall"]


def test_several_embeddings_of_an_item_count_alike(config, embeddings_path, drawn, tmp_path):
    """The second one is a hundred times as long, and does not decide alone who is near."""
    other = tmp_path / "Toy.emb-other.npy"
    np.save(other, 100 * clustered(width=5, seed=9))
    folder = train(replace(config, data_path=(embeddings_path, other)))
    both = table_of(ckpt_path=folder)
    assert len(both["data_path"]) == 2
    parts = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.load, (embeddings_path, other))]
    np.save(tmp_path / "joined.npy", np.concatenate(parts, 1))
    np.save(tmp_path / "codes.npy", encode_all_of(folder, (embeddings_path, other)))
    joined = table_of(index_file=tmp_path / "codes.npy", data_path=tmp_path / "joined.npy")
    assert both["neighbour_recall"] == joined["neighbour_recall"]


def encode_all_of(folder: Path, data_path) -> np.ndarray:
    cpu = torch.device("cpu")
    return encode_all(load_checkpoint(folder, cpu).model, EmbeddingDataset(data_path, cpu), 50).codes


def test_faults_end_with_one_line(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--index_file", str(theirs(dataset)), "--dataset_dir", str(tmp_path), "--device", "cpu"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --dataset_dir")
    with pytest.raises(SystemExit):
        main(["--index_file", str(theirs(dataset)), "--output_file", "out.txt"])
    assert "measures go to a .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "flag"), [("INDEX_FILE", "--index_file some/codes.npy"), ("CKPT_PATH", "--ckpt_path some/codes.npy")]
)
def test_launcher_measures_an_index_or_a_checkpoint(variable, flag):
    done = subprocess.run(
        ["bash", "index/evaluate.sh", "--num_queries", "5"],
        cwd=ROOT,
        env={**os.environ, "DRY_RUN": "1", variable: "some/codes.npy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert flag in done.stdout
    assert done.stdout.rstrip().endswith("--num_queries 5")


def test_comparison_has_a_row_a_run(run_folder, config, tmp_path):
    table = compare({"large": run_folder, "small": run_folder, "none": run_folder}, tmp_path / "comparison.png")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["large", "small", "none"]
    assert len({len(line) for line in lines[:4]}) == 1  # columns line up
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    (run_folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n')
    assert "not evaluated yet" in compare({"started": run_folder, "other": run_folder}, tmp_path / "comparison.png")


# ---- published tables ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "colliding_items"),
    [
        ("Beauty/Beauty.index.json", 24),
        ("Instruments/Instruments.index_vitemb.json", 0),  # upper-case letters
        ("Instruments/Instruments.index_lemb.json", 524),
        ("Scientific/indexes/rkmeans_native.index.json", 1326),
    ],
)
def test_published_tables(name, colliding_items, drawn, tmp_path):
    path = REAL_DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: set GREC_DATA to the folder of real data")
    table = table_of(index_file=path, output_file=tmp_path / "out.json")
    assert table["colliding_items"] == colliding_items
    assert table["sequence_lift"][0] > 1.4
    if "Scientific" in name:
        assert table["top_categories"] == 25
        assert table["purity_top"][0] > 4 * table["purity_top_shuffled"][0]
