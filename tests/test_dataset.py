"""Which examples there are, and how each is asked: by seed, epoch and example alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from src.collate import TrainingCollator
from src.common.artifacts import DatasetPaths
from src.dataset import Mixture, TaskDataset, part_groups, part_names
from src.tasks.task import KINDS, load_task
from tests.toy import NUM_ITEMS, shared_model, toy_builder, toy_catalogue, toy_path

SEQREC, ITEMS = load_task("seqrec"), load_task("item2index")


@pytest.fixture(scope="module")
def builder():
    return toy_builder(shared_model("qwen2"))


def wordings(dataset: TaskDataset) -> list[str]:
    size = dataset.prompts_per_example
    return [dataset.wording(*divmod(i, size)).prompt for i in range(len(dataset))]


def targets(dataset: TaskDataset) -> list[tuple[int, ...]]:
    return [tuple(row) for row in dataset.examples.tolist()]


def test_wording_depends_on_seed_epoch_and_example_only(builder, monkeypatch):
    first, twin = (TaskDataset(SEQREC, builder, "train", seed=1, prompts_per_example=2) for _ in range(2))
    np.random.seed(3)
    forwards = [first[i].ids.tolist() for i in range(len(first))]
    backwards = [twin[i].ids.tolist() for i in reversed(range(len(twin)))][::-1]  # another worker, another order
    assert forwards == backwards
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: 1)
    assert [first[i].ids.tolist() for i in range(len(first))] == forwards
    asked = wordings(first)
    assert all(asked[i] != asked[i + 1] for i in range(0, len(asked), 2))  # two wordings of one example differ
    first.epoch = 1
    assert wordings(first) != asked
    first.epoch = 0
    assert wordings(first) == asked
    assert wordings(TaskDataset(SEQREC, builder, "train", seed=2, prompts_per_example=2)) != asked
    assert set(wordings(TaskDataset(SEQREC, builder, "train"))) == {template.prompt for template in SEQREC.templates}


def test_workers_and_ranks_read_the_same_batches(builder):
    """In every epoch; workers are forked anew for each, so that they hear of it."""
    tasks = [load_task(name) for name, kind in KINDS.items() if kind != "enriched_item" and not name.startswith("mm")]
    parts = [
        TaskDataset(task, builder, "train", number, prompts_per_example=2, max_examples=8)
        for number, task in enumerate(tasks)
    ]
    mixture = Mixture(parts)
    collate = TrainingCollator(builder.tokenizer.pad_token_id, mrope=False, row_length=256)

    def batches(workers: int = 0, rank: int = 0, ranks: int = 1) -> list[dict]:
        """What a rank reads in an epoch; the order of samples is that of a seed, as the Trainer has it."""
        generator = torch.Generator().manual_seed(mixture.parts[0].epoch)
        sampler = BatchSampler(RandomSampler(mixture, generator=generator), 4, drop_last=False)
        mine = BatchSamplerShard(sampler, ranks, rank)
        return list(DataLoader(mixture, batch_sampler=mine, collate_fn=collate, num_workers=workers))

    def same(ours: list[dict], theirs: list[dict]) -> bool:
        pairs = list(zip(ours, theirs, strict=True))
        return all(torch.equal(one[name], other[name]) for one, other in pairs for name in ("input_ids", "labels"))

    epochs = []
    for epoch in (0, 1):
        mixture.set_epoch(epoch)
        alone = batches()
        assert same(batches(workers=2), alone)
        halves = [batches(workers=1, rank=rank, ranks=2) for rank in (0, 1)]
        assert same([half[place] for place in range(len(halves[0])) for half in halves], alone)
        epochs.append(alone)
    assert len(epochs[0]) == 2 * 8 * len(tasks) // 4
    assert sorted(epochs[0][0]["labels"].tolist()) != sorted(epochs[1][0]["labels"].tolist())


def test_every_wording_once_before_any_twice(builder):
    number = len(ITEMS.templates)
    dataset = TaskDataset(ITEMS, builder, "train", prompts_per_example=number + 1)
    asked = wordings(dataset)[: number + 1]
    assert len(set(asked[:number])) == number
    assert asked[number] == asked[0]


def test_given_wordings_only(builder):
    dataset = TaskDataset(SEQREC, builder, "valid", prompt_ids=[3])
    assert set(wordings(dataset)) == {SEQREC.templates[3].prompt}


def test_caps_are_seeded_samples(builder):
    whole = targets(TaskDataset(SEQREC, builder, "train"))
    capped = [targets(TaskDataset(SEQREC, builder, "train", max_examples=20, seed=seed)) for seed in (1, 1, 2)]
    assert len(capped[0]) == 20
    assert capped[0] == capped[1] != capped[2]
    assert set(capped[0]) < set(whole)
    assert targets(TaskDataset(SEQREC, builder, "train", max_examples=10**6)) == whole
    assert len(TaskDataset(ITEMS, builder, "train", max_examples=7, prompts_per_example=3)) == 21


def test_ratio_keeps_whole_users(builder):
    whole = targets(TaskDataset(SEQREC, builder, "train"))
    half = targets(TaskDataset(SEQREC, builder, "train", user_ratio=0.5))
    users = {row[0] for row in half}
    assert half == [row for row in whole if row[0] in users]
    assert 0.25 < len(users) / len({row[0] for row in whole}) < 0.75


def test_caps_and_ratios_shrink_the_training_part_only(builder):
    from pathlib import Path

    from src.finetune.config import FinetuneConfig
    from src.finetune.training import make_datasets

    config = FinetuneConfig(
        "train_ddp", False, "x", "qwen2", Path("x"), "Toy", "x", tasks=("seqrec", "item2index"),
        train_prompt_sample_num=(1, 2), train_data_sample_num=(0, 0),
    )  # fmt: skip
    tasks = [SEQREC, ITEMS]
    train, valid = make_datasets(config, tasks, [builder])
    small_train, small_valid = make_datasets(
        replace(config, train_data_sample_num=(5, 6), ratio_dataset=0.5), tasks, [builder]
    )
    assert [len(part) for part in small_train] == [5, 12]
    assert [len(part) for part in train] == [len(builder.catalogue.next_item_targets("train").users), 2 * NUM_ITEMS]
    for part, small in zip(valid, small_valid, strict=True):
        assert targets(part) == targets(small)
        assert wordings(part) == wordings(small)
    debug_train, debug_valid = make_datasets(replace(config, debug=True), tasks, [builder])
    assert max(len(part.examples) for part in debug_train + debug_valid) <= 64


def test_holdout_items_never_train(builder):
    train, valid, test = (
        {row[0] for row in targets(TaskDataset(ITEMS, builder, split, holdout=True))}
        for split in ("train", "valid", "test")
    )
    assert not train & (valid | test)
    assert len(targets(TaskDataset(ITEMS, builder, "train"))) == NUM_ITEMS


def test_random_views_are_of_seed_epoch_and_example_and_only_move_pixels():
    builder = toy_builder(shared_model("qwen2_vl"))
    task = load_task("mmitem2index")
    plain = TaskDataset(task, builder, "train")
    first, twin = (TaskDataset(task, builder, "train", image_augment=0.2) for _ in range(2))

    def pixels(sample):
        return sample.images[0]["pixel_values"]

    for number in (5, 0, 1):
        np.testing.assert_array_equal(first[number].ids, plain[number].ids)
        np.testing.assert_array_equal(first[number].positions, plain[number].positions)
        np.testing.assert_array_equal(pixels(first[number]), pixels(twin[number]))
        assert pixels(first[number]).shape == pixels(plain[number]).shape
        assert not np.array_equal(pixels(first[number]), pixels(plain[number]))
    before = pixels(first[0])
    first.epoch = 1
    assert not np.array_equal(pixels(first[0]), before)
    np.testing.assert_array_equal(pixels(plain[0]), builder.items.image(0).inputs["pixel_values"])  # the cache is clean


@pytest.mark.parametrize("window", [0, 3, 20])
def test_shared_examples_hold_every_target_once(window):
    builder = toy_builder(shared_model("qwen2"), max_his_len=window)
    dataset = TaskDataset(SEQREC, builder, "train", share_prefix=True)
    held = [(user, place) for user, first, last in dataset.examples for place in range(first, last + 1)]
    expected = list(zip(*builder.catalogue.next_item_targets("train"), strict=True))
    assert sorted(held) == sorted(expected)
    assert len(dataset) < len(expected)
    if window:
        assert all(last <= window for _, first, last in dataset.examples if last > first)


def test_what_cannot_share_stands_alone(builder):
    mixed = load_task("fusionseqrec")
    shared = TaskDataset(mixed, builder, "train", share_prefix=True)
    assert targets(shared) == targets(TaskDataset(mixed, builder, "train"))


def test_samples_name_the_right_items(builder):
    dataset = TaskDataset(SEQREC, builder, "train", task_id=7)
    catalogue = toy_catalogue()
    for (user, place, _), sample in zip(dataset.examples, dataset, strict=False):
        target = catalogue.target(user, place)
        np.testing.assert_array_equal(sample.targets[:-1], builder.sids[target])
        assert sample.task == 7


def test_mixture_holds_its_parts_one_after_another(builder):
    parts = [TaskDataset(task, builder, "train", n, max_examples=3 + n) for n, task in enumerate((SEQREC, ITEMS))]
    mixture = Mixture(parts)
    assert len(mixture) == 7
    assert [mixture[i].task for i in range(7)] == [0, 0, 0, 1, 1, 1, 1]
    mixture.set_epoch(4)
    assert [part.epoch for part in parts] == [4, 4]


def test_every_task_makes_samples_of_every_split(builder):
    for name in KINDS:
        task = load_task(name)
        seeing = toy_builder(shared_model("qwen2_vl")) if task.needs_images else builder
        for split in ("train", "valid", "test"):
            dataset = TaskDataset(task, seeing, split, max_examples=3)
            assert 0 < len(dataset) <= 3
            assert all(len(dataset[i].targets) > 1 for i in range(len(dataset)))
    whole = TaskDataset(load_task("itemsearch"), builder, "train")
    half = TaskDataset(load_task("itemsearch"), builder, "train", user_ratio=0.5)
    users = builder.catalogue.user_texts["query"].users
    kept = {int(users[row]) for row, _, _ in half.examples}
    assert [row for row, _, _ in whole.examples if int(users[row]) in kept] == [row for row, _, _ in half.examples]
    assert 0.25 < len(half) / len(whole) < 0.75


def test_losses_are_told_for_tasks_and_datasets(builder):
    other = toy_builder(shared_model("qwen2"), replace(builder.catalogue, paths=DatasetPaths(toy_path(), "Other")))
    parts = [TaskDataset(task, source, "valid") for source in (builder, other) for task in (SEQREC, ITEMS)]
    assert part_names(parts[:2]) == ["seqrec", "item2index"]
    assert part_groups(parts[:2]) == {"seqrec": [0], "item2index": [1]}
    assert part_names(parts) == ["Toy_seqrec", "Toy_item2index", "Other_seqrec", "Other_item2index"]
    assert part_groups(parts) == {
        "seqrec": [0, 2], "item2index": [1, 3], "Toy": [0, 1], "Other": [2, 3],
        "Toy_seqrec": [0], "Toy_item2index": [1], "Other_seqrec": [2], "Other_item2index": [3],
    }  # fmt: skip
