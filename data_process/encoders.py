"""Language and vision-language models as encoders: texts and pictures in, one vector each out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel

from src.processors import load_processor

PICTURE_ONLY_TEXT = "Describe this product."  # what the model is asked where only the picture counts
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Encoder:
    """A model without its head, its processor, and a way to pool the hidden states over the tokens of an item.

    The tokens around them, which are the same for every item (chat template, question, [CLS]), do not count.

    Args:
        max_length: of the item's text, in tokens; the rest is cut off.
        pooling: see `pool`.
        chat: speak to the model as a user where it has a chat template.
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        max_length: int = 512,
        pooling: str = "mean",
        dtype: str = "auto",
        chat: bool = True,
        prompt: str = "",
    ):
        self.device, self.pooling, self.prompt = device, pooling, prompt
        self.processor = load_processor(model)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.sees = hasattr(self.processor, "image_processor")
        self.chat = chat and self.processor.chat_template is not None
        self.adds_special_tokens = self.sees or not self.chat  # templates of text models bring their own
        if self.tokenizer.pad_token_id is None:  # Llama has none; pads are masked, so any token will do
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.ending = ""
        self.frames = self._frames()
        if pooling == "eos" and content_span(self._ids("x"), self.frames[True])[1] == len(self._ids("x")):
            if self.tokenizer.eos_token is None:
                raise ValueError(f"--pooling eos: {model} has no token that ends a text: choose mean or last")
            self.ending = self.tokenizer.eos_token  # neither template nor tokenizer puts one there
            self.frames = self._frames()
        room = self.tokenizer.model_max_length - max(map(len, self.frames.values()))
        self.max_length = max(1, min(max_length, room))  # BERT ends at 512 tokens, [CLS] and [SEP] included
        self.model = AutoModel.from_pretrained(model, dtype=torch_dtype(dtype, device)).eval().to(device)
        if self.model.config.is_encoder_decoder:
            self.model = self.model.get_encoder()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], pictures: Sequence[Image.Image | None]) -> np.ndarray:
        """(B, D) float32. Either all items of a call have a picture or none; a text model ignores pictures."""
        images = [picture for picture in pictures if picture is not None] if self.sees else []
        texts = self._cut([self.prompt + text for text in texts])
        prompts = [self._wrap(text or PICTURE_ONLY_TEXT, bool(images)) for text in texts]
        if images:
            inputs = self.processor(
                text=prompts, images=images, padding=True, padding_side="right", return_tensors="pt"
            )
        else:
            options = {"add_special_tokens": self.adds_special_tokens, "return_tensors": "pt"}
            inputs = self.tokenizer(prompts, padding=True, padding_side="right", **options)
        inputs.pop("token_type_ids", None)
        lengths = inputs["attention_mask"].sum(1).tolist()
        rows = [ids[:length] for ids, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        spans = [content_span(row, self.frames[bool(text)]) for row, text in zip(rows, texts, strict=True)]
        hidden = _last_hidden_states(self.model, inputs.to(self.device))
        return pool(hidden, torch.tensor(spans, device=hidden.device), self.pooling).cpu().numpy()

    def free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _cut(self, texts: Sequence[str]) -> list[str]:
        """Texts of `max_length` tokens at most: cut here, before the picture comes in, whose tokens must stay."""
        found = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [
            text if len(offsets) <= self.max_length else text[: offsets[self.max_length - 1][1]]
            for text, offsets in zip(texts, found, strict=True)
        ]

    def _wrap(self, text: str, with_picture: bool) -> str:
        """The text as a user's message where the model chats."""
        if not self.chat:
            return text + self.ending
        parts = [{"type": "image"}] * with_picture + [{"type": "text", "text": text}]
        message = {"role": "user", "content": parts if self.sees else text}
        return self.processor.apply_chat_template([message], tokenize=False) + self.ending

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(self._wrap(text, False), add_special_tokens=self.adds_special_tokens)["input_ids"]

    def _frames(self) -> dict[bool, list[int]]:
        """What stands around the item's tokens: where it has a text, and where it has only a picture."""
        return {True: self._ids(""), False: self._ids(PICTURE_ONLY_TEXT)}


def torch_dtype(name: str, device: torch.device) -> Any:
    """What to load weights in; `auto` is the checkpoint's own, but fp32 on a CPU, where bfloat16 is slow."""
    return DTYPES[name] or ("auto" if device.type == "cuda" else torch.float32)


def _last_hidden_states(model: torch.nn.Module, inputs: Any) -> Tensor:
    """(B, T, D) states that belong to the tokens of `input_ids`."""
    hidden = getattr(output := model(**inputs), "last_hidden_state", None)
    if hidden is None and hasattr(output, "language_model_outputs"):  # BLIP-2 and InstructBLIP hide it one deeper
        hidden = model(**inputs, output_hidden_states=True).language_model_outputs.hidden_states[-1]
    if hidden is None or hidden.shape[1] != inputs["input_ids"].shape[1]:
        raise ValueError(
            f"{type(model).__name__} gives no hidden state for each token: use a Qwen, LLaVA or text model"
        )
    return hidden


def content_span(ids: Sequence[int], frame: Sequence[int]) -> tuple[int, int]:
    """Where the tokens of the item begin and end in `ids`: what differs from `frame`, which is all but them.

    A text of which the tokenizer leaves nothing counts by its frame, but for the last token.
    """
    start = 0
    while start < min(len(frame), len(ids)) and ids[start] == frame[start]:
        start += 1
    end = len(ids)
    while end > start and len(ids) - end < len(frame) - start and ids[end - 1] == frame[end - 1 - len(ids)]:
        end -= 1
    return (start, end) if start < end else (0, len(ids) - 1)


def pool(hidden: Tensor, spans: Tensor, pooling: str) -> Tensor:
    """(B, D) float32 of (B, T, D) hidden states.

    Args:
        spans: (B, 2) int64, begin and end of the tokens that count.
        pooling: their "mean"; the "last" of them; "eos", the token after them, which ends the text; or "cls", the
            first token of the row, which BERT and its kin learn for this.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    if pooling == "cls":
        return hidden[:, 0].float()
    if pooling == "last":
        return hidden[rows, spans[:, 1] - 1].float()
    if pooling == "eos":
        return hidden[rows, spans[:, 1]].float()
    places = torch.arange(hidden.shape[1], device=hidden.device)
    inside = ((places >= spans[:, :1]) & (places < spans[:, 1:])).unsqueeze(2)
    return (hidden.float() * inside).sum(1) / inside.sum(1)
