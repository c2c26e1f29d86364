"""A dataset whose interactions are a table works through every stage as that with `inter.json` does."""

import json

import numpy as np
import polars as pl
import pytest

from data_process import amazon18_data_process, validate
from data_process.validate import ValidateConfig
from index.subject import read_sequences
from scripts import quickstart
from src.baselines.config import BaselineConfig
from src.baselines.core import run_baseline
from src.common.artifacts import dataset_paths, file_hash
from src.common.interactions import load_sequences
from src.dataset import Mixture, ShuffledSampler, TaskDataset
from src.finetune.core import finetune
from src.seqrec.results import predictions_path, read_predictions
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import KINDS, load_task
from src.tasks.texts import add_texts
from tests.data_process.raw_shop import run, write_amazon18
from tests.finetune.toy_runs import config_for, log_of
from tests.toy import INDEX_FILE, NAME, shared_model, toy_builder, toy_catalogue, toy_copy, toy_path


def to_table(data_path, shard_rows: int = 0):
    """Replaces `inter.json` by a table; gives the paths."""
    paths = dataset_paths(data_path, NAME)
    users = json.loads(paths.file("inter.json").read_text())
    rows = [(user, item) for user, items in users.items() for item in items]
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    paths.file("inter.parquet").mkdir()
    for start in range(0, len(frame), shard_rows or len(frame)):
        part = frame[start : start + (shard_rows or len(frame))]
        part.write_parquet(paths.file("inter.parquet") / f"{start:05d}.parquet")
    paths.file("inter.json").unlink()
    return paths


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Catalogue:
    paths = to_table(toy_copy(tmp_path_factory.mktemp("toy")), shard_rows=50)
    tasks = [load_task(name) for name in KINDS]
    return add_texts(load_catalogue(paths.data_path, NAME, INDEX_FILE, "images"), tasks)


def tokens(samples) -> list[list[int]]:
    return [[*sample.ids.tolist(), -1, *sample.predict.tolist(), -1, *sample.targets.tolist()] for sample in samples]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_samples_of_every_task_are_the_same(mapped, name, split):
    assert mapped.is_mapped
    task = load_task(name)
    loaded = shared_model("qwen2_vl" if task.needs_images else "qwen2")
    plain, table = (
        TaskDataset(task, toy_builder(loaded, catalogue), split, seed=3, user_ratio=0.7)
        for catalogue in (toy_catalogue(), mapped)
    )
    assert len(plain) == len(table) > 0
    numbers = range(0, len(plain), 1 + len(plain) // 12)
    assert tokens(plain[i] for i in numbers) == tokens(table[i] for i in numbers)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_batches_are_the_same(mapped, share_prefix, window):
    task, loaded, blocks = load_task("seqrec"), shared_model("qwen2"), []
    for catalogue in (toy_catalogue(), mapped):
        builder = toy_builder(loaded, catalogue, max_his_len=window)
        dataset = TaskDataset(task, builder, "train", share_prefix=share_prefix, max_examples=20)
        assert dataset._next_item_blocks is not None
        mixture = Mixture([dataset])
        blocks.append(mixture.__getitems__(list(ShuffledSampler(mixture, 1))))
    plain, table = blocks
    cuts = [[block.source[begin : begin + size].tolist() for begin, size in zip(block[1], block[2], strict=True)]
            for block in blocks]  # fmt: skip
    assert cuts[0] == cuts[1]
    assert all(map(np.array_equal, plain[3:12], table[3:12]))
    assert table.source.size < plain.source.size  # the tokens of the batch, not of all users


def test_what_is_known_of_a_catalogue_is_the_same(mapped):
    plain = toy_catalogue()
    assert np.array_equal(plain.popularity, mapped.popularity)
    assert plain.is_leave_one_out
    assert mapped.is_leave_one_out
    for split in ("train", "valid", "test"):
        assert all(map(np.array_equal, plain.next_item_targets(split), mapped.next_item_targets(split)))
    assert [path.name for path in mapped.input_files().values()][:2] == ["00000.parquet", "00050.parquet"]
    sequences = (read_sequences(catalogue.paths, plain.item_ids, plain.index.file) for catalogue in (plain, mapped))
    assert all(map(np.array_equal, *sequences))


def test_an_unknown_item_is_named(tmp_path):
    paths = to_table(toy_copy(tmp_path))
    frame = pl.DataFrame({"user": ["zed", "zed", "zoe"], "item": [1, 99, 98]})
    frame.write_parquet(paths.file("inter.parquet") / "99999.parquet")
    with pytest.raises(ValueError, match=r"Toy\.inter\.parquet: user 'zed' has item 99, which .* lacks \(2 such"):
        load_catalogue(paths.data_path, NAME)


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own():
    dataset = TaskDataset(load_task("seqrec"), toy_builder(shared_model("qwen2")), "train")
    mixture = Mixture([dataset, dataset])
    sampler = ShuffledSampler(mixture, 5)
    orders = []
    for epoch in (0, 1, 0):
        mixture.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(len(sampler)))
    assert orders[0] == orders[2] != orders[1]
    assert list(ShuffledSampler(mixture, 6)) != orders[0]


def test_fine_tuning_from_it_takes_the_same_steps(tmp_path):
    data = to_table(toy_copy(tmp_path), shard_rows=50).data_path
    curves = []
    for number, data_path in enumerate((toy_path(), data)):
        config = config_for(
            tmp_path / str(number), data_path=data_path, tasks=("seqrec", "item2index"), train_data_sample_num=(14, 6),
            use_lora=True, lora_r=4, per_device_batch_size=4, max_steps=6, save_and_eval_steps=6, ratio_dataset=0.8,
        )  # fmt: skip
        lines = log_of(finetune(config))
        curves.append([line[kind] for line in lines for kind in ("loss", "eval_loss") if kind in line])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 7
    inputs = json.loads((tmp_path / "1" / "run.json").read_text())["inputs"]
    assert inputs["interactions 00050.parquet"]["sha256"] == file_hash(data / NAME / "Toy.inter.parquet/00050.parquet")


@pytest.mark.parametrize("baseline", ["popularity", "itemknn"])
def test_baselines_give_the_same(mapped, tmp_path, baseline):
    found = []
    for catalogue in (toy_catalogue(), mapped):
        results = tmp_path / f"{catalogue.is_mapped}.json"
        run_baseline(baseline, BaselineConfig(NAME, data_path=catalogue.paths.data_path, results_file=results))
        found.append(read_predictions(predictions_path(results))[0])
    assert found[0].users == found[1].users
    assert all(np.array_equal(getattr(found[0], name), getattr(found[1], name)) for name in ("targets", "ranked"))


def test_it_is_validated(tmp_path):
    def said(paths) -> list[str]:
        rows = validate.validate(ValidateConfig(paths.folder)).rows
        return [row.text().replace("inter.parquet", "inter.json") for row in rows]

    plain = dataset_paths(toy_copy(tmp_path / "plain"), NAME)
    assert said(to_table(toy_copy(tmp_path / "table"))) == said(plain)
    late = pl.DataFrame({"user": ["a"] * 3, "item": [1, 2, 3], "time": [1, 2, 10**11], "split": ["train"] * 3})
    paths = to_table(toy_copy(tmp_path / "late"))
    for file in paths.file("inter.parquet").iterdir():
        file.unlink()
    late.write_parquet(paths.file("inter.parquet") / "a.parquet")
    assert "the latest time, 100,000,000,000, lies after the year 2200" in "\n".join(said(paths))
    late.write_ipc(paths.file("inter.arrow"))
    assert any("both hold interactions" in line for line in said(paths))


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_the_data_stage_writes_one(tmp_path, split):
    raw = write_amazon18(tmp_path / "raw")
    run(amazon18_data_process, raw, tmp_path / "plain", "--split", split)
    run(amazon18_data_process, raw, tmp_path / "table", "--split", split, "--inter_format", "parquet")
    plain, table = (load_catalogue(tmp_path / name, "Shop") for name in ("plain", "table"))
    assert table.is_mapped
    assert list(table.users) == plain.users
    for name in ("sequence", "offsets", "train_end", "valid_end"):
        assert np.array_equal(getattr(plain, name), getattr(table, name))
    assert not [path for path in map(table.paths.file, ("inter.json", "times.json", "split.json")) if path.exists()]
    times = json.loads(plain.paths.file("times.json").read_text())
    assert load_sequences(table.paths).times.tolist() == [time for row in times.values() for time in row]
    run(amazon18_data_process, raw, tmp_path / "table", "--split", split, "--overwrite")
    assert not load_catalogue(tmp_path / "table", "Shop").is_mapped


def test_the_quickstart_takes_it_and_leaves_the_folder_alone(tmp_path, monkeypatch):
    paths = to_table(toy_copy(tmp_path))
    assert quickstart.find_dataset(paths.folder) == paths.folder
    state = quickstart.data_state(paths.folder, NAME)
    assert "00000.parquet" in state["tables"]
    load_catalogue(paths.data_path, NAME)  # maps it
    assert quickstart.data_state(paths.folder, NAME) == state
