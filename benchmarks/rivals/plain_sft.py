"""The rival of the SFT stage: fine-tuning on next-item prompts as public code does it, written anew.

Samples are texts; the collator tokenises prompt and answer for the ids, and the prompt once more for how many of them
are masked, and pads to the longest; the model makes logits of every position and the loss itself, from `labels`.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from src.tasks.catalogue import Catalogue
from src.tasks.task import Template

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # CPU seconds of one thread
IGNORE = -100
FRAME = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # the chat template, rendered once
END = "<|im_end|>"


class Asked(NamedTuple):
    """One sample: the item at `position` of a user's sequence is to be told from those before it."""

    template: Template
    user: int
    position: int


class PlainDataset:
    """Gives the prompt and the answer of each sample as text."""

    def __init__(self, catalogue: Catalogue, asked: Sequence[Asked], max_his_len: int = 20, his_sep: str = ", "):
        self.catalogue, self.asked, self.max_his_len, self.his_sep = catalogue, asked, max_his_len, his_sep
        index = catalogue.sid_index
        rows = index.rows_of(catalogue.item_ids).tolist()
        self.sids = {
            item: "".join(index.tokens_of(row)) for item, row in zip(catalogue.item_ids.tolist(), rows, strict=True)
        }

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> tuple[str, str]:
        template, user, position = self.asked[index]
        history = self.catalogue.history(user, position, self.max_his_len).tolist()
        instruction = template.prompt.format(history=self.his_sep.join([self.sids[item] for item in history]))
        return FRAME.format(instruction), self.sids[self.catalogue.target(user, position)] + END


class PlainCollator:
    def __init__(self, tokenizer, max_length: int = 2048):
        self.tokenizer, self.max_length = tokenizer, max_length
        tokenizer.padding_side = "right"

    def __call__(self, texts: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """input_ids, attention_mask and labels, (B, T) int64 each."""
        options = {"max_length": self.max_length, "truncation": True, "add_special_tokens": False}
        batch = self.tokenizer(
            [prompt + answer for prompt, answer in texts], padding="longest", return_tensors="pt", **options
        )
        prompts = self.tokenizer([prompt for prompt, _ in texts], **options)["input_ids"]
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
        for row, prompt in enumerate(prompts):
            labels[row, : len(prompt)] = IGNORE
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def batches(dataset: PlainDataset, collate: PlainCollator, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
    for begin in range(0, len(dataset), batch_size):
        yield collate([dataset[i] for i in range(begin, min(begin + batch_size, len(dataset)))])


def step(model: nn.Module, padded: Sequence[dict[str, Tensor]]) -> float:
    """Forward and backward of batches that make one step; the mean loss over all answer tokens."""
    total = sum(int((batch["labels"] != IGNORE).sum()) for batch in padded)
    loss_sum = 0.0
    for batch in padded:
        loss = model(**batch).loss * (int((batch["labels"] != IGNORE).sum()) / total)
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum
