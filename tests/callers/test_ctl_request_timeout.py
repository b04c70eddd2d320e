"""The time that `sandboxctl` gives to each call."""

import time

import pytest
from sandboxctl import options

from tests.support.ctl import Run
from tests.support.ports import free_port

LONG = str(options.REQUEST_TIMEOUT * 3)


@pytest.fixture
def away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the server's address."""
    monkeypatch.setenv("SANDBOX_SERVER", f"127.0.0.1:{free_port()}")


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (("--request-timeout", "0.3", "list"), None),
        (("list", "--request-timeout", "0.3"), None),
        (("--request-timeout", LONG, "list", "--request-timeout", "0.3"), None),
        (("list",), "0.3"),
        (("list", "--request-timeout", ".3"), LONG),
    ],
)
def test_call_that_is_not_answered_ends_after_the_request_timeout(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("SANDBOX_REQUEST_TIMEOUT", variable)
    began = time.monotonic()
    assert run(*words).code == 5
    assert time.monotonic() - began < options.REQUEST_TIMEOUT


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("value", ["soon", "10s", "0", "-1", "nan", "inf", "86401", ""])
def test_request_timeout_that_is_no_time_is_a_usage_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for words in (("--request-timeout", value, "list"), ("list", "--request-timeout", value)):
        done = run(*words)
        assert (done.code, done.out) == (2, "")
        assert f"{value!r} must be seconds: a number above 0 and of at most 86400" in done.err
    if value:
        monkeypatch.setenv("SANDBOX_REQUEST_TIMEOUT", value)
        done = run("list")
        assert (done.code, "SANDBOX_REQUEST_TIMEOUT" in done.err, "must be seconds" in done.err) == (2, True, True)


def test_request_timeout_is_ten_seconds_by_default_and_as_long_as_a_day(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty variable counts as one that is not set.
    monkeypatch.setenv("SANDBOX_REQUEST_TIMEOUT", "")
    assert run("list").code == 0
    assert options.chosen.given.request_timeout == 10
    assert run("--request-timeout", "86400", "list").code == 0
    assert options.chosen.given.request_timeout == 86400
