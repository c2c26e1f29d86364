"""Samples assembled many at once are those assembled one by one."""

import numpy as np
import pytest
import torch

from src.blocks import block_of, join, runs
from src.collate import TrainingCollator
from src.dataset import Mixture, TaskDataset
from src.tasks.task import load_task
from tests.toy import shared_model, toy_builder

SEQREC = load_task("seqrec")


def assert_same_batch(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value), name


def test_runs():
    assert runs(np.array([5, 0, 7]), np.array([2, 0, 3])).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize(
    ("settings", "options", "at_once"),
    [
        ({}, {}, True),
        ({"max_his_len": 3}, {"prompts_per_example": 2, "task_id": 4}, True),
        ({"max_his_len": 0, "his_sep": " | "}, {"prompt_ids": [3, 1]}, True),
        ({"add_prefix": True}, {}, False),
        ({"model_max_length": 66}, {}, False),
        ({}, {"learn_prompt": True}, False),
    ],
    ids=["whole", "sliding", "chosen", "numbered", "short", "everything"],
)
def test_many_at_once_are_as_one_by_one(settings, options, at_once, share_prefix):
    if share_prefix and "learn_prompt" in options:
        pytest.skip("shared prefixes learn answers only")
    builder = toy_builder(shared_model("qwen2"), **settings)
    dataset = TaskDataset(SEQREC, builder, "train", share_prefix=share_prefix, **options)
    assert (dataset._next_item_blocks is not None) == at_once
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    collate = TrainingCollator(builder.tokenizer.pad_token_id, mrope=False, row_length=300)
    for epoch in (0, 1):
        dataset.epoch = epoch
        for indices in (order[:50], order[-1:]):
            assert_same_batch(collate(dataset.__getitems__(indices)), collate([dataset[i] for i in indices]))


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_mixtures_come_part_by_part(family):
    builder = toy_builder(shared_model(family))
    names = ["seqrec", "index2item", *(["mmseqrec", "mmitem2index"] if family == "qwen2_vl" else [])]
    parts = [TaskDataset(load_task(name), builder, "train", task_id=n) for n, name in enumerate(names)]
    mixture = Mixture(parts)
    indices = np.random.default_rng(1).permutation(len(mixture))[:40]
    by_part = indices[np.argsort(np.searchsorted(mixture.ends, indices, side="right"), kind="stable")]
    collate = TrainingCollator(builder.tokenizer.pad_token_id, mrope=family == "qwen2_vl")
    whole = collate(mixture.__getitems__(indices.tolist()))
    assert_same_batch(whole, collate([mixture[int(i)] for i in by_part]))
    assert set(whole["task_ids"].tolist()) == set(range(len(names)))


def test_a_dataloader_asks_for_blocks():
    builder = toy_builder(shared_model("qwen2"))
    dataset = Mixture([TaskDataset(SEQREC, builder, "train")])
    collate = TrainingCollator(builder.tokenizer.pad_token_id, mrope=False)
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, collate_fn=collate)
    for number, batch in enumerate(loader):
        indices = range(16 * number, min(16 * number + 16, len(dataset)))
        assert_same_batch(batch, collate([dataset[i] for i in indices]))


def test_take_and_join_keep_samples_whole():
    builder = toy_builder(shared_model("qwen2_vl"))
    samples = [TaskDataset(load_task("mmitem2index"), builder, "train")[i] for i in (3, 0, 7)]  # item 3 has no picture
    samples += [TaskDataset(SEQREC, builder, "train", share_prefix=True)[i] for i in (20, 5)]
    collate = TrainingCollator(builder.tokenizer.pad_token_id, mrope=True)
    order = np.array([4, 1, 3, 0, 2])
    expected = collate([samples[i] for i in order])
    assert_same_batch(collate(block_of(samples).take(order)), expected)
    assert_same_batch(collate(join([block_of([samples[i]]) for i in order])), expected)
