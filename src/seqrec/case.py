"""Show a few users: their history, what came next, and what the model ranks first.

python -m src.seqrec.case --dataset Demo --index_file .index_simple.json --ckpt_model output/demo --sample_num 5
"""

from dataclasses import replace

from src.common.cli import user_errors
from src.seqrec.config import EvaluateConfig, build_parser, config_from

SHOWN_USERS, SHOWN_HISTORY, SHOWN_ITEMS = 5, 8, 5


def show(config: EvaluateConfig) -> None:
    """Prints what the model ranks for the samples that metric_ddp would ask about under the same settings."""
    import numpy as np

    from src.common.distributed import resolve_device
    from src.common.log import setup_logging
    from src.seqrec.core import check, make_samples

    setup_logging()
    config = replace(config, metrics=("hit@1",))  # none is worked out here, so none asks for longer lists
    task, prompt_ids, catalogue = check(config)
    samples = make_samples(config, task, catalogue)
    from src.seqrec.recommender import Recommender  # imports torch: after the checks, so that a fault shows at once

    recommender = Recommender(config, catalogue, resolve_device(config.device))
    index = catalogue.sid_index
    rows = index.rows_of(catalogue.item_ids)

    def line(item: int) -> str:
        sid = "".join(index.tokens_of(int(rows[np.searchsorted(catalogue.item_ids, item)])))
        return f"{sid}  {item:>6}  {catalogue.items[item]['title'][:60]}"

    for number, name in enumerate(samples.names(catalogue)):
        history, target = samples.history(catalogue, number), int(samples.targets[number])
        row = int(samples.text_rows(np.array([number]))[0])
        ranked = recommender.rank(task.item_templates[prompt_ids[0]], [history], [target], [row])
        place = np.flatnonzero(ranked.items[0] == target)
        print(f"\n=== {'user' if samples.next_item else 'item'} {name}")
        for item in history[-SHOWN_HISTORY:]:
            print(f"  had     {line(int(item))}")
        if row >= 0:
            print(f"  asked   {catalogue.user_texts['query'].texts[row]}")
        found = f"rank {place[0] + 1}" if len(place) else f"not among {config.num_beams}"
        print(f"  target  {line(target)}  ({found})")
        for item, score in zip(ranked.items[0, :SHOWN_ITEMS], ranked.scores[0, :SHOWN_ITEMS], strict=True):
            if item >= 0:
                print(f"  {'HIT ' if item == target else '    '}{score:7.3f} {line(int(item))}")


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    parser.set_defaults(sample_num=SHOWN_USERS)
    args = parser.parse_args(argv)
    with user_errors():
        show(config_from(args))


if __name__ == "__main__":
    main()
