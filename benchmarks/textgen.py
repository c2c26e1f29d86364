"""Speed of text generation, side by side with one prompt after another, in CPU seconds of one thread.

python -m benchmarks.textgen --quick
python -m benchmarks.textgen --json results/benchmarks/textgen.json

Both sides write greedily from the same prompts and must give the same tokens. Answers end at tokens of which random
weights meet one after some dozen steps, so that their lengths differ as those of real answers do.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, alternate, run
from benchmarks.rivals.plain_generation import one_by_one

LIMIT = 96
BATCH_SIZE = 16
STOP_SHARE = 0.02  # of the vocabulary ends an answer


def make_subject(family: str, folder: Path, hidden_size: int, num_layers: int) -> tuple[Any, Any, list]:
    """A model of random weights, its prompts' builder, and questions about items of the demo data."""
    from data_process.make_demo_data import DemoConfig, make_demo_data
    from scripts.make_tiny_model import TinyModelConfig, make_tiny_model
    from src.models import load_model
    from src.prompt import PromptBuilder
    from src.prompt_settings import PromptSettings
    from src.tasks.catalogue import load_catalogue
    from src.tasks.task import load_task
    from src.tasks.texts import add_texts

    if not (folder / "Demo").is_dir():
        make_demo_data(DemoConfig(data_path=folder, items=240, users=50))
    corpus = folder / "Demo" / "Demo.item_enriched_v2.json"
    shape = {"hidden_size": hidden_size, "num_layers": num_layers, "intermediate_size": 4 * hidden_size}
    model = make_tiny_model(TinyModelConfig(family, folder / family, corpus, init_std=0.2, **shape))
    loaded = load_model(model, torch.float32)
    loaded.model.eval()
    task = load_task("mmitemenrichwithoutid")
    catalogue = add_texts(load_catalogue(folder, "Demo", None, "images"), [task])
    if not loaded.family.vision:
        catalogue.image_files.clear()
    builder = PromptBuilder(catalogue, loaded.tokenizer, loaded.processor, PromptSettings(), loaded.merge_size)
    templates = task.templates  # in several wordings, so that prompts are of several lengths
    questions = [
        builder.question(templates[int(item) % len(templates)], [], int(item), LIMIT) for item in catalogue.item_ids
    ]
    return loaded, builder, questions


def batched(loaded: Any, samples: list, stop: list[int], batch_size: int = BATCH_SIZE) -> list[list[int]]:
    """GRec's way: batches of prompts of like lengths, which finished ones leave; on the model's device."""
    from src.collate import PromptCollator
    from src.common.parts import cut_batches
    from src.text_generation.decoding import generate

    collate, device = PromptCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope), loaded.model.device
    written: list[list[int]] = [[]] * len(samples)
    for batch in cut_batches(np.array([len(sample.ids) for sample in samples]), batch_size):
        inputs = {name: value.to(device) for name, value in collate([samples[i] for i in batch]).items()}
        found = generate(loaded.model, inputs, stop, LIMIT)
        for place, ids in zip(batch.tolist(), found, strict=True):
            written[place] = ids.tolist()
    return written


def stop_tokens(loaded: Any) -> list[int]:
    """Tokens that end an answer, drawn from the vocabulary."""
    vocabulary = len(loaded.tokenizer)
    return sorted(np.random.default_rng(0).permutation(vocabulary)[: int(STOP_SHARE * vocabulary)].tolist())


def ratio_row(name: str, subject: tuple, number: int, runs: int, goal: float | None) -> Row:
    loaded, builder, questions = subject
    samples = questions[:number]
    stop = stop_tokens(loaded)
    image_token = builder.image_token_id if loaded.family.vision else None
    timings = alternate(
        lambda: batched(loaded, samples, stop),
        lambda: one_by_one(loaded.model, samples, stop, LIMIT, image_token),
        runs,
        warm_up=False,
    )
    same = timings.our_result == timings.rival_result
    lengths = [len(ids) for ids in timings.our_result]
    note = f"{sum(timings.ours) / runs:.3g} s against {sum(timings.rival) / runs:.3g} s; answers of {min(lengths)} to"
    note += f" {max(lengths)} tokens, {np.mean(lengths):.0f} on average"
    return timings.ratio(name, "generate, one prompt after another", goal=goal, equal=same, note=note)


def rows(quick: bool) -> Iterator[Row]:
    number, runs = (24, 1) if quick else (96, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictured = make_subject("qwen2_vl", folder, 128, 2)
        title = f"{number} listings, batches of {BATCH_SIZE}"
        yield ratio_row(f"{title}: Qwen2-VL of width 128, pictures", pictured, number, runs, 3.0)
        words = make_subject("qwen2", folder, 256, 6)
        yield ratio_row(f"{title}: Qwen2 of width 256, 6 layers", words, number, runs, 3.0)


def sizes(quick: bool) -> Iterator[Row]:
    """Answers a second over batch sizes, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    number = 24 if quick else 192
    with tempfile.TemporaryDirectory() as name:
        loaded, _, questions = make_subject("qwen2_vl", Path(name), 128, 2)
        loaded.model.to(device)
        samples, stop = (questions * 2)[:number], stop_tokens(loaded)
        batched(loaded, samples[:8], stop, 4)  # what a first run alone needs
        for batch_size in (1, 4, 16, 64):
            started = time.perf_counter()
            batched(loaded, samples, stop, batch_size)
            seconds = time.perf_counter() - started
            yield Row(
                f"Qwen2-VL of width 128, pictures, {device.type}, batches of {batch_size}",
                len(samples) / seconds,
                "answers/s",
                note=f"{len(samples)} answers in {seconds:.1f} s of wall time",
            )


if __name__ == "__main__":
    run({"batches": rows, "sizes": sizes}, __doc__, on_request=("sizes",))
