"""The checks of a random run notice what they are for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.engines.kubernetes.manifests import GENERATION, UID

from tests.robustness import checker
from tests.robustness.history import History
from tests.robustness.traffic import Ledger, Mutation

RUNNING, STOPPED = pb.DESIRED_STATE_RUNNING, pb.DESIRED_STATE_STOPPED


def event(sequence: int, generation: int, request_id: str = "", method: str = "", desired: Any = RUNNING) -> pb.Event:
    kind = pb.CAUSE_KIND_MUTATION if request_id else pb.CAUSE_KIND_OBSERVED
    status = pb.SandboxStatus(
        sandbox_id="r-0", uid="u", generation=generation, sequence=sequence, desired_state=desired
    )
    return pb.Event(sequence=sequence, status=status, cause=pb.Cause(kind=kind, method=method, request_id=request_id))


def asked(event: pb.Event, begun: float, ended: float) -> Mutation:
    return Mutation("r-0", event.cause.method, begun, 0, ended, pb.Sandbox(sandbox_id="r-0", status=event.status))


@dataclasses.dataclass
class Run:
    events: list[pb.Event]
    ledger: Ledger
    unsure: set[str] = dataclasses.field(default_factory=set)

    def check(self) -> None:
        checker.check_mutations(self.events, self.ledger, self.unsure)


@pytest.fixture
def run() -> Run:
    created, stopped = event(1, 1, "a", "CreateSandbox"), event(3, 2, "b", "Stop", STOPPED)
    ledger = Ledger(mutations={"a": asked(created, 1, 2), "b": asked(stopped, 3, 4)})
    return Run([created, event(2, 1), stopped, event(4, 2, desired=STOPPED)], ledger)


def test_a_history_that_agrees_with_the_answers_passes(run: Run) -> None:
    run.check()


def twice(run: Run) -> None:
    run.events.append(event(5, 3, "b", "Stop", STOPPED))


def lost(run: Run) -> None:
    answer = pb.Sandbox(sandbox_id="r-1", status=pb.SandboxStatus(uid="other", generation=1, sequence=9))
    run.ledger.mutations["c"] = Mutation("r-1", "CreateSandbox", 5, 0, 6, answer)


def skipped_generation(run: Run) -> None:
    run.events[2].status.generation = run.events[3].status.generation = 3


def observation_that_changes_what_is_desired(run: Run) -> None:
    run.events[3].status.desired_state = RUNNING


def refused_and_done(run: Run) -> None:
    run.ledger.mutations["b"].answer, run.ledger.mutations["b"].refused = None, True


def wrong_desired_state(run: Run) -> None:
    run.events[2].status.desired_state = run.events[3].status.desired_state = RUNNING


def unexpected_generation(run: Run) -> None:
    run.ledger.mutations["b"].expected = 7


def against_the_clock(run: Run) -> None:
    run.ledger.mutations["b"].begun, run.ledger.mutations["b"].ended = 0.1, 0.2


@pytest.mark.parametrize(
    "violate",
    [
        twice,
        lost,
        skipped_generation,
        observation_that_changes_what_is_desired,
        refused_and_done,
        wrong_desired_state,
        unexpected_generation,
        against_the_clock,
    ],
)
def test_a_violation_is_noticed(run: Run, violate: Callable[[Run], None]) -> None:
    violate(run)
    with pytest.raises(AssertionError):
        run.check()


def test_a_refusal_after_a_try_without_an_answer_may_have_taken_effect(run: Run) -> None:
    refused_and_done(run)
    run.unsure.add("b")
    run.check()


SHOWN = [("statefulsets", "s", 1), ("pods", "p", 1), ("statefulsets", "s", 2), ("pods", "p", 1), ("pods", "p", 2)]


def check_shown(*more: tuple[str, str, int]) -> None:
    history = History()
    for resource, uid, generation in (*SHOWN, *more):
        history.see(resource, "MODIFIED", {"uid": uid, "annotations": {UID: "u", GENERATION: str(generation)}})
    history.check({"u": 2})


def test_objects_whose_generation_goes_on_pass() -> None:
    check_shown()


@pytest.mark.parametrize("shown", [("statefulsets", "s", 1), ("pods", "p", 3), ("pods", "another", 2)])
def test_object_that_goes_back_or_ahead_and_a_second_pod_are_noticed(shown: tuple[str, str, int]) -> None:
    with pytest.raises(AssertionError):
        check_shown(shown)
