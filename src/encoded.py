"""Prompts that the model has read once, and tokens laid side by side after them, each seeing what a mask says.

All families of decoders go through one class, by what transformers' forward takes from every one of them: a cache, a
four-dimensional mask, position ids. Encoder-decoders take no position ids; what their relative positions would be is
put right in the mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PREFILL_TOKENS = 1024  # tokens that a CPU reads at a time, so that its activations stay in the processor's cache


def encode(model: nn.Module, inputs: Mapping[str, Tensor]) -> "DecoderPrompts | EncoderPrompts":
    """Reads prompts; `inputs` as for `src.decoding.beam_search`."""
    return (EncoderPrompts if model.config.is_encoder_decoder else DecoderPrompts)(model, inputs)


class DecoderPrompts:
    """B prompts read by a decoder, with pictures or without.

    Attributes:
        logits: (B, 1, V) after the prompt.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]):
        self.model, self.mask = model, inputs["attention_mask"].bool()
        positions = inputs["position_ids"]
        self.mrope = positions.dim() == 3
        self.next_position = (positions.amax(0) if self.mrope else positions).amax(-1) + 1  # (B,)
        parts = [
            model(**part, use_cache=True, logits_to_keep=1) for part in _split(inputs, self.mask.device.type == "cpu")
        ]
        self.logits = torch.cat([part.logits for part in parts])
        self.cache = _joined([part.past_key_values for part in parts], *self.mask.shape)

    def extend(self, tokens: Tensor, depth: int | Tensor, sees: Tensor) -> Tensor:
        """(B, n, V) logits after n more tokens of each prompt, which are remembered.

        Args:
            tokens: (B, n) int64.
            depth: how many tokens after the prompt they stand, from 1; one number or (n,).
            sees: (B or 1, n, m) bool, which of all m tokens after the prompt each sees, the n new ones last.
        """
        batch, number = tokens.shape
        prompt = self.mask[:, None].expand(-1, number, -1)
        sees = torch.cat([prompt, sees.expand(batch, -1, -1)], -1)
        positions = (self.next_position[:, None] + depth - 1).expand(batch, number)
        output = self.model(
            input_ids=tokens,
            attention_mask=sees[:, None],
            position_ids=positions.expand(3, -1, -1) if self.mrope else positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        return output.logits

    def forget(self, number: int) -> None:
        """Takes back the last `number` tokens."""
        self.cache.crop(-number)

    def keep(self, rows: Tensor) -> None:
        """Goes on with those of the prompts only, in that order; `logits` stay as they are."""
        self.mask, self.next_position = self.mask[rows], self.next_position[rows]
        self.cache.batch_select_indices(rows)


def _split(inputs: Mapping[str, Tensor], is_cpu: bool) -> list[dict[str, Tensor]]:
    """The prompts in parts that suit a processor, without padding that no prompt of a part needs.

    Prompts with pictures stay together: whose picture is whose stands nowhere.
    """
    mask = inputs["attention_mask"]
    number = max(1, PREFILL_TOKENS // mask.shape[1])
    if not is_cpu or inputs.keys() != {"input_ids", "attention_mask", "position_ids"} or number >= len(mask):
        return [dict(inputs)]
    widths = mask.sum(1)
    parts = []
    for begin in range(0, len(mask), number):
        rows = slice(begin, begin + number)
        first = mask.shape[1] - int(widths[rows].max())
        parts.append({name: value[..., rows, first:] for name, value in inputs.items()})
    return parts


def _joined(caches: Sequence[Any], num_prompts: int, width: int) -> Any:
    """One cache of the prompts of several, each filled up on the left to `width`."""
    joined = caches[0]
    if len(caches) > 1:
        for number, layer in enumerate(joined.layers):
            for name in ("keys", "values"):
                whole, begin = None, 0
                for cache in caches:  # one after another, each given back: memory never holds all of them twice
                    part = getattr(cache.layers[number], name)
                    setattr(cache.layers[number], name, None)
                    if whole is None:
                        whole = part.new_zeros(num_prompts, part.shape[1], width, part.shape[3])
                    whole[begin : begin + len(part), :, width - part.shape[2] :] = part
                    begin += len(part)
                setattr(layer, name, whole)
    return joined


class EncoderPrompts:
    """B prompts read by the encoder of an encoder-decoder with T5's relative positions.

    Attributes:
        logits: (B, 1, V) after the decoder's first token.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]):
        self.model, self.mask = model, inputs["attention_mask"]
        self.encoded = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=self.mask)
        self.bias = model.get_decoder().block[0].layer[0].SelfAttention.compute_bias
        self.cache: Any = None
        self.depths = torch.empty(0, dtype=torch.long, device=self.mask.device)  # of all tokens of the decoder
        start = torch.full((len(self.mask), 1), model.config.decoder_start_token_id, device=self.mask.device)
        self.logits = self._run(start, 0, torch.ones(1, 1, 1, dtype=torch.bool, device=self.mask.device))

    def extend(self, tokens: Tensor, depth: int | Tensor, sees: Tensor) -> Tensor:
        """As that of `DecoderPrompts`."""
        return self._run(tokens, depth, functional.pad(sees, (1, 0), value=True))

    def forget(self, number: int) -> None:
        """Takes back the last `number` tokens."""
        self.cache.self_attention_cache.crop(-number)
        self.depths = self.depths[:-number]

    def _run(self, tokens: Tensor, depth: int | Tensor, sees: Tensor) -> Tensor:
        past, number = len(self.depths), tokens.shape[1]
        new = torch.as_tensor(depth, device=tokens.device).expand(number)
        self.depths = torch.cat([self.depths, new])
        deepest = int(self.depths.max()) + 1
        wanted = self.bias(deepest, deepest)[:, :, new][..., self.depths]
        mask = wanted - self.bias(number, len(self.depths), past_seen_tokens=past)  # what the model adds by itself
        mask = mask.masked_fill(~sees[:, None], -torch.inf)
        output = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            decoder_attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        return output.logits
