"""evaluate(config): questions, written answers, their fields, metrics. One process or many give the same."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.artifacts import check_writable, write_text
from src.common.distributed import barrier, finish, gather, init_process_group, is_main, resolve_device
from src.common.interactions import interaction_files
from src.common.log import logger, setup_logging
from src.common.parts import Parts, cut_batches, key_of
from src.common.record import input_entries, plain, write_record
from src.families import model_input
from src.seqrec.results import check_results_file
from src.text_generation.config import TextConfig
from src.text_generation.judging import COPIES, copied, judge, rows_of, summarize, table_lines
from src.text_generation.plan import Plan, Wording, check, holdout_of
from src.text_generation.questions import make_samples, words_to_copy
from src.text_generation.results import Answered, Scores, predictions_path, read_table, upsert, write_predictions

if TYPE_CHECKING:
    from src.text_generation.generator import Answers

MOST_MEASURED = 5000  # training answers among which the longest is looked for
LONGER = 1.5  # than the longest of them may an answer be
NUM_RESAMPLES = 1000  # of the bootstrap
NOT_ASKED = (  # settings that change nothing of what is written
    "bertscore_model", "bertscore_layer", "embedding_model", "model_name", "results_file", "table_file", "page_items",
    "items", "html", "device",
)  # fmt: skip


def run_key(config: TextConfig, plan: Plan, inputs: dict[str, Any] | None = None) -> dict[str, str]:
    """What the answers depend on; `inputs` are those of the results."""
    catalogue = plan.catalogue
    asked = {name: value for name, value in plain(config).items() if name not in NOT_ASKED}
    settings = [asked, plain(plan.wordings), plan.task.templates_sha256, plan.decoding._asdict(), plan.samples.keys]
    records = [*sorted(config.ckpt_model.glob("*.json")), *sorted(config.ckpt_model.glob("*.jinja"))]
    tables = [catalogue.paths.file(name) for name in ("item.json", "item_enriched_v2.json", "user.json", "split.json")]
    weights = [*sorted(config.ckpt_model.glob("*.safetensors")), *sorted(config.ckpt_model.glob("*.bin"))]
    index = [] if catalogue.sid_index is None else [catalogue.sid_index.file]
    tables += interaction_files(catalogue.paths)
    return key_of(settings, [path for path in (*records, *tables, *weights, *index) if path.is_file()], inputs)


def write_answers(config: TextConfig, plan: Plan, parts: Parts) -> tuple[dict[int, "Answers"] | None, dict[str, Any]]:
    """Asks the model in every wording; gives the answers by wording on rank 0, and what is told of the run."""
    from src.text_generation.generator import Answers, join_fields, make_generator  # imports torch: after the checks

    generator = make_generator(config, plan.catalogue, plan.samples, resolve_device(config.device))
    training = make_samples(plan.task, plan.catalogue, "train", holdout_of(config))
    training = training.pick(np.arange(min(MOST_MEASURED, len(training))))
    started, limits = time.time(), []
    for wording in plan.wordings:
        limit = dict.fromkeys(wording.questions, config.max_new_tokens)
        if not config.max_new_tokens:
            for field, template in wording.questions.items():
                longest = generator.longest_answer(template, training)
                if not longest:
                    raise ValueError(f"{plan.catalogue.name} has no training answer to measure: give --max_new_tokens")
                limit[field] = math.ceil(LONGER * longest)
        limits.append(max(limit.values()))
        first = next(iter(wording.questions.values()))
        sizes = np.array([plan.texts.size(first, i) for i in range(len(plan.samples))])

        def ask(batch: np.ndarray, wording: Wording = wording, limit: dict = limit) -> dict[str, np.ndarray]:
            answers = {
                field: generator.answer(template, wording.prompt_id, batch, limit[field], plan.decoding)
                for field, template in wording.questions.items()
            }
            named = {field: part for field, part in answers.items() if field is not None}
            whole = join_fields(named, wording.labels) if named else answers[None]
            # Texts of unlike lengths: numpy joins such arrays at the width of the longest.
            return {"texts": np.array(whole.texts, str), "cut": whole.cut, "control": whole.control}

        parts.work(wording.prompt_id, cut_batches(sizes, config.test_batch_size), ask, "writing")
    barrier()
    told = {"max_new_tokens": limits, "seconds": round(time.time() - started, 1)}
    finish()  # rank 0 judges alone, however long that takes
    if not is_main():
        return None, told
    found = {}
    for wording in plan.wordings:
        texts, count = np.full(len(plan.samples), "", object), np.zeros(len(plan.samples), np.int64)
        flags = np.zeros((2, len(count)), bool)
        for numbers, arrays in parts.read(wording.prompt_id):
            texts[numbers], flags[0, numbers], flags[1, numbers] = arrays["texts"], arrays["cut"], arrays["control"]
            count[numbers] += 1
        if (count != 1).any():
            raise RuntimeError(
                f"{int((count != 1).sum())} samples have no or several answers in {parts.folder}: delete it"
            )
        found[wording.prompt_id] = Answers([str(text) for text in texts], *flags)
    return found, told


def read_inputs(config: TextConfig, plan: Plan) -> dict[str, Any]:
    """`inputs` of the results file: data, index and model."""
    inputs: dict[str, Any] = {**plan.catalogue.input_files(), "checkpoint": model_input(config.ckpt_model)}
    if config.lora and config.base_model:
        inputs["base model"] = model_input(config.base_model)
    if any(wording.shows_pictures for wording in plan.wordings):
        inputs |= plan.catalogue.input_pictures(config.image_path)
    return input_entries(inputs)


def evaluate(config: TextConfig) -> Path:
    """Evaluates one model on one task.

    Returns:
        the results file; predictions and a page lie beside it, and a row for the model is in the table.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    setup_logging()
    plan = check(config)
    path = config.results_path
    check_results_file(path)
    check_writable(config.table_path)
    read_table(config.table_path)
    if path.exists():
        logger.info("%s is there already and will be replaced", path)
    init_process_group(resolve_device(config.device))  # before parts: ranks wait for each other there
    inputs = gather(read_inputs(config, plan) if is_main() else {})[0]  # now: they may change while it runs
    with Parts(predictions_path(path).with_suffix(".parts"), run_key(config, plan, inputs)) as parts:
        answers, told = write_answers(config, plan, parts)
    if answers is not None:
        first = plan.wordings[0]
        judged = [  # the first wording stands for the others in the intervals of corpus metrics
            judge(config, plan, wording, answers[wording.prompt_id].texts, NUM_RESAMPLES if wording is first else 0)
            for wording in plan.wordings
        ]
        copies = {
            kind: judge(config, plan, first, copied(plan, first, kind))[1]
            for kind in (COPIES if words_to_copy(first.answer if config.zero_shot else first.questions[None]) else ())
        }
        summary = summarize(config, plan, judged, copies, answers, told) | {"inputs": inputs}
        write_predictions(predictions_path(path), judged)
        if config.page_items:
            write_page(config, plan, judged[0], summary)
        write_record(path, {"artefact": "results", **summary}, {"predictions": predictions_path(path)})
        upsert(config.table_path, rows_of(summary))
        parts.remove()
        for line in table_lines(summary):
            logger.info(line)
        logger.info("results in %s, predictions and page beside it, a row in %s", path, config.table_path)
    return path


def write_page(config: TextConfig, plan: Plan, judged: tuple[Answered, Scores], summary: dict[str, Any]) -> Path:
    """A page of some items, drawn with the seed."""
    from src.reporting.answers import answers_body
    from src.reporting.page import whole_page

    rows = np.random.default_rng(config.seed).permutation(len(plan.samples))[: config.page_items]
    body = answers_body(plan, judged, np.sort(rows), summary, plain(config))
    path = config.results_path.with_suffix(".html")
    write_text(path, whole_page(f"Generated texts of {config.name}", body))
    return path
