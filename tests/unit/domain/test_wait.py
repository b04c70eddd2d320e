"""A wait for a phase ends by the rules of the Python client."""

import itertools
from datetime import timedelta

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import SandboxFailed, retry, watch
from sandbox_server.domain import wait
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.wait import Outcome, Wait
from sandbox_server.rpc import render

from tests.support import samples

ERRORS = {"CALLER": Reason.CRASH_LOOP, "WAIT": Reason.UNSCHEDULABLE, "OPERATOR": Reason.QUOTA_EXCEEDED}
PATIENCE = 60.0


def sandbox(phase: Phase, reason: Reason = Reason.READY, generation: int = 2) -> Sandbox:
    return samples.sandbox(generation=generation, status=samples.status(phase=phase, reason=reason))


def in_client(awaited: Wait, value: Sandbox) -> Outcome:
    """What the wait of the client makes of a status as its first one: it counts its patience from then on."""
    client = watch.Wait(
        awaited.phase.value,  # type: ignore[arg-type]
        awaited.generation,
        awaited.fail_on_error,
        lambda _: None,
        awaited.patience.total_seconds(),
    )
    status = pb.SandboxStatus(**render.status(samples.event(value)))
    try:
        found = client.take(watch.Event(watch.Kind.CHANGE, 1, status))
    except SandboxFailed:
        return Outcome.FAILED
    return Outcome.PENDING if found is None else Outcome.REACHED


@pytest.mark.parametrize("patience", [0, PATIENCE])
@pytest.mark.parametrize("fail_on_error", [False, True])
@pytest.mark.parametrize("generation", [0, 1, 2, 3])
def test_every_status_ends_a_wait_as_in_the_client(generation: int, fail_on_error: bool, patience: float) -> None:
    given = [sandbox(phase) for phase in Phase if phase is not Phase.ERROR]
    given += [sandbox(Phase.ERROR, reason) for reason in ERRORS.values()]
    for value, phase in itertools.product(given, Phase):
        awaited = Wait(phase, generation, fail_on_error, timedelta(seconds=patience))
        assert awaited.outcome(value, samples.NOW) is in_client(awaited, value), (awaited, value.status)


@pytest.mark.parametrize("remedy", ["WAIT", "OPERATOR"])
def test_patience_counts_from_the_beginning_of_an_error(remedy: str) -> None:
    awaited = Wait(Phase.RUNNING, 2, fail_on_error=True, patience=timedelta(seconds=PATIENCE))
    value = sandbox(Phase.ERROR, ERRORS[remedy])
    end = samples.NOW + timedelta(seconds=PATIENCE)
    assert awaited.patience_end(value) == end
    assert awaited.outcome(value, end - timedelta(microseconds=1)) is Outcome.PENDING
    assert awaited.outcome(value, end) is Outcome.FAILED


def test_an_error_that_only_the_caller_can_end_fails_at_once_whatever_the_clock() -> None:
    awaited = Wait(Phase.RUNNING, 2, fail_on_error=True)
    value = sandbox(Phase.ERROR, Reason.CRASH_LOOP)
    assert awaited.patience_end(value) is None
    assert awaited.outcome(value, samples.NOW - timedelta(seconds=5)) is Outcome.FAILED


def test_an_error_with_an_unknown_reason_fails_at_once() -> None:
    newer = sandbox(Phase.ERROR, Reason(900))
    assert Wait(Phase.RUNNING, fail_on_error=True).outcome(newer, samples.NOW) is Outcome.FAILED


def test_the_service_has_the_patience_of_the_client() -> None:
    assert wait.PATIENCE == retry.PATIENCE
    assert {one.name: one.value for one in Outcome} == {
        name.removeprefix("WAIT_OUTCOME_"): number for name, number in pb.WaitOutcome.items() if number
    }
