"""Packing and shared prefixes change the layout, never the loss: each token sees what it would see alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from src.attention import seen
from src.collate import PromptCollator, TrainingCollator, pack
from src.dataset import TaskDataset
from src.models import AnswerRows, Loaded
from src.prompt import Sample
from src.tasks.task import Task, load_task
from tests.toy import ALL_FAMILIES, VISION_FAMILIES, fresh_model, shared_model, toy_builder

HISTORIES = [(1, 4, 13, 3, 10), (2, 7), (5, 16, 9, 28), (3,), (20, 21, 24)]


def gradients(loaded: Loaded, batches: Sequence[dict]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of all answer tokens, and the gradient of their sum."""
    model = loaded.model
    rows = AnswerRows(model)
    model.zero_grad(set_to_none=True)
    losses = []
    for batch in batches:
        batch = dict(batch)
        batch.pop("task_ids")
        labels, predict = batch.pop("labels"), batch.pop("predict")
        loss = F.cross_entropy(rows.logits(model, predict, **batch).float(), labels, reduction="none")
        loss.sum().backward()
        losses.append(loss.detach())
    return torch.cat(losses), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs) -> None:
    """Equal sets of losses, and equal gradients, to a relative 1e-5."""
    for one, other in zip(ours[0].sort().values, theirs[0].sort().values, strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-5, abs=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    scale = max(float(gradient.norm()) for gradient in theirs[1].values())
    for name, gradient in theirs[1].items():
        assert float((ours[1][name] - gradient).norm()) <= 1e-5 * scale, name


def collator(loaded: Loaded, row_length: int = 256) -> TrainingCollator:
    return TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope, row_length)


def by_hand(loaded: Loaded, sample: Sample) -> dict:
    """A batch of one plain sample, without the collator's mask and positions: the model makes its own."""
    ids = torch.from_numpy(sample.ids)[None]
    predict = torch.zeros_like(ids, dtype=torch.bool)
    predict[0, sample.predict] = True
    batch = {"input_ids": ids, "predict": predict, "labels": torch.from_numpy(sample.targets), "task_ids": None}
    for name in sample.images[0] if sample.images else ():
        batch[name] = torch.from_numpy(np.concatenate([image[name] for image in sample.images]))
    if loaded.family.mrope:
        batch["mm_token_type_ids"] = (ids == loaded.model.config.image_token_id).int()
    return batch


# ---- packing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_packed_rows_give_the_same_loss_and_gradients(family):
    loaded = fresh_model(family)
    builder = toy_builder(loaded)
    seqrec = load_task("seqrec").templates
    samples = [builder.sample(seqrec[n], history, 14) for n, history in enumerate(HISTORIES)]
    samples.append(builder.sample(load_task("index2item").templates[2], (), 9))
    if family in VISION_FAMILIES:
        samples += [builder.sample(t, HISTORIES[0], 14) for t in load_task("mmseqrec").templates[:2]]
        samples += [builder.sample(load_task("mmitem2index").templates[2], (), item) for item in (0, 1, 2, 3)]
    alone = gradients(loaded, [by_hand(loaded, sample) for sample in samples])
    order = np.random.default_rng(0).permutation(len(samples))
    for row_length in (1, 256, 4096):
        batch = collator(loaded, row_length)([samples[i] for i in order])
        assert batch["input_ids"].shape[0] < len(samples) or row_length == 1
        assert_same(gradients(loaded, [batch]), alone)


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_padding_and_neighbours_do_not_matter(family):
    """The losses of a sample are the same in any company; the mask lets no row of it be empty."""
    loaded = shared_model(family)
    builder = toy_builder(loaded)
    template = load_task("seqrec").templates[0]
    samples = [builder.sample(template, history, 14, task=n) for n, history in enumerate(HISTORIES)]
    batch = collator(loaded)(samples)
    mask = seen(batch["attention_mask"][0, 0], *batch["input_ids"].shape)
    assert mask.any(-1).all()
    assert not mask.triu(1).any()
    for number, sample in enumerate(samples):
        mine = batch["labels"][batch["task_ids"] == number]
        np.testing.assert_array_equal(mine.numpy(), sample.targets)
    # Labels stand in the order in which `predict` picks positions.
    picked = batch["input_ids"].roll(-1, 1)[batch["predict"]]
    inside = batch["labels"] != builder.end_token
    assert (picked[inside] == batch["labels"][inside]).all()


def test_task_ids_follow_their_tokens():
    loaded = shared_model("qwen2")
    builder = toy_builder(loaded)
    tasks = [load_task(name) for name in ("seqrec", "index2item", "item2index")]
    samples = [builder.sample(task.templates[0], HISTORIES[0], 14, task=n) for n, task in enumerate(tasks)]
    batch = collator(loaded)(samples * 3)
    counts = torch.bincount(batch["task_ids"]).tolist()
    assert counts == [3 * len(sample.targets) for sample in samples]


# ---- shared prefixes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_his_len": 3},
        {"max_his_len": 0, "add_prefix": True, "his_sep": " | "},
        {"model_max_length": 66},
    ],
    ids=["whole", "sliding", "numbered", "short"],
)
def test_shared_prefixes_give_the_same_loss_and_gradients(family, settings):
    """Also for histories longer than max_his_len, and for those that --model_max_length cuts."""
    loaded = fresh_model(family)
    builder = toy_builder(loaded, **settings)
    template = load_task("seqrec").templates[2]
    task = Task("seqrec", "next_item", (template,))
    alone = TaskDataset(task, builder, "train")
    shared = TaskDataset(task, builder, "train", share_prefix=True)
    users = [8, 9, 10]  # 9 to 11 items
    ours = [shared[i] for i in range(len(shared)) if shared.examples[i, 0] in users]
    theirs = [alone[i] for i in range(len(alone)) if alone.examples[i, 0] in users]
    assert len(theirs) == 6 + 7 + 8
    assert len(ours) < len(theirs)
    if "model_max_length" in settings:  # it does cut
        longest = builder.catalogue.history(10, 8)
        assert builder.items_that_fit(template, 20) < len(longest)
    one_by_one = gradients(loaded, [by_hand(loaded, sample) for sample in theirs])
    assert_same(gradients(loaded, [collator(loaded)(ours)]), one_by_one)
    assert_same(gradients(loaded, [collator(loaded, 1)([*ours])]), one_by_one)


def test_shared_sample_costs_less():
    builder = toy_builder(shared_model("qwen2"))
    template = load_task("seqrec").templates[2]
    task = Task("seqrec", "next_item", (template,))
    tokens = {
        share: sum(len(sample.ids) for sample in TaskDataset(task, builder, "train", share_prefix=share))
        for share in (False, True)
    }
    assert tokens[True] < 0.7 * tokens[False]


# ---- prompts for decoding --------------------------------------------------------------------------------------------
def test_prompts_are_padded_on_the_left():
    loaded = shared_model("qwen2_vl")
    builder = toy_builder(loaded)
    template = load_task("mmseqrec").templates[0]
    samples = [builder.question(template, history, 14, 4) for history in HISTORIES]
    batch = PromptCollator(loaded.tokenizer.pad_token_id, mrope=True)(samples)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        np.testing.assert_array_equal(batch["input_ids"][row, -size:], sample.ids)
        assert batch["attention_mask"][row].sum() == size
        assert batch["attention_mask"][row, -size:].all()
        ours = np.broadcast_to(sample.positions, (3, size))
        np.testing.assert_array_equal(batch["position_ids"][:, row, -size:], ours)
    assert len(batch["image_grid_thw"]) == sum(len(sample.images) for sample in samples)


def test_pictures_of_unequal_crops_are_filled_up():
    from src.collate import image_inputs

    images = [{"pixel_values": np.ones((1, crops, 3, 2, 2), np.float32)} for crops in (1, 3, 2)]
    values = image_inputs(images)["pixel_values"]
    assert values.shape == (3, 3, 3, 2, 2)
    assert values.sum((1, 2, 3, 4)).tolist() == [12, 36, 24]
    assert image_inputs([]) == {}


# ---- pack ------------------------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 60))
def test_pack(lengths, row_length):
    sizes = np.array(lengths)
    rows = pack(sizes, row_length)
    loads = np.bincount(rows, sizes)
    assert loads.min() > 0  # no row is left out
    if row_length:
        assert loads.max() <= max(row_length, *lengths)
    else:
        assert len(loads) == 1


def test_rows_are_full():
    """Samples of like lengths, of lengths with a long tail, and of two kinds."""
    rng = np.random.default_rng(0)
    even, skewed = rng.integers(34, 150, 1000), 50 + rng.gamma(1.0, 60.0, 1000).astype(int)
    for sizes, least in ((even, 0.995), (skewed, 0.985), (np.repeat([60, 400], 300), 0.95)):
        loads = np.bincount(pack(sizes, 2048), sizes)
        assert loads.max() <= 2048
        assert sizes.sum() >= least * len(loads) * loads.max()
