"""Which refusals of the API server may pass."""

from pathlib import Path

import pytest
import yaml
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.engines.kubernetes.rights import (
    ACCESS,
    ADOPTION,
    RESIZE,
    ROLE,
    SNAPSHOTS,
    VERIFICATION,
    Rights,
    right,
)

GET = right("GET", "api/v1/namespaces/default/pods/a", watch=False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_right_is_used_once_it_was_allowed() -> None:
    rights = Rights(3, Clock())
    assert not rights.used(GET)
    rights.allowed(GET)
    assert rights.used(GET)


@pytest.mark.fault(18)
def test_right_may_return_until_its_refusal_has_lasted_and_again_after_its_next_use() -> None:
    clock = Clock()
    rights = Rights(3, clock)
    rights.allowed(GET)
    for now, may_return in ((0.0, True), (2.9, True), (3.0, False), (9.0, False)):
        clock.now = now
        assert rights.may_return(GET) is may_return
    rights.allowed(GET)
    clock.now = 100
    assert rights.may_return(GET)


def test_rights_differ_by_verb_kind_and_whether_an_object_is_named() -> None:
    pods = "api/v1/namespaces/default/pods"
    named = [
        right("GET", pods, watch=False),
        right("GET", pods, watch=True),
        right("GET", f"{pods}/a", watch=False),
        right("DELETE", f"{pods}/a", watch=False),
        right("GET", "api/v1/namespaces/default/services", watch=False),
        right("GET", "api/v1/namespaces/other/pods", watch=False),
        right("GET", "apis/apps/v1/namespaces/default/statefulsets", watch=False),
        right("GET", "apis/apps/v1/namespaces/default/statefulsets/a", watch=False),
    ]
    assert len(set(named)) == len(named)
    assert right("GET", f"{pods}/a", watch=False) == right("GET", f"{pods}/b", watch=False)


def granted(name: str) -> set[tuple[str, str, str]]:
    file = Path(__file__).parents[2] / "deploy" / name
    return {
        (group, resource, verb)
        for rule in yaml.safe_load(file.read_text())["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_grants_what_the_service_needs_and_no_more() -> None:
    needed = {(kind.group, kind.plural, verb) for kind, verbs in ROLE.items() for verb in verbs}
    assert granted("role.yaml") == needed


def test_the_role_of_resizes_grants_what_they_need_and_no_more() -> None:
    assert granted("resize.yaml") == {("", resource, verb) for resource, verbs in RESIZE.items() for verb in verbs}


def test_the_role_of_access_grants_what_access_needs_and_no_more() -> None:
    assert granted("access.yaml") == {("", resource, verb) for resource, verbs in ACCESS.items() for verb in verbs}


def test_the_role_of_adoption_grants_what_adoption_needs_and_no_more() -> None:
    assert granted("adoption.yaml") == {(*what, verb) for what, verbs in ADOPTION.items() for verb in verbs}


def test_the_role_of_snapshots_grants_what_they_need_and_no_more() -> None:
    kind = Kind.SNAPSHOT
    assert granted("snapshots.yaml") == {(kind.group, kind.plural, verb) for verb in SNAPSHOTS}


def test_the_role_of_verification_grants_what_it_needs_and_no_more() -> None:
    assert granted("verification.yaml") == {("", "pods", verb) for verb in VERIFICATION}
