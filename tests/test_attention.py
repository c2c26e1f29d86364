"""Attention told by pieces is attention under the mask that they stand for."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from src.attention import PACKED, packed_attention, seen, use_packed_attention

# Two rows of 12 tokens: a plain sample of 5, a trunk of 4 with branches of 2 and 1 that see 4 and 3 of it; and a sample
# of 9 with 3 of padding.
PIECES = torch.tensor([[5, 0], [4, 0], [2, 4], [1, 3], [9, 0], [3, 0]])


def test_what_is_seen():
    mask = seen(PIECES, 2, 12)[:, 0]
    assert mask.shape == (2, 12, 12)
    lines = ["".join("x" if cell else "." for cell in row) for row in mask[0].tolist()]
    assert lines[4] == "xxxxx......."
    assert lines[8] == ".....xxxx..."
    assert lines[10] == ".....xxxxxx."
    assert lines[11] == ".....xxx...x"
    assert [sum(row) for row in mask[1].tolist()] == [*range(1, 10), 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_under_the_mask(dtype):
    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    shapes = [(2, 4, 12, 8), (2, 2, 12, 8), (2, 2, 12, 8)]
    states = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    wanted = torch.randn(2, 12, 4, 8, dtype=dtype)
    found = []
    for attention, mask in ((packed_attention, PIECES[None, None]), (sdpa_attention_forward, seen(PIECES, 2, 12))):
        output, _ = attention(module, *states, mask, scaling=0.3)
        found.append([output, *torch.autograd.grad((output * wanted).sum(), states)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **({"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}))


def test_other_masks_stay_as_they_are():
    """A model that was prepared for pieces still decodes, and is saved as it would be."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, attn_implementation="sdpa",
        )
    ).eval()  # fmt: skip
    ids = torch.arange(14).view(2, 7)
    padded = torch.ones_like(ids).index_fill_(1, torch.arange(2), 0)
    before = [model(ids).logits, model(ids, attention_mask=padded).logits[:, 2:]]
    stored = model.config.to_dict()
    use_packed_attention(model)
    assert model.config._attn_implementation == PACKED
    after = [model(ids).logits, model(ids, attention_mask=padded).logits[:, 2:]]
    for ours, theirs in zip(after, before, strict=True):
        assert torch.equal(ours, theirs)
    assert model.config.to_dict() == stored
