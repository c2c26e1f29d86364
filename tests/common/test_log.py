"""Messages for people."""

from src.common.log import duration


def test_durations_read_well():
    times = {0.4: "0 s", 59.6: "1 min 00 s", 185: "3 min 05 s", 3600: "1 h 00 min", 100_000: "27 h 46 min"}
    assert {seconds: duration(seconds) for seconds in times} == times
