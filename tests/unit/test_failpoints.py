"""Failpoints: how they are armed, and that those that are not cost nothing."""

import os
import sys
import time
from collections.abc import Iterator

import pytest
from sandbox_server import failpoints
from sandbox_server.failpoints import Failpoint

from tests.support import programs


@pytest.fixture(autouse=True)
def _unarmed() -> Iterator[None]:
    yield
    failpoints.arm(())


def test_a_setting_is_a_list_of_names_with_what_happens_there() -> None:
    assert failpoints.parsed("") == ()
    assert failpoints.parsed("after_commit=kill,before_act=raise@3,after_act=sleep:0.5@12") == (
        Failpoint("after_commit", "kill"),
        Failpoint("before_act", "raise", number=3),
        Failpoint("after_act", "sleep", 0.5, 12),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("after_comit=kill", "there is no failpoint 'after_comit': use one of after_act, after_commit, "),
        (
            "after_commit",
            "'after_commit' must be NAME=kill, NAME=raise or NAME=sleep:SECONDS, and may end with @NUMBER",
        ),
        ("after_commit=sleep", "'after_commit=sleep' must be NAME=kill"),
        ("after_commit=kill@0", "'after_commit=kill@0' must be NAME=kill"),
        ("after_commit=kill after_act=kill", "must be NAME=kill"),
    ],
)
@pytest.mark.slow
def test_a_mistyped_setting_is_refused_at_the_start(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        failpoints.parsed(text)
    assert words in str(caught.value)
    done = programs.run("sandbox-server", "config", env=os.environ | {"SANDBOX_FAILPOINTS": text})
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox-server: failpoints: ")
    assert words in done.stderr


@pytest.mark.slow
def test_a_right_setting_is_no_unknown_variable_and_is_not_printed() -> None:
    done = programs.run("sandbox-server", "config", env=os.environ | {"SANDBOX_FAILPOINTS": "after_commit=raise"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "after_commit" not in done.stdout


def test_a_number_counts_the_hits_of_its_own_place() -> None:
    failpoints.arm(failpoints.parsed("after_commit=raise@3"))
    for name in ("after_commit", "before_commit", "after_commit", "before_commit"):
        failpoints.hit(name)
    with pytest.raises(failpoints.Injected, match="after_commit"):
        failpoints.hit("after_commit")
    failpoints.hit("after_commit")


def test_without_a_number_each_hit_counts() -> None:
    failpoints.arm(failpoints.parsed("after_commit=sleep:0.05"))
    began = time.monotonic()
    for _ in range(2):
        failpoints.hit("after_commit")
    assert time.monotonic() - began >= 0.1


def test_an_unarmed_failpoint_calls_nothing() -> None:
    called: list[tuple[str, str]] = []
    sys.setprofile(lambda frame, event, _: called.append((event, frame.f_code.co_name)))
    try:
        failpoints.hit("after_commit")
    finally:
        sys.setprofile(None)
    assert called[:2] == [("call", "hit"), ("return", "hit")]
