"""The index of live sandboxes agrees with a look at all of them."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server import feed
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.principal import Operator
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant
from sandbox_server.feed.catalogue import Catalogue

from tests.support import samples

ENCODER: Any = None
OWNERS = {"a": "first", "a-b": "second", "b": "first"}
TENANTS = (Tenant("first", ("a", "b")), Tenant("second", ("a-b",)), Tenant("third", ("a",)))
SAMPLE = samples.sandbox()
GONE = samples.status(phase=Phase.TERMINATED)
EVENTS = st.tuples(st.sampled_from(sorted(OWNERS)), st.sampled_from(["x", "y", "z"]), st.booleans(), st.booleans())


def event(namespace: str, sandbox_id: str, ends: bool, moved: bool) -> Event:
    """An event of the log; `moved`: the namespace has gone to another tenant."""
    tenant = "third" if moved else OWNERS[namespace]
    status = GONE if ends else SAMPLE.status
    sandbox = dataclasses.replace(SAMPLE, namespace=namespace, id=sandbox_id, tenant=tenant, status=status)
    return samples.event(sandbox)


@pytest.mark.find(31)
@given(st.lists(EVENTS, max_size=30), st.integers(0, 30), st.sampled_from([None, ("a", "y"), ("b", "x"), ("c", "")]))
def test_index_agrees_with_a_look_at_all(
    log: list[tuple[str, str, bool, bool]], loaded: int, after: tuple[str, str] | None
) -> None:
    events = [feed.Encoded(event(*one), ENCODER) for one in log]
    known: dict[Key, feed.Encoded] = {}
    catalogue = Catalogue()
    for number, one in enumerate(events):
        if number == loaded:
            catalogue = Catalogue(known.values())
        catalogue.take(one)
        known[one.event.sandbox.key] = one
        if one.event.terminated:
            del known[one.event.sandbox.key]
    place = Key(*after) if after else Key("", "")
    expected = [known[key] for key in sorted(known) if key > place]
    assert catalogue.sandboxes() == [known[key].event.sandbox for key in sorted(known)]
    assert catalogue.namespaces() == {key.namespace for key in known}
    assert all(catalogue.get(one.event.sandbox.key) is known.get(one.event.sandbox.key) for one in events)
    for tenant in (*TENANTS, Operator("operator", ("a",))):
        for namespace in ("", *OWNERS):
            selection = feed.Filter(tenant, namespace=namespace)
            found = list(catalogue.matching(selection, place if after else None))
            assert found == [one for one in expected if selection.matches(one.event.sandbox)]
