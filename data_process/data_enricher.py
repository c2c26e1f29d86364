"""Enriches items by a language model that sees texts and pictures: better titles, tags, highlights, characteristics.

    export OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none
    python3 data_process/data_enricher.py --dataset Games --model Qwen2.5-VL-7B-Instruct --dry_run

Any OpenAI-compatible endpoint does, of a company or of vLLM, SGLang, Ollama, ... on a machine of your own. Writes
<dataset>.item_enriched_v2.json, the references of the task text_enrich. <dataset>.enrich.jsonl keeps every answer, so
that the same command goes on where a run ended, and asks again what failed.

Exit status: 0 where all that was asked is answered, 1 where something is not, 2 where the input or the endpoint is at
fault, 130 when stopped.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.llm_config import ModelConfig, add_model_flags, run_entry
from src.common.artifacts import check_is_ours, dataset_paths, write_json
from src.common.cli import new_parser
from src.common.dataset_readers import find_images, load_items


def enrich(config: ModelConfig) -> int:
    """Asks for every item that has no answer yet, writes the file, and gives how many of these still lack one."""
    from data_process.llm_client import Question
    from data_process.llm_jobs import ask_all
    from data_process.llm_questions import Enriched, item_text, load_prompts
    from src.common.log import logger
    from src.common.pictures import pictures_entry
    from src.common.record import run_record, write_record

    paths = dataset_paths(config.data_path, config.dataset)
    items = load_items(paths)
    images = find_images(paths, items) if config.image else {}
    if config.image and not images:
        logger.warning(f"no item of {config.dataset} has a picture in {paths.folder}: texts only")
    prompts = load_prompts(config.prompt_lang)
    wording = prompts["enrich"]
    questions = [
        Question(
            str(item),
            wording["system"],
            wording["text"].format(item=item_text(items[item], prompts, config.max_chars)),
            Enriched,
            images.get(item),
        )
        for item in sorted(items)
    ]
    output, journal = paths.file("item_enriched_v2.json"), paths.file("enrich.jsonl")
    check_is_ours(output, journal)
    inputs = {"items": paths.file("item.json")} | pictures_entry(paths.folder, images.values())
    record = run_record(config, inputs)  # now: they may change while the model is asked
    outcome = ask_all(questions, config, journal)
    if outcome.answers and not config.dry_run:
        rows = {item: outcome.answers.get(str(item)) for item in sorted(items)}
        table = {
            str(item): {**items[item], **row["answer"], "has_image": row["has_image"]}
            for item, row in rows.items()
            if row
        }
        write_json(output, table)
        write_record(output.with_suffix(".run.json"), {"artefact": "enriched items", **record}, {"table": output})
        logger.info(f"{output}: {len(outcome.answers):,} of {len(items):,} items")
    return outcome.num_missing


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_model_flags(parser, ModelConfig)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    run_entry(lambda: enrich(ModelConfig(**vars(args))))


if __name__ == "__main__":
    main()
