"""Prove that the picture reaches the model: name items from their own, from wrong and from other pictures.

    python -m src.verify_pictures --dataset Demo --index_file .index_simple.json --ckpt_model output/demo \\
        --second_image_path images_second --results_file results/Demo/pictures.json
"""

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.common.cli import add_switch, new_parser, user_errors
from src.seqrec.config import EvaluateConfig, add_model_flags, add_sample_num_flag

TASK = "mmitem2index"


@dataclass(frozen=True)
class PicturesConfig(EvaluateConfig):
    second_image_path: str | None = None
    sample_num: int = 1000


def verify_pictures(config: PicturesConfig) -> dict[str, float | int | None]:
    """Decodes every item (or a seeded part) from its picture, and writes what it finds to `config.results_file`.

    Returns:
        hit@1_true, hit@1_permuted: share of items named right from their own picture, and from another item's.
        hit@1_second: from another picture of the same item, where `second_image_path` gives one; else None.
        chance, chance_text: of naming an item blindly, and when its words but not its picture are known.
        loss_true, loss_permuted: mean cross-entropy of the right answer.
        loss_raised: share of items whose loss rises when the picture is swapped; .5 would mean that it does not matter.
    """
    import numpy as np

    from src.common.artifacts import check_writable
    from src.common.dataset_readers import find_images
    from src.common.distributed import resolve_device
    from src.common.images import undecodable
    from src.common.log import logger, setup_logging
    from src.common.record import input_entries, write_record
    from src.families import base_input
    from src.seqrec.core import check
    from src.tasks.task import ITEM_TEXTS

    setup_logging()
    task, prompt_ids, catalogue = check(replace(config, test_task=TASK, metrics=("hit@1",)))
    pictures = {"true": catalogue.image_files}
    if config.second_image_path:
        pictures["second"] = find_images(catalogue.paths, catalogue.items, config.second_image_path)
    usable = set(catalogue.image_files)
    if config.skip_bad_images:
        for files in pictures.values():
            bad = undecodable(files.values())
            usable -= {item for item, path in files.items() if path in bad}
    items = np.array([item for item in catalogue.item_ids if int(item) in usable])
    rng = np.random.default_rng(config.seed)
    if 0 < config.sample_num < len(items):
        items = np.sort(rng.permutation(items)[: config.sample_num])
    if len(items) < 2:
        raise ValueError(
            f"{catalogue.name} has {len(items)} items with a picture: two at least are needed to swap them"
        )
    shuffled = rng.permutation(items)
    swapped = dict(zip(shuffled.tolist(), np.roll(shuffled, 1).tolist(), strict=True))  # no item keeps its picture

    pictures["permuted"] = {item: catalogue.image_files[other] for item, other in swapped.items()}
    if missing := [int(item) for item in items if int(item) not in pictures.get("second", usable)]:
        folder = catalogue.paths.folder / (config.second_image_path or "")
        raise ValueError(f"{folder} lacks the picture of item {missing[0]}")
    check_writable(config.results_path)
    read: dict[str, Any] = {**catalogue.input_files(), "checkpoint": config.ckpt_model}
    if config.lora and config.base_model:
        read["base model"] = base_input(config.ckpt_model, config.base_model)
    read |= catalogue.input_pictures(config.image_path)
    if config.second_image_path:
        second = catalogue.input_pictures(config.second_image_path)
        read |= {f"second {name}": entry for name, entry in second.items()}
    inputs = input_entries(read)
    from src.seqrec.recommender import Recommender  # imports torch: after the checks, so that a fault shows at once

    recommender = Recommender(config, catalogue, resolve_device(config.device))
    template = task.item_templates[prompt_ids[0]]
    slots = sorted(template.slots & set(ITEM_TEXTS))
    words = {int(item): tuple(catalogue.items[int(item)][slot] for slot in slots) for item in catalogue.item_ids}
    namesakes = Counter(words.values())

    result: dict[str, float | int | None] = {
        "items": len(items),
        "catalogue": len(catalogue.item_ids),
        "hit@1_second": None,
    }
    losses: dict[str, np.ndarray] = {}
    for name, files in pictures.items():
        recommender.use_pictures(files)
        hits, found = [], []
        for start in range(0, len(items), config.test_batch_size):
            batch = items[start : start + config.test_batch_size]
            ranked = recommender.rank(template, [np.empty(0, np.int64)] * len(batch), batch)
            hits.append(ranked.items[:, 0] == batch)
            found.append(recommender.answer_losses(template, batch))
        losses[name] = np.concatenate(found)
        result[f"hit@1_{name}"] = float(np.concatenate(hits).mean())
    result["chance"] = 1 / len(catalogue.item_ids)
    result["chance_text"] = float(np.mean([1 / namesakes[words[int(item)]] for item in items]))
    result["loss_true"], result["loss_permuted"] = float(losses["true"].mean()), float(losses["permuted"].mean())
    result["loss_raised"] = float((losses["permuted"] > losses["true"]).mean())
    write_record(config.results_path, {"artefact": "proof of pictures", **result, "inputs": inputs})
    shown = ", ".join(f"{name} {value:.3f}" for name, value in result.items() if isinstance(value, float))
    logger.info("pictures and the model: %s; written to %s", shown, config.results_path)
    return result


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add_model_flags(parser)
    parser.add_argument(
        "--second_image_path", help="folder with other pictures of the items, in the dataset's folder (default: none)"
    )
    add_switch(parser, "--skip_bad_images", help="leave out items with a picture that does not decode")
    add_sample_num_flag(parser, PicturesConfig.sample_num)
    parser.add_argument("--results_file", type=Path, required=True, help="JSON to write")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser(__doc__).parse_args(argv)
    with user_errors():
        verify_pictures(PicturesConfig(**vars(args)))


if __name__ == "__main__":
    main()
