"""A whole evaluation: how many users a second, and how much of the time is not the model's."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Row, real_data

INSTRUMENTS, HMWEEK = "Instruments", "HMWeek"


@contextmanager
def forward_seconds(model_class: type) -> Iterator[list[float]]:
    """Wall seconds of each call of the model, while it lasts."""
    spent: list[float] = []
    forward = model_class.forward

    def timed(self, *args, **kwargs):
        started = time.perf_counter()
        try:
            return forward(self, *args, **kwargs)
        finally:
            spent.append(time.perf_counter() - started)

    model_class.forward = timed
    try:
        yield spent
    finally:
        model_class.forward = forward


def decoding_seconds(checkpoint: Path, data: Path, dataset: str, index_file: Path, **settings) -> tuple[float, int]:
    """Wall seconds that the questions of an evaluation take, from samples to ranked items, and their number."""
    from src.common.distributed import resolve_device
    from src.seqrec.config import EvaluateConfig
    from src.seqrec.core import Parts, ask, check, cut_batches, make_samples
    from src.seqrec.recommender import Recommender

    config = EvaluateConfig(
        ckpt_model=checkpoint, data_path=data, dataset=dataset, index_file=str(index_file), device="cpu",
        results_file=checkpoint / "results.json", **settings,
    )  # fmt: skip
    task, _, catalogue = check(config)
    samples = make_samples(config, task, catalogue)
    recommender = Recommender(config, catalogue, resolve_device("cpu"))
    batches = cut_batches(samples, config.test_batch_size)
    with Parts(config, catalogue) as parts:
        started = time.perf_counter()
        ask(recommender, task.item_templates[0], 0, samples, batches, parts)
        return time.perf_counter() - started, len(samples.users)


def outside_row(num_users: int) -> Row:
    """Random users of Instruments, Qwen2 of width 256: what questions, search and ranking take beside the model."""
    from transformers import Qwen2ForCausalLM

    from benchmarks.decode.subject import small_model
    from benchmarks.sft.subject import link, subject

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index_file = link(INSTRUMENTS, folder)
        checkpoint = folder / "model"
        small_model().save_pretrained(checkpoint)
        subject(INSTRUMENTS).builder.tokenizer.save_pretrained(checkpoint)
        with forward_seconds(Qwen2ForCausalLM) as spent:
            seconds, asked = decoding_seconds(checkpoint, folder, INSTRUMENTS, index_file, sample_num=num_users)
    return Row(
        f"{INSTRUMENTS}, Qwen2 of width 256: time outside the model",
        1 - sum(spent) / seconds,
        "of the wall time",
        higher_is_better=False,
        goal=0.1,
        note=f"{asked} users, {asked / seconds:.1f} a second, 20 beams, batches of 16",
    )


def speed_row(num_users: int) -> Row:
    """The model of the quickstart (its shape; random weights take as long) on HMWeek."""
    import torch

    from scripts.make_tiny_model import main as make_tiny_model
    from src.models import add_sid_tokens, load_model
    from src.tasks.catalogue import load_catalogue

    source = real_data(HMWEEK)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index_file = folder / f"{HMWEEK}.index_random.json"
        write_random_index(source, index_file)
        corpus = source / f"{HMWEEK}.item.json"
        make_tiny_model(["--family", "qwen2_vl", "--out", str(folder / "base"), "--corpus", str(corpus)])
        loaded = load_model(folder / "base", torch.float32)
        catalogue = load_catalogue(source.parent, HMWEEK, index_file)
        add_sid_tokens(loaded, catalogue.sid_index.all_tokens)
        loaded.model.save_pretrained(folder / "model")
        loaded.processor.save_pretrained(folder / "model")
        seconds, asked = decoding_seconds(
            folder / "model", source.parent, HMWEEK, index_file, sample_num=num_users, filter_history=True,
            test_batch_size=32,
        )  # fmt: skip
    return Row(
        f"{HMWEEK}, model of the quickstart: users a second",
        asked / seconds,
        "users/s",
        note=f"{asked} users in {seconds:.1f} s of wall time, one thread, 20 beams, history masked",
    )


def write_random_index(source: Path, path: Path) -> None:
    """SIDs of 3 levels of 256 codes, as the quickstart makes for HMWeek, drawn at random."""
    import numpy as np

    from src.common.artifacts import read_json
    from src.common.index_files import save_sid_index
    from src.common.sid import SidIndex, level_letters

    items = np.array(sorted(map(int, read_json(source / f"{HMWEEK}.item.json"))))
    keys = np.random.default_rng(0).choice(256**3, len(items), replace=False)
    codes = np.stack(np.unravel_index(keys, (256,) * 3), 1)
    save_sid_index(path, SidIndex(items, codes, level_letters(3), (256,) * 3), {})


def rows(quick: bool) -> Iterator[Row]:
    if real_data(INSTRUMENTS) is None or real_data("Scientific") is None or real_data(HMWEEK) is None:
        print("evaluation: skipped, Instruments, Scientific or HMWeek is absent; set GREC_DATA")
        return
    yield outside_row(64 if quick else 1000)
    yield speed_row(64 if quick else 0)
