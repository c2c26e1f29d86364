"""Sentence encoders of the sentence-transformers library, with the pooling and the projections that they came with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_process.encoders import DTYPES


def is_sentence_encoder(model: str) -> bool:
    """Whether the folder was saved by sentence-transformers; names of a hub are asked there."""
    from transformers.utils import cached_file

    if Path(model).is_dir():
        return (Path(model) / "modules.json").is_file()
    found = cached_file(
        model,
        "modules.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None


class SentenceEncoder:
    def __init__(self, model: str, device: torch.device, max_length: int, dtype: str = "auto", prompt: str = ""):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError(
                f"{model} is a model of sentence-transformers, which is absent: pip install sentence-transformers. Or"
                f" take its transformer alone, by --pooling"
            ) from error
        options: dict[str, Any] = {} if DTYPES[dtype] is None else {"model_kwargs": {"dtype": DTYPES[dtype]}}
        self.model = SentenceTransformer(model, device=str(device), **options)
        if self.model.max_seq_length is None or self.model.max_seq_length > max_length:
            self.model.max_seq_length = max_length
        self.prompt, self.device = prompt, device

    def encode(self, texts: Sequence[str], pictures: Sequence[None]) -> np.ndarray:
        """(B, D) float32."""
        options = {"prompt": self.prompt} if self.prompt else {}
        vectors = self.model.encode(list(texts), batch_size=len(texts), show_progress_bar=False, **options)
        return np.asarray(vectors, np.float32)

    def free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
