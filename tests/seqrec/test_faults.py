"""What an evaluation refuses, before any model is loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.common.artifacts import TOKEN_META, file_hash, read_json, write_json
from src.common.index_files import index_path, save_sid_index
from src.common.sid import SidIndex
from src.seqrec.core import check, evaluate
from src.tasks.task import load_task
from tests.seqrec.toy_runs import assert_equal_predictions, checkpoint, config_for, predictions_of, write_checkpoint
from tests.toy import CODEBOOK_SIZES, NAME, NUM_ITEMS, codes, dataset_paths, tiny_model, toy_copy, toy_path, user_texts


# ---- what is written -------------------------------------------------------------------------------------------------
def test_changed_wordings_are_refused(tmp_path, monkeypatch):
    """Of a task that the model was trained on; a model of another system does not say."""
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2", toy_path())
    config = config_for(tmp_path, ckpt_model=folder)
    record = read_json(folder / "run.json") | {"commit": "1234abc"}
    check(config)
    write_json(folder / "run.json", record | {"templates_sha256": {"seqrec": load_task("seqrec").templates_sha256}})
    check(config)
    write_json(folder / "run.json", record | {"templates_sha256": {"seqrec": load_task("item2index").templates_sha256}})
    check(replace(config, test_task="fusionseqrec"))  # not trained on
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    with pytest.raises(
        ValueError, match=r"of seqrec have changed since .*ckpt was trained \(commit 1234abc\).* seqrec\.json"
    ):
        evaluate(config)


# ---- errors come before the model ------------------------------------------------------------------------------------
FAULTS = [
    ({"num_beams": 5}, "hit@10"),
    ({"metrics": ("hits@3",)}, "hits@3"),
    ({"test_task": "index2item"}, r"'index2item' is not ranked here: .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "text_enrich"}, r"'text_enrich' is not ranked .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "mmitemenrich"}, r"'mmitemenrich' is not ranked .*python -m src\.text_generation\.evaluate"),
    ({"test_task": "preferenceobtain"}, r"not ranked here: choose from seqrec, .*, itemsearch\. Its answers are texts"),
    ({"test_task": "seqrek"}, "'seqrek' is not ranked here"),
    ({"test_prompt_ids": "0,99"}, "--test_prompt_ids 0,99: seqrec asks for items in wordings 0 to"),
    ({"test_prompt_ids": "-1"}, "--test_prompt_ids -1"),
    ({"test_prompt_ids": "0,0"}, "--test_prompt_ids 0,0"),
    ({"test_prompt_ids": "x"}, "--test_prompt_ids 'x': numbers with commas, or all"),
    ({"filter_items": False}, "--filter_items False"),
    ({"num_beams": 0, "metrics": ()}, "at least 1"),
    ({"test_batch_size": 0}, "at least 1"),
    ({"sample_num": -1}, "--sample_num -1: it must be at least 0"),
    ({"max_his_len": -1}, "--max_his_len -1: it must be at least 0"),
    ({"device": "tpu"}, "there is no device 'tpu': choose auto, cpu, cuda or cuda:N"),
    ({"ckpt_model": Path("gone")}, "--ckpt_model gone is no folder"),
    ({"results_file": Path("/dev/null/results.json")}, "results.json cannot be written"),
    ({"dataset": "Gone"}, "there is no dataset folder"),
    ({"index_file": ".index_gone.json"}, "was not found. Tried"),
    ({"image_path": "gone", "test_task": "mmseqrec"}, "mmseqrec shows pictures, and .*gone has none"),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS, ids=[f"{fault[:20]}-{n}" for n, (_, fault) in enumerate(FAULTS)])
def test_faults_are_found_before_the_model(tmp_path, monkeypatch, changes, fault):
    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", refuse)
    with pytest.raises((ValueError, FileNotFoundError), match=fault):
        evaluate(config_for(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_broken_pictures_are_told_before_the_model(tmp_path, monkeypatch):
    """One ended the run in the middle, and a model that was trained without it could not be evaluated."""
    data = toy_copy(tmp_path)
    broken = data / NAME / "images" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    config = config_for(tmp_path, "qwen2_vl", data_path=data, test_task="mmitem2index")
    skipping = evaluate(replace(config, skip_bad_images=True))
    broken.unlink()
    without = config_for(tmp_path / "without", "qwen2_vl", data_path=data, test_task="mmitem2index")
    evaluate(without)
    assert_equal_predictions(replace(config, results_file=skipping), without)
    broken.write_bytes(b"no picture")
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    with pytest.raises(ValueError, match=r"1 of 35 pictures are broken, the first: .*4\.jpg does not decode"):
        evaluate(config)


def test_item_search_needs_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    data = toy_copy(tmp_path)
    config = config_for(tmp_path, data_path=data, test_task="itemsearch")
    path = data / NAME / f"{NAME}.user.json"
    write_json(path, user_texts() | {"user_vague_intention": {"train": {}, "test": {}}})
    with pytest.raises(ValueError, match=r"Toy has no test sample: user\.json has no query for it"):
        evaluate(config)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"Toy\.user\.json does not exist.* data_process/get_llm_output\.py"):
        evaluate(config)
    check(replace(config, test_task="seqrec"))  # which does not need it


def test_another_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    data = toy_copy(tmp_path)
    path = index_path(dataset_paths(data, NAME), "simple")
    before = file_hash(path)
    swapped = codes()
    swapped[[0, 1]] = swapped[[1, 0]]
    save_sid_index(path, SidIndex(np.arange(NUM_ITEMS), swapped, ("a", "b", "c"), CODEBOOK_SIZES), {})
    assert file_hash(path) != before
    with pytest.raises(ValueError, match=r"was trained with another SID index than .*Toy\.index_simple\.json"):
        evaluate(config_for(tmp_path, data_path=data))


def test_a_model_that_was_not_fine_tuned_is_told_from_a_wrong_index(tmp_path, monkeypatch):
    """Both used to read `wrong index?`, after the model had been loaded."""
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    with pytest.raises(
        ValueError, match=r"was not fine-tuned on SIDs: it has no token_meta\.json, and .* <a_0>\. Fine-"
    ):
        evaluate(config_for(tmp_path, ckpt_model=tiny_model("qwen2")))
    folder = tmp_path / "foreign"
    shutil.copytree(checkpoint(), folder)
    (folder / TOKEN_META).unlink()
    check(config_for(tmp_path, ckpt_model=folder))  # of another system: its tokenizer knows the SIDs


def test_lists_are_no_longer_than_there_are_items(tmp_path):
    """More beams than items used to take memory for each."""
    config = config_for(tmp_path, num_beams=10**9, metrics=("hit@10", "hit@50"))
    results = json.loads(evaluate(config).read_text())
    assert results["num_beams"] == 50  # a metric looks that far down
    assert results["mean_results"]["hit@50"] == 1
    assert results["valid_beams"] == 1  # the places that no item is left for used to count as invalid
    ranked = predictions_of(config)[0].ranked
    assert (np.sort(ranked[:, :NUM_ITEMS]) == np.arange(NUM_ITEMS)).all()
    assert (ranked[:, NUM_ITEMS:] == -1).all()
