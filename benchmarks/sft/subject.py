"""What is measured: seqrec samples of real datasets, a tokenizer with their SIDs in it, and small Qwen2 models."""

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.harness import real_data
from src.dataset import TaskDataset
from src.prompt import PromptBuilder
from src.prompt_settings import PromptSettings
from src.tasks.catalogue import Catalogue, load_catalogue
from src.tasks.task import ITEM_TEXTS, load_task

DATASETS = {"Instruments": "Instruments.index_lemb.json", "Scientific": "indexes/rkmeans_zcr.index.json"}
TEXT_VOCABULARY = 16_384
VOCABULARIES = {"17k": TEXT_VOCABULARY + 1024, "152k": 151_936 + 1024}  # the second as Qwen2's, with SIDs of 4 x 256
CORPUS = "Scientific"  # Instruments comes without item texts


class Subject(NamedTuple):
    catalogue: Catalogue
    builder: PromptBuilder

    def dataset(self, share_prefix: bool) -> TaskDataset:
        return TaskDataset(load_task("seqrec"), self.builder, "train", share_prefix=share_prefix)


def present() -> list[str]:
    """The datasets that are there; says which are not."""
    found = [name for name in DATASETS if real_data(name) is not None and real_data(CORPUS) is not None]
    for name in DATASETS.keys() - set(found):
        print(f"{name}: skipped, the data is absent; set GREC_DATA to the folder that holds it and {CORPUS}")
    return found


def link(name: str, folder: Path) -> Path:
    """Puts the dataset into `folder`, with titles made up where it has no texts; gives the path of its SID index."""
    source, copy = real_data(name), folder / name
    copy.mkdir()
    for file in source.glob(f"{name}.*.json"):
        (copy / file.name).symlink_to(file)
    if not (copy / f"{name}.item.json").exists():
        numbers = json.loads((source / DATASETS[name]).read_text())
        items = {item: dict.fromkeys(ITEM_TEXTS, "") | {"title": f"Item {item}"} for item in numbers}
        (copy / f"{name}.item.json").write_text(json.dumps(items))
    return source / DATASETS[name]


@cache
def subject(name: str) -> Subject:
    with tempfile.TemporaryDirectory() as folder:
        catalogue = load_catalogue(folder, name, link(name, Path(folder)))
    tokenizer = make_tokenizer(tuple(catalogue.sid_index.all_tokens))
    return Subject(catalogue, PromptBuilder(catalogue, tokenizer, None, PromptSettings()))


@cache
def _text_tokenizer():
    from scripts.make_tiny_model import TinyModelConfig, corpus_texts
    from scripts.tiny_families import chatml_tokenizer

    corpus = real_data(CORPUS) / f"{CORPUS}.item.json"
    return chatml_tokenizer(
        TinyModelConfig("qwen2", Path(), corpus, vocab_size=TEXT_VOCABULARY), list(corpus_texts(corpus))
    )


def make_tokenizer(sid_tokens: Sequence[str]):
    """A ChatML tokenizer of TEXT_VOCABULARY tokens and those of the SIDs."""
    from copy import deepcopy

    from tokenizers import AddedToken

    tokenizer = deepcopy(_text_tokenizer())
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in sid_tokens])
    return tokenizer


def make_model(vocabulary: str, **changes):
    """Qwen2 of width 256 with 6 layers, tied head, random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from src.models import ATTENTION

    settings = {
        "vocab_size": VOCABULARIES[vocabulary],
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "attn_implementation": ATTENTION,
        **changes,
    }
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**settings)).train()


def spread(sizes: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """`number` places whose sizes are spread as all of them are, in a random order."""
    ranks = ((np.arange(number) + 0.5) * len(sizes) / number).astype(int)
    return np.random.default_rng(seed).permutation(np.argsort(sizes, kind="stable")[ranks])
