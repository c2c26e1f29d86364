"""A job of many questions to a language model that can be killed and gone on with.

Every question that ends, well or not, has a line in a journal with its tokens and what they cost. Answers are never
asked for twice; failures are asked again by the next run.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_process.cluster import Job, Write, lines_of, workers_by_node
from data_process.journal import Journal
from data_process.llm_client import Asker, Endpoint, Question, Usage, endpoint_of_environment, estimate, price
from data_process.llm_config import ModelConfig
from data_process.patience import Progress
from src.common.log import logger

Rows = Mapping[str, dict[str, Any]]  # lines of a journal, by key


class Outcome(NamedTuple):
    """Lines of the journal, by key: the answers there are, and the failures of questions that have none.

    `num_missing` counts what this run was to ask and has no answer to.
    """

    answers: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    num_missing: int = 0


def ask_all(
    questions: Sequence[Question], config: ModelConfig, journal_path: Path, only: Collection[str] | None = None
) -> Outcome:
    """Asks what has no answer yet, and gives what is known of all questions.

    Args:
        only: keys of the questions that this run may ask; None: all.

    Raises:
        ValueError: the environment lacks the key; the endpoint refuses the key, the model or the form of the request;
            STOP_AFTER questions in a row fail; the journal holds answers of another model or language.
    """
    if config.dry_run and not journal_path.is_file():
        _report_estimate(_pending(questions, {}, config, only), config)
        return _outcome(questions, {})
    with Journal(journal_path, "key") as journal:
        for row in journal.rows.values():
            if found := {name: row[name] for name, value in config.voice.items() if row[name] != value}:
                was = " ".join(f"--{name} {value}" for name, value in found.items())
                raise ValueError(f"{journal_path} holds answers of {was}: pass that, or move it away to start anew")
        pending = _pending(questions, journal.rows, config, only)
        if config.dry_run:
            _report_estimate(pending, config)
            return _outcome(questions, journal.rows)
        logger.info(f"{len(questions):,} questions, of which {len(pending):,} are to be asked now")
        if pending:
            _ask(pending, config, journal)
        outcome = _outcome(questions, journal.rows)
        _report(outcome, len(questions), list(journal.rows.values()), journal_path)
    return outcome._replace(num_missing=sum(question.key not in outcome.answers for question in pending))


def _ask(questions: Sequence[Question], config: ModelConfig, journal: Journal) -> None:
    """Asks the questions on the engine, and writes each line as it comes."""
    endpoint, spent = endpoint_of_environment(), sum(row["cost"] for row in journal.rows.values())
    progress, failed = Progress(len(questions), "questions"), 0

    def write(row: dict[str, Any]) -> None:
        nonlocal spent, failed
        spent += row["cost"] - journal.rows.get(row["key"], {}).get("cost", 0)
        journal.write(row)
        failed += row["status"] == "failed"
        progress.step(f"{failed:,} failed{price(spent, config)}")

    if config.engine == "ray":
        for row in lines_of(_shares(questions, config, endpoint, journal, spent), _image_folder(questions)):
            write(row)
    else:
        asyncio.run(Asker(config, endpoint, journal.rows, spent).run(questions, write))
    if progress.done < len(questions):
        logger.warning(f"--max_cost {config.max_cost:g} is used up ({spent:,.4f} spent): raise it to go on")


def _shares(
    questions: Sequence[Question], config: ModelConfig, endpoint: Endpoint, journal: Journal, spent: float
) -> list[Job]:
    """The questions, the places for questions at once, and what is left of the budget, among the workers of Ray."""
    count = workers_by_node(config.workers, at_most=min(config.concurrency, len(questions)))
    budget = None if config.max_cost is None else max(0.0, config.max_cost - spent) / count
    jobs: list[Job] = []
    for number in range(count):
        share = [
            replace(question, image=question.image and question.image.absolute())
            for question in questions[number::count]
        ]
        known = {question.key: journal.rows[question.key] for question in share if question.key in journal.rows}
        part = replace(config, concurrency=(config.concurrency + number) // count, max_cost=budget)
        jobs.append(partial(ask_share, part, endpoint, known, share))
    return jobs


async def ask_share(
    config: ModelConfig, endpoint: Endpoint, before: Rows, questions: Sequence[Question], write: Write
) -> None:
    """What one worker of Ray does."""
    await Asker(config, endpoint, before, spent=0.0).run(questions, write)


def _image_folder(questions: Sequence[Question]) -> Path | None:
    return next((question.image.parent for question in questions if question.image), None)


def _outcome(questions: Sequence[Question], rows: Rows) -> Outcome:
    current = {
        question.key: row
        for question in questions
        if (row := rows.get(question.key)) and row["fingerprint"] == question.fingerprint
    }
    answers = {key: row for key, row in current.items() if row["status"] == "ok"}
    failures = {key: row for key, row in current.items() if row["status"] == "failed"}
    return Outcome(answers, failures)


def _pending(
    questions: Sequence[Question], rows: Rows, config: ModelConfig, only: Collection[str] | None
) -> list[Question]:
    """Questions without an answer, in an order of chance that is always the same: the first of them are a sample."""
    answers = _outcome(questions, rows).answers
    pending = [question for question in questions if question.key not in answers]
    if only is not None:
        pending = [question for question in pending if question.key in only]
    pending.sort(key=lambda question: hashlib.sha256(question.key.encode()).digest())
    return pending[: config.limit or None]


def _report_estimate(questions: Sequence[Question], config: ModelConfig) -> None:
    tokens = Usage()
    for question in questions:
        tokens = tokens.plus(estimate(question, config))
    logger.info(
        f"dry run: {len(questions):,} questions, about {tokens.input_tokens:,} input tokens, at most"
        f" {tokens.output_tokens:,} output tokens{price(tokens.cost(config), config, 'at most about ')}"
    )


def _report(outcome: Outcome, num_questions: int, rows: list[dict[str, Any]], path: Path) -> None:
    lines = [f"{len(outcome.answers):>10,}  answered"]
    for cause, count in Counter(row["cause"] for row in outcome.failures.values()).most_common():
        key, row = next((key, row) for key, row in outcome.failures.items() if row["cause"] == cause)
        lines.append(f"{count:>10,}  {cause:<16}{key}: {row['reason']:.160}")
    if num_unasked := num_questions - len(outcome.answers) - len(outcome.failures):
        lines.append(f"{num_unasked:>10,}  not asked yet")
    total = {name: sum(row[name] for row in rows) for name in ("input_tokens", "output_tokens", "cost")}
    tokens = f"{total['input_tokens']:,} input and {total['output_tokens']:,} output tokens"
    lines.append(f"{tokens} in all runs, cost {total['cost']:,.4f}")
    logger.info("\n".join([f"{path}:", *lines]))
