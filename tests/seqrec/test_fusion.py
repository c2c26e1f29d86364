"""Several models and collaborative scores as one: against brute force, and against each source alone."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.baselines.config import BaselineConfig
from src.baselines.core import run_baseline
from src.baselines.sasrec import SASRecConfig
from src.baselines.tiger import TigerConfig
from src.baselines.tiger_model import Tiger, new_model, save_tiger
from src.common.artifacts import save_sid_index, write_json
from src.common.sid import SidIndex
from src.seqrec import core
from src.seqrec.collaborative import SOURCES, make_pool
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import evaluate
from src.seqrec.fusion import (
    MISS,
    Mix,
    Pool,
    candidate_ranks,
    chances_of,
    choose_mix,
    distinct,
    look_up,
    mixed,
    rank_candidates,
    weight_grid,
)
from src.seqrec.results import Ranked, predictions_path, read_predictions, read_results
from src.tasks.catalogue import load_catalogue
from tests.toy import CODEBOOK_SIZES, NAME, NUM_ITEMS, codes, toy_path

SIDS = {"one": codes(), "two": codes()[::-1], "shared": codes()[np.arange(NUM_ITEMS) // 4 * 4]}
METRICS = ("hit@1", "hit@10", "ndcg@10")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """CKPT=INDEX of a TIGER that learnt nothing, for each table of SIDs."""
    folder = tmp_path_factory.mktemp("fusion")
    asked = {}
    for number, (name, sids) in enumerate(SIDS.items()):
        index_file = folder / f"{NAME}.index_{name}.json"
        save_sid_index(index_file, SidIndex(np.arange(NUM_ITEMS), sids, ("a", "b", "c"), CODEBOOK_SIZES), {})
        catalogue = load_catalogue(toy_path(), NAME, index_file)
        torch.manual_seed(number)
        small = TigerConfig(NAME, Path(), hidden_size=16, num_layers=1, num_heads=2, head_size=8, intermediate_size=16)
        settings = EvaluateConfig(NAME, str(index_file), folder / name)
        save_tiger(folder / name, Tiger(settings, catalogue, new_model(small, catalogue.sid_index), 20, "cpu"), {})
        asked[name] = f"{folder / name}={index_file}"
    return asked


def config_for(folder: Path, model: str, **changes) -> EvaluateConfig:
    ckpt, _, index_file = model.rpartition("=")
    config = EvaluateConfig(
        NAME, index_file, Path(ckpt), data_path=toy_path(), num_beams=10, metrics=METRICS, device="cpu",
        results_file=folder / "results.json",
    )  # fmt: skip
    return replace(config, **changes)


def small_sasrec(results_file: Path) -> SASRecConfig:
    return SASRecConfig(
        NAME, results_file, toy_path(), num_beams=10, metrics="hit@10", epochs=2, hidden_size=8, num_heads=1,
        device="cpu",
    )  # fmt: skip


def lists_of(results_file: Path) -> np.ndarray:
    (part,) = read_predictions(predictions_path(results_file))
    return part.ranked


# ---- the pure core ---------------------------------------------------------------------------------------------------
ROW = st.lists(st.integers(-1, 12), min_size=6, max_size=6)


@given(st.lists(ROW, min_size=1, max_size=4))
def test_candidates_are_distinct(rows):
    found = distinct(np.array(rows))
    expected = [sorted({item for item in row if item >= 0}) for row in rows]
    assert found.tolist() == [row + [-1] * (found.shape[1] - len(row)) for row in expected]
    assert found.shape[1] == max(1, *map(len, expected))


@given(st.integers(0, 1000))
def test_mixes_equal_brute_force(seed):
    """Every candidate's chance by the formula; lists and ranks by sorting in Python."""
    rng = np.random.default_rng(seed)
    num_models, num_scores = rng.integers(1, 4), rng.integers(0, 3)
    items = distinct(rng.integers(-1, 9, (3, 7)))
    chances = rng.choice([0, 0.125, 0.25, 0.5], (num_models + num_scores, *items.shape)).astype(np.float32)
    tie_rank = rng.permutation(9)
    weights = tuple(np.round(rng.dirichlet(np.ones(num_scores + 1))[1:], 2).tolist()) if num_scores else ()
    targets = rng.integers(0, 9, 3)
    for kind, join in (("mean", lambda values: sum(values) / len(values)), ("best", max)):
        scores = mixed(Pool(items, chances), num_models, Mix(kind, weights))
        ranked = rank_candidates(items, scores, tie_rank, 5)
        ranks = candidate_ranks(items, scores, tie_rank, targets)
        for row in range(3):
            expected = {}
            for column, item in enumerate(items[row].tolist()):
                own = chances[:, row, column].tolist()
                total = (1 - sum(weights)) * join(own[:num_models])
                total += sum(w * value for w, value in zip(weights, own[num_models:], strict=True))
                if item >= 0:
                    assert scores[row, column] == pytest.approx(total, abs=1e-6)
                    expected[item] = scores[row, column]
            order = sorted(expected, key=lambda item: (-expected[item], tie_rank[item]))
            assert ranked.items[row].tolist() == (order + [-1] * 5)[:5]
            target = int(targets[row])
            assert ranks[row] == (order.index(target) if target in order else MISS)


def test_chances_are_found_by_item():
    items = np.array([[4, 7, -1], [1, 2, 3]])
    ranked = np.array([[7, 9, -1, -1], [3, 1, -1, -1]])
    values = np.array([[0.5, 0.25, 0, 0], [0.75, 0.125, 0, 0]], np.float32)
    assert look_up(items, ranked, values).tolist() == [[0, 0.5, 0], [0.125, 0, 0.75]]


def test_items_that_share_a_sid_share_its_chance():
    ranked = Ranked(np.array([[2, 0, 1, -1]]), np.array([[-0.1, -0.5, -0.5, -np.inf]], np.float32))
    chances = chances_of(ranked, 4, np.array([2, 2, 1]))
    np.testing.assert_allclose(chances, [[np.exp(-0.4), np.exp(-2) / 2, np.exp(-2) / 2, 0]], rtol=1e-6)


def test_unlikely_items_keep_their_order():
    """In float32 their chances used to be 0, and so ranked by popularity."""
    ranked = Ranked(np.array([[2, 0, 1]]), np.array([[-0.01, -25, -26]], np.float32))
    pool = Pool(np.array([[0, 1, 2]]), chances_of(ranked, 5, np.ones(3, np.int64))[None, :, [1, 2, 0]])
    scores = mixed(pool, 1, Mix("mean", ()))
    assert rank_candidates(pool.items, scores, np.array([2, 1, 0]), 3).items.tolist() == [[2, 0, 1]]
    assert candidate_ranks(pool.items, scores, np.array([2, 1, 0]), np.array([0])).tolist() == [1]


def test_what_is_no_candidate_is_no_hit():
    """A miss used to count as the rank after the last candidate, a hit where these were fewer than 10."""
    pool = Pool(np.array([[0, 1]]), np.array([[[0.5, 0.25]]]))
    assert choose_mix([pool], 1, np.arange(3), [np.array([2])], ["mean"], [()])[1] == 0


def test_scores_that_have_all_weight_leave_the_models_none():
    assert 1 - sum((0.7, 0.2, 0.1)) != 0
    assert Mix("mean", (0.7, 0.2, 0.1)).rest == 0
    assert Mix("mean", (0.3,)).rest == pytest.approx(0.7)


def test_samples_are_looked_at_in_parts(models):
    """However few items there are."""
    catalogue, sizes = load_catalogue(toy_path(), NAME, models["one"].rpartition("=")[2]), []

    def shares(users, positions):
        sizes.append(len(users))
        return np.full((len(users), NUM_ITEMS), 1 / NUM_ITEMS, np.float32)

    users = np.full(5000, 10)
    model = np.zeros((5000, 1), np.int64), np.ones((5000, 1))
    pool = make_pool([model], [shares], catalogue, users, np.full(5000, 2), False, 1)
    assert sizes == [4096, 904]
    assert pool.chances.shape[:2] == (2, 5000)


def test_weights_cover_the_simplex():
    assert weight_grid(0) == [()]
    assert weight_grid(1)[0] == (0.0,)
    assert weight_grid(1)[-1] == (1.0,)
    assert len(weight_grid(1)) == 21
    assert (len(set(weight_grid(2))), len(set(weight_grid(3)))) == (66, 286)
    assert all(sum(row) <= 1 + 1e-9 for row in weight_grid(2))


def test_the_best_mix_is_chosen():
    """The model knows the first sample, the score the second; only together do both stand first."""
    items = np.array([[0, 1, 2], [0, 1, 2]])
    chances = np.array([[[0.4, 0.2, 0.0], [0.2, 0.1, 0.1]], [[0.0, 0.1, 0.0], [0.0, 0.0, 0.9]]], np.float32)
    mix, value = choose_mix([Pool(items, chances)], 1, np.arange(3), [np.array([0, 2])], ["mean"], weight_grid(1))
    assert value == 1
    assert 0 < mix.weights[0] < 1


def test_models_that_do_not_help_get_no_share():
    """The second model knows both samples; the mean with the first, and the best of both, are wrong about one."""
    items = np.array([[0, 1], [0, 1]])
    chances = np.array([[[0.1, 0.9], [0.1, 0.9]], [[0.4, 0.2], [0.1, 0.3]]])
    pool, targets = Pool(items, chances), [np.array([0, 1])]
    for kinds in (["weighted"], ["mean", "best", "weighted"]):
        mix, value = choose_mix([pool], 2, np.arange(2), targets, kinds, weight_grid(0))
        assert (mix.ensemble_by, mix.shares, value) == ("weighted", (0.0, 1.0), 1)
    assert choose_mix([pool], 2, np.arange(2), targets, ["mean", "best"], weight_grid(0))[1] < 1


# ---- whole evaluations -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "baseline"), [("cooc", "cooccurrence"), ("itemknn", "itemknn")])
def test_all_weight_on_a_side_gives_the_lists_of_that_side(models, tmp_path, name, baseline, masked):
    alone = config_for(tmp_path, models["one"], filter_history=masked)
    evaluate(alone)
    model_lists = lists_of(alone.results_file)
    counted = BaselineConfig(
        NAME, tmp_path / "cooc.json", toy_path(), filter_history=masked, num_beams=10, metrics="hit@10"
    )
    for weight, expected in (("0", model_lists), ("1", lists_of(run_baseline(baseline, counted)))):
        fused = replace(alone, fuse=(name,), fuse_weight=weight, results_file=tmp_path / f"{weight}.json")
        evaluate(fused)
        np.testing.assert_array_equal(lists_of(fused.results_file), expected)


@pytest.mark.parametrize("name", ["cooc", "itemknn"])
def test_shares_of_masked_items_go_to_the_others(models, tmp_path, name):
    """Counts of items that are left out would make those of the others look small beside the models."""
    catalogue = load_catalogue(toy_path(), NAME)
    users, positions = catalogue.next_item_targets("test")
    config = config_for(tmp_path, models["one"], filter_history=True)
    shares = SOURCES[name](catalogue, config)(users, positions)
    for row, user, position in zip(shares, users, positions, strict=True):
        assert not row[np.searchsorted(catalogue.item_ids, catalogue.history(user, position))].any()
        assert row.sum() == pytest.approx(1) or not row.any()
    plain = SOURCES[name](catalogue, replace(config, filter_history=False))(users, positions)
    assert (plain > 0).sum() > (shares > 0).sum() > 0


def test_the_weight_is_chosen_on_the_validation_split(models, tmp_path):
    config = config_for(tmp_path, models["one"], fuse=("cooc",), ensemble=(models["two"],), filter_history=True)
    results = read_results(evaluate(config))
    fusion = results["fusion"]
    assert fusion["chosen_on"] == "valid"
    assert fusion["ensemble_by"] in ("mean", "best", "weighted")
    assert sum(fusion["weights"].values()) == pytest.approx(1)
    assert set(fusion["parts"]) == {"valid", "test"}
    assert set(fusion["parts"]["valid"]) == {"model 1", "model 2", "cooc", "models together", "all together"}
    by_part = {name: row["ndcg@10"] for name, row in fusion["parts"]["valid"].items()}
    assert by_part["all together"] == max(by_part.values())
    assert results["model"] == "tiger + tiger + cooc"
    assert fusion["parts"]["test"]["all together"] == pytest.approx(results["mean_results"])
    # The parts are what each of them reaches alone, on either split: so what is called valid is not the test split.
    for number, name in enumerate(("one", "two"), 1):
        for split in ("valid", "test"):
            alone = read_results(evaluate(config_for(tmp_path, models[name], filter_history=True, split=split)))
            assert fusion["parts"][split][f"model {number}"] == pytest.approx(alone["mean_results"])
    valid, test = (fusion["parts"][split]["model 1"] for split in ("valid", "test"))
    assert valid != pytest.approx(test)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("masked", [False, True])
def test_an_ensemble_of_one_model_and_itself_is_that_model(models, tmp_path, masked):
    """Masked ensembles without --fuse used to fail after all models were asked."""
    alone = config_for(tmp_path, models["one"], filter_history=masked)
    evaluate(alone)
    expected = lists_of(alone.results_file)
    results = read_results(evaluate(replace(alone, ensemble=(models["one"],))))
    np.testing.assert_array_equal(lists_of(alone.results_file), expected)
    assert results["protocol"]["history"] == ("masked" if masked else "unmasked")


def test_the_test_split_settles_nothing(models, tmp_path, monkeypatch):
    """Whatever is right on the test split, the weights are those that the validation split gives."""
    config = config_for(tmp_path, models["one"], fuse=("cooc",))
    chosen = read_results(evaluate(config))["fusion"]["weights"]
    make_samples = core.make_samples

    def wrong_targets(asked, *rest):
        samples = make_samples(asked, *rest)
        return replace(samples, targets=samples.targets[::-1]) if asked.split == "test" else samples

    monkeypatch.setattr(core, "make_samples", wrong_targets)
    assert read_results(evaluate(config))["fusion"]["weights"] == chosen


def test_candidates_come_from_both_sides(models, tmp_path):
    """With three beams, items that only counts know are found, and those that only the model knows stay."""
    config = config_for(tmp_path, models["one"], num_beams=3, metrics=("hit@1",), filter_history=True)
    evaluate(config)
    own = lists_of(config.results_file)
    evaluate(replace(config, fuse=("cooc",), fuse_weight="0.5"))
    fused = lists_of(config.results_file)
    gained = [set(new.tolist()) - set(old.tolist()) for new, old in zip(fused, own, strict=True)]
    assert any(gained)
    assert any(set(new.tolist()) & set(old.tolist()) for new, old in zip(fused, own, strict=True))


def test_tables_with_shared_sids_join_in(models, tmp_path):
    config = config_for(tmp_path, models["one"], ensemble=(models["shared"],), ensemble_by="best")
    fusion = read_results(evaluate(config))["fusion"]
    assert (fusion["ensemble_by"], fusion["chosen_on"], fusion["weights"]) == ("best", None, {"models": 1})


def test_sasrec_joins_in(models, tmp_path):
    trained = small_sasrec(tmp_path / "sasrec.json")
    expected = lists_of(run_baseline("sasrec", trained))
    config = config_for(
        tmp_path, models["one"], fuse=("sasrec", "cooc"), fuse_weight="1,0", fuse_results=trained.results_file
    )
    evaluate(config)
    np.testing.assert_array_equal(lists_of(config.results_file), expected)


def test_a_sasrec_that_is_not_there_is_told_before_models_are_asked(models, tmp_path, monkeypatch):
    """It used to be told after them."""
    monkeypatch.setattr(core, "ask_models", lambda *_: pytest.fail("the models were asked"))
    config = config_for(tmp_path, models["one"], fuse=("sasrec",), fuse_results=tmp_path / "sasrec.json")
    with pytest.raises(FileNotFoundError, match=r"sasrec\.json does not exist"):
        evaluate(config)
    run_baseline("sasrec", small_sasrec(config.fuse_results))
    (tmp_path / "sasrec.model" / "last.pth").unlink()
    with pytest.raises(FileNotFoundError, match="train the baseline anew"):
        evaluate(config)
    run_baseline("popularity", BaselineConfig(NAME, tmp_path / "counts.json", toy_path()))
    with pytest.raises(ValueError, match="of the model popularity"):
        evaluate(replace(config, fuse_results=tmp_path / "counts.json"))


@pytest.mark.slow
def test_two_ranks_fuse_as_one_does(models, tmp_path):
    """SASRec used to refuse two ranks, after both had asked the models."""
    run_baseline("sasrec", small_sasrec(tmp_path / "sasrec.json"))
    one = config_for(
        tmp_path, models["one"], fuse=("sasrec", "cooc"), fuse_results=tmp_path / "sasrec.json",
        ensemble=(models["shared"],), filter_history=True,
    )  # fmt: skip
    expected = read_results(evaluate(one))
    flags = [
        *("--dataset", NAME, "--data_path", str(toy_path()), "--index_file", one.index_file, "--filter_history"),
        *("--ckpt_model", str(one.ckpt_model), "--results_file", str(tmp_path / "two.json"), "--num_beams", "10"),
        *("--ensemble", *one.ensemble, "--fuse", "sasrec,cooc", "--fuse_results", str(one.fuse_results)),
        *("--metrics", ",".join(METRICS), "--device", "cpu"),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29655", "-m"]
    done = subprocess.run(
        [*command, "src.seqrec.metric_ddp", *flags], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_array_equal(lists_of(tmp_path / "two.json"), lists_of(one.results_file))
    assert read_results(tmp_path / "two.json")["fusion"]["weights"] == expected["fusion"]["weights"]


def test_a_killed_fusion_goes_on(models, tmp_path, monkeypatch):
    config = config_for(tmp_path, models["one"], fuse=("cooc",), ensemble=(models["two"],))
    evaluate(config)
    whole = json.loads(config.results_file.read_text())
    config.results_file.unlink()
    rank, asked = Tiger.rank, []

    def dies(self, template, histories, *rest):
        asked.append(self.config.ckpt_model.name)
        if len(asked) > limit:
            raise KeyboardInterrupt
        return rank(self, template, histories, *rest)

    monkeypatch.setattr(Tiger, "rank", dies)
    monkeypatch.setattr("src.common.parts.SAVE_SECONDS", -1)
    limit = 9  # after the first model, whose answers to both splits are on disk
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    first = set(asked[:-1])
    asked.clear()
    limit = 1000
    evaluate(config)
    assert "one" in first
    assert "one" not in asked
    again = json.loads(config.results_file.read_text())
    assert (again["fusion"], again["mean_results"]) == (whole["fusion"], whole["mean_results"])
    # With other samples of the validation split these are asked anew: their numbers used to be taken for each other's.
    asked.clear()
    limit = 9
    with pytest.raises(KeyboardInterrupt):
        evaluate(replace(config, fuse_sample_num=20))
    limit = 1000
    evaluate(replace(config, fuse_sample_num=30))
    assert read_results(config.results_file)["num_samples"] == whole["num_samples"]


def test_parts_of_a_tiger_with_longer_histories_are_not_taken(models, tmp_path):
    config = config_for(tmp_path, models["one"])
    folder = shutil.copytree(config.ckpt_model, tmp_path / "tiger")
    config = replace(config, ckpt_model=folder)
    catalogue = load_catalogue(toy_path(), NAME, config.index_file)
    with core.Parts(config, catalogue) as parts:
        parts.write(0, [np.arange(8)], [Ranked(np.zeros((8, 10), np.int64), np.zeros((8, 10), np.float32))])
    assert len(list(core.Parts(config, catalogue).done(0))) == 1
    write_json(folder / "tiger.json", {"max_his_len": 2, "settings": {}})
    assert not list(core.Parts(config, catalogue).done(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fuse": ("als",)}, "--fuse als: choose from cooc, itemknn, sasrec"),
        ({"fuse": ("cooc", "cooc")}, "each once"),
        ({"fuse": ("sasrec",)}, "belong together"),
        ({"fuse_results": Path("x.json")}, "belong together"),
        ({"fuse_weight": "0.5"}, "one number for each of --fuse"),
        ({"fuse": ("cooc",), "fuse_weight": "1.5"}, "at most 1 together"),
        ({"fuse": ("cooc",), "fuse_weight": "nan"}, "at most 1 together"),
        ({"fuse": ("cooc",), "fuse_weight": "half"}, "numbers with commas, or auto"),
        ({"ensemble_by": "best"}, "does nothing without --ensemble"),
        ({"ensemble": ("output/image",)}, "write CKPT=INDEX"),
        ({"fuse_sample_num": -1}, "must be at least 0"),
        ({"fuse_sample_num": 10}, "does nothing where nothing is chosen"),
        ({"fuse_sample_num": 10, "fuse": ("cooc",), "fuse_weight": "0.5"}, "does nothing where nothing is chosen"),
        ({"test_task": "mmseqrec"}, "reads no words"),
        ({"lora": True}, "which has no adapter: leave out --lora"),
        ({"prompt_lang": "zh"}, "reads no words: leave out --prompt_lang"),
    ],
)
def test_wrong_flags_are_refused(models, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config_for(tmp_path, models["one"], **wrong))
    assert not config_for(tmp_path, models["one"]).results_file.exists()
