"""The comparison of two result files, and its exit status."""

import json
from dataclasses import replace

import numpy as np
import pytest

from src.seqrec.compare import compare, main
from src.seqrec.protocol import Protocol
from src.seqrec.results import Predictions, predictions_path, write_results

NUM_USERS = 400


def write_run(path, hit_rate, users=NUM_USERS, seed=0, length=2, **fields):
    """A run that ranks the target first for `hit_rate` of the users, second otherwise; rows in a random order."""
    rng = np.random.default_rng(seed)
    targets = np.arange(users) % 7
    first = np.random.default_rng(9).permutation(users) < hit_rate * users
    ranked = np.where(first[:, None], np.stack([targets, targets + 10], 1), np.stack([targets + 10, targets], 1))
    ranked = np.pad(ranked, ((0, 0), (0, length - 2)), constant_values=-1)
    order = rng.permutation(users)
    names = [f"user {user}" for user in order]
    predictions = Predictions(names, targets[order], ranked[order], np.zeros((users, length), np.float32))
    stated = {"hit@1": float(first.mean())}
    return write_results(path, predictions, {"mean_results": stated, "dataset": "Toy", **fields})


def fails(flags):
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2


def test_rows_are_paired_by_user_and_target(tmp_path):
    base, new = write_run(tmp_path / "a.json", 0.5, seed=1), write_run(tmp_path / "b.json", 0.5, seed=2)
    (row,) = compare(base, new)
    assert (row.metric, row.test.difference, row.test.p_value) == ("hit@1", 0, 1)


def test_a_drop_beyond_the_limit_exits_1(tmp_path, capsys):
    base, new = write_run(tmp_path / "a.json", 0.5), write_run(tmp_path / "b.json", 0.4)
    assert main([str(base), str(new), "--max_drop", "hit@1=.05"]) == 1
    assert "DROPPED" in capsys.readouterr().out
    assert main([str(base), str(new), "--max_drop", "hit@1=.2"]) == 0
    assert main([str(new), str(base), "--max_drop", "hit@1=.05"]) == 0  # a gain
    assert main([str(base), str(new)]) == 0  # nothing was demanded


def test_the_table_says_what_decides(tmp_path, capsys):
    """Interval and p value are of two methods, and may seem to contradict each other near the border."""
    base, new = write_run(tmp_path / "a.json", 0.5), write_run(tmp_path / "b.json", 0.4)
    main([str(base), str(new)])
    assert "\np decides, here and for --max_drop: " in capsys.readouterr().out


def test_a_drop_within_chance_exits_0(tmp_path):
    base, new = write_run(tmp_path / "a.json", 0.5, users=20), write_run(tmp_path / "b.json", 0.4, users=20)
    assert main([str(base), str(new), "--max_drop", "hit@1=.05"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 300}, "100 are only in the first"),
        ({"filter_history": True}, "has history 'unmasked' (?/?/unmasked/?/?), "),  # of older files
        ({"filter_history": True, "split": "test"}, "'masked' (?/test/masked/?/?): only results of one protocol"),
        ({"dataset": "Other"}, "is of the dataset Toy, "),
    ],
)
def test_what_does_not_compare_says_why(tmp_path, capsys, change, message):
    base = write_run(tmp_path / "a.json", 0.5, filter_history=False)
    new = write_run(tmp_path / "b.json", 0.5, **{"filter_history": False, **change})
    fails([str(base), str(new)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"history": "masked"}, {"split": "valid"}, {"splitting": "split.json"}, {"target": "query"}, {"hits": "sid"}],
)
def test_files_of_other_protocols_do_not_compare(tmp_path, capsys, change):
    protocol = Protocol(num_beams=2)
    base = write_run(tmp_path / "a.json", 0.5, protocol=protocol.table())
    new = write_run(tmp_path / "b.json", 0.5, protocol=replace(protocol, **change).table())
    fails([str(base), str(new)])
    (field,) = change
    said = capsys.readouterr().err
    assert f"has {field} {getattr(protocol, field)!r} (leave-one-out/test/unmasked/2)" in said
    assert repr(change[field]) in said


def test_lists_of_unequal_lengths_compare_only_on_request(tmp_path, capsys):
    base = write_run(tmp_path / "a.json", 0.5, protocol=Protocol(num_beams=2).table())
    new = write_run(tmp_path / "b.json", 0.5, length=5, protocol=Protocol(num_beams=5).table())
    fails([str(base), str(new)])
    assert "or allow it with --any_num_beams" in capsys.readouterr().err
    assert main([str(base), str(new), "--any_num_beams"]) == 0
    masked = write_run(tmp_path / "c.json", 0.5, length=5, protocol=Protocol(num_beams=5, history="masked").table())
    fails([str(base), str(masked), "--any_num_beams"])


def test_an_older_file_compares_with_a_newer_one_by_what_it_tells(tmp_path, capsys):
    new = write_run(tmp_path / "new.json", 0.5, protocol=Protocol(num_beams=2).table())
    flags = {"split": "test", "filter_history": False, "test_task": "mmseqrec", "num_beams": 2}
    assert main([str(write_run(tmp_path / "old.json", 0.5, **flags)), str(new)]) == 0
    fails([str(write_run(tmp_path / "old.json", 0.5, **{**flags, "split": "valid"})), str(new)])
    assert "has split 'valid' (?/valid/unmasked/2)" in capsys.readouterr().err


def test_predictions_of_another_run_are_noticed(tmp_path, capsys):
    base, new = write_run(tmp_path / "a.json", 0.5), write_run(tmp_path / "b.json", 0.4)
    stale = json.loads(new.read_text())
    stale["mean_results"]["hit@1"] = 0.9
    new.write_text(json.dumps(stale))
    fails([str(base), str(new)])
    assert "different runs" in capsys.readouterr().err


def test_missing_predictions_are_an_error(tmp_path, capsys):
    base, new = write_run(tmp_path / "a.json", 0.5), write_run(tmp_path / "b.json", 0.4)
    predictions_path(new).unlink()
    fails([str(base), str(new)])
    assert "b.predictions.parquet does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["hit@1", "hit@1=x", "hit@1=-.1"])
def test_a_limit_that_is_no_number_is_refused(text, tmp_path):
    with pytest.raises(SystemExit):
        main(["a.json", "b.json", "--max_drop", text])


def test_a_metric_that_the_lists_are_too_short_for(tmp_path, capsys):
    base, new = write_run(tmp_path / "a.json", 0.5), write_run(tmp_path / "b.json", 0.4)
    fails([str(base), str(new), "--max_drop", "hit@10=.05"])
    assert "hit@10" in capsys.readouterr().err
