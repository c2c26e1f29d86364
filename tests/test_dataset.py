"""Which examples there are, and how each is asked: by seed, epoch and example alone."""

import numpy as np
import pytest

from src.dataset import Mixture, TaskDataset
from src.tasks.task import load_task
from tests.toy import NUM_ITEMS, shared_model, toy_builder, toy_catalogue

SEQREC, ITEMS = load_task("seqrec"), load_task("item2index")


@pytest.fixture(scope="module")
def builder():
    return toy_builder(shared_model("qwen2"))


def wordings(dataset: TaskDataset) -> list[str]:
    size = dataset.prompts_per_example
    return [dataset.wording(*divmod(i, size)).prompt for i in range(len(dataset))]


def targets(dataset: TaskDataset) -> list[tuple[int, ...]]:
    return [tuple(row) for row in dataset.examples.tolist()]


def test_wording_depends_on_seed_epoch_and_example_only(builder):
    first, twin = (TaskDataset(SEQREC, builder, "train", seed=1, prompts_per_example=2) for _ in range(2))
    np.random.seed(3)
    forwards = [first[i].ids.tolist() for i in range(len(first))]
    backwards = [twin[i].ids.tolist() for i in reversed(range(len(twin)))][::-1]  # another worker, another order
    assert forwards == backwards
    asked = wordings(first)
    assert all(asked[i] != asked[i + 1] for i in range(0, len(asked), 2))  # two wordings of one example differ
    first.epoch = 1
    assert wordings(first) != asked
    first.epoch = 0
    assert wordings(first) == asked
    assert wordings(TaskDataset(SEQREC, builder, "train", seed=2, prompts_per_example=2)) != asked
    assert set(wordings(TaskDataset(SEQREC, builder, "train"))) == {template.prompt for template in SEQREC.templates}


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
    from dataclasses import replace
    from pathlib import Path

    from src.finetune.config import FinetuneConfig
    from src.finetune.training import make_datasets

    config = FinetuneConfig(
        "train_ddp", False, "x", "qwen2", Path("x"), "Toy", "x", tasks=("seqrec", "item2index"),
        train_prompt_sample_num=(1, 2), train_data_sample_num=(0, 0),
    )  # fmt: skip
    tasks = [SEQREC, ITEMS]
    train, valid = make_datasets(config, tasks, builder)
    small_train, small_valid = make_datasets(
        replace(config, train_data_sample_num=(5, 6), ratio_dataset=0.5), tasks, builder
    )
    assert [len(part) for part in small_train] == [5, 12]
    assert [len(part) for part in train] == [len(builder.catalogue.next_item_targets("train").users), 2 * NUM_ITEMS]
    for part, small in zip(valid, small_valid, strict=True):
        assert targets(part) == targets(small)
        assert wordings(part) == wordings(small)
    debug_train, debug_valid = make_datasets(replace(config, debug=True), tasks, builder)
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
    np.testing.assert_array_equal(pixels(plain[0]), builder.image(0).inputs["pixel_values"])  # the cache is clean


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
