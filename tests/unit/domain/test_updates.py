"""What an update of the spec leaves of the pod."""

import dataclasses

import pytest
from sandbox_server.domain import errors, lifecycle, mutations
from sandbox_server.domain.observed import Observed, Pod
from sandbox_server.domain.phase import ConditionType, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox, VolumeStatus
from sandbox_server.domain.spec import SandboxSpec

from tests.support import samples

BEFORE = samples.sandbox(spec=samples.spec(labels={"tier": "web"}), generation=3)


def updated(before: Sandbox, **fields: object) -> Sandbox:
    """The sandbox after an update, at its next generation."""
    wanted = mutations.update(before, dataclasses.replace(before.spec, **fields))  # type: ignore[arg-type]
    return samples.next_generation(wanted)


def test_other_labels_keep_what_the_pod_was_made_from() -> None:
    once = updated(BEFORE, labels={"tier": "db"})
    twice = updated(once, labels={})
    for one in (once, twice):
        assert (one.pod_generation, one.pod_labels) == (3, {"tier": "web"})
    assert (once.spec.labels, twice.spec.labels, twice.generation) == ({"tier": "db"}, {}, 5)


def test_any_other_mutation_makes_the_pod_from_what_the_sandbox_is() -> None:
    once = updated(BEFORE, labels={"tier": "db"})
    # Also one by an earlier release, which keeps the member that it does not know.
    for later in (updated(once, image="other:1"), samples.next_generation(once, env_names=("A",))):
        assert (later.pod_generation, later.pod_labels) == (5, {"tier": "db"})


def test_an_update_that_changes_nothing_leaves_the_sandbox_equal() -> None:
    once = updated(BEFORE, labels={"tier": "db"})
    assert mutations.update(once, dataclasses.replace(once.spec, labels={"tier": "db"})) == once


def test_other_labels_do_not_change_whether_the_home_is_filled() -> None:
    first = dataclasses.replace(BEFORE, filled_generation=3)
    assert first.fills_home == updated(first, labels={}).fills_home
    assert not samples.next_generation(first).fills_home


def with_disk(size: str, asked: str) -> Sandbox:
    """A sandbox whose disk has one size and is asked to have another."""
    status = samples.status(volume=VolumeStatus("v", size, True))
    return dataclasses.replace(BEFORE, spec=sized(BEFORE, asked), status=status)


def sized(sandbox: Sandbox, size: str) -> SandboxSpec:
    return dataclasses.replace(sandbox.spec, storage=dataclasses.replace(sandbox.spec.storage, size=size))


def test_another_size_keeps_what_the_pod_was_made_from() -> None:
    once = updated(BEFORE, storage=sized(BEFORE, "9Gi").storage)
    assert (once.pod_generation, once.pod_labels, once.spec.storage.size) == (3, {"tier": "web"}, "9Gi")


@pytest.mark.parametrize(
    ("has", "asked", "size", "least"),
    [
        ("5Gi", "5Gi", "4Gi", "5Gi"),
        ("5Gi", "9Gi", "4Gi", "5Gi"),
        ("5Gi", "9Gi", "5Gi", ""),
        ("5Gi", "9Gi", "6Gi", ""),
        ("9Gi", "5Gi", "4Gi", "5Gi"),
        ("", "5Gi", "4Gi", "5Gi"),
    ],
)
def test_a_size_is_taken_back_to_what_the_disk_has_and_no_further(has: str, asked: str, size: str, least: str) -> None:
    before = with_disk(has, asked) if has else BEFORE
    if not least:
        assert mutations.update(before, sized(before, size)).spec.storage.size == size
        return
    with pytest.raises(errors.Invalid) as caught:
        mutations.update(before, sized(before, size))
    (violation,) = caught.value.violations
    assert (violation.field, least in violation.description) == ("spec.storage.size", True)


@pytest.mark.parametrize(
    ("has", "asked", "size", "grows"),
    [
        ("5Gi", "5Gi", "9Gi", True),
        ("5Gi", "5Gi", "5Gi", False),
        ("9Gi", "5Gi", "8Gi", False),
        ("9Gi", "5Gi", "9Gi", False),
        ("9Gi", "5Gi", "10Gi", True),
        ("5Gi", "9Gi", "6Gi", False),
        ("", "5Gi", "9Gi", True),
    ],
)
def test_a_disk_grows_where_more_is_asked_for_than_there_is(has: str, asked: str, size: str, grows: bool) -> None:
    before = with_disk(has, asked) if has else BEFORE
    assert mutations.grows(before, sized(before, size)) is grows


def test_a_larger_disk_is_not_there_before_it_was_seen() -> None:
    condition = Condition(ConditionType.VOLUME_SIZED, True, Reason.READY, samples.NOW)
    before = with_disk("5Gi", "5Gi")
    before = dataclasses.replace(before, status=dataclasses.replace(before.status, conditions=(condition,)))
    for size, holds in (("5Gi", True), ("9Gi", False)):
        wanted = samples.next_generation(mutations.update(before, sized(before, size)))
        (after,) = lifecycle.on_mutation(wanted, samples.NOW).status.conditions
        assert after.status is holds


def ready(sandbox: Sandbox) -> Sandbox:
    conditions = (
        Condition(ConditionType.READY, True, Reason.READY, samples.NOW),
        Condition(ConditionType.RESOURCES_APPLIED, True, Reason.READY, samples.NOW),
    )
    return dataclasses.replace(sandbox, status=samples.status(conditions=conditions))


def resized(before: Sandbox, cpu_limit: str, in_place: bool = True, **fields: object) -> Sandbox:
    resources = dataclasses.replace(before.spec.resources, cpu_limit=cpu_limit)
    spec = dataclasses.replace(before.spec, resources=resources, **fields)  # type: ignore[arg-type]
    return lifecycle.on_mutation(samples.next_generation(mutations.update(before, spec, in_place)), samples.NOW)


def test_a_ready_sandbox_keeps_the_pod_that_is_given_other_resources() -> None:
    before = ready(BEFORE)
    once = resized(before, "2")
    again = resized(once, "1", labels={"tier": "db"})
    assert [one.pod_generation for one in (once, again)] == [3, 3]
    assert [one.pod_resources for one in (once, again)] == [BEFORE.spec.resources] * 2
    # What the pod was given must be taken from it again.
    assert again.resized_from == BEFORE.spec.resources == again.spec.resources
    holds = {one.type: one.status for one in once.status.conditions}
    assert holds == {ConditionType.READY: True, ConditionType.RESOURCES_APPLIED: False}
    labelled = updated(once, labels={})
    assert (labelled.pod_generation, labelled.pod_resources) == (3, BEFORE.spec.resources)


@pytest.mark.parametrize("case", ["not in place", "not ready", "more than resources"])
def test_other_resources_need_another_pod(case: str) -> None:
    before = BEFORE if case == "not ready" else ready(BEFORE)
    fields = {"image": "other:1"} if case == "more than resources" else {}
    after = resized(before, "2", in_place=case != "not in place", **fields)
    assert (after.pod_generation, after.resized_from, after.pod_resources.cpu_limit) == (4, None, "2")


def test_a_pod_that_takes_no_other_resources_is_given_up() -> None:
    sandbox = dataclasses.replace(resized(ready(BEFORE), "2"), applied_generation=4)
    pod = Pod(owner=sandbox.uid, generation=3, ready=True, reason=Reason.READY)
    assert lifecycle.replacing(sandbox, Observed(pod=pod)) is sandbox
    after = lifecycle.replacing(sandbox, Observed(pod=dataclasses.replace(pod, unresizable=True)))
    assert (after.pod_generation, after.pod_resources.cpu_limit, after.applied_generation) == (4, "2", 0)
