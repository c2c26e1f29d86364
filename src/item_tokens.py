"""The items of a dataset as a model reads them: token ids of SIDs and texts, and pictures; each is made once."""

import random
import re
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from src.chat import Chat
from src.common.images import open_image, random_view
from src.prompt_settings import PromptSettings
from src.spelling import spelled_sids
from src.tasks.catalogue import Catalogue
from src.tasks.task import ENRICHED_TEXTS, ITEM_TEXTS, USER_TEXTS
from src.tasks.texts import text_of

IMAGE_CACHE_BYTES = 512 << 20  # pictures, as the model takes them, kept in memory by each process


class View(NamedTuple):
    """A random view of pictures: how much they may move and zoom, and what it is drawn from."""

    amount: float
    key: str


class ImageBlock(NamedTuple):
    ids: np.ndarray  # placeholder tokens, with what surrounds them
    inputs: dict[str, np.ndarray]  # pixel_values and the like


class ItemTokens:
    """Items, and texts about users, of one catalogue for one model."""

    def __init__(self, catalogue: Catalogue, chat: Chat, processor: Any | None, settings: PromptSettings):
        self.catalogue, self.chat, self.settings = catalogue, chat, settings
        self.processor: Any = processor
        self.tokenizer = chat.tokenizer
        self._sids = None if catalogue.sid_index is None else self._sid_ids()
        self.row_of = np.full(int(catalogue.item_ids[-1]) + 1, -1)
        self.row_of[catalogue.item_ids] = np.arange(len(catalogue.item_ids))
        self._texts: dict[tuple[str, bool], list[np.ndarray]] = {}
        self._empty: dict[int, frozenset[str]] = {}
        self._images: dict[int, ImageBlock] = {}
        self._image_bytes = 0

    @property
    def sids(self) -> np.ndarray:
        """(N, L) int64: token ids of each item's SID, rows as in catalogue.item_ids; spelt SIDs are longer.

        Raises:
            ValueError: there is no SID index.
        """
        if self._sids is None:
            raise ValueError(f"{self.catalogue.name} was read without SIDs: give --index_file")
        return self._sids

    def _sid_ids(self) -> np.ndarray:
        index = self.catalogue.index
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
        made = dict(self.processor(text=[self.chat.image_text], images=[picture], return_tensors="np"))
        ids = np.asarray(made.pop("input_ids")[0], np.int64)
        text_only = ("attention_mask", "mm_token_type_ids", "token_type_ids")
        return ImageBlock(ids, {name: np.asarray(value) for name, value in made.items() if name not in text_only})

    def empty_texts(self, item: int) -> frozenset[str]:
        """Slots of an item that it has no text for."""
        if item not in self._empty:
            slots = (*ITEM_TEXTS, *ENRICHED_TEXTS)
            self._empty[item] = frozenset(slot for slot in slots if not self._text(slot, item).strip())
        return self._empty[item]
