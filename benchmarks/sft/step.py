"""A training step, forward and backward: packed samples and shared prefixes against padded batches with all logits."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Row, alternate, median, timed
from benchmarks.rivals import plain_sft
from benchmarks.sft.batches import asked, packed_sequences, padded_sequences
from benchmarks.sft.subject import Subject, make_model, present, spread, subject
from src.collate import TrainingCollator
from src.models import AnswerRows

GOALS = {(False, "17k"): 2.2, (True, "17k"): 3.8, (False, "152k"): 2.2, (True, "152k"): 3.8}
AIMS = {False: 2.6, True: 4.4}
BATCH = {False: 32, True: 8}  # samples, or users, of a forward pass
TOLERANCE = 1e-5
QUICK = {False: {("17k", 32): 1}, True: {("17k", 32): 1, ("152k", 12): 1}}  # vocabulary and samples of a step: runs
WHOLE = {kind: {("17k", 32): 5, ("17k", 64): 5, ("17k", 128): 3, ("152k", 32): 3} for kind in (False, True)}


def our_step(model: nn.Module, answer_rows: AnswerRows, packed: Sequence[dict[str, Tensor]]) -> float:
    """Forward and backward of batches that make one step, as src.finetune does it; the mean loss over answer tokens."""
    total = sum(len(batch["labels"]) for batch in packed)
    loss_sum = 0.0
    for batch in packed:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "predict", "task_ids")}
        logits = answer_rows.logits(model, batch["predict"], **inputs)
        loss = nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="none").sum() / total
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum


def with_gradients(model: nn.Module, step: Callable[[], float]) -> Callable[[], tuple[float, list[Tensor]]]:
    """The step on cleared gradients; gives its loss and the gradients."""

    def run() -> tuple[float, list[Tensor]]:
        for parameter in model.parameters():
            parameter.grad = None
        return step(), [parameter.grad for parameter in model.parameters()]

    return run


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Length of the difference of all gradients together, as a share of the rival's length."""
    off = sum(float((our - their).square().sum()) for our, their in zip(ours, theirs, strict=True))
    return (off / sum(float(their.square().sum()) for their in theirs)) ** 0.5


def matrix_products(model: nn.Module, packed: Sequence[dict[str, Tensor]]) -> Callable[[], None]:
    """All products with weights of a step, forward and backward, on ready matrices; those of attention are not here."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not model.lm_head]
    work = []
    for batch in packed:
        for weight, num_rows in (
            *((module.weight.detach(), batch["input_ids"].numel()) for module in linear),
            (model.lm_head.weight.detach(), len(batch["labels"])),
        ):
            inputs, gradient = torch.randn(num_rows, weight.shape[1]), torch.randn(num_rows, weight.shape[0])
            work.append((inputs, weight, gradient))

    def run() -> None:
        for inputs, weight, gradient in work:
            torch.mm(inputs, weight.t())
            torch.mm(gradient.t(), inputs)
            torch.mm(gradient, weight)

    return run


def chosen(subject: Subject, share_prefix: bool, number: int) -> np.ndarray:
    """Examples with as many samples in all as wanted, or a few more, their lengths spread as in an epoch."""
    dataset = subject.dataset(share_prefix)
    sizes = dataset.__getitems__(range(len(dataset))).sizes
    per_example = len(subject.catalogue.next_item_targets("train").users) / len(dataset)
    return spread(sizes, max(1, round(number / per_example)))


def step_rows(
    name: str, subject: Subject, vocabulary: str, share_prefix: bool, number: int, runs: int
) -> Iterator[Row]:
    dataset, tokenizer = subject.dataset(share_prefix), subject.builder.tokenizer
    examples = chosen(subject, share_prefix, number)
    collate = TrainingCollator(tokenizer.pad_token_id, mrope=False, row_length=0)  # as training on a CPU sets it
    size = BATCH[share_prefix]
    packed = [collate(dataset.__getitems__(examples[i : i + size])) for i in range(0, len(examples), size)]
    samples = asked(dataset, examples)
    samples = [samples[i] for i in np.random.default_rng(2).permutation(len(samples))]
    plain = plain_sft.PlainDataset(subject.catalogue, samples)
    padded = list(plain_sft.batches(plain, plain_sft.PlainCollator(tokenizer)))
    is_same = sorted(chain.from_iterable(map(packed_sequences, packed))) == padded_sequences(padded)

    model = make_model(vocabulary)
    answer_rows = AnswerRows(model)
    ours = with_gradients(model, lambda: our_step(model, answer_rows, packed))
    rival = with_gradients(model, lambda: plain_sft.step(model, padded))
    if runs > 1 or vocabulary == "17k":
        our_step(model, answer_rows, packed[:1]), plain_sft.step(model, padded[:1])  # warm up
    timings = alternate(ours, rival, runs, warm_up=False)
    (our_loss, our_gradients), (their_loss, their_gradients) = timings.our_result, timings.rival_result
    gradient_off = distance(our_gradients, their_gradients)
    loss_off = abs(our_loss - their_loss) / their_loss
    kind = "shared prefixes" if share_prefix else "independent"
    label = f"step, {name}, {kind}, {len(samples)} samples, {vocabulary}"
    yield timings.ratio(
        label,
        "Qwen2 with padded batches of 8 and labels=",
        goal=GOALS[share_prefix, vocabulary],
        equal=is_same and max(loss_off, gradient_off) < TOLERANCE,
        note=f"{median(timings.ours):.2f} s against {median(timings.rival):.2f} s; aim {AIMS[share_prefix]}; tokens"
        f" {sum(b['input_ids'].numel() for b in packed):,} against {sum(b['input_ids'].numel() for b in padded):,};"
        f" loss off by {loss_off:.0e}, gradient by {gradient_off:.0e}",
    )
    floors = [timed(matrix_products(model, packed))[0] for _ in range(runs)]
    shares = [floor / seconds for floor, seconds in zip(floors, timings.ours, strict=True)]
    yield Row(
        f"{label}: share of its matrix products",
        median(shares),
        "",
        rival="the same-shape products alone",
        runs=runs,
        spread=(min(shares), max(shares)),
    )


def rows(quick: bool) -> Iterator[Row]:
    for name in present()[: 1 if quick else None]:
        for share_prefix in (False, True):
            for (vocabulary, number), runs in (QUICK if quick else WHOLE)[share_prefix].items():
                yield from step_rows(name, subject(name), vocabulary, share_prefix, number, runs)
