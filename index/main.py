"""Train the RQ-VAE that turns embeddings into semantic IDs, or fit another tokenizer.

python3 index/main.py --data_path data/Games/Games.emb-qwen7B.npy --ckpt_dir data/Games/index/qwen7B

Very large catalogues: torchrun --nproc_per_node=8 -m index.main ..., where each rank holds its share of the items.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: look up modules from the repository root, as `python -m index.main` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from index.config import FUSIONS, LEARNERS, LOSSES, NORMALIZATIONS, QUANTIZERS, SCHEDULES, TrainConfig
from src.common.cli import add_device_flag, add_switch, new_parser, user_errors


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--data_path",
        type=Path,
        nargs="+",
        required=True,
        metavar="NPY",
        help="embeddings, a .npy of shape (items, width); several, e.g. of texts and of images, are fused",
    )
    files.add_argument(
        "--cf_path", type=Path, metavar="NPY", help="collaborative embeddings of the items, for --cf_weight"
    )
    files.add_argument("--ckpt_dir", type=Path, required=True, help="the run goes to <ckpt_dir>/<timestamp>/")
    files.add_argument("--resume", type=Path, help="run folder (or its last.pth) to go on with; its flags are kept")
    files.add_argument("--save_limit", type=int, default=TrainConfig.save_limit, help="epoch_*.pth to keep")
    files.add_argument(
        "--num_workers",
        type=int,
        default=TrainConfig.num_workers,
        help="threads on a CPU, 0 leaves the choice to torch; data lies on the device, so nothing loads it",
    )
    add_device_flag(files)

    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--lr", dest="learning_rate", metavar="LR", type=float, default=TrainConfig.learning_rate, help="learning rate")
    add("--epochs", type=int, default=TrainConfig.epochs, help="passes over all items")
    add("--batch_size", type=int, default=TrainConfig.batch_size, help="items a step, at most")
    add("--eval_step", type=int, default=TrainConfig.eval_step, help="epochs between evaluations, which save")
    add("--learner", choices=LEARNERS, default=TrainConfig.learner, help="optimizer")
    add("--lr_scheduler_type", choices=SCHEDULES, default=TrainConfig.lr_scheduler_type, help="after the warm-up")
    add("--warmup_epochs", type=int, default=TrainConfig.warmup_epochs, help="linear rise of the learning rate")
    add(
        "--pretrain_epochs",
        type=int,
        default=TrainConfig.pretrain_epochs,
        help="of --epochs, as a plain autoencoder before the codebooks start; a fifth of all saves half the time",
    )
    add("--weight_decay", type=float, default=TrainConfig.weight_decay, help="of the optimizer")
    add("--seed", type=int, default=TrainConfig.seed, help="of weights, batches and k-means")

    model = parser.add_argument_group("model and losses")
    add = model.add_argument
    add(
        "--quantizer",
        choices=QUANTIZERS,
        default=TrainConfig.quantizer,
        help="rqvae and fsq train; the others are fitted at once, without --epochs, --lr, --layers and the like",
    )
    add(
        "--fusion",
        choices=FUSIONS,
        default=TrainConfig.fusion,
        help="of several embeddings: side by side with equal variance, or weighed item by item, which is learnt",
    )
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    add(
        "--num_emb_list",
        dest="codebook_sizes",
        default=TrainConfig.codebook_sizes,
        help="codewords of each level, coarsest first",
        **sizes,
    )
    add("--e_dim", type=int, default=TrainConfig.e_dim, help="width of the latents")
    add("--layers", default=TrainConfig.layers, help="hidden widths of the encoder; the decoder mirrors them", **sizes)
    add("--dropout_prob", type=float, default=TrainConfig.dropout_prob, help="dropout before each linear layer")
    add_switch(model, "--bn", default=TrainConfig.bn, help="batch norm after each hidden layer")
    add("--loss_type", choices=LOSSES, default=TrainConfig.loss_type, help="reconstruction loss")
    add("--normalize", choices=NORMALIZATIONS, default=TrainConfig.normalize, help="what to do with embeddings first")
    add(
        "--quant_loss_weight", type=float, default=TrainConfig.quant_loss_weight, help="weight of the quantization loss"
    )
    add("--beta", type=float, default=TrainConfig.beta, help="weight of the commitment in it")
    add(
        "--spread_weight",
        type=float,
        default=TrainConfig.spread_weight,
        help="pushes items that share a SID apart in training, at the price of reconstruction; 0 is off, try 5",
    )
    add(
        "--cf_weight",
        type=float,
        default=TrainConfig.cf_weight,
        help="pulls items together that --cf_path has close, by a contrastive loss; 0 is off, try 0.3",
    )
    add(
        "--diversity_weight",
        type=float,
        default=TrainConfig.diversity_weight,
        help="asks for even use of the codewords; 0 is off, try 1",
    )
    add(
        "--neighbour_weight",
        type=float,
        default=TrainConfig.neighbour_weight,
        help="keeps items near each other whose embeddings are, by cosine; 0 is off, try 3 with --normalize l2",
    )

    codebooks = parser.add_argument_group("codebooks")
    add = codebooks.add_argument
    add_switch(codebooks, "--kmeans_init", default=TrainConfig.kmeans_init, help="start by k-means, else uniform")
    add_switch(
        codebooks,
        "--large_scale_kmeans",
        default=TrainConfig.large_scale_kmeans,
        help="k-means on a sample of all items, else on a first batch",
    )
    add("--kmeans_iters", type=int, default=TrainConfig.kmeans_iters, help="of k-means, at most")
    add(
        "--sk_epsilons",
        type=float,
        nargs="+",
        metavar="E",
        default=TrainConfig.sk_epsilons,
        help="Sinkhorn-Knopp strength: one a level, or one for the last level; 0 is off",
    )
    add("--sk_iters", type=int, default=TrainConfig.sk_iters, help="of Sinkhorn-Knopp")

    wandb = parser.add_argument_group("wandb")
    add_switch(wandb, "--use_wandb", default=TrainConfig.use_wandb, help="log to Weights & Biases")
    wandb.add_argument("--wandb_project", default=TrainConfig.wandb_project, help="its project")
    wandb.add_argument("--wandb_name", default=TrainConfig.wandb_name, help="name of the run there")
    return parser


def parse_config(argv: list[str] | None, description: str | None = __doc__) -> TrainConfig:
    """Settings from flags; with --resume, flags that are not given are those of the run."""
    parser = build_parser(description)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume", type=Path)
    resumed = first.parse_known_args(argv)[0].resume
    if resumed is not None:
        path = (resumed if resumed.is_dir() else resumed.parent) / "config.json"
        if not path.is_file():
            parser.error(f"--resume {resumed}: {path} does not exist. Give a run folder of index/main.py")
        settings = json.loads(path.read_text(encoding="utf-8"))["config"]
        for action in parser._actions:
            if action.dest in settings and action.dest != "resume":
                action.required, action.default = False, settings[action.dest]
    try:
        return TrainConfig(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> None:
    config = parse_config(argv)
    from index.trainer import train  # imports torch: after parsing, so that --help and a typo answer at once
    from src.common.distributed import finish
    from src.common.log import setup_logging

    setup_logging()
    with user_errors():
        try:
            train(config)
        finally:
            finish()


if __name__ == "__main__":
    main()
