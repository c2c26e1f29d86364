"""Trainable rows of SID tokens: PEFT's results without its copies of the vocabulary, and adapters of their size."""

from contextlib import contextmanager

import pytest
import torch
import transformers
from peft import get_peft_model_state_dict
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

from src.families import FAMILIES
from src.models import Loaded, add_lora
from tests.test_models import batch_of, loss_of, sid_ids, vision_task
from tests.toy import ALL_FAMILIES, fresh_model, shared_model

VOCABULARY, WIDTH, NUM_SIDS = 152_064, 1_536, 1_024  # of Qwen2-VL-2B, and 4 levels of 256 codes


def with_rows(family: str, tied: bool) -> Loaded:
    loaded = fresh_model(family, tied)
    loaded = loaded._replace(model=add_lora(loaded, sid_ids(loaded), 4, 8, 0.0))
    with torch.no_grad():
        for layer in layers_of(loaded):  # as if trained
            layer.trainable_tokens_delta["default"].add_(0.1)
    return loaded


def layers_of(loaded: Loaded) -> list[TrainableTokensLayer]:
    return [module for module in loaded.model.modules() if isinstance(module, TrainableTokensLayer)]


@contextmanager
def saved_sizes(loaded: Loaded):
    """Numbers of elements of what is kept for the backward pass, beside parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*loaded.model.parameters(), *loaded.model.buffers()]}
    sizes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_same_as_peft(family, tied):
    loaded = with_rows(family, tied)
    assert len(layers_of(loaded)) == 2
    batch = batch_of(loaded, vision_task(family))
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    results = []
    for own in (True, False):
        if not own:
            for layer in layers_of(loaded):
                del layer.forward  # PEFT's
        loss = loss_of(loaded, batch)
        results.append((loss.detach(), torch.autograd.grad(loss, list(trained.values()))))
    (ours, our_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for name, one, other in zip(trained, our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_nothing_of_the_size_of_the_vocabulary_is_kept():
    """PEFT's forward keeps a copy of the matrix on either side, and makes a gradient of the same size."""
    loaded = with_rows("qwen2", False)
    table = loaded.model.base_model.model.get_input_embeddings().token_adapter.base_layer.weight
    batch = batch_of(loaded)
    with saved_sizes(loaded) as sizes:
        loss_of(loaded, batch).backward()
    assert table.numel() not in sizes
    assert table.grad is None
    for layer in layers_of(loaded):
        del layer.forward
    with saved_sizes(loaded) as sizes:
        loss_of(loaded, batch)
    assert table.numel() in sizes


@pytest.mark.parametrize("tied", [True, False])
def test_adapter_of_a_large_vocabulary_holds_the_new_rows_only(tied):
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY + NUM_SIDS, hidden_size=WIDTH, intermediate_size=8_960, num_hidden_layers=2,
        num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(config)
    loaded = Loaded(model, shared_model("qwen2").tokenizer, None, FAMILIES["qwen2"])
    ids = list(range(VOCABULARY, VOCABULARY + NUM_SIDS))
    state = get_peft_model_state_dict(add_lora(loaded, ids, 32, 32, 0.05), save_embedding_layers=False)
    assert max(max(tensor.shape) for tensor in state.values()) < VOCABULARY
    rows = {name: tensor for name, tensor in state.items() if "lora_" not in name}
    assert len(rows) == (1 if tied else 2)
    for tensor in rows.values():
        assert tensor.shape == (NUM_SIDS, WIDTH)
        assert tensor.numel() * tensor.element_size() <= 7e6
