"""Attention over packed rows, where every sample, and every branch of a shared one, sees only what is its own.

What a token sees is told by the pieces of `src.blocks.Block`: a few numbers a sample, not a matrix as wide as a row.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "grec_packed"
_plans = WeakTensorKeyDictionary()  # what was worked out of the pieces of a batch, for the layers that come after


def use_packed_attention(model: nn.Module) -> None:
    """Lets the language model of a model that runs on SDPA take pieces in place of a mask; masks stay as they are."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = PACKED


def packed_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """Scaled dot-product attention, as transformers calls it.

    Args:
        query, key, value: (R, heads, W, D).
        attention_mask: (1, 1, S, 2) int64, size and `visible` of each piece, which lie end to end and fill the R rows;
            or None or a mask over (W, W), as `sdpa` takes them.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    num_rows, _, width, _ = query.shape
    if query.device.type != "cpu":
        mask = _planned(attention_mask, "dense", lambda: seen(attention_mask[0, 0], num_rows, width))
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)
    sizes, masks = _planned(attention_mask, query.dtype, lambda: _by_sample(attention_mask[0, 0], query.dtype))
    groups = getattr(module, "num_key_value_groups", 1)
    query, key, value = (
        _flat(states).split(sizes, 2) for states in (query, repeat_kv(key, groups), repeat_kv(value, groups))
    )
    outputs = [
        scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling)
        for q, k, v, mask in zip(query, key, value, masks, strict=True)
    ]
    output = torch.cat(outputs, 2).transpose(1, 2)
    return output.reshape(num_rows, width, *output.shape[2:]), None


def _flat(states: Tensor) -> Tensor:
    """(R, heads, W, D) -> (1, heads, R * W, D)."""
    return states.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None]


def _planned(pieces: Tensor, kind, make):
    plans = _plans.setdefault(pieces, {})
    if kind not in plans:
        plans[kind] = make()
    return plans[kind]


def _by_sample(pieces: Tensor, dtype: torch.dtype) -> tuple[list[int], list[Tensor | None]]:
    """Tokens of each sample, and the mask (1, 1, size, size) of those that are more than one causal run."""
    begins = (pieces[:, 1] == 0).nonzero()[:, 0].tolist()
    sizes, masks = [], []
    for begin, end in zip(begins, [*begins[1:], len(pieces)], strict=True):
        size = int(pieces[begin:end, 0].sum())
        sizes.append(size)
        hidden = None
        if end - begin > 1:
            hidden = torch.zeros(1, 1, size, size, dtype=dtype)
            hidden.masked_fill_(~seen(pieces[begin:end], 1, size), float("-inf"))
        masks.append(hidden)
    return sizes, masks


def seen(pieces: Tensor, num_rows: int, width: int) -> Tensor:
    """(R, 1, W, W) bool: whether a token sees another of its row.

    Args:
        pieces: (S, 2) size and `visible` of each piece; no piece lies in two rows.
    """
    sizes, visible = pieces.T
    begin = sizes.cumsum(0) - sizes
    root = torch.where(visible == 0, begin, 0).cummax(0).values  # where the sample begins
    begin, root, end = torch.stack([begin, root, root + visible]).repeat_interleave(
        sizes, 1, output_size=num_rows * width
    )
    key = torch.arange(num_rows * width, device=pieces.device).view(num_rows, 1, width)
    begin, root, end = (numbers.view(num_rows, width, 1) for numbers in (begin, root, end))
    mask = (key >= begin) | ((key >= root) & (key < end))
    mask &= key <= key.view(num_rows, width, 1)
    return mask[:, None]


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
