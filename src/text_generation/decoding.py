"""Batched generation: prompts are read once, finished ones leave the batch, and each sample draws numbers of its own.

So what is written does not depend on the batch: not greedily, and not when sampled.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.common.artifacts import read_json
from src.text_generation.config import TextConfig

NEUTRAL: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
SAMPLING = ("temperature", "top_p", "top_k")
UNSUPPORTED = {  # settings of a generation_config that would change what is written -> value that changes nothing
    "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0, "no_repeat_ngram_size": 0, "typical_p": 1.0,
    "min_p": 0, "encoder_repetition_penalty": 1.0, "epsilon_cutoff": 0, "eta_cutoff": 0, "min_length": 0,
    "min_new_tokens": 0, "length_penalty": 1.0, "guidance_scale": 1,
}  # fmt: skip


class Decoding(NamedTuple):
    """How tokens are chosen."""

    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


def decoding_of(config: TextConfig) -> Decoding:
    """Greedy, unless flags say otherwise; a checkpoint's generation_config counts only where it was asked for.

    Raises:
        ValueError: a value out of range, a setting of sampling without --do_sample, a generation_config that asks for
            what GRec does not do.
    """
    values = dict(NEUTRAL)
    if config.use_generation_config:
        folder = Path(config.base_model) if config.lora and config.base_model else config.ckpt_model
        path = folder / "generation_config.json"
        table = read_json(path, "Leave out --use_generation_config: this checkpoint has none")
        for name, nothing in UNSUPPORTED.items():
            if table.get(name) not in (None, nothing):
                raise ValueError(f"{path} asks for {name} {table[name]}, which is not done here: leave out"
                                 f" --use_generation_config, and say with flags what you want of it")  # fmt: skip
        values |= {name: table[name] for name in NEUTRAL if table.get(name) is not None}
        for name, value in values.items():
            if type(value) is not bool if name == "do_sample" else type(value) not in (int, float):
                raise ValueError(f"{path} has {name} {value!r}: leave out --use_generation_config, or mend it")
    values |= {name: getattr(config, name) for name in NEUTRAL if getattr(config, name) is not None}
    found = Decoding(**values)
    if not found.do_sample:
        for name in SAMPLING:
            if getattr(config, name) is not None:
                raise ValueError(f"--{name} {getattr(config, name)} changes nothing without --do_sample: add it")
        found = found._replace(**{name: NEUTRAL[name] for name in SAMPLING})
    if not found.temperature > 0:  # nor is NaN
        raise ValueError(f"--temperature {found.temperature}: it must be above 0; leave out --do_sample to be greedy")
    if not 0 < found.top_p <= 1:
        raise ValueError(f"--top_p {found.top_p}: it is a share of probability, above 0 and up to 1")
    if found.top_k < 0:
        raise ValueError(f"--top_k {found.top_k}: it must be at least 0, which takes all tokens")
    if not found.repetition_penalty > 0:
        raise ValueError(f"--repetition_penalty {found.repetition_penalty}: it must be above 0; 1 changes nothing")
    return found


def generate(
    model: Any,
    inputs: Mapping[str, Any],
    stop: Collection[int],
    max_new_tokens: int,
    decoding: Decoding = Decoding(),  # noqa: B008 an immutable tuple
    seeds: Sequence[int] = (),
) -> list[np.ndarray]:
    """Token ids that a decoder writes after each prompt, up to the first of `stop`, which is the last one if met.

    Args:
        inputs: from PromptCollator: left-padded input_ids, attention_mask (B, T), position_ids, and pictures.
        stop: tokens that end an answer.
        seeds: (B,) what each sample's random numbers start from; needed where tokens are drawn.
    """
    import torch

    from src.encoded import DecoderPrompts

    with torch.inference_mode():
        prompts = DecoderPrompts(model, inputs)
        logits = prompts.logits[:, -1]
        device, batch = logits.device, len(logits)
        stops = torch.tensor(sorted(stop), device=device)
        rows = np.arange(batch)  # which prompt each row of the batch is: finished ones have left it
        written: list[list[int]] = [[] for _ in range(batch)]
        draws = [np.random.default_rng(seed) for seed in seeds] if decoding.do_sample else []
        known = None
        if decoding.repetition_penalty != 1:
            known = torch.zeros_like(logits, dtype=torch.bool)
            mask = inputs["attention_mask"].bool()
            known[mask.nonzero()[:, 0], inputs["input_ids"][mask]] = True
        for step in range(1, max_new_tokens + 1):
            numbers = [draws[row].random() for row in rows] if decoding.do_sample else None
            tokens = choose(logits.float(), decoding, known, numbers)
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                written[row].append(token)
            live = ~torch.isin(tokens, stops)
            if step == max_new_tokens or not live.any():
                break
            if known is not None:
                known[torch.arange(len(tokens), device=device), tokens] = True
            if not live.all():
                kept = live.nonzero()[:, 0]
                prompts.keep(kept)
                tokens, rows = tokens[kept], rows[kept.cpu().numpy()]
                known = None if known is None else known[kept]
            sees = torch.ones(1, 1, step, dtype=torch.bool, device=device)
            logits = prompts.extend(tokens[:, None], step, sees)[:, -1]
    return [np.array(tokens, np.int64) for tokens in written]


def choose(logits: Any, decoding: Decoding, known: Any = None, numbers: Sequence[float] | None = None) -> Any:
    """(B,) next tokens from (B, V) float logits.

    Args:
        known: (B, V) bool, tokens of prompt and answer so far, for the repetition penalty of CTRL
            (Keskar et al., 2019, https://arxiv.org/abs/1909.05858).
        numbers: (B,) in [0, 1): where in the distribution each sample draws its token.
    """
    import torch

    if known is not None:
        penalized = torch.where(logits < 0, logits * decoding.repetition_penalty, logits / decoding.repetition_penalty)
        logits = torch.where(known, penalized, logits)
    if not decoding.do_sample:
        return logits.argmax(-1)
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = [TemperatureLogitsWarper(float(decoding.temperature))] if decoding.temperature != 1 else []
    warpers += [TopKLogitsWarper(int(decoding.top_k))] if decoding.top_k else []
    warpers += [TopPLogitsWarper(float(decoding.top_p))] if decoding.top_p < 1 else []
    for warper in warpers:
        logits = warper(None, logits)
    chances, order = logits.softmax(-1).double().sort(-1, descending=True)  # likeliest first: rounding ends in the tail
    ends = chances.cumsum(-1)
    at = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None] * ends[:, -1:]
    return order.gather(-1, torch.searchsorted(ends, at, right=True).clamp_max(ends.shape[-1] - 1))[:, 0]
