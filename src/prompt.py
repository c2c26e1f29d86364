"""From a wording and an example to token ids: one assembly for training and inference, so that they cannot differ.

A wording is rendered through the model's own chat template and cut at its slots; the literal pieces and the words of
every item are tokenised once. A sample is then put together from ids.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from src.chat import WORD_SLOTS, Chat, Slot
from src.common.log import logger
from src.item_tokens import ItemTokens, View
from src.prompt_settings import PromptSettings
from src.tasks.catalogue import Catalogue
from src.tasks.task import SLOT, USER_TEXTS, Template

History = Sequence[int] | np.ndarray  # item ids, oldest first


class Sample(NamedTuple):
    """One sequence of tokens, perhaps with several branches that share a trunk (T tokens, P of them learnt).

    Token q sees token k <= q where k >= start[q] (its own branch) or k < visible[q] (the part of the trunk that its
    branch hangs from). A plain sequence is one trunk: start and visible are 0.
    """

    ids: np.ndarray  # (T,) int64
    positions: np.ndarray  # (T,) int64, or (3, T) for M-RoPE
    start: np.ndarray  # (T,) int64
    visible: np.ndarray  # (T,) int64
    predict: np.ndarray  # (P,) int64: the token after these is to be learnt ...
    targets: np.ndarray  # (P,) int64: ... and is this one
    images: tuple[Mapping[str, np.ndarray], ...] = ()  # model inputs of each picture, in the order of the placeholders
    task: int = 0


class PromptBuilder:
    """Assembles samples of one dataset for one model."""

    def __init__(
        self,
        catalogue: Catalogue,
        tokenizer: Any,
        processor: Any | None,
        settings: PromptSettings,
        merge_size: int | None = None,
    ):
        """
        Args:
            catalogue: without a SID index only wordings without SIDs can be asked.
            tokenizer: with the SID tokens already in it.
            processor: of a VLM; None for text models.
            merge_size: patches of a side that become one image token, for models with M-RoPE; None for plain positions.
        """
        self.catalogue, self.tokenizer, self.settings = catalogue, tokenizer, settings
        self.processor: Any = processor
        self.merge_size = merge_size
        self.vision = processor is not None
        self.chat = Chat(tokenizer, self.vision)
        self.items = ItemTokens(catalogue, self.chat, processor, settings)
        self.row_of = self.items.row_of
        self.separator = self.chat.tokenize(settings.his_sep)
        self._templates: dict[tuple[Template, bool], tuple[list, list]] = {}
        self._fitted: dict[tuple[Template, frozenset[str]], Template] = {}
        self._numbers: dict[str, np.ndarray] = {}

    def with_catalogue(self, catalogue: Catalogue) -> "PromptBuilder":
        """The same assembly over the same items with other pictures."""
        return PromptBuilder(catalogue, self.tokenizer, self.processor, self.settings, self.merge_size)

    @property
    def sids(self) -> np.ndarray:
        return self.items.sids

    @property
    def end_token(self) -> int:
        return self.chat.end_token

    @cached_property
    def image_token_id(self) -> int:
        token = getattr(self.processor, "image_token_id", None)
        if token is None:
            token = self.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        return int(token)

    # ---- wordings ----------------------------------------------------------------------------------------------------
    def pieces_of(self, template: Template, with_image: bool = True) -> tuple[list, list]:
        """Pieces of the prompt and of the answer of a wording; `with_image` False takes its image-free prompt."""
        key = (template, with_image)
        if key not in self._templates:
            prompt = template.prompt
            if not with_image:
                prompt = template.prompt_without_image or prompt.replace("{history_images}", "")
            if self.catalogue.sid_index is None and {"sid", "history"} & set(SLOT.findall(prompt + template.answer)):
                raise ValueError("the wording names items by their SIDs, so a SID index is needed: give --index_file")
            if "{image}" in prompt and not self.vision:
                raise ValueError("a text model cannot be asked about pictures: choose tasks without images")
            self._templates[key] = self.chat.pieces(self.chat.render(prompt)), self.chat.pieces(template.answer)
        return self._templates[key]

    def fitted(self, template: Template, history: History, item: int) -> Template:
        """The wording as it suits an example: parts about what its item or its history leaves empty are gone."""
        if not template.has_options:
            return template
        empty = self.items.empty_texts(int(item)) if item >= 0 else frozenset()
        key = (template, empty if len(history) else empty | {"history"})
        if key not in self._fitted:
            self._fitted[key] = template.without(key[1])
        return self._fitted[key]

    # ---- assembly ----------------------------------------------------------------------------------------------------
    def _history_parts(self, slot: Slot, history: History) -> list[np.ndarray]:
        """Token ids of each item of a history, separators included (before every item but the first)."""
        spaced = self.settings.his_sep.endswith(" ") and slot.name == "history_titles"
        separator = self._bare_separator if spaced else self.separator
        parts = []
        for number, item in enumerate(history, 1):
            titled, lead = slot.name == "history_titles", slot.space if number == 1 else spaced
            prefix = self.settings.add_prefix
            body = self.items.words("title", item, lead or prefix) if titled else self.sids[self.row_of[item]]
            if prefix:  # the space after the number goes to the title, as above, and stays before SID tokens
                body = np.concatenate([self._number(f"{' ' * lead}{number}.{' ' * (not titled)}"), body])
            parts.append(body if number == 1 else np.concatenate([separator, body]))
        return parts

    @cached_property
    def _bare_separator(self) -> np.ndarray:
        return self.chat.tokenize(self.settings.his_sep[:-1])

    def _number(self, text: str) -> np.ndarray:
        if text not in self._numbers:
            self._numbers[text] = self.chat.tokenize(text)
        return self._numbers[text]

    def _fill(
        self, pieces: list, history: History, item: int, view: View | None = None, text: int = -1
    ) -> tuple[list[np.ndarray], list[dict]]:
        """Token ids of each piece with its slot filled, and the pictures in their order."""
        filled: list[np.ndarray] = []
        images: list[dict] = []
        for piece in pieces:
            if isinstance(piece, np.ndarray):
                filled.append(piece)
            elif piece.name == "sid":
                filled.append(self.sids[self.row_of[item]])
            elif piece.name in ("history", "history_titles"):
                filled.append(np.concatenate(self._history_parts(piece, history)))
            elif piece.name in ("image", "history_images"):
                shown = [item] if piece.name == "image" else self._pictured(history)
                blocks = [self.items.image(i, view) for i in shown]
                filled.append(np.concatenate([np.empty(0, np.int64), *(block.ids for block in blocks)]))
                images += [block.inputs for block in blocks]
            else:
                number = text if piece.name in USER_TEXTS else item
                if number < 0:
                    raise ValueError(f"the wording asks for a {piece.name}, and the example has none")
                filled.append(self.items.words(piece.name, number, piece.space))
        return filled, images

    @staticmethod
    def _cut_words(pieces: list, filled: list[np.ndarray], excess: int) -> bool:
        """Takes `excess` tokens off the end of the longest words among the pieces; says whether they had as many."""
        texts = [place for place, piece in enumerate(pieces) if isinstance(piece, Slot) and piece.name in WORD_SLOTS]
        longest = max(texts, key=lambda place: len(filled[place]), default=None)
        if longest is None or len(filled[longest]) < excess:
            return False
        filled[longest] = filled[longest][: len(filled[longest]) - excess]
        return True

    def _wants_image(self, template: Template, history: History, item: int) -> bool:
        if "image" in template.slots:
            return self.items.has_image(item)
        return "history_images" not in template.slots or bool(self._pictured(history))

    def _pictured(self, history: History) -> list[int]:
        """Those of the latest `max_his_images` items of a history that have a picture."""
        return [i for i in history[max(0, len(history) - self.settings.max_his_images) :] if self.items.has_image(i)]

    def answer_ids(self, template: Template, history: History, item: int, text: int = -1) -> np.ndarray:
        """Token ids of the right answer and the end of the turn.

        Words that would take more than half of `model_max_length`, and so leave no room for a prompt, are cut.
        """
        _, pieces = self.pieces_of(self.fitted(template, history, item))
        filled, _ = self._fill(pieces, history, item, text=text)
        excess = sum(map(len, filled)) + 1 - self.settings.model_max_length // 2
        if excess > 0:
            self._cut_words(pieces, filled, excess)
        return np.concatenate([*filled, [self.end_token]])

    def prompt_ids(
        self, template: Template, history: History, item: int, reserve: int = 0, view: View | None = None,
        text: int = -1,
    ) -> tuple[np.ndarray, list[dict]]:  # fmt: skip
        """Token ids of a prompt and its pictures; `text` is the row of the text about a user that it speaks of.

        A prompt that would leave less than `reserve` tokens of `model_max_length` loses its oldest history; where the
        latest item is all that is left of it, or there is none, the longest words are cut. Placeholders of pictures are
        never cut.

        Raises:
            ValueError: even so it is too long.
        """
        template, history = self.fitted(template, history, item), list(history)
        if self.settings.max_his_len:
            history = history[-self.settings.max_his_len :]
        room = self.settings.model_max_length - reserve
        history = history[-max(room, 1) :]  # an item takes a token at least

        def fill(start: int) -> tuple[list, list[np.ndarray], list[dict], int]:
            """The wording with the history from `start` on, and by how many tokens it is too long."""
            pieces, _ = self.pieces_of(template, self._wants_image(template, history[start:], item))
            filled, images = self._fill(pieces, history[start:], item, view, text)
            return pieces, filled, images, sum(map(len, filled)) - room

        pieces, filled, images, excess = fill(0)
        last = len(history) - 1
        if excess > 0 and last > 0 and {"history", "history_titles", "history_images"} & template.slots:
            # The longer the history, the longer the prompt: the longest that fits is found by halving.
            start = 1 + bisect_left(range(1, last), True, key=lambda start: fill(start)[-1] <= 0)
            pieces, filled, images, excess = fill(start)
        if excess > 0 and not self._cut_words(pieces, filled, excess):
            asked = f" (item {item})" if item >= 0 else ""
            raise ValueError(
                f"a prompt of {excess + room} tokens{asked} does not fit in --model_max_length"
                f" {self.settings.model_max_length}: raise it, or use smaller pictures"
            )
        return np.concatenate(filled), images

    def positions(self, ids: np.ndarray, images: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Position ids of a plain sequence: (T,), or (3, T) where the model has M-RoPE and there are pictures.

        M-RoPE (Qwen2-VL, https://arxiv.org/abs/2409.12191): the tokens of a picture share their time and count rows and
        columns; the text after it goes on from the largest of these.
        """
        plain = np.arange(len(ids))
        if self.merge_size is None or not images:
            return plain
        positions = np.tile(plain, (3, 1))
        is_image = ids == self.image_token_id
        begins = np.flatnonzero(is_image & ~np.concatenate([[False], is_image[:-1]]))
        for begin, inputs in zip(begins, images, strict=True):
            _, height, width = (int(n) for n in inputs["image_grid_thw"][0])
            height, width = height // self.merge_size, width // self.merge_size
            end = begin + height * width
            first = positions[0, begin]
            rows, columns = np.divmod(np.arange(height * width), width)
            positions[0, begin:end] = first
            positions[1, begin:end] = first + rows
            positions[2, begin:end] = first + columns
            positions[:, end:] = first + max(height, width) + np.arange(len(ids) - end)
        return positions

    def sample(
        self, template: Template, history: History, item: int, task: int = 0, view: View | None = None,
        text: int = -1,
    ) -> Sample:  # fmt: skip
        """A training sample: prompt, answer and the end of the turn, of which answer and end are learnt."""
        answer = self.answer_ids(template, history, item, text)
        prompt, images = self.prompt_ids(template, history, item, len(answer), view, text)
        ids = np.concatenate([prompt, answer[:-1]])
        zeros = np.zeros(len(ids), np.int64)
        predict = np.arange(len(prompt) - 1, len(ids))
        return Sample(ids, self.positions(ids, images), zeros, zeros, predict, answer, tuple(images), task)

    def question(self, template: Template, history: History, item: int, reserve: int, text: int = -1) -> Sample:
        """A sample without its answer, as inference feeds it."""
        ids, images = self.prompt_ids(template, history, item, reserve, text=text)
        zeros, none = np.zeros(len(ids), np.int64), np.empty(0, np.int64)
        return Sample(ids, self.positions(ids, images), zeros, zeros, none, none, tuple(images))

    def learn_everything(self, sample: Sample) -> Sample:
        """The sample with every token learnt but the first, and but the placeholders of pictures."""
        targets = np.concatenate([sample.ids[1:], sample.targets[-1:]])
        learnt = targets != self.image_token_id if sample.images else np.ones(len(targets), bool)
        return sample._replace(predict=np.flatnonzero(learnt), targets=targets[learnt])

    def can_share_prefix(self, template: Template) -> bool:
        """Whether samples of one user can share a pass: the history is the only slot, and the answer is a SID.

        The first code is predicted from the last token of the prompt, so a prompt may not end with its history.
        """
        if template.slots != {"history", "sid"} or not template.answers_with_item:
            return False
        return isinstance(self.pieces_of(template)[0][-1], np.ndarray)

    def items_that_fit(self, template: Template, most: int) -> int:
        """How long a history, up to `most` items, a wording that can share a pass takes before it loses its oldest."""
        pieces, _ = self.pieces_of(template)
        slot = next(piece for piece in pieces if isinstance(piece, Slot))
        parts = self._history_parts(slot, [int(self.catalogue.item_ids[0])] * most)  # all SIDs are of one length
        fixed = sum(len(piece) for piece in pieces if isinstance(piece, np.ndarray)) + self.sids.shape[1] + 1
        return int((fixed + np.cumsum([len(part) for part in parts]) <= self.settings.model_max_length).sum())

    def shared_sample(self, template: Template, sequence: History, first: int, task: int = 0) -> Sample:
        """All next-item samples of `sequence[first:]` in one: the items before a target are its history.

        The trunk is the wording up to the history, and the history; a branch per target holds the rest of the wording
        and the answer, with the positions that they would have in a sample of their own.
        """
        pieces, _ = self.pieces_of(template)
        slot = next(place for place, piece in enumerate(pieces) if isinstance(piece, Slot))
        head = np.concatenate([np.empty(0, np.int64), *pieces[:slot]])
        tail = np.concatenate([np.empty(0, np.int64), *pieces[slot + 1 :]])
        parts = self._history_parts(pieces[slot], sequence[:-1])
        ends = len(head) + np.cumsum([len(part) for part in parts])  # ends[k - 1]: trunk that k items of history need
        trunk = np.concatenate([head, *parts])
        ids, positions = [trunk], [np.arange(len(trunk))]
        start, visible = [np.zeros(len(trunk), np.int64)], [np.zeros(len(trunk), np.int64)]
        predict, targets = [], []
        length = len(trunk)
        for place in range(first, len(sequence)):
            sid = self.sids[self.row_of[sequence[place]]]
            size, seen = len(tail) + len(sid), int(ends[place - 1])
            ids += [tail, sid]
            positions.append(np.arange(seen, seen + size))
            start.append(np.full(size, length))
            visible.append(np.full(size, seen))
            predict.append(np.arange(length + len(tail) - 1, length + size))
            targets += [sid, [self.end_token]]
            length += size
        join = np.concatenate
        return Sample(
            join(ids),
            join(positions),
            join(start),
            join(visible),
            join(predict),
            join(targets).astype(np.int64),
            (),
            task,
        )


def log_prompt(builder: PromptBuilder, name: str, sample: Sample) -> None:
    """Shows a sample as the model sees it, once a task: the quickest check that a prompt is what one thinks."""
    logger.info("%s: %s", name, builder.tokenizer.decode(sample.ids))
