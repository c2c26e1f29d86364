"""Text generation as public evaluation scripts do it: one prompt after another through `generate`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from src.prompt import Sample


@torch.inference_mode()
def one_by_one(
    model: Any, samples: Sequence[Sample], stop: Sequence[int], limit: int, image_token: int | None
) -> list[list[int]]:
    """Token ids after each prompt, greedily, up to the first of `stop`, which is the last one if met."""
    written = []
    for sample in samples:
        ids = torch.from_numpy(sample.ids)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if sample.images:
            inputs |= {name: torch.from_numpy(np.asarray(value)) for name, value in sample.images[0].items()}
            inputs["mm_token_type_ids"] = (ids == image_token).int()
        found = model.generate(**inputs, do_sample=False, max_new_tokens=limit, eos_token_id=list(stop), pad_token_id=0)
        written.append(found[0, ids.shape[1] :].tolist())
    return written
