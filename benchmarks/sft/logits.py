"""What logits take in memory while histories grow: ours by answer tokens, the rival's by all tokens."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.harness import Row
from benchmarks.rivals import plain_sft
from benchmarks.sft.step import our_step
from benchmarks.sft.subject import Subject, make_model, present, subject
from src.collate import TrainingCollator
from src.models import AnswerRows

BATCH_SIZE = 8
HISTORIES = (5, 10, 20)
MIB = 1 << 20


class LogitBytes(TorchDispatchMode):
    """Bytes of all living tensors whose last dimension is the vocabulary, and the most there were.

    The head's matrix and its gradient, transposed, are none of them.
    """

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__()
        self.vocab_size, self.hidden_size, self.living, self.peak = vocab_size, hidden_size, {}, 0

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        if tensor.ndim < 2 or tensor.shape[-1] != self.vocab_size or tensor.shape[-2] == self.hidden_size:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.living:
            self.living[key] = storage.nbytes()
            weakref.finalize(storage, self.living.pop, key, None)
            self.peak = max(self.peak, sum(self.living.values()))


def peaks(subject: Subject, vocabulary: str, num_items: int) -> tuple[float, float]:
    """MiB of logits in a step on samples with `num_items` items of history: ours, the rival's."""
    dataset, tokenizer = subject.dataset(share_prefix=False), subject.builder.tokenizer
    examples = (dataset.examples[:, 1] == num_items).nonzero()[0][:BATCH_SIZE]
    packed = [TrainingCollator(tokenizer.pad_token_id, mrope=False, row_length=0)(dataset.__getitems__(examples))]
    plain = plain_sft.PlainDataset(
        subject.catalogue,
        [plain_sft.Asked(dataset.wording(int(i), 0), *map(int, dataset.examples[i, :2])) for i in examples],
    )
    padded = list(plain_sft.batches(plain, plain_sft.PlainCollator(tokenizer), BATCH_SIZE))
    model = make_model(vocabulary, num_hidden_layers=1)
    found = []
    answer_rows = AnswerRows(model)
    for step in (lambda: our_step(model, answer_rows, packed), lambda: plain_sft.step(model, padded)):
        with LogitBytes(model.config.vocab_size, model.config.hidden_size) as counted:
            step()
        found.append(counted.peak / MIB)
    return found[0], found[1]


def rows(quick: bool) -> Iterator[Row]:
    for name in present()[:1]:
        vocabulary = "17k" if quick else "152k"
        found = {num_items: peaks(subject(name), vocabulary, num_items) for num_items in HISTORIES}
        for num_items, (ours, theirs) in found.items():
            yield Row(
                f"memory of logits, {vocabulary}, {BATCH_SIZE} samples, {num_items} items before",
                theirs / ours,
                "x",
                goal=15.0 if num_items == HISTORIES[-1] else None,
                rival="padded batch of 8, all logits",
                note=f"{ours:.1f} MiB against {theirs:.1f} MiB",
            )
        yield Row(
            f"memory of logits, {vocabulary}: {HISTORIES[-1]} items before against {HISTORIES[0]}",
            found[HISTORIES[-1]][0] / found[HISTORIES[0]][0],
            "x",
            higher_is_better=False,
            goal=1.001,
            rival="ours with short histories: as many answers",
            note=f"the rival's: {found[HISTORIES[-1]][1] / found[HISTORIES[0]][1]:.1f} x",
        )
