"""How checks are run, and how their results are printed."""

import asyncio
import io
import json
import time
from datetime import timedelta

import pytest
from sandbox_server.doctor import leases, report, schedules
from sandbox_server.doctor.examination import Check, Examination, Failed, in_thread
from sandbox_server.doctor.report import Result, Status
from sandbox_server.domain.lease import Lease, Replica, Sight
from sandbox_server.domain.schedule import Missed, MissedReason

from tests.support import samples
from tests.support.samples import CANARY

LONG = "`kubectl create rolebinding -n sandboxes sandbox-service --role=sandbox-service --serviceaccount=a:b`"
RESULTS = [
    Result("disk", Status.OK, "/data", "12.0 GiB of 20.0 GiB are free"),
    Result(
        "rights", Status.FAILURE, "sandboxes", "no right of the Role is granted", f"give the Role and then run {LONG}"
    ),
    Result("storage class", Status.NOT_CHECKED, "", "the service may not list storage classes"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 200])
def test_table_is_as_wide_as_the_terminal_and_breaks_no_word_and_no_command(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    printed = report.table(RESULTS, io.StringIO())
    lines = printed.splitlines()
    assert all(len(line) <= columns for line in lines if LONG not in line)
    assert sum(LONG in line for line in lines) == 1
    assert lines[0] == "ok           disk           /data: 12.0 GiB of 20.0 GiB are free"
    assert lines[-1] == "3 results: 1 ok, 1 failure, 1 not checked"


def test_table_is_coloured_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31mfailure" in report.table(RESULTS, Terminal())
    assert "\x1b" not in report.table(RESULTS, io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in report.table(RESULTS, Terminal())


def test_table_escapes_what_would_control_the_terminal() -> None:
    hostile = Result("cluster", Status.FAILURE, "a\x1b[2J", "b\r\nc\x9b", "d\x07")
    lines = report.table([hostile], io.StringIO()).splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert "b c" in lines[0]


def test_json_is_a_list_of_all_fields() -> None:
    assert json.loads(report.json(RESULTS))[1] == {
        "check": "rights",
        "status": "failure",
        "subject": "sandboxes",
        "message": "no right of the Role is granted",
        "remedy": f"give the Role and then run {LONG}",
    }
    assert json.loads(report.json([])) == []


@pytest.mark.parametrize(
    ("status", "fails"),
    [(Status.OK, False), (Status.WARNING, False), (Status.NOT_CHECKED, False), (Status.FAILURE, True)],
)
def test_only_a_failure_fails(status: Status, fails: bool) -> None:
    assert report.failed([Result("a", Status.OK, "", ""), Result("b", status, "", "")]) is fails


async def ran(act: object, within: float = 5) -> Result:
    examination = Examination(within)
    await examination.check("name", "subject", act)  # type: ignore[arg-type]
    (result,) = examination.results
    return result


async def test_check_that_does_not_end_is_a_failure_and_the_next_one_runs() -> None:
    async def hangs(_: Check) -> list[Result]:
        await in_thread(lambda: time.sleep(1))
        return []

    async def ends(check: Check) -> list[Result]:
        return [check.ok("fine")]

    examination = Examination(0.05)
    assert not await examination.check("first", "", hangs)
    assert await examination.check("second", "", ends)
    first, second = examination.results
    assert (first.status, first.message) == (Status.FAILURE, "no answer within 0.05 s")
    assert second.status is Status.OK


async def test_check_that_needs_a_failed_one_is_not_run_and_says_why() -> None:
    async def never(_: Check) -> list[Result]:
        raise AssertionError

    examination = Examination(1)
    assert await examination.check("schema", "", never, needs="the database does not answer")
    (result,) = examination.results
    assert result == Result("schema", Status.NOT_CHECKED, "", "the database does not answer")


async def test_failed_check_has_its_remedy() -> None:
    async def fails(_: Check) -> list[Result]:
        raise Failed("it is gone", "make it")

    assert await ran(fails) == Result("name", Status.FAILURE, "subject", "it is gone", "make it")


async def test_unforeseen_error_is_named_and_its_text_is_not_shown() -> None:
    async def breaks(_: Check) -> list[Result]:
        raise KeyError(CANARY)

    result = await ran(breaks)
    assert result.status is Status.FAILURE
    assert "KeyError" in result.message
    assert CANARY not in str(result)


async def test_examination_that_is_cancelled_ends() -> None:
    started = asyncio.Event()

    async def waits(_: Check) -> list[Result]:
        started.set()
        await asyncio.Event().wait()
        return []

    running = asyncio.create_task(ran(waits))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


SYNCED = Sight(synced=True)


def lease(namespace: str, holder: str = "one", remaining: float = 3, sight: Sight = SYNCED) -> Lease:
    return Lease(namespace, holder, 1, remaining, sight)


ONE = Replica("one", "kubernetes", frozenset({"a", "b"}), release="1", up_for=7.9)


@pytest.mark.parametrize(
    ("held", "status", "message"),
    [
        (
            [lease("a"), lease("b")],
            Status.OK,
            "replicas: 1 of release 1, each up for 8 s or longer; each of the namespaces is held and observed",
        ),
        ([lease("a")], Status.WARNING, "b: no replica holds it"),
        ([lease("a"), lease("b", remaining=-1)], Status.WARNING, "b: no replica holds it"),
        ([lease("a"), lease("b", holder="")], Status.WARNING, "b: no replica holds it"),
        ([lease("a"), lease("b", holder="two")], Status.WARNING, "b: no replica holds it"),
        ([lease("a"), lease("b", sight=Sight())], Status.WARNING, "b: its holder one does not observe it"),
        (
            [lease("a"), lease("b", sight=Sight(fault="pods is forbidden"))],
            Status.FAILURE,
            "b: its holder one does not observe it: pods is forbidden",
        ),
    ],
)
def test_leases_are_judged(held: list[Lease], status: Status, message: str) -> None:
    (result,) = leases.judge(Check("leases", ""), [ONE], held, "kubernetes", ["a", "b"])
    assert (result.status, result.message) == (status, message)


def test_replicas_with_other_settings_are_a_warning() -> None:
    said = leases.judge(Check("leases", ""), [ONE], [lease("a")], "local", ["a", "c"])
    assert [one.message for one in said] == [
        "the replica one runs the engine kubernetes, and these settings say local",
        "c: no running replica has it among its tenants' namespaces",
    ]
    assert {one.status for one in said} == {Status.WARNING}


def test_no_replica_is_no_failure() -> None:
    (result,) = leases.judge(Check("leases", ""), [], [lease("a", remaining=-99)], "kubernetes", ["a"])
    assert (result.status, result.message) == (Status.OK, "no replica runs")


def test_schedules_that_have_missed_their_last_slot_are_warned_of() -> None:
    check = Check("schedules", "")
    day = timedelta(days=1)
    missed = Missed(samples.NOW, "demo-1", MissedReason.TOO_MANY_SNAPSHOTS, "delete some")
    over = samples.schedule("over", last_slot=samples.NOW + day, missed=1, last_missed=missed)
    fine = samples.schedule("fine", last_slot=samples.NOW)
    now = samples.NOW + 2 * day
    (result,) = schedules.judge(check, [over, fine], now)
    assert (result.status, result.message) == (Status.OK, "none of 2 has missed its last slot")
    late = samples.schedule("late", last_slot=samples.NOW - day, missed=1, last_missed=missed)
    (result,) = schedules.judge(check, [over, late, fine], now)
    assert result.status is Status.WARNING
    assert "default/late has missed the slot 2026-01-02 03:04 UTC of demo-1: TOO_MANY_SNAPSHOTS" in result.message
    assert "snapshots-per-tenant" in result.remedy
    assert set(schedules._REMEDIES) < set(MissedReason)


def test_schedules_whose_last_slot_is_yet_to_come_are_warned_of() -> None:
    ahead = samples.schedule("ahead", last_slot=samples.NOW)
    (result,) = schedules.judge(Check("schedules", ""), [ahead], samples.NOW - timedelta(hours=1))
    assert result.status is Status.WARNING
    assert "default/ahead has a snapshot of the slot 2026-01-02 03:04 UTC, which is yet to come" in result.message
