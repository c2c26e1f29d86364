"""The comparison of two result files, and its exit status."""

import json

import numpy as np
import pytest

from src.seqrec.compare import compare, main
from src.seqrec.results import Predictions, predictions_path, write_results

NUM_USERS = 400


def write_run(path, hit_rate, users=NUM_USERS, seed=0, **fields):
    """A run that ranks the target first for `hit_rate` of the users, second otherwise; rows in a random order."""
    rng = np.random.default_rng(seed)
    targets = np.arange(users) % 7
    first = np.random.default_rng(9).permutation(users) < hit_rate * users
    ranked = np.where(first[:, None], np.stack([targets, targets + 10], 1), np.stack([targets + 10, targets], 1))
    order = rng.permutation(users)
    names = [f"user {user}" for user in order]
    predictions = Predictions(names, targets[order], ranked[order], np.zeros((users, 2), np.float32))
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
        ({"filter_history": True}, "one protocol"),
        ({"dataset": "Other"}, "one protocol"),
    ],
)
def test_what_does_not_compare_says_why(tmp_path, capsys, change, message):
    base = write_run(tmp_path / "a.json", 0.5, filter_history=False)
    new = write_run(tmp_path / "b.json", 0.5, **{"filter_history": False, **change})
    fails([str(base), str(new)])
    assert message in capsys.readouterr().err


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
