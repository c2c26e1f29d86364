"""The proof that pictures matter tells a model that looks from one that does not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.seqrec.recommender import Recommender
from src.tasks.task import load_task
from src.verify_pictures import PicturesConfig, main, verify_pictures
from tests.seqrec.toy_runs import checkpoint
from tests.toy import INDEX_FILE, NAME, NUM_ITEMS, WITHOUT_PICTURE, picture, toy_copy, toy_path


def config_for(folder: Path, **changes) -> PicturesConfig:
    values = {
        "dataset": NAME,
        "index_file": INDEX_FILE,
        "ckpt_model": checkpoint("qwen2_vl"),
        "data_path": toy_path(),
        "num_beams": 3,  # fewer than the k of the default metrics, which do not matter here
        "results_file": folder / "pictures.json",
        "device": "cpu",
    }
    return PicturesConfig(**{**values, **changes})


def test_what_is_written(tmp_path):
    data = toy_copy(tmp_path)
    (data / NAME / "second").mkdir()
    for item in range(NUM_ITEMS):
        picture(item, shade=90).save(data / NAME / "second" / f"{item}.jpg")
    config = config_for(tmp_path, data_path=data, second_image_path="second")
    result = verify_pictures(config)
    written = json.loads(config.results_file.read_text())
    assert {name: written[name] for name in result} == result
    assert {"index", "checkpoint", "items"} <= written["inputs"].keys()
    first, second = written["inputs"]["pictures"], written["inputs"]["second pictures"]
    assert (first["image_path"], second["image_path"], second["pictures"]) == ("images", "second", NUM_ITEMS)
    assert first["sha256"] != second["sha256"]
    assert result["items"] == NUM_ITEMS - len(WITHOUT_PICTURE)
    assert result["chance"] == 1 / NUM_ITEMS
    assert result["chance_text"] == 1  # the title is in the prompt, and no two are alike
    assert result["loss_true"] != result["loss_permuted"]
    assert 0 <= result["loss_raised"] <= 1
    assert all(0 <= result[f"hit@1_{name}"] <= 1 for name in ("true", "permuted", "second"))
    (data / NAME / "second" / "7.jpg").unlink()
    with pytest.raises(ValueError, match=r"second lacks the picture of item 7"):
        verify_pictures(config)


def test_broken_pictures_are_left_out_where_asked(tmp_path):
    data = toy_copy(tmp_path)
    (data / NAME / "second").mkdir()
    for item in range(NUM_ITEMS):
        picture(item).save(data / NAME / "second" / f"{item}.jpg")
    for broken in ("images/0.jpg", "second/1.jpg"):
        (data / NAME / broken).write_bytes(b"no picture")
    config = config_for(tmp_path, data_path=data, second_image_path="second")
    with pytest.raises(ValueError, match=r"0\.jpg does not decode .* pass --skip_bad_images"):
        verify_pictures(config)
    assert verify_pictures(replace(config, skip_bad_images=True))["items"] == NUM_ITEMS - len(WITHOUT_PICTURE) - 2


def test_blind_model_is_seen_to_be_blind(tmp_path, monkeypatch):
    """A model that drops the pictures gives the same loss for any of them."""
    from src.item_tokens import ItemTokens

    image = ItemTokens.image

    def grey(self, *args):
        block = image(self, *args)
        inputs = {name: np.zeros_like(v) if name == "pixel_values" else v for name, v in block.inputs.items()}
        return block._replace(inputs=inputs)

    data = toy_copy(tmp_path)
    for item in range(NUM_ITEMS):  # of one shape, so that only pixels differ
        picture(3 * (item // 3)).save(data / NAME / "images" / f"{item}.jpg")
    monkeypatch.setattr(ItemTokens, "image", grey)
    result = verify_pictures(config_for(tmp_path, data_path=data))
    assert result["loss_true"] == pytest.approx(result["loss_permuted"], rel=1e-6)
    assert result["hit@1_true"] == result["hit@1_permuted"]


def test_losses_are_of_the_answer_alone(tmp_path):
    """The mean over the answer's tokens, each item by itself, whatever else is in the batch."""
    from src.seqrec.core import check

    config = config_for(tmp_path, test_task="mmitem2index", metrics=("hit@1",))
    _, _, catalogue = check(config)
    recommender = Recommender(config, catalogue, torch.device("cpu"))
    template = load_task("mmitem2index").templates[0]
    together = recommender.answer_losses(template, [0, 1, 2, 3])
    alone = np.concatenate([recommender.answer_losses(template, [item]) for item in (0, 1, 2, 3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    recommender.use_pictures({0: catalogue.image_files[6]})  # of the same shape
    swapped = recommender.answer_losses(template, [0])
    assert abs(swapped[0] - together[0]) > 1e-4


def test_seeded_part_and_its_faults(tmp_path):
    flags = [
        *("--dataset", NAME, "--data_path", str(toy_path()), "--index_file", INDEX_FILE, "--device", "cpu"),
        *("--ckpt_model", str(checkpoint("qwen2_vl")), "--num_beams", "2"),
    ]
    runs = []
    for number, seed in enumerate(("1", "1", "2")):
        file = tmp_path / f"{number}.json"
        main([*flags, "--sample_num", "5", "--seed", seed, "--results_file", str(file)])
        runs.append(json.loads(file.read_text()))
    assert runs[0] == runs[1] != runs[2]
    assert runs[0]["items"] == 5
    with pytest.raises(ValueError, match="two at least are needed to swap them"):
        verify_pictures(config_for(tmp_path, sample_num=1))
