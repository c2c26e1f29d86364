"""Show a few users: their history, what came next, what the model ranks, and at which level each SID goes wrong.

    python -m src.seqrec.case --dataset Demo --index_file .index_simple.json --ckpt_model output/demo --users u3,u7

Prints a table, and writes a page with pictures that holds everything it shows.
"""

from pathlib import Path

from src.common.cli import name_list, settings_of, user_errors
from src.seqrec.config import CaseConfig, add_top_k_flag, build_parser


def show(config: CaseConfig) -> Path:
    """Prints the cases and writes their page; gives its path."""
    from src.common.artifacts import write_text
    from src.common.log import setup_logging
    from src.common.record import plain
    from src.reporting.cases import cases_body
    from src.reporting.page import whole_page
    from src.seqrec.cases import case_lines, legend_lines, make_cases

    setup_logging()
    cases, catalogue = make_cases(config)
    body = cases_body(cases, catalogue, config.top_k, plain(config))
    write_text(config.page_path, whole_page(f"Cases on {config.dataset}", body))
    for case in cases:
        print("\n" + "\n".join(case_lines(case, catalogue, config.top_k)))
    print("\n" + "\n".join(legend_lines(cases, catalogue)))
    print(f"page: {config.page_path}")
    return config.page_path


def main(argv: list[str] | None = None) -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--users",
        type=name_list,
        default=CaseConfig.users,
        help="users to show, by commas; items, where the task is about those (default: --sample_num random ones)",
    )
    add_top_k_flag(parser)
    parser.add_argument(
        "--html",
        type=Path,
        help="page to write (default: beside --results_file, else results/<dataset>/<task>-<ckpt_model>.cases.html)",
    )
    parser.set_defaults(sample_num=CaseConfig.sample_num)
    args = parser.parse_args(argv)
    with user_errors():
        show(CaseConfig(**settings_of(args)))


if __name__ == "__main__":
    main()
