"""What an update of the spec leaves of the pod."""

import dataclasses

from sandbox_server.domain import mutations
from sandbox_server.domain.sandbox import Sandbox

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
