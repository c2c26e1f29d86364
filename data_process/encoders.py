"""Hugging Face models as encoders: texts and pictures in, one vector each out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel

from src.processors import load_processor

PICTURE_ONLY_TEXT = "Describe this product."  # what the model is asked where only the picture counts


class Encoder:
    """A model without its head, its processor, and a way to pool the hidden states."""

    def __init__(self, model: str, device: torch.device, max_length: int, pooling: str):
        self.device, self.max_length, self.pooling = device, max_length, pooling
        self.processor = load_processor(model)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.sees = hasattr(self.processor, "image_processor")
        if self.tokenizer.pad_token_id is None:  # Llama has none; pads are masked, so any token will do
            self.tokenizer.pad_token = self.tokenizer.eos_token
        dtype = "auto" if device.type == "cuda" else torch.float32  # bfloat16 is very slow on CPUs
        self.model = AutoModel.from_pretrained(model, dtype=dtype).eval().to(device)
        if self.model.config.is_encoder_decoder:
            self.model = self.model.get_encoder()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], pictures: Sequence[Image.Image | None]) -> np.ndarray:
        """(B, D) float32, finite. Either all items of a call have a picture or none; a text model ignores pictures.

        Raises:
            ValueError: a vector is not finite.
        """
        images = [picture for picture in pictures if picture is not None] if self.sees else []
        prompts = [self._prompt(text, bool(images)) for text in texts]
        if images:
            inputs = self.processor(
                text=prompts, images=images, padding=True, padding_side="right", return_tensors="pt"
            )
        else:
            inputs = self.tokenizer(prompts, padding=True, padding_side="right", return_tensors="pt")
        inputs.pop("token_type_ids", None)
        inputs = inputs.to(self.device)
        hidden = _last_hidden_states(self.model, inputs)
        vectors = pool(hidden.float(), inputs["attention_mask"], self.pooling).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ValueError("the model gave NaN or infinite values; with half precision, try --device cpu")
        return vectors

    def _prompt(self, text: str, with_picture: bool) -> str:
        """The text, cut to `max_length` tokens, as a user's message where the model chats."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_length:  # before the picture comes in: its tokens must not be cut
            text = self.tokenizer.decode(ids[: self.max_length])
        text = text or PICTURE_ONLY_TEXT
        if self.processor.chat_template is None:
            return text
        parts = [{"type": "image"}] * with_picture + [{"type": "text", "text": text}]
        message = {"role": "user", "content": parts if self.sees else text}
        return self.processor.apply_chat_template([message], tokenize=False)

    def free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


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


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """(B, D): the mean over the real tokens, or the last real one.

    Args:
        hidden: (B, T, D) float; attention_mask: (B, T), 1 on real tokens, on the left.
    """
    if pooling == "last":
        last = attention_mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    mask = attention_mask.unsqueeze(2).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)
