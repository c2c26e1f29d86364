"""Evaluations of texts on the toy data, with or without a model."""

from pathlib import Path

import numpy as np

from src.text_generation.config import TextConfig
from src.text_generation.generator import Generator
from tests.seqrec.toy_runs import checkpoint
from tests.toy import INDEX_FILE, NAME, enriched_fields, tiny_model, toy_catalogue, toy_path

TEST_ITEMS = toy_catalogue().enriched_split("test").tolist()


def config_for(folder: Path, family: str = "qwen2_vl", **changes) -> TextConfig:
    values = {
        "dataset": NAME,
        "index_file": None if changes.get("zero_shot") else INDEX_FILE,
        "ckpt_model": tiny_model(family) if changes.get("zero_shot") else checkpoint(family),
        "data_path": toy_path(),
        "test_batch_size": 2,
        "max_new_tokens": 8,
        "results_file": folder / "results.json",
        "device": "cpu",
    }
    return TextConfig(**{**values, **changes})


def fake_answers(monkeypatch, write) -> list[int]:
    """Lets `write(item)` answer in place of a model; gives the items that were asked about."""
    from src.text_generation.generator import Answers

    asked = []

    def answer(self, template, prompt_id, numbers, limit, decoding):
        items = self.samples.items[numbers].tolist()
        asked.extend(items)
        none = np.zeros(len(items), bool)
        return Answers([write(item) for item in items], none, none)

    monkeypatch.setattr(Generator, "answer", answer)
    return asked


def labelled(item: int) -> str:
    """The right answer of text_enrich, in another order."""
    fields = enriched_fields(item)
    lines = {
        "Tags": "tags",
        "Title": "enhanced_title",
        "Highlights": "highlights",
        "Characteristics": "characteristics",
    }
    texts = {label: fields[slot] for label, slot in lines.items()}
    texts = {label: text if isinstance(text, str) else "; ".join(e.replace(";", ",") for e in text)
             for label, text in texts.items()}  # fmt: skip
    return "\n".join(f"{label}: {text}" for label, text in texts.items() if text)


def flags_for(folder: Path, ckpt: Path, *more) -> list[str]:
    return [
        *("--dataset", NAME, "--data_path", str(toy_path()), "--index_file", INDEX_FILE, "--ckpt_model", str(ckpt)),
        *("--device", "cpu", "--max_new_tokens", "8", "--test_batch_size", "2"),
        *("--results_file", str(folder / "results.json"), *map(str, more)),
    ]
