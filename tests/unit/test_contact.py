"""When an informer's failures count, and what is said of them."""

import pytest
from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import contact
from sandbox_server.engines.kubernetes.contact import Contact

PACE = Pace()
BUSY = engines.Busy("etcdserver: no space")
FORBIDDEN = engines.Refused(Fault(Reason.CLUSTER_FORBIDDEN, "no"))
AWAY = engines.Unreachable("connection refused")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(contact.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fails(of: Contact, error: Exception) -> Reason | None:
    """The reason that is shown after a failure."""
    of.failed()
    of.explain(error)
    return None if of.refused is None else of.refused.reason


def test_busy_answer_is_the_reason_once_it_has_lasted(clock: Clock) -> None:
    of = Contact(PACE)
    assert fails(of, BUSY) is None
    clock.now += PACE.busy_after + 1
    assert fails(of, BUSY) is Reason.CLUSTER_BUSY


def test_time_of_busy_answers_begins_anew_after_an_answer(clock: Clock) -> None:
    of = Contact(PACE)
    fails(of, BUSY)
    clock.now += PACE.busy_after + 1
    of.answered()
    assert fails(of, BUSY) is None


@pytest.mark.parametrize("between", [FORBIDDEN, AWAY])
def test_time_of_busy_answers_begins_anew_after_another_failure(clock: Clock, between: Exception) -> None:
    of = Contact(PACE)
    fails(of, BUSY)
    assert fails(of, between) is (Reason.CLUSTER_FORBIDDEN if between is FORBIDDEN else None)
    clock.now += PACE.busy_after + 1
    assert fails(of, BUSY) is None


@pytest.mark.fault(18)
def test_contact_is_lost_after_a_while_without_an_answer_and_back_with_the_next(clock: Clock) -> None:
    of = Contact(PACE)
    of.answered()
    assert not of.synced
    of.listed = True
    assert of.synced
    for waited, synced in ((0.0, True), (PACE.stale_after - 0.1, True), (0.2, False)):
        clock.now += waited
        of.failed()
        assert of.synced is synced
    of.answered()
    assert of.synced


def test_next_call_waits_longer_after_each_failure_until_one_lasts_and_as_long_as_it_is_asked_to(clock: Clock) -> None:
    of = Contact(PACE)
    delays = []
    for _ in range(9):
        of.failed()
        delays.append(of.delay(AWAY))
    assert 0.1 <= delays[0] <= 0.2
    assert 5 <= delays[-1] <= PACE.watch_retry_most
    assert of.delay(engines.Busy("slow down", 30)) == 30
    of.answered()
    of.failed()
    assert of.delay(AWAY) >= 5
    of.lasted()
    of.failed()
    assert of.delay(AWAY) <= 0.2
