"""Answer one request: the items that the model recommends after a history, or to a user of the dataset.

python -m src.seqrec.recommend --dataset Demo --index_file .index_simple.json --ckpt_model output/demo --history 12,7,33
python -m src.seqrec.recommend --dataset Shop --index_file .index_simple.json --ckpt_model output/shop --user customer7
"""

from typing import TYPE_CHECKING, Any

from src.common.cli import add_switch, new_parser, number_list, settings_of, user_errors
from src.seqrec.config import RecommendConfig, add_model_flags, add_question_flags, add_top_k_flag

if TYPE_CHECKING:
    import numpy as np

    from src.tasks.catalogue import Catalogue


def history_of(config: RecommendConfig, catalogue: "Catalogue") -> "np.ndarray":
    """(H,) int64: the items of --history, or all that --user had, oldest first.

    A user goes by the original id, as in `<DS>.user2id`; without that file by the name in the interactions.

    Raises:
        ValueError: an unknown item or user, or no item.
    """
    if config.user is not None:
        from src.common.dataset_readers import load_id_map

        path, key = catalogue.paths.file("user2id"), config.user
        if path.is_file():
            numbers = load_id_map(path)
            if config.user not in numbers:
                raise ValueError(f"--user {config.user}: {path} has no such user; one is {next(iter(numbers), 'none')}")
            key = str(numbers[config.user])
        if key not in catalogue.users:
            where = catalogue.interactions_path
            raise ValueError(f"--user {config.user}: {where} has no user {key}; one is {catalogue.users[0]}")
        user = catalogue.users.index(key)
        return catalogue.history(user, int(catalogue.lengths[user]))
    if not config.history:
        raise ValueError("--history names no item: give one or more item ids, oldest first, such as 12,7,33")
    for item in config.history:
        if item not in catalogue.items:
            raise ValueError(
                f"--history {item}: {catalogue.paths.file('item.json')} has no such item; its"
                f" {len(catalogue.item_ids)} items are numbered {catalogue.item_ids[0]} to {catalogue.item_ids[-1]}"
            )
    import numpy as np

    return np.asarray(config.history, np.int64)


def original_ids(catalogue: "Catalogue") -> dict[int, str]:
    """What the items were called before they were numbered; empty where no `<DS>.item2id` says so."""
    from src.common.dataset_readers import load_id_map

    path = catalogue.paths.file("item2id")
    return {number: name for name, number in load_id_map(path).items()} if path.is_file() else {}


def recommend(config: RecommendConfig) -> dict[str, Any]:
    """The history and the ranked items, each with `item`, `title`, `sid` and, where `<DS>.item2id` is, `original`.

    Ranked ones also have `rank` and `score`.

    Raises:
        ValueError, FileNotFoundError: an unknown item or user, no history, a task that asks for more than a
            history, or what `check` finds; said before the model is loaded.
    """
    from src.common.distributed import resolve_device
    from src.seqrec.cases import check_top_k, one_wording, without_metrics
    from src.seqrec.core import check

    config = without_metrics(config)
    check_top_k(config)
    task, prompt_ids, catalogue = check(config)
    template = one_wording(task.item_templates, prompt_ids, config.test_prompt_ids)
    if task.kind != "next_item":
        raise ValueError(f"--test_task {task.name} asks for more than a history: take seqrec, mmseqrec or fusionseqrec")
    history, originals = history_of(config, catalogue), original_ids(catalogue)
    from src.seqrec.ranker import load_ranker  # imports torch: after the checks, so that a fault shows at once

    ranker = load_ranker(config, catalogue, resolve_device(config.device))
    ranked = ranker.rank(template, [history], [-1])  # no right answer is known, and no slot needs one

    def describe(item: int) -> dict[str, Any]:
        named = {"original": originals[item]} if item in originals else {}
        return {"item": item, **named, "title": catalogue.items[item]["title"], "sid": catalogue.sid_tokens(item)}

    found = zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
    best = [
        {"rank": rank, **describe(item), "score": round(score, 6)}
        for rank, (item, score) in enumerate(found, 1)
        if item >= 0 and rank <= config.top_k
    ]
    return {
        "dataset": catalogue.name,
        "checkpoint": str(config.ckpt_model),
        "history": [describe(item) for item in history.tolist()],
        "recommendations": best,
    }


def lines(answer: dict[str, Any]) -> list[str]:
    """The answer for people."""
    rows = [("had", "", row) for row in answer["history"]]
    rows += [(row["rank"], f"{row['score']:.3f}", row) for row in answer["recommendations"]]
    widest = max(len(row.get("original", "")) for _, _, row in rows)
    nothing = [] if answer["recommendations"] else ["nothing is left to recommend: the history holds every item"]
    shown = [
        f"{place:>4} {score:>8}  {''.join(row['sid'])}  {row['item']:>6}  "
        + (f"{row.get('original', ''):<{widest}}  " if widest else "")
        + row["title"]
        for place, score, row in rows
    ]
    return shown + nothing


def main(argv: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add_model_flags(parser)
    add_question_flags(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--history", type=number_list(), default=[], help="item ids by commas, oldest first")
    asked.add_argument("--user", help="a user of the dataset, by the original id, and all that this user had")
    add_top_k_flag(parser)
    add_switch(parser, "--json", help="one JSON table on standard output, and nothing else there")
    args = parser.parse_args(argv)
    with user_errors():
        config = RecommendConfig(**settings_of(args))
        from src.common.log import setup_logging

        setup_logging(to_stderr=config.json)
        answer = recommend(config)
    if config.json:
        import json

        print(json.dumps(answer, ensure_ascii=False, indent=1))
    else:
        print("\n".join(lines(answer)))


if __name__ == "__main__":
    main()
