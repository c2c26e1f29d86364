"""All tokenizers on the same embeddings: one table of what codes are worth, before and after collisions are broken.

python -m benchmarks.sid_tokenizers --json results/benchmarks/sid_tokenizers.json
"""

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, cpu_seconds, real_data, run
from index.config import TRAINED, EvaluateConfig, GenerateConfig, TrainConfig

DATASETS = ("HMWeek", "Scientific")
SIZES = (256, 256, 256, 256)
TRAINING: dict[str, Any] = {
    "layers": (512, 256, 128),
    "batch_size": 128,
    "epochs": 200,
    "pretrain_epochs": 30,
    "warmup_epochs": 5,
    "lr_scheduler_type": "cosine",
    "eval_step": 200,
}
QUICK: dict[str, Any] = {
    **TRAINING,
    "pretrain_epochs": 0,
    "batch_size": 512,
    "epochs": 2,
    "warmup_epochs": 1,
    "eval_step": 2,
    "layers": (128, 64),
}
RAW: dict[str, Any] = {"normalize": "none"}  # all others: rows of length 1, since neighbours are meant by cosine
TOKENIZERS: dict[str, dict[str, Any]] = {
    "rqvae": {"spread_weight": 10.0},
    "rqvae, neighbours": {"spread_weight": 10.0, "neighbour_weight": 3.0},
    "rqvae, no spread": {},
    "rqvae, raw embeddings": {"spread_weight": 10.0, **RAW},
    "rqvae, Sinkhorn on level 4": {"sk_epsilons": (0.0, 0.0, 0.0, 0.003), "batch_size": 1024},
    "rqvae, aligned": {"spread_weight": 10.0, "cf_weight": 0.3},
    "rqvae, diversity": {"spread_weight": 10.0, "diversity_weight": 1.0},
    "fsq": {"quantizer": "fsq", "pretrain_epochs": 0},
    "rkmeans": {"quantizer": "rkmeans"},
    "rkmeans, raw embeddings": {"quantizer": "rkmeans", **RAW},
    "balanced_rkmeans": {"quantizer": "balanced_rkmeans"},
    "opq": {"quantizer": "opq"},
}
PAIRS = (("rqvae", "rkmeans, raw embeddings"), ("rqvae, neighbours", "rkmeans"))  # measured against each other
COLUMNS = {  # of the table: title, name in *.evaluation.json, which of a list
    "collisions": ("collision_rate", None),
    "least used": ("utilization", min),
    "purity 1": ("purity_top", 0),
    "neighbours": ("neighbour_recall", None),
    "by decoder": ("reconstruction_recall", None),
    "sequences": ("sequence_recall", None),
    "error": ("reconstruction_error", None),
}


def embeddings(dataset: str, folder: Path) -> tuple[Path, Path] | None:
    """Content and collaborative embeddings of a real dataset, or None where it is absent."""
    source = real_data(dataset)
    if source is None:
        print(f"{dataset}: skipped, it is absent; set GREC_DATA to the folder that holds it")
        return None
    from data_process import cf_embeddings, simple_embeddings

    has_images = (source / "images").is_dir()
    simple = simple_embeddings.SimpleConfig(
        dataset=dataset, data_path=source.parent, out_dir=folder, name="simple", image=has_images
    )
    collaborative = cf_embeddings.CollaborativeConfig(dataset=dataset, data_path=source.parent, out_dir=folder)
    return simple_embeddings.extract(simple), cf_embeddings.extract(collaborative)


def measured(dataset: str, name: str, paths: tuple[Path, Path], folder: Path, quick: bool) -> dict[str, Any]:
    """Trains or fits a tokenizer and gives its measures before, and its collisions after they were broken."""
    from index.evaluate_index import evaluate
    from index.generate_indices import generate
    from index.trainer import train

    content, collaborative = paths
    settings = {**(QUICK if quick else TRAINING), **TOKENIZERS[name]}
    if settings.get("quantizer") not in (None, *TRAINED):
        settings = TOKENIZERS[name]
    config = TrainConfig(
        data_path=(content,),
        cf_path=collaborative if settings.get("cf_weight") else None,
        ckpt_dir=folder / "runs",
        codebook_sizes=SIZES,
        save_limit=0,
        device="cpu",
        num_workers=1,
        **{"normalize": "l2", **settings},
    )
    before = cpu_seconds()
    run_folder = train(config)
    seconds = cpu_seconds() - before
    dataset_dir = real_data(dataset)
    table = json.loads(
        evaluate(EvaluateConfig(ckpt_path=run_folder / "last.pth", dataset_dir=dataset_dir, device="cpu")).read_text()
    )
    index = generate(GenerateConfig(dataset=dataset, ckpt_path=run_folder / "last.pth", device="cpu"))
    meta = json.loads(index.with_suffix(".meta.json").read_text())
    return {
        **table,
        "tokenizer": name,
        "seconds": seconds,
        "collisions_after": meta["collisions_after"]["colliding_items"],
        "error_added": meta["error_added"] / meta["quantization_error_before"],
    }


def rows(dataset: str, quick: bool) -> Iterator[Row]:
    """The table of one dataset, printed, and its figures with a goal as rows."""
    with tempfile.TemporaryDirectory() as name:
        paths = embeddings(dataset, Path(name))
        if paths is None:
            return
        tables = {}
        print(f"{dataset}: {' x '.join(map(str, SIZES))} codewords")
        print(line(["tokenizer", *COLUMNS, "left over", "error added", "CPU s"]))
        for tokenizer in TOKENIZERS:
            table = tables[tokenizer] = measured(dataset, tokenizer, paths, Path(name), quick)
            cells = [show(table.get(field), pick) for field, pick in COLUMNS.values()]
            print(
                line(
                    [
                        tokenizer,
                        *cells,
                        str(table["collisions_after"]),
                        f"{table['error_added']:+.2%}",
                        f"{table['seconds']:.0f}",
                    ]
                ),
                flush=True,
            )
    ours = tables["rqvae"]
    yield Row(f"{dataset}: least utilization of a level of the RQ-VAE", min(ours["utilization"]), "", goal=0.9)
    yield Row(f"{dataset}: collision rate of the RQ-VAE", ours["collision_rate"], "", higher_is_better=False, goal=0.03)
    for mine, theirs in PAIRS:
        ours, rival = tables[mine], tables[theirs]
        yield Row(
            f"{dataset}: reconstruction error, {mine} over {theirs}",
            ours["reconstruction_error"] / rival["reconstruction_error"],
            "x",
            higher_is_better=False,
            goal=1.0,
            rival=theirs,
        )
        for measure, title in (("reconstruction_recall", "decoded items"), ("neighbour_recall", "shared prefixes")):
            yield Row(
                f"{dataset}: neighbours by {title}, {mine} over {theirs}",
                ours[measure] / rival[measure],
                "x",
                goal=1.0,
                rival=theirs,
            )
    yield Row(
        f"{dataset}: colliding items after generation, all tokenizers together",
        sum(table["collisions_after"] for table in tables.values()),
        "items",
        higher_is_better=False,
        goal=0.0,
    )


def show(value: Any, pick: Any) -> str:
    if isinstance(value, list):
        value = pick(value) if callable(pick) else value[pick]
    return "-" if value is None else f"{value:.4f}"


def line(cells: list[str]) -> str:
    return f"{cells[0]:27}" + "".join(f"{cell:>12}" for cell in cells[1:])


if __name__ == "__main__":
    run({dataset: partial(rows, dataset) for dataset in DATASETS}, __doc__)
