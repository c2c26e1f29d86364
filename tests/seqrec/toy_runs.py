"""Evaluations of models that learnt nothing, on the toy data."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from src.common.artifacts import TOKEN_META, write_json
from src.common.index_files import index_path
from src.models import token_meta
from src.prompt_settings import PromptSettings
from src.seqrec.config import EvaluateConfig
from src.seqrec.results import predictions_path, read_predictions
from tests.toy import INDEX_FILE, NAME, dataset_paths, scratch, shared_model, toy_index, toy_path


def write_checkpoint(folder: Path, family: str, data: Path, **settings) -> Path:
    """A model that learnt nothing, as a fine-tuning run leaves it."""
    loaded = shared_model(family)
    loaded.model.save_pretrained(folder)
    (loaded.processor or loaded.tokenizer).save_pretrained(folder)
    index = replace(toy_index(), path=index_path(dataset_paths(data, NAME), "simple"))
    write_json(folder / TOKEN_META, token_meta(index, 600))
    record = {"prompt_settings": vars(PromptSettings(**settings)), "config": {"item_split": "all"}}
    write_json(folder / "run.json", record)
    return folder


@cache
def checkpoint(family: str = "qwen2") -> Path:
    return write_checkpoint(scratch() / "checkpoints" / family, family, toy_path(), max_his_len=6)


def config_for(folder: Path, family: str = "qwen2", **changes) -> EvaluateConfig:
    values = {
        "dataset": NAME,
        "index_file": INDEX_FILE,
        "ckpt_model": checkpoint(family),
        "data_path": toy_path(),
        "num_beams": 10,
        "test_batch_size": 8,
        "results_file": folder / "results.json",
        "device": "cpu",
    }
    return EvaluateConfig(**{**values, **changes})


def predictions_of(config: EvaluateConfig):
    return read_predictions(predictions_path(config.results_file))


def assert_equal_predictions(one: EvaluateConfig, other: EvaluateConfig) -> None:
    for ours, theirs in zip(predictions_of(one), predictions_of(other), strict=True):
        assert ours.users == theirs.users
        for field in ("targets", "ranked", "history_lengths"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    results = [json.loads(config.results_file.read_text()) for config in (one, other)]
    for name in ("mean_results", "all_prompt_results", "confidence_intervals", "slices", "num_samples"):
        assert results[0][name] == results[1][name]
