"""The table of published figures and ours: rows that run, records that fit, a table that says what they say."""

import json
from dataclasses import replace

import pytest

from benchmarks.published import __main__ as entry
from benchmarks.published import record, table
from benchmarks.published.rows import ROWS, USERS
from src.seqrec.protocol import Protocol
from tests.documents import commands_in, unknown_flags

MIX = ROWS["Instruments/fused-small-masked"]
METRICS = {"hit@10": 0.2, "ndcg@10": 0.1}
TIGER, COUNTS = ROWS["Instruments/tiger-text-small"], ROWS["Beauty/cooccurrence-masked"]


def results_of(row, **changes):
    """What a run of the row would write."""
    results = {
        "dataset": row.dataset,
        "model": row.model,
        "num_samples": USERS[row.dataset],
        "num_beams": row.protocol.num_beams,
        "protocol": Protocol(history=row.protocol.history).table(),
        "mean_results": METRICS,
        "confidence_intervals": {name: [value - 0.01, value + 0.01] for name, value in METRICS.items()},
        "commit": "abc",
    }
    if row.entry == "src.seqrec.metric_ddp":
        results |= {"index": record.index_name(row), "fusion": {"chosen_on": "valid"}}
    else:
        results["config"] = {**record.settings_of(row), "seed": 7}
    if row.model == "tiger":
        results["sid_results"] = {"sid_hit@10": 0.3, "sid_ndcg@10": 0.15}
        results["index"] = "/elsewhere/Instruments.index_lemb.json"
    return {**results, **changes}


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RECORDS", tmp_path / "docs")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path / "docs"


def write(path, row, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results_of(row, **changes)))
    return path


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_command_parses_and_asks_for_the_protocol_of_its_row(row):
    commands = commands_in(row.command)
    assert [command.entry for command in commands][-1] == row.entry
    assert len(commands) == len(row.before) + 1
    for command in commands:
        assert not unknown_flags(command)
    words = row.words()
    assert ("--filter_history" in words) is (row.protocol.history == "masked")
    assert words[words.index("--num_beams") + 1] == str(row.protocol.num_beams)
    assert set(row.needs) <= ROWS.keys()
    if row.entry != "src.seqrec.metric_ddp":  # what a results file is checked against
        assert record.settings_of(row)["filter_history"] is (row.protocol.history == "masked")


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.published], ids=lambda row: row.name)
def test_published_figures_are_of_the_protocol_of_the_row(row):
    assert not row.published.protocol.differences(row.protocol)


def test_what_fits_is_recorded(records, tmp_path):
    results_file = write(tmp_path / "r.json", TIGER)
    entry.main(["--record", TIGER.name, str(results_file), "--seconds", "90", "--machine", "two cores"])
    kept = json.loads((records / "Instruments" / "tiger-text-small.json").read_text())
    assert kept == record.read_records()[TIGER.name]
    assert kept["item"]["hit@10"] == {"mean": 0.2, "interval": pytest.approx([0.19, 0.21])}
    assert kept["sid"]["ndcg@10"] == {"mean": 0.15, "interval": None}  # of an older results file
    assert (kept["protocol"]["name"], kept["seed"]) == ("leave-one-out/test/unmasked/20/sid hits", 7)
    assert (kept["seconds"], kept["cpu_seconds"], kept["machine"], kept["commit"]) == (90, None, "two cores", "abc")
    assert kept["command"] == TIGER.command
    assert str(tmp_path) not in json.dumps(kept)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (TIGER, {"dataset": "Beauty"}, "has dataset 'Beauty', the row"),
        (TIGER, {"model": "sasrec"}, "has model 'sasrec'"),
        (TIGER, {"num_samples": 2000}, "has users 2000"),
        (TIGER, {"protocol": Protocol(history="masked").table()}, "has history 'masked' "),
        (TIGER, {"protocol": Protocol(split="valid").table()}, "has split 'valid' "),
        (TIGER, {"index": "x/Instruments.index_vitemb.json"}, "of the SID index x/Instruments.index_vitemb.json"),
        (TIGER, {"config": {"epochs": 3}}, "was made with --epochs 3, the row .* has 14"),
        (ROWS["Instruments/tiger-text"], {"config": {"num_layers": 2}}, "--num_layers 2, the row .* has 4"),
        (TIGER, {"mean_results": {"hit@10": 0.2}}, "lacks ndcg@10"),
        (MIX, {"fusion": {"chosen_on": None}}, "mixed by weights that were given"),
        (MIX, {"exact": True}, "was made with --exact, the row"),
        (COUNTS, {"protocol": None, "filter_history": False}, r"has history 'unmasked' \(\?/"),  # of an older file
    ],
)
def test_what_does_not_fit_is_refused(row, change, message):
    with pytest.raises(ValueError, match=message):
        record.check_fits(row, results_of(row, **change), "r.json")


def test_what_a_row_leaves_to_the_run_is_no_difference():
    """LC-Rec takes the tasks that a dataset has files for, and tells which; such a row could never be recorded."""
    row = ROWS["Scientific/lcrec-small-masked"]
    results = results_of(row)
    results["config"] |= {"tasks": ["seqrec", "item2index"]}
    record.check_fits(row, results, "r.json")
    results["config"] |= {"layers": [8]}
    with pytest.raises(ValueError, match=r"was made with --layers \[8\]"):
        record.check_fits(row, results, "r.json")


def test_sid_hits_need_sid_results():
    results = results_of(TIGER)
    del results["sid_results"]
    with pytest.raises(ValueError, match="has no sid_results"):
        record.check_fits(TIGER, results, "r.json")


def test_a_run_is_recorded(records, tmp_path, monkeypatch, capsys):
    """With the flags of the row, on the data of this machine; the record names neither."""
    ran = []

    def launch(words):
        ran.append(words)
        write(tmp_path / COUNTS.results_file, COUNTS)
        return len(ran) - 1

    monkeypatch.setattr(record, "launch", launch)
    monkeypatch.setenv("GREC_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets" / "Beauty").mkdir(parents=True)
    entry.main(["--rows", COUNTS.name, "--json", str(tmp_path / "table.json")])
    assert ran[0] == [word.replace("$GREC_DATA", str(tmp_path / "sets")) for word in COUNTS.words()]
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (row["name"], row["published"], row["ours"]) == (COUNTS.name, None, METRICS)
    assert row["cpu_seconds"] >= 0
    assert not row["resumed"]
    assert "0.2000 / 0.1000" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # the second run fails
        entry.main(["--rows", COUNTS.name])
    assert "ended with status 1" in capsys.readouterr().err


def test_a_run_that_goes_on_says_so(records, tmp_path, monkeypatch):
    """Its time is not that of the whole training."""
    row = ROWS["Beauty/sasrec-masked"]
    monkeypatch.setattr(record, "launch", lambda words: write(tmp_path / row.results_file, row) and 0)
    monkeypatch.setenv("GREC_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets" / "Beauty").mkdir(parents=True)
    (tmp_path / row.results_file).with_suffix(".model").mkdir(parents=True)
    kept = record.run_row(row)
    assert kept["resumed"]
    assert table.time_of(table.compared(row, {**kept, "cpu_seconds": 600})) == "over 10 min"


def test_a_run_that_goes_on_from_answers_says_so(records, tmp_path, monkeypatch):
    """Of a mixture there is no folder of a model."""
    monkeypatch.setattr(record, "launch", lambda words: write(tmp_path / MIX.results_file, MIX) and 0)
    monkeypatch.setattr(record, "prepare", lambda row, data: None)
    monkeypatch.setenv("GREC_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets" / "Instruments").mkdir(parents=True)
    assert not record.run_row(MIX)["resumed"]
    (tmp_path / MIX.results_file).with_suffix(".predictions.2-valid.parts").mkdir()
    assert record.run_row(MIX)["resumed"]


def test_models_that_are_missing_are_asked_for(records, monkeypatch):
    monkeypatch.setenv("GREC_DATA", "/sets")
    monkeypatch.delenv("BASE_MODEL", raising=False)
    with pytest.raises(ValueError, match=r"Beauty/lcrec-masked needs \$BASE_MODEL"):
        record.with_values(ROWS["Beauty/lcrec-masked"], "/sets")
    monkeypatch.setenv("BASE_MODEL", "/models/tiny")
    words = record.with_values(ROWS["Beauty/lcrec-masked"], "/sets")
    assert words[words.index("--base_model") + 1] == "/models/tiny"
    assert words[words.index("--data_path") + 1] == "/sets"
    with pytest.raises(ValueError, match="first run --rows Instruments/tiger-text Instruments/tiger-image"):
        record.prepare(ROWS["Instruments/fused-masked"], "/sets")


def test_an_index_that_is_absent_is_made_first(records, tmp_path, monkeypatch):
    row = replace(ROWS["HMWeek/tiger-text-small"], before=('mkdir -p "$GREC_DATA" out', "echo {} > out/index.json"))
    row = replace(row, index="out/index.json")
    for _ in range(2):
        record.prepare(row, str(tmp_path / "sets"))
        assert (tmp_path / "sets").is_dir()
        assert (tmp_path / "out" / "index.json").is_file()
        row = replace(row, before=("false",))  # is there: not made again
    with pytest.raises(ValueError, match="a step before it ended with status 1: false"):
        record.prepare(replace(row, index="out/other.json"), str(tmp_path))


def test_absent_data_is_skipped(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GREC_DATA", str(tmp_path))
    entry.main([])  # all rows that take seconds
    said = capsys.readouterr().out
    assert said.count("skipped") == 3 * 2 * len(USERS)
    assert "Beauty is absent; set GREC_DATA" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "Beauty/bpr"], "no row is called 'Beauty/bpr'"),
        (["--record", "Beauty/*", "r.json", "--seconds", "1"], "names 12 rows"),
        (["--record", COUNTS.name, "r.json"], "--record and --seconds belong together"),
        (["--table", "--machine", "mine"], "are of a run to --record"),
    ],
)
def test_wrong_flags_say_why(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_table_compares_hits_of_the_row():
    results = results_of(TIGER, sid_confidence_intervals={"sid_hit@10": [0.29, 0.31], "sid_ndcg@10": [0.1, 0.2]})
    kept = record.record_of(TIGER, results, 4000, 3900, "two cores")
    lines = table.markdown({TIGER.name: kept}).splitlines()
    (line,) = (line for line in lines if "0.3000" in line)
    assert line == (
        "| TIGER, SIDs of text, MQL4GRec, reduced | unmasked/20/sid hits | 0.1221 / 0.0950 [1] | 0.3000 / 0.1500"
        " | +0.1779 / +0.0550 | 0.2900 to 0.3100 | 0.1000 to 0.2000 | 65 min |"
    )
    assert "**HMWeek**" not in lines  # nothing published, nothing run
    waiting = [line for line in lines if "not run yet" in line]
    assert len(waiting) == sum(row.published is not None for row in ROWS.values()) - 1


# ---- what is checked in ----------------------------------------------------------------------------------------------
RECORDS = record.read_records()


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_of_their_rows(name):
    row, kept = ROWS[name], RECORDS[name]
    assert kept["command"] == row.command
    assert kept["protocol"] == row.protocol.table()
    assert (kept["dataset"], kept["model"], kept["num_samples"]) == (row.dataset, row.model, USERS[row.dataset])
    for metric in kept["item"].values():
        low, high = metric["interval"]
        assert low <= metric["mean"] <= high


def test_the_counting_baselines_are_recorded():
    assert {row.name for row in ROWS.values() if row.is_quick} <= RECORDS.keys()


def test_the_document_holds_the_table():
    text = (record.ROOT / "docs" / "baselines_readme.md").read_text()
    start, end = "<!-- python -m benchmarks.published --table -->\n", "\n<!-- end -->"
    assert text.count(start) == 1
    shown = text.partition(start)[2].partition(end)[0]
    assert shown == table.markdown(RECORDS), "put in what python -m benchmarks.published --table prints"
