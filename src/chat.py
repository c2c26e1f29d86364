"""A model's own chat as pieces of tokens: its template around a wording, cut at the slots."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, SLOT, USER_TEXTS

TEXT_SLOTS = (*ITEM_TEXTS, *ENRICHED_TEXTS, *USER_TEXTS)
WORD_SLOTS = (*TEXT_SLOTS, "history_titles")
PLAIN_FRAME = "### Instruction:\n{}\n\n### Response:\n"  # for models without a chat template


class Slot(NamedTuple):
    name: str
    space: bool  # whether its words begin with the space that stands before it


class Chat:
    """The chat of one model."""

    def __init__(self, tokenizer: Any, vision: bool):
        self.tokenizer, self.vision = tokenizer, vision

    def tokenize(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    @cached_property
    def end_token(self) -> int:
        """The token that ends the model's turn: what its chat template writes after an answer, else end of sequence."""
        if self.tokenizer.chat_template:
            asked = self.render("Q", "@answer@")
            after = self.tokenize(asked.partition("@answer@")[2])
            if len(after) and int(after[0]) in self.tokenizer.all_special_ids:
                return int(after[0])
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template that ends a turn nor an end-of-sequence token")
        return int(self.tokenizer.eos_token_id)

    def render(self, prompt: str, answer: str | None = None) -> str:
        """The chat of one prompt (and answer) as text, or the plain frame where the model has no chat template."""
        if not self.tokenizer.chat_template:
            return PLAIN_FRAME.format(prompt) + (answer or "")

        def turn(role: str, text: str) -> dict[str, Any]:
            return {"role": role, "content": [{"type": "text", "text": text}] if self.vision else text}

        turns = [turn("user", prompt)] + ([turn("assistant", answer)] if answer is not None else [])
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)

    @cached_property
    def image_text(self) -> str:
        """What the chat template writes for one picture, e.g. `<|vision_start|><|image_pad|><|vision_end|>`."""
        text = [{"type": "text", "text": "@"}]
        bare, pictured = (
            self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
            for content in (text, [{"type": "image"}, *text])
        )
        head = next(i for i, (a, b) in enumerate(zip(bare + "\0", pictured, strict=False)) if a != b)
        block = pictured[head : head + len(pictured) - len(bare)]
        if bare[:head] + block + bare[head:] != pictured or not block:
            raise ValueError("the chat template does not write pictures in a way that can be told apart")
        return block

    def pieces(self, text: str) -> list[np.ndarray | Slot]:
        """Cuts a rendered wording at its slots: token ids of literals, and slots.

        One space before a slot of words goes to the words (`Title:| Red dress`), as a tokenizer that reads the whole
        text would have it; before SID tokens it stays, for the same reason.
        """
        found: list[np.ndarray | Slot] = []
        parts = SLOT.split(text)
        for literal, slot in zip(parts[::2], [*parts[1::2], None], strict=True):
            space = slot in WORD_SLOTS and literal.endswith(" ")
            if literal := literal[:-1] if space else literal:
                found.append(self.tokenize(literal))
            if slot is not None:
                found.append(Slot(slot, space))
        return found
