"""Flags say what they do and what happens without them; faults of the input end in one line, bugs in a traceback."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from src.common.cli import new_parser, user_errors
from src.common.distributed import resolve_device
from src.seqrec.metrics import parse_metric

ROOT = Path(__file__).resolve().parents[2]
PARSERS = (
    "src.finetune.config",
    "src.seqrec.config",
    "src.seqrec.compare",
    "src.verify_pictures",
    "src.baselines.config",
)


# ---- help ------------------------------------------------------------------------------------------------------------
def parser_of(module: str) -> argparse.ArgumentParser:
    return importlib.import_module(module).build_parser("")


@pytest.mark.parametrize("module", PARSERS)
def test_every_flag_has_help_with_its_default(module):
    parser = parser_of(module)
    formatter = parser._get_formatter()
    for action in parser._actions:
        assert action.help, f"{module}: {action.option_strings} has no help"
        shown = formatter._expand_help(action)
        assert action.required or action.nargs == 0 or "default: " in shown, shown
        assert shown.count("default: ") <= 1, shown
        if isinstance(action.default, (list, tuple)):
            assert not set("[]'") & set(shown), shown
            assert "None" not in shown
            assert "True" not in shown


def test_lists_are_shown_as_they_are_typed():
    assert "(default: hit@1,hit@5,hit@10,ndcg@5,ndcg@10)" in " ".join(
        parser_of("src.seqrec.config").format_help().split()
    )
    parser = new_parser("")
    parser.add_argument("--layers", type=int, nargs="+", default=(512, 256), help="widths")
    assert "widths (default: 512 256)" in parser.format_help()


@pytest.mark.parametrize("name", ["tpu", "gpu", "cuda:", "cuda:x", "CPU", ""])
def test_unknown_devices_are_refused_by_the_parser(name, capsys):
    flags = ["--dataset", "D", "--index_file", "i", "--ckpt_model", "c", "--device", name]
    with pytest.raises(SystemExit):
        parser_of("src.seqrec.config").parse_args(flags)
    assert f"there is no device '{name}': choose auto, cpu, cuda or cuda:N" in capsys.readouterr().err
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or cuda:N"):
        resolve_device(name)


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_a_fault_of_the_input_is_one_line_and_exit_status_2(capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended, user_errors():
        parse_metric("hits@3")  # raises a ValueError of ours
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: there is no metric 'hits@3'")
    assert message.count("\n") == 1
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit), user_errors():
        parse_metric("hits@3")
    assert capsys.readouterr().err.startswith("error: [rank 3] there is no metric")


def test_a_full_disk_is_no_bug(capsys):
    """/dev/full is one; its error comes from Python, and used to end in a traceback."""
    with pytest.raises(SystemExit) as ended, user_errors(), open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert ended.value.code == 2
    assert "No space left on device: make room, or write elsewhere" in capsys.readouterr().err
    with pytest.raises(SystemExit), user_errors():  # polars has errors of its own
        pl.DataFrame({"a": range(100_000)}).lazy().sink_parquet("/dev/full")
    assert "make room" in capsys.readouterr().err


def test_bugs_keep_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"), user_errors():
        int("x")  # by accident, not by a `raise` of ours
    with pytest.raises(AttributeError), user_errors():
        parse_metric(None)


def test_checks_need_no_torch():
    """A typo used to be answered only after torch and transformers had been imported."""
    code = (
        "import sys\n"
        "import src.finetune.core, src.seqrec.core, src.baselines.core, src.verify_pictures, src.seqrec.case\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("module", "flags", "fault"),
    [
        ("src.finetune.train_ddp", "--base_model /nope --model_type qwen2 --output_dir o", "no model at /nope"),
        ("src.finetune.train_ddp_vl", "--base_model /nope --model_type qwen2 --output_dir o", "train_ddp_vl does not"),
        ("src.seqrec.metric_ddp", "--ckpt_model /nope", "--ckpt_model /nope is no folder"),
        ("src.seqrec.metric_ddp", "--ckpt_model /nope --num_beams 5", "hit@10 needs ranked lists of 10 items"),
        ("src.seqrec.case", "--ckpt_model /nope --sample_num -1", "--sample_num -1: it must be at least 0"),
        ("src.verify_pictures", "--ckpt_model /nope --results_file o", "--ckpt_model /nope is no folder"),
    ],
)
def test_entries_end_in_one_line(module, flags, fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(["--dataset", "Gone", "--index_file", "i", *flags.split()])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert fault in lines[0]
    assert not list(tmp_path.iterdir())
