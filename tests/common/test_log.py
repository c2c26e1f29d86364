"""Messages for people."""

from src.common.log import duration, logger, progress, setup_logging


def test_durations_read_well():
    times = {0.4: "0 s", 59.6: "1 min 00 s", 185: "3 min 05 s", 3600: "1 h 00 min", 100_000: "27 h 46 min"}
    assert {seconds: duration(seconds) for seconds in times} == times


def test_messages_keep_out_of_what_a_program_reads(capsys):
    for to_stderr in (True, False):
        setup_logging(to_stderr=to_stderr)
        logger.info("working")
        shown = capsys.readouterr()
        assert "working" in (shown.err if to_stderr else shown.out)
        assert "working" not in (shown.out if to_stderr else shown.err)


def test_a_progress_bar_in_a_file_is_a_line_now_and_then(capsys):
    """Under nohup it used to write ten states a second."""
    assert list(progress(range(1000), desc="decoding")) == list(range(1000))
    assert len(capsys.readouterr().err.split("\r")) < 5
