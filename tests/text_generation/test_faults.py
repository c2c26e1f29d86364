"""What an evaluation of texts refuses, before any model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from src.common.artifacts import read_json, write_json
from src.text_generation import evaluate
from src.text_generation.core import evaluate as run
from src.text_generation.plan import check
from tests.seqrec.toy_runs import write_checkpoint
from tests.text_generation.toy_runs import TEST_ITEMS, config_for
from tests.toy import INDEX_FILE, NAME, WITHOUT_PICTURE, tiny_model, toy_copy, toy_path


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2_vl", {"test_task": "seqrec"}, "'seqrec' is not written here.* use python -m src.seqrec.metric_ddp"),
        ("qwen2_vl", {"test_task": "poems"}, "'poems' is not written here: choose from index2item"),
        ("qwen2_vl", {"test_prompt_ids": "0,99"}, "--test_prompt_ids 0,99: text_enrich asks in wordings 0 to"),
        ("qwen2_vl", {"index_file": None}, "text_enrich names items by their SIDs: give --index_file"),
        ("qwen2_vl", {"zero_shot": True, "index_file": INDEX_FILE}, "--index_file changes nothing with --zero_shot"),
        ("qwen2_vl", {"zero_shot": True, "test_task": "index2item"}, "--zero_shot: index2item asks about SIDs"),
        ("qwen2_vl", {"ckpt_model": Path("gone")}, "--ckpt_model gone is no folder"),
        ("qwen2_vl", {"temperature": 0.5}, "changes nothing without --do_sample"),
        (
            "qwen2_vl",
            {"max_new_tokens": 5000},
            "--max_new_tokens 5000 leaves no room for a prompt: .* takes 2048 tokens",
        ),
        ("qwen2_vl", {"test_batch_size": 0}, "--test_batch_size 0: it must be at least 1"),
        ("qwen2_vl", {"bertscore_model": Path("gone")}, "--bertscore_model gone is no folder with an encoder"),
        ("qwen2_vl", {"embedding_model": Path("gone")}, "--embedding_model gone is no folder with an encoder"),
        ("qwen2_vl", {"bertscore_layer": 2}, "--bertscore_layer changes nothing without --bertscore_model"),
        ("qwen2", {"test_task": "index2item", "shuffle_images": True}, "--shuffle_images: not every wording"),
        ("qwen2_vl", {"image_path": "none"}, "text_enrich shows pictures, and .*none has none"),
        ("qwen2_vl", {"results_file": Path("/dev/null/x.json")}, "x.json cannot be written"),
        ("qwen2", {}, "text_enrich shows pictures, and .*qwen2 is a qwen2, which takes only texts"),
        ("blip2", {"ckpt_model": "blip2"}, "is a blip-2, which GRec does not fine-tune"),
    ],
)
def test_faults_are_found_before_the_model(tmp_path, monkeypatch, family, changes, message):
    monkeypatch.setattr("src.text_generation.generator.make_generator", None)
    if changes.get("ckpt_model") == "blip2":
        changes, family = {"ckpt_model": tiny_model("blip2")}, "qwen2_vl"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(config_for(tmp_path, family, **changes))


def test_broken_pictures_are_told_before_the_model(tmp_path, monkeypatch):
    """Those of the samples only; without them the run goes on."""
    data = toy_copy(tmp_path)
    broken, other = (data / NAME / "images" / f"{item}.jpg" for item in (TEST_ITEMS[0], 0))
    assert 0 not in TEST_ITEMS
    for picture in (broken, other):
        picture.write_bytes(b"no picture")
    config = config_for(tmp_path, data_path=data)
    plan = check(replace(config, skip_bad_images=True))
    assert TEST_ITEMS[0] not in plan.catalogue.image_files
    assert plan.without_picture == 1 + len(set(TEST_ITEMS) & set(WITHOUT_PICTURE))
    monkeypatch.setattr("src.text_generation.generator.make_generator", None)
    with pytest.raises(ValueError, match=rf"1 of \d+ pictures are broken, the first: .*{TEST_ITEMS[0]}\.jpg does not"):
        run(config)


def test_changed_wordings_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2_vl", toy_path())
    record = read_json(folder / "run.json") | {"templates_sha256": {"text_enrich": "of another time"}}
    write_json(folder / "run.json", record)
    with pytest.raises(ValueError, match="the wordings of text_enrich have changed"):
        check(config_for(tmp_path, ckpt_model=folder))


def test_the_entry_says_what_is_wrong(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--dataset", NAME, "--data_path", str(toy_path()), "--ckpt_model", "gone"])
    assert ended.value.code == 2
    assert "error: --ckpt_model gone is no folder" in capsys.readouterr().err
