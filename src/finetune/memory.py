"""What a GPU will have to hold in training, by arithmetic: before the first step, or before there is a GPU at all."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.finetune.engine import Engine
from src.finetune.muon import split_parameters

STATE_BYTES = {"sgd": 0, "adafactor": 0, "8bit": 2, "4bit": 1}  # a parameter, by what the optimizer's name holds ...
ADAM_BYTES, MOMENTUM_BYTES = 8, 4  # ... and else: two float32 numbers; Muon has one for matrices


class Batch(NamedTuple):
    """What one rank computes at once."""

    samples: int
    tokens: int  # padding included
    answers: int  # tokens that are learnt
    patches: int = 0  # of pictures


def batch_of(inputs: Mapping[str, Tensor], samples: int, model: nn.Module) -> Batch:
    """The size of what a collator gave."""
    patches = 0
    if "pixel_values" in inputs:
        vision = model.config.vision_config
        patch = 3 * vision.patch_size**2 * (getattr(vision, "temporal_patch_size", None) or 1)
        patches = inputs["pixel_values"].numel() // patch
    return Batch(samples, inputs["input_ids"].numel(), inputs["labels"].numel(), patches)


class Memory(NamedTuple):
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    def total(self) -> float:
        return sum(self)

    def describe(self, batch: Batch, engine: Engine, ranks: int) -> str:
        cut = {0: "nothing cut", 1: "optimizer cut", 2: "gradients cut", 3: "weights cut"}[engine.stage]
        return (
            f"memory to expect on each of {ranks} ranks ({engine.name}, {cut}): {size(self.weights)} weights,"
            f" {size(self.gradients)} gradients, {size(self.optimizer)} optimizer; for {batch.samples} samples of"
            f" {batch.tokens:,} tokens, {batch.answers:,} of them learnt, about {size(self.activations)} activations"
            f" and {size(self.logits)} logits; about {size(self.total())} in all"
        )


def size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**29 else f"{number / 2**20:.1f} MiB"


def expected_memory(
    model: nn.Module, batch: Batch, engine: Engine, ranks: int, optim: str, half: bool, checkpointing: bool
) -> Memory:
    """An estimate: exact for what is stored between steps, rough for activations, without what kernels need besides.

    Args:
        model: ready to train; it may lie on the `meta` device, without weights.
        half: matrix products run in 16 bits.
        checkpointing: activations inside a layer are computed again.
    """
    parameters = list(model.parameters())
    training = [p for p in parameters if p.requires_grad]
    weights = sum(_numel(p) * p.element_size() for p in parameters)
    gradients = sum(_numel(p) * p.element_size() for p in training)
    states = _state_bytes(model, optim)
    if engine.name == "deepspeed" and half:
        states += 4 * sum(map(_numel, training))  # float32 masters of 16-bit weights
    if engine.name == "ddp" and ranks > 1:
        gradients *= 2  # DDP's buckets
    share = [ranks if engine.stage >= stage else 1 for stage in (3, 2, 1)]
    width = 2 if half else 4
    vocabulary = model.config.get_text_config().vocab_size
    logits = batch.answers * vocabulary * (width + 4 + 4)  # as they come, in float32, and their gradient
    stored = (weights / share[0], gradients / share[1], states / share[2])
    return Memory(*stored, _activations(model, batch, width, checkpointing), logits)


def _numel(parameter: nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def _state_bytes(model: nn.Module, optim: str) -> float:
    if optim == "muon":
        matrices, rest = split_parameters(model)
        return MOMENTUM_BYTES * sum(map(_numel, matrices.values())) + ADAM_BYTES * sum(map(_numel, rest.values()))
    each = next((size for part, size in STATE_BYTES.items() if part in optim), ADAM_BYTES)
    return each * sum(_numel(p) for p in model.parameters() if p.requires_grad)


def _activations(model: nn.Module, batch: Batch, width: int, checkpointing: bool) -> float:
    """What the layers keep for their backward pass: inputs and outputs of each step of a decoder layer, one by one.

    A vision tower counts only where it trains: else it keeps nothing.
    """
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    lora = any("lora_" in name for name, _ in model.named_parameters())
    kept = batch.tokens * _layer(text.hidden_size, text.intermediate_size, heads * head, width, lora)
    layers = text.num_hidden_layers
    total = kept * layers if not checkpointing else kept + batch.tokens * text.hidden_size * width * layers
    vision = getattr(model.config, "vision_config", None)
    trains = any(p.requires_grad for name, p in model.named_parameters() if "visual" in name or "vision" in name)
    if vision is not None and trains and batch.patches:
        hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
        inner = getattr(vision, "intermediate_size", None) or int(hidden * getattr(vision, "mlp_ratio", 4))
        depth = getattr(vision, "depth", None) or vision.num_hidden_layers
        kept = batch.patches * _layer(hidden, inner, hidden, width, False)
        total += kept * depth if not checkpointing else kept + batch.patches * hidden * width * depth
    return total


def _layer(hidden: int, inner: int, attention: int, width: int, lora: bool) -> int:
    """Bytes that a decoder layer keeps of a token."""
    norms = 2 * (2 * 4 * hidden + width * hidden)  # in float32: input and normalised; and what comes out
    heads = width * 12 * attention  # queries, keys, values: as projected, turned and repeated; what comes out
    feed_forward = width * 4 * inner  # gate, up, activated gate, product
    adapters = width * (7 * hidden + inner) if lora else 0  # inputs of the LoRA matrices after their dropout
    return norms + heads + feed_forward + adapters


def device_memory() -> int | None:
    """Bytes of this rank's GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
