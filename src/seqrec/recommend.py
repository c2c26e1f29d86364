"""Answer one request: the items that the model recommends after a history.

python -m src.seqrec.recommend --dataset Demo --index_file .index_simple.json --ckpt_model output/demo --history 12,7,33
"""

from typing import Any

from src.common.cli import add_switch, new_parser, number_list, settings_of, user_errors
from src.seqrec.config import RecommendConfig, add_model_flags, add_question_flags, add_top_k_flag


def recommend(config: RecommendConfig) -> dict[str, Any]:
    """The history and the ranked items, each with `item`, `title` and `sid`; ranked ones with `rank` and `score`.

    Raises:
        ValueError, FileNotFoundError: an unknown item, no history, a task that asks for more than a history, or what
            `check` finds; said before the model is loaded.
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
    if not config.history:
        raise ValueError("--history names no item: give one or more item ids, oldest first, such as 12,7,33")
    for item in config.history:
        if item not in catalogue.items:
            raise ValueError(
                f"--history {item}: {catalogue.paths.file('item.json')} has no such item; its"
                f" {len(catalogue.item_ids)} items are numbered {catalogue.item_ids[0]} to {catalogue.item_ids[-1]}"
            )
    import numpy as np

    from src.seqrec.ranker import load_ranker  # imports torch: after the checks, so that a fault shows at once

    ranker = load_ranker(config, catalogue, resolve_device(config.device))
    history = np.asarray(config.history, np.int64)
    ranked = ranker.rank(template, [history], [-1])  # no right answer is known, and no slot needs one

    def describe(item: int) -> dict[str, Any]:
        return {"item": item, "title": catalogue.items[item]["title"], "sid": catalogue.sid_tokens(item)}

    found = zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
    best = [
        {"rank": rank, **describe(item), "score": round(score, 6)}
        for rank, (item, score) in enumerate(found, 1)
        if item >= 0 and rank <= config.top_k
    ]
    return {
        "dataset": catalogue.name,
        "checkpoint": str(config.ckpt_model),
        "history": [describe(item) for item in config.history],
        "recommendations": best,
    }


def lines(answer: dict[str, Any]) -> list[str]:
    """The answer for people."""
    rows = [("had", "", row) for row in answer["history"]]
    rows += [(row["rank"], f"{row['score']:.3f}", row) for row in answer["recommendations"]]
    return [
        f"{place:>4} {score:>8}  {''.join(row['sid'])}  {row['item']:>6}  {row['title']}" for place, score, row in rows
    ]


def main(argv: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add_model_flags(parser)
    add_question_flags(parser)
    parser.add_argument("--history", type=number_list(), required=True, help="item ids by commas, oldest first")
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
