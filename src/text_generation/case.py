"""Show a few answers: what was asked, what the model wrote, what is right, and the scores of each.

    python -m src.text_generation.case --dataset Demo --index_file .index_simple.json --ckpt_model output/demo --items 3

Prints them, and writes a page with pictures that holds everything it shows. Nothing else is written.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from src.common.cli import settings_of, user_errors
from src.text_generation.config import TextCaseConfig, add_case_flags, build_parser


def show(config: TextCaseConfig) -> Path:
    """Prints the cases and writes their page; gives its path.

    Raises:
        ValueError, FileNotFoundError: settings, data or checkpoint do not fit; said before the model is loaded.
    """
    import numpy as np

    from src.common.artifacts import check_writable, write_text
    from src.common.log import setup_logging
    from src.common.parts import Parts
    from src.common.record import plain
    from src.reporting.answers import answers_body, case_lines
    from src.reporting.page import whole_page
    from src.text_generation.core import run_key, write_answers
    from src.text_generation.judging import judge, summarize
    from src.text_generation.plan import check, one_wording, pick_items

    setup_logging()
    plan = one_wording(check(replace(config, sample_num=0) if config.items else config), config)
    if config.items:
        plan = pick_items(plan, config.items, config.split)
    check_writable(config.page_path)
    with tempfile.TemporaryDirectory() as folder:
        answers, told = write_answers(config, plan, Parts(Path(folder), run_key(config, plan)))
    assert answers is not None  # there is one process, which is rank 0
    wording = plan.wordings[0]
    judged = judge(config, plan, wording, answers[wording.prompt_id].texts)
    summary = summarize(config, plan, [judged], {}, answers, told)
    rows = np.arange(len(plan.samples))
    body = answers_body(plan, judged, rows, summary, plain(config))
    write_text(config.page_path, whole_page(f"Generated texts of {config.name}", body))
    for row in rows.tolist():
        print("\n" + "\n".join(case_lines(plan, judged, row)))
    print(f"\npage: {config.page_path}")
    return config.page_path


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    add_case_flags(parser)
    args = parser.parse_args(argv)
    with user_errors():
        show(TextCaseConfig(**settings_of(args)))


if __name__ == "__main__":
    main()
