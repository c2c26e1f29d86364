"""What is decoded: random catalogues, random prompts, small models with random weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

NUM_LEVELS, CODES = 4, 256
FIRST_SID_TOKEN = 16_384  # of the small models' vocabulary of 17k
END_TOKEN = 2


def catalogue(num_items: int, first_token: int = FIRST_SID_TOKEN, seed: int = 0) -> np.ndarray:
    """(N, 4) int64 token ids of different SIDs, sorted."""
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, CODES**NUM_LEVELS, num_items + num_items // 50 + 10))
    keys = np.sort(rng.permutation(keys)[:num_items])
    codes = np.stack(np.unravel_index(keys, (CODES,) * NUM_LEVELS), 1)
    return codes + first_token + CODES * np.arange(NUM_LEVELS)


def small_model(**changes) -> nn.Module:
    """Qwen2 of width 256 with 6 layers and a vocabulary of 17k; weights so spread that scores differ."""
    from benchmarks.sft.subject import make_model

    model = make_model("17k", **changes).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.06, generator=generator)
    return model


def prompts(batch: int, width: int, lengths: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Left-padded random prompts, as PromptCollator gives them."""
    ids = torch.randint(10, FIRST_SID_TOKEN, (batch, width), generator=torch.Generator().manual_seed(width))
    lengths = torch.tensor(lengths or [width] * batch)
    place = torch.arange(width) - (width - lengths)[:, None]
    mask = (place >= 0).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "position_ids": place.clamp_min(0)}
