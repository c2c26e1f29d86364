"""Every setting of text generation with its default, and the flags that set them."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.common.cli import add_checkpoint_flags, add_dataset_flags, add_switch, name_list, new_parser, settings_of
from src.tasks.task import Split

PAGE_ITEMS = 24


@dataclass(frozen=True)
class TextConfig:
    dataset: str
    ckpt_model: Path
    index_file: str | None = None
    data_path: Path = Path("data")
    image_path: str = "images"
    skip_bad_images: bool = False
    base_model: str | None = None
    lora: bool = False
    zero_shot: bool = False
    test_task: str = "text_enrich"
    test_prompt_ids: str = "0"
    prompt_lang: str | None = None
    split: Split = "test"
    test_batch_size: int = 16
    max_new_tokens: int = 0
    do_sample: bool | None = None  # None, here and below: not said, so that a generation_config may say it
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    use_generation_config: bool = False
    shuffle_images: bool = False
    sample_num: int = 0
    bertscore_model: Path | None = None
    bertscore_layer: int | None = None
    embedding_model: Path | None = None
    model_name: str | None = None
    results_file: Path | None = None
    table_file: Path | None = None
    page_items: int = PAGE_ITEMS
    bf16: bool = False
    device: str = "auto"
    seed: int = 42

    @property
    def name(self) -> str:
        """What the model is called in tables."""
        return self.model_name or self.ckpt_model.resolve().name

    @property
    def results_path(self) -> Path:
        return self.results_file or Path("results", self.dataset, f"{self.test_task}-{self.name}.json")

    @property
    def table_path(self) -> Path:
        return self.table_file or self.results_path.with_name("text_generation.csv")


@dataclass(frozen=True)
class TextCaseConfig(TextConfig):
    sample_num: int = 5
    items: tuple[str, ...] = ()  # items, or users where the task is about those; else `sample_num` at random
    html: Path | None = None  # else as in `page_path`

    @property
    def page_path(self) -> Path:
        return self.html or self.results_path.with_suffix(".cases.html")


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that src.text_generation.evaluate and case share; their defaults are TextConfig's."""
    d = TextConfig
    parser = new_parser(description)
    add_dataset_flags(parser)
    parser.add_argument(
        "--index_file", help="SID index, where the wordings name SIDs: a path, or a suffix such as .index_qwen7B.json"
    )
    add_checkpoint_flags(parser)
    asked = parser.add_argument_group("what is asked")
    asked.add_argument(
        "--test_task",
        default=d.test_task,
        help="text_enrich, mmitemenrichwithoutid, index2item, mmindex2item or preferenceobtain",
    )
    add_switch(
        asked,
        "--zero_shot",
        help="a published model that was not fine-tuned here: wordings without SIDs that say what to write",
    )
    asked.add_argument("--test_prompt_ids", default=d.test_prompt_ids, help="wordings: numbers with commas, or all")
    asked.add_argument("--split", choices=("valid", "test"), default=d.split, help="choose settings on valid")
    asked.add_argument("--sample_num", type=int, default=d.sample_num, help="a seeded random part; 0: all")
    add_switch(asked, "--skip_bad_images", help="ask without pictures that do not decode")
    add_switch(asked, "--shuffle_images", help="show each item the picture of another: what is left is not seen")
    written = parser.add_argument_group("how it is written (greedy, unless these say otherwise)")
    written.add_argument(
        "--max_new_tokens",
        type=int,
        default=d.max_new_tokens,
        help="longest answer; 0: half more than the longest answer of the training split",
    )
    add_switch(written, "--do_sample", default=d.do_sample, help="draw tokens instead of taking the likeliest")
    written.add_argument("--temperature", type=float, help="of --do_sample (default: 1)")
    written.add_argument("--top_p", type=float, help="of --do_sample: tokens of this share of probability (default: 1)")
    written.add_argument("--top_k", type=int, help="of --do_sample: so many likeliest tokens (default: all)")
    written.add_argument("--repetition_penalty", type=float, help="divides what was written before (default: 1)")
    add_switch(
        written,
        "--use_generation_config",
        help="take what the flags above do not say from the checkpoint's generation_config.json, else ignored",
    )
    judged = parser.add_argument_group("how it is judged")
    judged.add_argument("--bertscore_model", type=Path, help="folder of an encoder: adds BERTScore F1")
    judged.add_argument("--bertscore_layer", type=int, help="its layer (default: the last)")
    judged.add_argument("--embedding_model", type=Path, help="folder of a sentence encoder: adds cosine similarity")
    judged.add_argument("--model_name", help="name in tables (default: name of the folder --ckpt_model)")
    judged.add_argument(
        "--results_file",
        type=Path,
        help="JSON (default: results/<dataset>/<task>-<name>.json); the rest lies beside it",
    )
    return parser


def add_record_flags(parser: argparse.ArgumentParser) -> None:
    """What an evaluation writes beside its results, and a look at a few cases does not."""
    written = parser.add_argument_group("what is written beside the results")
    written.add_argument(
        "--table_file", type=Path, help="CSV with a row a model (default: text_generation.csv beside the results)"
    )
    written.add_argument("--page_items", type=int, default=TextConfig.page_items, help="items on the page; 0: no page")


def add_case_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--items",
        type=name_list,
        default=TextCaseConfig.items,
        help="items to show, by commas; users, where the task is about those (default: --sample_num random ones)",
    )
    parser.add_argument("--html", type=Path, help="page to write (default: beside the results)")
    parser.set_defaults(sample_num=TextCaseConfig.sample_num)


def config_from(args: argparse.Namespace) -> TextConfig:
    return TextConfig(**settings_of(args))
