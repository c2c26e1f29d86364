"""Makes a tiny model with random weights that loads like a published one, for tests and laptops without a hub.

    python3 scripts/make_tiny_model.py --family qwen2_vl --out models/tiny-qwen2_vl --corpus data/Demo/Demo.item.json

The folder holds weights, config, a byte-level BPE tokenizer trained on the item texts, processor and chat template.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if (
    not __package__
):  # run as a file: look up modules from the repository root, as `python -m scripts.make_tiny_model` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from src.common.artifacts import read_json, share_weights, write_json
from src.common.cli import add_switch, new_parser, user_errors
from src.common.folders import atomic_folder
from src.common.record import plain
from src.tasks.task import OPTIONAL

FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "qwen2",
    "qwen3",
    "llama",
    "t5",
    "blip2",
    "instructblip",
)
MARKER = "tiny_model.json"  # says that a folder was made here, so that it may be replaced
MIN_VOCAB_SIZE = 300  # 256 bytes, the special tokens, and some merges


@dataclass(frozen=True)
class TinyModelConfig:
    """What to build. Widths are those of the language model; the vision tower has depth 2 and width 64."""

    family: str
    out: Path
    corpus: Path
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 512
    image_size: int = 56
    vocab_size: int = 2000
    init_std: float = 0.06
    seed: int = 42
    tie_word_embeddings: bool = True

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}: choose one of {', '.join(FAMILIES)}")
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 4 * num_heads ({4 * self.num_heads}):"
                " rotary embeddings turn pairs of channels"
            )
        if self.image_size < 28 or self.image_size % 28:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of 28 (2 x 2 patches of 14 pixels), such as 56"
            )
        if self.vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(f"vocab_size {self.vocab_size} must be at least {MIN_VOCAB_SIZE}: a token for every byte")


def make_tiny_model(config: TinyModelConfig) -> Path:
    """Writes the model's folder, whole or not at all, and returns its path.

    Raises:
        FileNotFoundError: the corpus is missing.
        FileExistsError: `out` holds something that this function did not make.
    """
    import torch

    from scripts.tiny_families import build

    out = Path(config.out)
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is no tiny model: choose another --out, or remove it")
    texts = list(corpus_texts(config.corpus))
    with atomic_folder(out) as folder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model, processor = build(config, texts)
        model.save_pretrained(folder)
        share_weights(folder)
        processor.save_pretrained(folder)
        write_json(folder / MARKER, plain(config), indent=2)
    return out


def corpus_texts(path: Path) -> Iterator[str]:
    """Every text of the items, and every English wording of the prompts: what the tokenizer learns its merges from."""
    yield from strings(
        read_json(path, "Give --corpus a <DS>.item.json; python3 data_process/make_demo_data.py makes one")
    )
    templates = Path(__file__).resolve().parents[1] / "src" / "tasks" / "templates" / "en"
    for template in sorted(templates.glob("*.json")):
        for text in strings(json.loads(template.read_text(encoding="utf-8"))):
            text = OPTIONAL.sub(r"\1", text)
            yield f"user\n{text}\nassistant\n"  # as a chat has it: its roles become one token each


def strings(value: Any) -> Iterator[str]:
    """Every string inside lists and tables, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from strings(entry)


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--family", required=True, choices=FAMILIES, help="architecture")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--corpus", required=True, type=Path, help="<DS>.item.json whose texts train the tokenizer")
    parser.add_argument("--hidden_size", type=int, default=TinyModelConfig.hidden_size, help="width")
    parser.add_argument(
        "--num_layers", type=int, default=TinyModelConfig.num_layers, help="layers of the language model"
    )
    parser.add_argument("--num_heads", type=int, default=TinyModelConfig.num_heads, help="attention heads")
    parser.add_argument(
        "--intermediate_size", type=int, default=TinyModelConfig.intermediate_size, help="width of the feed-forward"
    )
    parser.add_argument(
        "--image_size", type=int, default=TinyModelConfig.image_size, help="pixels per side of what the model sees"
    )
    parser.add_argument("--vocab_size", type=int, default=TinyModelConfig.vocab_size, help="tokens, at most")
    parser.add_argument(
        "--init_std", type=float, default=TinyModelConfig.init_std, help="deviation of the weights; T5 has its own"
    )
    parser.add_argument("--seed", type=int, default=TinyModelConfig.seed, help="seed of the weights")
    add_switch(
        parser,
        "--tie_word_embeddings",
        default=TinyModelConfig.tie_word_embeddings,
        help="one matrix for reading and for writing tokens",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with user_errors():
        print(make_tiny_model(TinyModelConfig(**vars(args))))


if __name__ == "__main__":
    main()
