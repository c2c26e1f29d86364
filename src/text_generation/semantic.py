"""Likeness of meaning by an encoder from a local folder: BERTScore, and the cosine of sentence embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.artifacts import read_json

BATCH_SIZE = 64


def check_encoder(flag: str, folder: Path | None) -> None:
    """Refuses what is no folder with a model and its tokenizer: nothing is fetched for a metric."""
    if folder is None:
        return
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"--{flag} {folder} is no folder with an encoder (it has no config.json): give a local copy of one, or"
            f" leave the flag out; metrics fetch nothing"
        )
    read_json(folder / "config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        raise FileNotFoundError(f"--{flag} {folder} has no tokenizer: copy the encoder's tokenizer files there too")


class Encoder:
    """Hidden states of texts."""

    def __init__(self, folder: Path, device: Any, layer: int | None = None):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.torch, self.device, self.layer = torch, device, layer
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model = model.to(device).eval()
        layers = getattr(model.config, "num_hidden_layers", 0)
        if layer is not None and not 0 <= layer <= layers:
            raise ValueError(f"--bertscore_layer {layer}: the encoder at {folder} has the layers 0 to {layers}")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def states(self, texts: Sequence[str]) -> tuple[Any, Any, Any]:
        """(B, T, H) hidden states, (B, T) mask, and (B, T) mask without special tokens."""
        with self.torch.inference_mode():
            most = min(self.tokenizer.model_max_length, 512)
            options = {"padding": True, "truncation": True, "max_length": most, "return_special_tokens_mask": True}
            inputs = self.tokenizer(list(texts), **options, return_tensors="pt")
            special = inputs.pop("special_tokens_mask").to(self.device).bool()
            inputs = {name: value.to(self.device) for name, value in inputs.items() if name != "token_type_ids"}
            output = self.model(**inputs, output_hidden_states=self.layer is not None)
            states = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        mask = inputs["attention_mask"].bool()
        return states.float(), mask, mask & ~special

    def bertscore(self, generated: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """(M,) F1 of BERTScore: each word piece with the most similar one of the other side; no weights of
        words, not rescaled.

        Reference: Zhang et al., 2020, https://arxiv.org/abs/1904.09675.
        """
        found = []
        for begin in range(0, len(generated), BATCH_SIZE):
            sides = []
            for texts in (generated, references):
                states, mask, words = self.states(texts[begin : begin + BATCH_SIZE])
                sides.append((self.torch.nn.functional.normalize(states, dim=-1), mask, words))
            (mine, mask, words), (theirs, other, wanted) = sides
            alike = (mine @ theirs.transpose(1, 2)).masked_fill(~(mask[:, :, None] & other[:, None]), -2)
            precision = (alike.amax(2) * words).sum(1) / words.sum(1).clamp_min(1)
            recall = (alike.amax(1) * wanted).sum(1) / wanted.sum(1).clamp_min(1)
            found.append((2 * precision * recall / (precision + recall)).cpu().numpy())
        scores = np.concatenate(found).astype(np.float64)
        return np.where([bool(text.strip()) for text in generated], scores, 0.0)

    def similarity(self, generated: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """(M,) cosine of the mean hidden states of both texts, as sentence encoders of that kind have it."""
        found = []
        for begin in range(0, len(generated), BATCH_SIZE):
            sides = []
            for texts in (generated, references):
                states, mask, _ = self.states(texts[begin : begin + BATCH_SIZE])
                sides.append((states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
            found.append(self.torch.nn.functional.cosine_similarity(*sides).cpu().numpy())
        scores = np.concatenate(found).astype(np.float64)
        return np.where([bool(text.strip()) for text in generated], scores, 0.0)
