"""From a wording and an example to token ids: one assembly for training and inference, so that they cannot differ.

A wording is rendered through the model's own chat template and cut at its slots; the literal pieces and the words of
every item are tokenised once. A sample is then put together from ids.
"""

import random
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from src.common.artifacts import read_json
from src.common.images import open_image, random_view
from src.common.log import logger
from src.spelling import spelled_sids
from src.tasks.catalogue import Catalogue
from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, LANGUAGES, SLOT, USER_TEXTS, Task, Template
from src.tasks.texts import text_of

IMAGE_CACHE_BYTES = 512 << 20  # pictures, as the model takes them, kept in memory by each process
TEXT_SLOTS = (*ITEM_TEXTS, *ENRICHED_TEXTS, *USER_TEXTS)
WORD_SLOTS = (*TEXT_SLOTS, "history_titles")
PLAIN_FRAME = "### Instruction:\n{}\n\n### Response:\n"  # for models without a chat template


@dataclass(frozen=True)
class PromptSettings:
    """What decides the token ids of a prompt; travels with a checkpoint, so that inference asks as training did."""

    max_his_len: int = 20
    his_sep: str = ", "
    add_prefix: bool = False
    max_his_images: int = 8
    model_max_length: int = 2048
    prompt_lang: str = "en"
    sid_digits: int = 0  # of a code, where SIDs are spelt with ordinary tokens; 0: every code is a token of its own


def checkpoint_settings(ckpt_model: str | Path, prompt_lang: str | None = None) -> PromptSettings:
    """The settings that a fine-tuned model was trained with, from its run.json; else the defaults.

    Args:
        prompt_lang: language of the wordings where there is no run.json.

    Raises:
        ValueError: `prompt_lang` is another language than the model was trained with, or has no wordings.
    """
    path = Path(ckpt_model) / "run.json"
    settings = PromptSettings(**read_json(path)["prompt_settings"]) if path.is_file() else None
    if settings is None:
        settings = PromptSettings(prompt_lang=prompt_lang or PromptSettings.prompt_lang)
    elif prompt_lang not in (None, settings.prompt_lang):
        raise ValueError(f"{ckpt_model} was trained on prompts in {settings.prompt_lang}: leave out --prompt_lang")
    if settings.prompt_lang not in LANGUAGES:
        raise ValueError(f"--prompt_lang {settings.prompt_lang!r}: choose from {', '.join(LANGUAGES)}")
    return settings


def check_templates(ckpt_model: str | Path, task: Task) -> None:
    """Refuses to ask a fine-tuned model in other wordings than it was trained on.

    Passes where its run.json says nothing of the task: another system's model, or a task that it was not trained on.

    Raises:
        ValueError: the wordings have changed since.
    """
    path = Path(ckpt_model) / "run.json"
    record = read_json(path) if path.is_file() else {}
    if record.get("templates_sha256", {}).get(task.name, task.templates_sha256) != task.templates_sha256:
        raise ValueError(
            f"the wordings of {task.name} have changed since {ckpt_model} was trained (commit"
            f" {record.get('commit', 'unknown')}): it would be asked in words that it never saw. Bring back the"
            f" {task.name}.json of that commit in src/tasks/templates, or fine-tune again"
        )


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


class Slot(NamedTuple):
    name: str
    space: bool  # whether its words begin with the space that stands before it


class View(NamedTuple):
    """A random view of pictures: how much they may move and zoom, and what it is drawn from."""

    amount: float
    key: str


class ImageBlock(NamedTuple):
    ids: np.ndarray  # placeholder tokens, with what surrounds them
    inputs: dict[str, np.ndarray]  # pixel_values and the like


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
        self.catalogue, self.tokenizer, self.processor, self.settings = catalogue, tokenizer, processor, settings
        self.merge_size = merge_size
        self.vision = processor is not None
        self.sids = None if catalogue.sid_index is None else self._sid_ids()
        self.row_of = np.full(int(catalogue.item_ids[-1]) + 1, -1)
        self.row_of[catalogue.item_ids] = np.arange(len(catalogue.item_ids))
        self.separator = self._tokenize(settings.his_sep)
        self._texts: dict[tuple[str, bool], list[np.ndarray]] = {}
        self._templates: dict[tuple[Template, bool], tuple[list, list]] = {}
        self._empty: dict[int, frozenset[str]] = {}
        self._fitted: dict[tuple[Template, frozenset[str]], Template] = {}
        self._numbers: dict[str, np.ndarray] = {}
        self._images: dict[int, ImageBlock] = {}
        self._image_bytes = 0

    def with_catalogue(self, catalogue: Catalogue) -> "PromptBuilder":
        """The same assembly over the same items with other pictures."""
        return PromptBuilder(catalogue, self.tokenizer, self.processor, self.settings, self.merge_size)

    # ---- what never changes ------------------------------------------------------------------------------------------
    def _tokenize(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def _sid_ids(self) -> np.ndarray:
        """(N, L) int64: token ids of each item's SID, rows as in catalogue.item_ids; spelt SIDs are longer."""
        index = self.catalogue.sid_index
        if self.settings.sid_digits:
            sids = spelled_sids(self.tokenizer, index, self.settings.sid_digits)
            return sids[index.rows_of(self.catalogue.item_ids)]
        ids = self.tokenizer.convert_tokens_to_ids(index.all_tokens)
        unknown = [
            token for token, i in zip(index.all_tokens, ids, strict=True) if i in (None, self.tokenizer.unk_token_id)
        ]
        if unknown:
            raise ValueError(
                f"the tokenizer lacks {len(unknown)} SID tokens, the first being {unknown[0]}: wrong index?"
            )
        rows = index.rows_of(self.catalogue.item_ids)
        return np.asarray(ids, np.int64)[index.codes[rows] + index.level_offsets]

    @cached_property
    def end_token(self) -> int:
        """The token that ends the model's turn: what its chat template writes after an answer, else end of sequence."""
        if self.tokenizer.chat_template:
            asked = self._render("Q", "@answer@")
            after = self._tokenize(asked.partition("@answer@")[2])
            if len(after) and int(after[0]) in self.tokenizer.all_special_ids:
                return int(after[0])
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template that ends a turn nor an end-of-sequence token")
        return int(self.tokenizer.eos_token_id)

    def _render(self, prompt: str, answer: str | None = None) -> str:
        """The chat of one prompt (and answer) as text, or the plain frame where the model has no chat template."""
        if not self.tokenizer.chat_template:
            return PLAIN_FRAME.format(prompt) + (answer or "")

        def turn(role: str, text: str) -> dict[str, Any]:
            return {"role": role, "content": [{"type": "text", "text": text}] if self.vision else text}

        turns = [turn("user", prompt)] + ([turn("assistant", answer)] if answer is not None else [])
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)

    @cached_property
    def _image_text(self) -> str:
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

    def _pieces(self, text: str) -> list[np.ndarray | Slot]:
        """Cuts a rendered wording at its slots: token ids of literals, and slots.

        One space before a slot of words goes to the words (`Title:| Red dress`), as a tokenizer that reads the whole
        text would have it; before SID tokens it stays, for the same reason.
        """
        pieces: list[np.ndarray | Slot] = []
        parts = SLOT.split(text)
        for literal, slot in zip(parts[::2], [*parts[1::2], None], strict=True):
            space = slot in WORD_SLOTS and literal.endswith(" ")
            if literal := literal[:-1] if space else literal:
                pieces.append(self._tokenize(literal))
            if slot is not None:
                pieces.append(Slot(slot, space))
        return pieces

    def pieces_of(self, template: Template, with_image: bool = True) -> tuple[list, list]:
        """Pieces of the prompt and of the answer of a wording; `with_image` False takes its image-free prompt."""
        key = (template, with_image)
        if key not in self._templates:
            prompt = template.prompt
            if not with_image:
                prompt = template.prompt_without_image or prompt.replace("{history_images}", "")
            if self.sids is None and {"sid", "history"} & set(SLOT.findall(prompt + template.answer)):
                raise ValueError("the wording names items by their SIDs, so a SID index is needed: give --index_file")
            if "{image}" in prompt and not self.vision:
                raise ValueError("a text model cannot be asked about pictures: choose tasks without images")
            self._templates[key] = self._pieces(self._render(prompt)), self._pieces(template.answer)
        return self._templates[key]

    # ---- items -------------------------------------------------------------------------------------------------------
    def words(self, slot: str, number: int, space: bool) -> np.ndarray:
        """Token ids of a text of item `number`, or of the text about a user in row `number`, led by a space or not."""
        of_users = slot in USER_TEXTS
        key = (slot, space)
        if key not in self._texts:
            lead = " " if space else ""
            numbers = range(len(self.catalogue.user_texts[slot].texts)) if of_users else self.catalogue.item_ids
            texts = [lead + self._harmless(self._text(slot, int(i))) for i in numbers]
            ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
            self._texts[key] = [np.asarray(row, np.int64) for row in ids]
        return self._texts[key][number if of_users else self.row_of[number]]

    def _text(self, slot: str, number: int) -> str:
        return text_of(self.catalogue, slot, number, self.settings.prompt_lang)

    def _harmless(self, text: str) -> str:
        """`text` on one line, with control and SID tokens broken up: a title may not end the turn, claim a picture or
        name an item."""
        return " ".join(self._added_tokens.sub(lambda token: " ".join(token[0]), text).split())

    @cached_property
    def _added_tokens(self) -> re.Pattern:
        tokens = {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))

    def has_image(self, item: int) -> bool:
        return int(item) in self.catalogue.image_files

    def image(self, item: int, view: View | None = None) -> ImageBlock:
        """The picture of an item as the model takes it, or a random view of it.

        Whole pictures are kept in memory as far as IMAGE_CACHE_BYTES go.
        """
        item = int(item)
        if view is not None:
            picture = open_image(self.catalogue.image_files[item])
            return self._image_block(random_view(picture, view.amount, random.Random(f"{view.key}/{item}")))
        if item not in self._images:
            block = self._image_block(open_image(self.catalogue.image_files[item]))
            self._image_bytes += sum(value.nbytes for value in block.inputs.values())
            if self._image_bytes > IMAGE_CACHE_BYTES:
                return block
            self._images[item] = block
        return self._images[item]

    def _image_block(self, picture: Image) -> ImageBlock:
        made = dict(self.processor(text=[self._image_text], images=[picture], return_tensors="np"))
        ids = np.asarray(made.pop("input_ids")[0], np.int64)
        text_only = ("attention_mask", "mm_token_type_ids", "token_type_ids")
        return ImageBlock(ids, {name: np.asarray(value) for name, value in made.items() if name not in text_only})

    def fitted(self, template: Template, history: Sequence[int], item: int) -> Template:
        """The wording as it suits an example: parts about what its item or its history leaves empty are gone."""
        if not template.has_options:
            return template
        empty = self._empty_texts(int(item)) if item >= 0 else frozenset()
        key = (template, empty if len(history) else empty | {"history"})
        if key not in self._fitted:
            self._fitted[key] = template.without(key[1])
        return self._fitted[key]

    def _empty_texts(self, item: int) -> frozenset[str]:
        if item not in self._empty:
            slots = (*ITEM_TEXTS, *ENRICHED_TEXTS)
            self._empty[item] = frozenset(slot for slot in slots if not self._text(slot, item).strip())
        return self._empty[item]

    # ---- assembly ----------------------------------------------------------------------------------------------------
    def _history_parts(self, slot: Slot, history: Sequence[int]) -> list[np.ndarray]:
        """Token ids of each item of a history, separators included (before every item but the first)."""
        spaced = self.settings.his_sep.endswith(" ") and slot.name == "history_titles"
        separator = self._bare_separator if spaced else self.separator
        parts = []
        for number, item in enumerate(history, 1):
            titled, lead = slot.name == "history_titles", slot.space if number == 1 else spaced
            prefix = self.settings.add_prefix
            body = self.words("title", item, lead or prefix) if titled else self.sids[self.row_of[item]]
            if prefix:  # the space after the number goes to the title, as above, and stays before SID tokens
                body = np.concatenate([self._number(f"{' ' * lead}{number}.{' ' * (not titled)}"), body])
            parts.append(body if number == 1 else np.concatenate([separator, body]))
        return parts

    @cached_property
    def _bare_separator(self) -> np.ndarray:
        return self._tokenize(self.settings.his_sep[:-1])

    def _number(self, text: str) -> np.ndarray:
        if text not in self._numbers:
            self._numbers[text] = self._tokenize(text)
        return self._numbers[text]

    def _fill(
        self, pieces: list, history: Sequence[int], item: int, view: View | None = None, text: int = -1
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
                blocks = [self.image(i, view) for i in shown]
                filled.append(np.concatenate([np.empty(0, np.int64), *(block.ids for block in blocks)]))
                images += [block.inputs for block in blocks]
            else:
                number = text if piece.name in USER_TEXTS else item
                if number < 0:
                    raise ValueError(f"the wording asks for a {piece.name}, and the example has none")
                filled.append(self.words(piece.name, number, piece.space))
        return filled, images

    @staticmethod
    def _cut_words(pieces: list, filled: list[np.ndarray], excess: int) -> bool:
        """Takes `excess` tokens off the end of the longest words among the pieces; says whether they had as many."""
        texts = [place for place, piece in enumerate(pieces) if isinstance(piece, Slot) and piece.name in TEXT_SLOTS]
        longest = max(texts, key=lambda place: len(filled[place]), default=None)
        if longest is None or len(filled[longest]) < excess:
            return False
        filled[longest] = filled[longest][: len(filled[longest]) - excess]
        return True

    def _wants_image(self, template: Template, history: Sequence[int], item: int) -> bool:
        if "image" in template.slots:
            return self.has_image(item)
        return "history_images" not in template.slots or bool(self._pictured(history))

    def _pictured(self, history: Sequence[int]) -> list[int]:
        """Those of the latest `max_his_images` items of a history that have a picture."""
        return [i for i in history[max(0, len(history) - self.settings.max_his_images) :] if self.has_image(i)]

    def answer_ids(self, template: Template, history: Sequence[int], item: int, text: int = -1) -> np.ndarray:
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
        self, template: Template, history: Sequence[int], item: int, reserve: int = 0, view: View | None = None,
        text: int = -1,
    ) -> tuple[np.ndarray, list[dict]]:  # fmt: skip
        """Token ids of a prompt and its pictures; `text` is the row of the text about a user that it speaks of.

        A prompt that would leave less than `reserve` tokens of `model_max_length` loses its oldest history; without a
        history its longest words are cut. Placeholders of pictures are never cut.

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
            raise ValueError(
                f"a prompt of {excess + room} tokens does not fit in --model_max_length"
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

    @cached_property
    def image_token_id(self) -> int:
        token = getattr(self.processor, "image_token_id", None)
        if token is None:
            token = self.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        return int(token)

    def sample(
        self, template: Template, history: Sequence[int], item: int, task: int = 0, view: View | None = None,
        text: int = -1,
    ) -> Sample:  # fmt: skip
        """A training sample: prompt, answer and the end of the turn, of which answer and end are learnt."""
        answer = self.answer_ids(template, history, item, text)
        prompt, images = self.prompt_ids(template, history, item, len(answer), view, text)
        ids = np.concatenate([prompt, answer[:-1]])
        zeros = np.zeros(len(ids), np.int64)
        predict = np.arange(len(prompt) - 1, len(ids))
        return Sample(ids, self.positions(ids, images), zeros, zeros, predict, answer, tuple(images), task)

    def question(self, template: Template, history: Sequence[int], item: int, reserve: int, text: int = -1) -> Sample:
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

    def shared_sample(self, template: Template, sequence: Sequence[int], first: int, task: int = 0) -> Sample:
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
