"""Texts about users by a language model: what they like, and how they would ask for an item.

    export OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none
    python3 data_process/get_llm_output.py --dataset Games --model Qwen2.5-7B-Instruct --dry_run

Writes <dataset>.user.json, which the tasks itemsearch and preferenceobtain need. Of each user the model is asked for
- preference: what the training part of the sequence tells;
- train: searches for the last item of the training part, given the items before it;
- test: searches for the item that tests, given the items before it.
Each is a question of its own, so that nothing of the items that validate and test can slip into the first two.
<dataset>.user_texts.jsonl keeps every answer, so that the same command goes on where a run ended.

Exit status: 0 where all that was asked is answered, 1 where something is not, 2 where the input or the endpoint is at
fault, 130 when stopped.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if not __package__:  # run as a file: look up modules from the repository root, as `python -m data_process...` does
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_process.llm_config import ModelConfig, add_model_flags, run_entry
from src.common.artifacts import check_is_ours, write_json
from src.common.cli import check_at_least, name_list, new_parser

if TYPE_CHECKING:
    from data_process.llm_client import Question
    from src.tasks.catalogue import Catalogue

PARTS = ("preference", "train", "test")


@dataclass(frozen=True, kw_only=True)
class UserTextConfig(ModelConfig):
    """Which texts are asked for now, and how many of each."""

    image: bool = False
    parts: Sequence[str] = PARTS
    num_texts: int = 3
    max_his_len: int = 20

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, num_texts=1, max_his_len=1)
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"--parts {','.join(self.parts)}: choose of {','.join(PARTS)}")


class Case(NamedTuple):
    """What is asked about a user: the items they had, and the item that they look for (None: what they like)."""

    part: str
    user: str
    history: list[int]
    target: int | None

    @property
    def key(self) -> str:
        return f"{self.part}/{self.user}"


def cases(catalogue: "Catalogue") -> Iterator[Case]:
    """Every question. Those of `preference` and `train` hold items of the training part only."""
    for row, user in enumerate(catalogue.users):
        train_end, valid_end = int(catalogue.train_end[row]), int(catalogue.valid_end[row])
        if train_end:
            yield Case("preference", user, catalogue.history(row, train_end).tolist(), None)
            earlier = catalogue.history(row, train_end - 1).tolist()
            yield Case("train", user, earlier, catalogue.target(row, train_end - 1))
        if valid_end < catalogue.lengths[row]:
            yield Case("test", user, catalogue.history(row, valid_end).tolist(), catalogue.target(row, valid_end))


def question_of(case: Case, catalogue: "Catalogue", prompts: dict, config: UserTextConfig) -> "Question":
    from data_process.llm_client import Question
    from data_process.llm_questions import Preferences, Queries, history_text, item_text, names_item

    history = history_text([catalogue.items[item] for item in case.history[-config.max_his_len :]], prompts)
    if case.target is None:
        wording = prompts["preference"]
        text = wording["text"].format(history=history, count=config.num_texts)
        return Question(case.key, wording["system"], text, Preferences)
    target = catalogue.items[case.target]

    def settle(answer: Queries) -> dict[str, list[str]]:
        querys = [query for query in answer.querys if not names_item(query, target["title"])]
        if not querys:
            raise ValueError(f"every search quotes the title {target['title']!r}")
        return {"querys": querys}

    wording = prompts["query"]
    text = wording["text"].format(
        history=history, item=item_text(target, prompts, config.max_chars), count=config.num_texts
    )
    image = catalogue.image_files.get(case.target) if config.image else None
    return Question(case.key, wording["system"], text, Queries, image, settle)


def make_user_texts(config: UserTextConfig) -> int:
    """Asks what has no answer yet, writes the file, and gives how many of these still lack one."""
    from data_process.llm_jobs import ask_all
    from data_process.llm_questions import load_prompts
    from src.common.log import logger
    from src.common.record import run_record, write_record
    from src.tasks.catalogue import load_catalogue

    catalogue = load_catalogue(config.data_path, config.dataset, image_path="images" if config.image else None)
    prompts = load_prompts(config.prompt_lang)
    known = list(cases(catalogue))
    asked = {case.key for case in known if case.part in config.parts}
    output, journal = catalogue.paths.file("user.json"), catalogue.paths.file("user_texts.jsonl")
    check_is_ours(output, journal)
    inputs = catalogue.input_files() | (catalogue.input_pictures("images") if config.image else {})
    record = run_record(config, inputs)  # now: they may change while the model is asked
    outcome = ask_all([question_of(case, catalogue, prompts, config) for case in known], config, journal, asked)
    if outcome.answers and not config.dry_run:
        likes: dict[str, list[str]] = {}
        searches: dict[str, dict[str, dict]] = {"train": {}, "test": {}}
        for case in known:
            row = outcome.answers.get(case.key)
            if row and case.target is None:
                likes[case.user] = row["answer"]["preferences"]
            elif row:
                search = {"item": case.target, "inters": case.history, "querys": row["answer"]["querys"]}
                searches[case.part][case.user] = search
        write_json(output, {"user_explicit_preference": likes, "user_vague_intention": searches})
        write_record(output.with_suffix(".run.json"), {"artefact": "texts about users", **record}, {"table": output})
        logger.info(f"{output}: {len(outcome.answers):,} of {len(known):,} texts")
    return outcome.num_missing


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add_model_flags(parser, UserTextConfig)
    parser.add_argument(
        "--parts", type=name_list, default=list(PARTS), help="what to ask for now; what is known already stays"
    )
    parser.add_argument("--num_texts", type=int, default=UserTextConfig.num_texts, help="sentences or searches of each")
    parser.add_argument("--max_his_len", type=int, default=UserTextConfig.max_his_len, help="items shown, the newest")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    run_entry(lambda: make_user_texts(UserTextConfig(**vars(args))))


if __name__ == "__main__":
    main()
