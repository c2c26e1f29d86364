"""Baselines against brute force, and on data whose right answers are known."""

import json
import random
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.harness import real_data
from src.baselines import cooccurrence, itemknn, popularity
from src.baselines.config import COUNTING, BaselineConfig
from src.baselines.core import evaluate_ranker, run_baseline
from src.seqrec.results import predictions_path, read_predictions, read_results
from src.tasks.catalogue import load_catalogue


def write_dataset(folder, name, sequences, item_ids=None):
    """A dataset of the given sequences."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    items = item_ids or sorted({item for sequence in sequences.values() for item in sequence})
    table = {str(item): {"title": f"item {item}"} for item in items}
    (folder / name / f"{name}.inter.json").write_text(json.dumps(sequences))
    (folder / name / f"{name}.item.json").write_text(json.dumps(table))


@pytest.fixture
def sequences():
    """Users of 1 to 12 items, repeats among them; item ids with gaps."""
    rng = random.Random(5)
    items = [3 * item for item in range(15)]
    return {f"u{user}": [rng.choice(items) for _ in range(rng.randint(1, 12))] for user in range(60)}


@pytest.fixture
def catalogue(tmp_path, sequences):
    write_dataset(tmp_path, "Toy", sequences, [3 * item for item in range(20)])  # five items that nobody has
    return load_catalogue(tmp_path, "Toy")


def scores_by_hand(name, training, history, items):
    """The documented formula, word for word, one pair at a time."""
    if name == "popularity":
        return {item: sum(sequence.count(item) for sequence in training) for item in items}
    scores = dict.fromkeys(items, Fraction(0))
    for distance, source in enumerate(reversed(history[-3:]), 1):
        for sequence in training:
            for earlier in range(len(sequence)):
                for later in range(earlier + 1, min(earlier + 4, len(sequence))):
                    if sequence[earlier] == source:
                        scores[sequence[later]] += Fraction(1, later - earlier) * Fraction(1, distance)
    return scores


@pytest.mark.parametrize("k", [3, 18])
@pytest.mark.parametrize("filter_history", [False, True])
@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("name", ["popularity", "cooccurrence"])
def test_lists_equal_brute_force(name, split, filter_history, k, catalogue, sequences, monkeypatch):
    monkeypatch.setattr("src.baselines.core.CHUNK", 7)
    module = {"popularity": popularity, "cooccurrence": cooccurrence}[name]
    config = BaselineConfig("Toy", "unused.json", num_beams=k, filter_history=filter_history)
    score_function = module.build_scorer(catalogue, config).score_function
    ours = evaluate_ranker(name, score_function, catalogue, split, filter_history, k)

    items = [3 * item for item in range(20)]
    training = [sequence[:-2] if len(sequence) > 2 else sequence for sequence in sequences.values()]
    counts = scores_by_hand("popularity", training, [], items)
    tested = [user for user in sequences if len(sequences[user]) > 2]
    assert list(ours.users) == tested
    for row, user in enumerate(tested):
        cut = -1 if split == "test" else -2
        history, target = sequences[user][:cut], sequences[user][cut]
        scores = scores_by_hand(name, training, history, items)
        allowed = [item for item in items if not (filter_history and item in history)]
        best = sorted(allowed, key=lambda item: (-scores[item], -counts[item], item))[:k]
        best += [-1] * (k - len(best))
        assert ours.ranked[row].tolist() == best
        assert (ours.targets[row], ours.history_lengths[row]) == (target, len(history))
        scale = 36 if name == "cooccurrence" else 1  # two weights of 6/d
        expected = [scale * float(scores[item]) if item >= 0 else -np.inf for item in best]
        assert ours.scores[row].tolist() == expected


def test_cotransition_known_answer(tmp_path):
    """Everybody walks the same circle, so the next item is certain."""
    write_dataset(tmp_path, "Circle", {str(start): [(start + step) % 10 for step in range(7)] for start in range(10)})
    path = tmp_path / "out.json"
    run_baseline(
        "cooccurrence", BaselineConfig("Circle", path, data_path=tmp_path, num_beams=5, metrics="hit@1,ndcg@5")
    )
    assert read_results(path)["mean_results"] == {"hit@1": 1, "ndcg@5": 1}


def test_itemknn_similarities_equal_brute_force(catalogue, sequences):
    training = [set(sequence[:-2] if len(sequence) > 2 else sequence) for sequence in sequences.values()]
    for shrinkage, ours in zip(itemknn.SHRINKAGES, itemknn.cosine_similarities(catalogue), strict=True):
        expected = np.zeros((20, 20))
        for left in range(20):
            for right in range(20):
                owners = [{user for user, had in enumerate(training) if 3 * item in had} for item in (left, right)]
                norm = np.sqrt(len(owners[0]) * len(owners[1])) + shrinkage
                if left != right and norm:
                    expected[left, right] = len(owners[0] & owners[1]) / norm
        np.testing.assert_allclose(ours.toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", COUNTING)
def test_every_baseline_writes_results_and_repeats(name, catalogue, tmp_path):
    files = []
    for run in ("a", "b"):
        config = BaselineConfig("Toy", tmp_path / f"{run}.json", tmp_path, filter_history=True, metrics="hit@10,mrr@5")
        files.append(run_baseline(name, config))
    first, second = (read_results(file) for file in files)
    assert first["mean_results"] == second["mean_results"]
    assert (first["model"], first["filter_history"], first["split"]) == (name, True, "test")
    (left,), (right,) = (read_predictions(predictions_path(file)) for file in files)
    np.testing.assert_array_equal(left.ranked, right.ranked)
    for user, length, ranked in zip(left.users, left.history_lengths, left.ranked, strict=True):
        seen = catalogue.history(catalogue.users.index(user), length)
        assert not set(seen.tolist()) & set(ranked.tolist())


@pytest.mark.parametrize("module", [popularity, cooccurrence, itemknn])
def test_entries_run(module, catalogue, tmp_path):
    output = tmp_path / "results" / "x.json"
    flags = ["--data_path", str(tmp_path), "--dataset", "Toy", "--results_file", str(output), "--split", "valid"]
    module.main([*flags, "--filter_history", "False", "--metrics", "hit@5"])
    assert read_results(output)["split"] == "valid"


def test_lists_are_no_longer_than_there_are_items(catalogue, tmp_path, capsys):
    path = tmp_path / "out.json"
    config = BaselineConfig("Toy", path, tmp_path, num_beams=10**9, metrics="hit@5,hit@20")
    results = read_results(run_baseline("popularity", config))
    assert (results["num_beams"], results["mean_results"]["hit@20"]) == (20, 1)
    with pytest.raises(SystemExit):
        popularity.main(["--data_path", str(tmp_path), "--dataset", "Toy", "--results_file", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err


def test_unknown_baseline_and_too_short_lists(tmp_path):
    with pytest.raises(ValueError, match="choose one of"):
        run_baseline("bpr", BaselineConfig("Toy", tmp_path / "x.json"))
    with pytest.raises(ValueError, match="--num_beams 0: it must be at least 1"):
        run_baseline("popularity", BaselineConfig("Toy", tmp_path / "x.json", num_beams=0))
    with pytest.raises(ValueError, match="num_beams"):
        run_baseline("popularity", BaselineConfig("Toy", tmp_path / "x.json", num_beams=5, metrics="hit@10"))


def test_texts_are_not_needed(tmp_path, sequences):
    """Published sequences often come without texts; a missing item.json used to stop baselines, too."""
    write_dataset(tmp_path, "Toy", sequences)
    results = []
    for name in ("with", "without"):
        config = BaselineConfig(dataset="Toy", data_path=tmp_path, results_file=tmp_path / f"{name}.json")
        results.append(read_results(run_baseline("cooccurrence", config))["mean_results"])
        (tmp_path / "Toy" / "Toy.item.json").unlink(missing_ok=True)
    assert results[0] == results[1]


# hit@10 and NDCG@10 on the test split, from a reference implementation; integer weights, ties by popularity
REFERENCE = {
    ("Instruments", "popularity", True): (0.0680, 0.0453),
    ("Instruments", "cooccurrence", True): (0.1231, 0.1007),
    ("Instruments", "cooccurrence", False): (0.1201, 0.0902),
    ("Beauty", "popularity", True): (0.0115, 0.0055),
    ("Beauty", "cooccurrence", True): (0.0809, 0.0506),
    ("Beauty", "cooccurrence", False): (0.0781, 0.0476),
}


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "name", "filter_history"), REFERENCE)
def test_figures_on_real_data(dataset, name, filter_history, tmp_path):
    folder = real_data(dataset)
    if folder is None:
        pytest.skip(f"{dataset} is absent: set GREC_DATA to the folder that holds it")
    config = BaselineConfig(
        dataset=dataset, data_path=folder.parent, results_file=tmp_path / "r.json", filter_history=filter_history
    )
    found = read_results(run_baseline(name, config))["mean_results"]
    expected = REFERENCE[dataset, name, filter_history]
    assert (found["hit@10"], found["ndcg@10"]) == pytest.approx(expected, abs=2e-4)
