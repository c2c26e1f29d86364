"""Evaluations of several models and collaborative scores as one, against each source alone."""

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

from src.baselines.config import BaselineConfig
from src.baselines.core import run_baseline
from src.baselines.sasrec import SASRecConfig
from src.baselines.tiger import TigerConfig
from src.baselines.tiger_model import Tiger, new_model, save_tiger
from src.common.artifacts import write_json
from src.common.index_files import save_sid_index
from src.common.sid import SidIndex
from src.seqrec import core
from src.seqrec.collaborative import SOURCES, make_pool
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import evaluate
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
        save_tiger(folder / name, Tiger(settings, catalogue, new_model(small, catalogue.sid_index), 20, "cpu"), {}, {})
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
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
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
