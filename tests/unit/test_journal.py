"""The log lines of calls."""

import pytest
from sandbox_server.rpc import journal
from structlog.testing import capture_logs


@pytest.mark.find(40)
def test_a_flood_of_refused_tokens_leaves_few_lines_that_count_the_rest() -> None:
    now = 0.0
    refusals = journal.Refusals(lambda: now)
    with capture_logs() as lines:
        for number in range(10_000):
            now = number / 1000
            refusals.add("GetStatus", f"ipv4:10.0.0.1:{number}")
        now += 2 * journal.EACH
        refusals.add("WatchStatus", "ipv4:10.0.0.2:1")
    assert [one["event"] for one in lines] == ["credentials_refused"] * len(lines)
    assert journal.BURST <= len(lines) <= journal.BURST + 12
    assert lines[-1]["method"] == "WatchStatus"
    assert lines[-1]["peer"] == "ipv4:10.0.0.2:1"
    assert len(lines) + sum(one["left_out"] for one in lines) == 10_001


@pytest.mark.find(40)
def test_time_without_refusals_does_not_save_up_lines() -> None:
    now = 0.0
    refusals = journal.Refusals(lambda: now)
    with capture_logs() as lines:
        now = 1000 * journal.EACH
        for _ in range(100):
            refusals.add("GetStatus", "ipv4:10.0.0.1:1")
    assert len(lines) == journal.BURST
