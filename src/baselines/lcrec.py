"""Baseline: LC-Rec, a text LLM fine-tuned on SIDs of text embeddings, by our own commands from embeddings to results.

    python -m src.baselines.lcrec --dataset Games --base_model ./models/Llama-3.2-1B \\
        --results_file results/Games/lcrec.json

Each command is printed as it can be pasted. What they make lies beside the results in `<results>.model/`: embeddings,
RQ-VAE, SID index, fine-tuned model. Started again, after a kill too, it goes on: a stage is done again only when its
settings or inputs changed. `--nproc 8` fine-tunes and evaluates with 8 processes.

Reference: Zheng et al., 2023, https://arxiv.org/abs/2311.09049; docs/baselines_readme.md says what differs.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.baselines.config import BaselineConfig, build_parser
from src.common.cli import add_switch, device_name, name_list, number_list, settings_of, user_errors

TASKS = ("seqrec", "item2index", "index2item", "fusionseqrec")
USER_TASKS = ("itemsearch", "preferenceobtain")  # where there are texts about users
FUSION_SAMPLES = 20_000  # on Instruments; LC-Rec took 30,000 on Arts and 100,000 on Games


@dataclass(frozen=True)
class LcrecConfig(BaselineConfig):
    """Defaults are those of index/run.sh, run.sh, utils.py and run_test_ddp.sh in https://github.com/RUCAIBox/LC-Rec."""

    base_model: str = ""  # required
    model_type: str | None = None  # None: as its config.json says

    # embeddings
    embeddings: Path | None = None
    embedding_model: str | None = None

    # RQ-VAE
    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)
    layers: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    e_dim: int = 32
    sk_epsilons: tuple[float, ...] = (0.003,)  # of the last level
    rqvae_epochs: int = 10_000
    rqvae_batch_size: int = 1024
    rqvae_learning_rate: float = 1e-3
    rqvae_weight_decay: float = 1e-4

    # fine-tuning
    tasks: tuple[str, ...] = ()  # all that the dataset has files for
    train_prompt_sample_num: tuple[int, ...] = ()
    train_data_sample_num: tuple[int, ...] = ()
    max_valid_samples: int = 0
    batch_size: int = 128  # 8 GPUs x 8 samples x 2 batches
    per_device_batch_size: int = 8
    learning_rate: float = 5e-5
    epochs: float = 4
    weight_decay: float = 0.01
    warmup_ratio: float = 0.01
    max_his_len: int = 20
    share_prefix: bool = False
    use_lora: bool = False
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    bf16: bool = False  # published with it, on GPUs
    deepspeed: str | None = None  # published with ds_z3_bf16.json
    use_gradient_checkpointing: bool = False
    num_workers: int = 0

    # evaluation
    test_prompt_ids: str = "all"
    test_batch_size: int = 16

    nproc: int = 1
    seed: int = 42
    device: str = "auto"


def build_lcrec_parser(description: str | None) -> argparse.ArgumentParser:
    d = LcrecConfig
    parser = build_parser(description)
    add = parser.add_argument
    add("--base_model", required=True, help="folder or hub name of a text model to fine-tune")
    add("--model_type", help="its family, e.g. llama (default: as its config.json says)")
    add("--nproc", type=int, default=d.nproc, help="processes that fine-tune and evaluate, one a GPU")
    add("--device", type=device_name, default=d.device, help="auto, cpu or cuda")
    add("--seed", type=int, default=d.seed, help="of weights, samples, wordings and order")

    group = parser.add_argument_group("text embeddings")
    add = group.add_argument
    add("--embeddings", type=Path, metavar="NPY", help="take these (default: words, by TF-IDF)")
    add("--embedding_model", help="make them with this language model, as LC-Rec does with LLaMA (default: likewise)")

    group = parser.add_argument_group("RQ-VAE")
    add = group.add_argument
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    add("--num_emb_list", dest="codebook_sizes", default=d.codebook_sizes, help="codewords of each level", **sizes)
    add("--layers", default=d.layers, help="hidden widths of the encoder", **sizes)
    add("--e_dim", type=int, default=d.e_dim, help="width of the latents")
    add(
        "--sk_epsilons", type=float, nargs="+", metavar="E", default=d.sk_epsilons,
        help="Sinkhorn-Knopp strength: one a level, or one for the last level",
    )  # fmt: skip
    add("--rqvae_epochs", type=int, default=d.rqvae_epochs, help="passes over all items")
    add("--rqvae_batch_size", type=int, default=d.rqvae_batch_size, help="items a step")
    add("--rqvae_learning_rate", type=float, default=d.rqvae_learning_rate, help="the highest; it falls linearly")
    add("--rqvae_weight_decay", type=float, default=d.rqvae_weight_decay, help="of AdamW")

    group = parser.add_argument_group("fine-tuning")
    add = group.add_argument
    add(
        "--tasks", type=name_list, default=[],
        help=f"by commas (default: {','.join(TASKS)}, and {','.join(USER_TASKS)} where <dataset>.user.json is there)",
    )  # fmt: skip
    add("--train_prompt_sample_num", type=number_list(), default=[], help="wordings a sample, a number a task")
    add(
        "--train_data_sample_num", type=number_list(), default=[],
        help=f"random cap of samples, a number a task, 0: all (default: {FUSION_SAMPLES} of fusionseqrec)",
    )  # fmt: skip
    add("--max_valid_samples", type=int, default=d.max_valid_samples, help="random cap of each task's validation")
    add("--batch_size", type=int, default=d.batch_size, help="samples a step, of all processes")
    add("--per_device_batch_size", type=int, default=d.per_device_batch_size, help="samples of a process at once")
    add("--learning_rate", type=float, default=d.learning_rate, help="the highest of the run")
    add("--epochs", type=float, default=d.epochs, help="passes over the training samples")
    add("--weight_decay", type=float, default=d.weight_decay, help="of AdamW")
    add("--warmup_ratio", type=float, default=d.warmup_ratio, help="share of the steps in which the rate rises")
    add("--max_his_len", type=int, default=d.max_his_len, help="latest items of a history")
    add_switch(group, "--share_prefix", help="all next-item samples of a user share one pass over their history")
    add_switch(group, "--use_lora", help="train LoRA matrices and the SID rows; else all parameters")
    add("--lora_r", type=int, default=d.lora_r, help="rank of the LoRA matrices")
    add("--lora_alpha", type=int, default=d.lora_alpha, help="LoRA is scaled by lora_alpha / lora_r")
    add("--lora_dropout", type=float, default=d.lora_dropout, help="dropout before the LoRA matrices")
    add_switch(group, "--bf16", help="compute in bfloat16, as LC-Rec does; slow on most CPUs")
    add("--deepspeed", help="a DeepSpeed config such as ./config/ds_z2_bf16.json (default: none)")
    add_switch(group, "--use_gradient_checkpointing", help="keep fewer activations: less memory")
    add("--num_workers", type=int, default=d.num_workers, help="processes that load data, each rank")

    group = parser.add_argument_group("evaluation")
    add = group.add_argument
    add("--test_prompt_ids", default=d.test_prompt_ids, help="wordings: numbers with commas, or all, of which the mean")
    add("--test_batch_size", type=int, default=d.test_batch_size, help="questions at once, each process")
    return parser


def config_from(args: argparse.Namespace) -> LcrecConfig:
    return LcrecConfig(**settings_of(args))


def main(argv: list[str] | None = None) -> None:
    args = build_lcrec_parser(__doc__).parse_args(argv)
    from src.baselines.lcrec_stages import run_lcrec  # reads data: after parsing, so that a typo answers at once
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        run_lcrec(config_from(args))


if __name__ == "__main__":
    main()
