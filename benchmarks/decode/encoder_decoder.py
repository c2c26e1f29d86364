"""A TIGER-shaped T5: encoder-decoder, vocabulary of SID tokens, 50 beams."""

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.decode.search import same_lists
from benchmarks.decode.subject import CODES, NUM_LEVELS, catalogue
from benchmarks.harness import Row, alternate, median
from benchmarks.rivals.plain_search import DictionaryTrie, generate
from src.decoding import beam_search
from src.trie import Trie

BEAMS, WIDTH, END_TOKEN, FIRST_TOKEN = 50, 84, 1, 2


def tiger() -> nn.Module:
    """T5 of 4 + 4 layers, width 128, 6 heads of 64, feed-forward 1,024."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=FIRST_TOKEN + NUM_LEVELS * CODES, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_heads=6,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=END_TOKEN,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.1, generator=generator)
    return model


def rows(quick: bool) -> Iterator[Row]:
    model, sids = tiger(), catalogue(10_000, FIRST_TOKEN)
    trie, dictionary = Trie(sids), DictionaryTrie(sids.tolist(), END_TOKEN)
    for batch, runs in [(2, 1)] if quick else [(1, 5), (8, 3), (32, 3)]:
        ids = torch.randint(FIRST_TOKEN, FIRST_TOKEN + NUM_LEVELS * CODES, (batch, WIDTH))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        timings = alternate(
            lambda inputs=inputs: beam_search(model, inputs, trie, BEAMS, END_TOKEN),
            lambda inputs=inputs: generate(model, inputs, dictionary, NUM_LEVELS, BEAMS, END_TOKEN),
            runs,
        )
        equal, difference = same_lists(timings.our_result, timings.rival_result, sids)
        yield timings.ratio(
            f"TIGER-shaped T5, prompts of {WIDTH} x {batch}, {BEAMS} beams",
            "generate(num_beams), dictionary trie",
            goal=None if quick else 4.0,
            equal=equal,
            note=f"{median(timings.ours):.3g} s against {median(timings.rival):.3g} s, scores to {difference:.1e}",
        )
