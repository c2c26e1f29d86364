"""Every setting of an evaluation with its default, and the flags that set them."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from src.common.cli import add_checkpoint_flags, add_dataset_flags, add_switch, name_list, new_parser, settings_of
from src.tasks.task import Split

FUSED = ("cooc", "itemknn", "sasrec")
ENSEMBLE_BY = ("mean", "best", "weighted")
METRICS = ("hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10")
HOW_ASKED = ("max_his_len", "prompt_lang", "image_path", "bf16")  # beside the protocol: decides what a model answers


@dataclass(frozen=True)
class EvaluateConfig:
    dataset: str
    index_file: str
    ckpt_model: Path
    data_path: Path = Path("data")
    image_path: str = "images"
    skip_bad_images: bool = False
    base_model: str | None = None
    lora: bool = False
    test_task: str = "seqrec"
    test_prompt_ids: str = "0"
    prompt_lang: str | None = None
    split: Split = "test"
    num_beams: int = 20
    test_batch_size: int = 16
    metrics: tuple[str, ...] = METRICS
    max_his_len: int | None = None
    sample_num: int = 0
    filter_history: bool = False
    filter_items: bool = True
    legal_softmax: bool = False
    exact: bool = False
    ensemble: tuple[str, ...] = ()  # further models, CKPT=INDEX
    ensemble_by: str = "auto"
    fuse: tuple[str, ...] = ()
    fuse_weight: str = "auto"
    fuse_results: Path | None = None
    fuse_sample_num: int = 2000
    results_file: Path | None = None  # else as in `results_path`
    bf16: bool = False
    device: str = "auto"
    seed: int = 42

    @property
    def results_path(self) -> Path:
        """Where the results go: by default models, tasks and datasets do not replace each other's."""
        name = f"{self.test_task}-{self.ckpt_model.resolve().name}.json"
        return self.results_file or Path("results", self.dataset, name)


@dataclass(frozen=True)
class CaseConfig(EvaluateConfig):
    sample_num: int = 5
    users: tuple[str, ...] = ()  # names; else `sample_num` of them at random
    top_k: int = 10
    html: Path | None = None  # else as in `page_path`

    @property
    def page_path(self) -> Path:
        """Where the page goes unless `html` says: beside the results."""
        return self.html or self.results_path.with_suffix(".cases.html")


@dataclass(frozen=True)
class RecommendConfig(EvaluateConfig):
    history: tuple[int, ...] = ()  # item ids, oldest first
    user: str | None = None  # instead: all that this user had
    top_k: int = 10
    json: bool = False


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model answers about which data: shared by metric_ddp, case and verify_pictures."""
    d = EvaluateConfig
    add_dataset_flags(parser)
    parser.add_argument("--index_file", required=True, help="SID index: a path, or a suffix such as .index_qwen7B.json")
    add_checkpoint_flags(parser)
    parser.add_argument(
        "--num_beams", type=int, default=d.num_beams, help="beams of the search, and length of the ranked list"
    )


def add_sample_num_flag(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--sample_num", type=int, default=default, help="a seeded random part of the samples; 0: all")


def add_question_flags(parser: argparse.ArgumentParser) -> None:
    """How the model is asked: shared by metric_ddp, case and recommend."""
    d = EvaluateConfig
    parser.add_argument(
        "--test_task",
        default=d.test_task,
        help="seqrec, mmseqrec, fusionseqrec, item2index, mmitem2index or itemsearch",
    )
    parser.add_argument("--test_prompt_ids", default=d.test_prompt_ids, help="wordings: numbers with commas, or all")
    parser.add_argument("--max_his_len", type=int, help="latest items of a history; 0: all (default: as in training)")
    add_switch(parser, "--filter_history", help="leave out items that the user already has")
    add_switch(
        parser,
        "--filter_items",
        default=d.filter_items,
        help="only real items; always so, since decoding is under the trie",
    )
    add_switch(parser, "--legal_softmax", help="probabilities over legal tokens, not over the whole vocabulary")
    add_switch(parser, "--exact", help="score all items instead of searching with beams: slow, and loses nothing")


def add_fusion_flags(parser: argparse.ArgumentParser) -> None:
    """Several models, and collaborative scores, ranked together: of metric_ddp alone."""
    d = EvaluateConfig
    parser.add_argument(
        "--ensemble",
        nargs="+",
        default=list(d.ensemble),
        metavar="CKPT=INDEX",
        help="further models of the same catalogue, each with its SID index, such as output/image=.index_image.json",
    )
    parser.add_argument(
        "--ensemble_by",
        choices=("auto", *ENSEMBLE_BY),
        default=d.ensemble_by,
        help="an item's chance is the mean of those the models give it, the best, or a mean with weights chosen on the"
        " valid split; auto: what ranks that best",
    )
    parser.add_argument(
        "--fuse",
        type=name_list,
        default=list(d.fuse),
        help=f"collaborative scores to fuse with, by commas: {', '.join(FUSED)} (default: none)",
    )
    parser.add_argument(
        "--fuse_weight",
        default=d.fuse_weight,
        help="of each of them, by commas, 0 to 1 together; auto: what ranks the valid split best",
    )
    parser.add_argument(
        "--fuse_results", type=Path, help="results of src.baselines.sasrec, for --fuse sasrec (default: none)"
    )
    parser.add_argument(
        "--fuse_sample_num",
        type=int,
        default=d.fuse_sample_num,
        help="samples of the valid split by which auto chooses, a seeded random part; 0: all",
    )


def add_top_k_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top_k", type=int, default=CaseConfig.top_k, help="ranked items to show, up to --num_beams")


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that src.seqrec.metric_ddp and case share; their defaults are EvaluateConfig's."""
    d = EvaluateConfig
    parser = new_parser(description)
    add_model_flags(parser)
    add_question_flags(parser)
    parser.add_argument(
        "--split", choices=("valid", "test"), default=d.split, help="what is asked; choose settings on valid"
    )
    parser.add_argument(
        "--metrics", type=name_list, default=list(d.metrics), help="hit@k, ndcg@k, recall@k, mrr@k, by commas"
    )
    add_sample_num_flag(parser, d.sample_num)
    parser.add_argument(
        "--results_file",
        type=Path,
        help="JSON (default: results/<dataset>/<task>-<ckpt_model>.json); predictions are written beside it",
    )
    return parser


def config_from(args: argparse.Namespace) -> EvaluateConfig:
    return EvaluateConfig(**settings_of(args))
