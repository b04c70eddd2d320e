"""The examples in the docstrings of the client, against the live service."""

import asyncio
import doctest
import inspect
from typing import Any

import pytest
import sandbox_client
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import (
    AsyncClient,
    AsyncExec,
    AsyncFiles,
    Client,
    Exec,
    Files,
    batches,
    calls,
    execs,
    queries,
    schedules,
    snapshots,
    updates,
)
from sandbox_client import status as statuses

from tests.support.service import Service

QUERIED = ("wait_for_phase", "events_page", "capabilities")
CALLED = ("create", "start", "stop", "delete", "update_env", "status", "get", "page")
SNAPSHOTS = ("create_snapshot", "get_snapshot", "delete_snapshot", "verify_snapshot", "snapshots_page", "clone")
SCHEDULES = ("create_schedule", "get_schedule", "update_schedule", "delete_schedule", "schedules_page")
PLACES = [sandbox_client, Client, AsyncClient, Client.watch, Client.events, Client.wait_until, statuses.Status]
PLACES += [Client.watch_snapshots]
PLACES += [Client.run, Client.logs, Exec, AsyncExec, Files]
CALLS: dict[str, Any] = {name: getattr(calls, name) for name in CALLED}
CALLS |= {name: getattr(queries, name) for name in QUERIED} | {"update": updates.update, "execs": execs.execs}
CALLS |= {name: getattr(snapshots, name) for name in SNAPSHOTS} | {name: getattr(schedules, name) for name in SCHEDULES}
CALLS |= {one.__name__: one for one in (batches.batch_start, batches.batch_stop, batches.batch_delete)}
PLACES += CALLS.values()
EXAMPLES = [one for one in PLACES if ">>>" in (one.__doc__ or "")]


@pytest.mark.parametrize("place", EXAMPLES, ids=lambda place: place.__name__)
def test_example_does_what_it_shows(service: Service, client: Client, place: object) -> None:
    text = inspect.getdoc(place) or ""
    names = {**vars(sandbox_client), "asyncio": asyncio, "client": client, "pb": pb}
    example = doctest.DocTestParser().get_doctest(
        text.replace("127.0.0.1:50051", service.address), names, str(place), None, 0
    )
    told: list[str] = []
    result = doctest.DocTestRunner().run(example, out=told.append)
    assert (result.failed, result.attempted > 0) == (0, True), "".join(told)
    for one in client.list():
        client.delete(one)


@pytest.mark.parametrize("name", CALLS)
def test_both_clients_have_the_same_methods_with_signatures_that_editors_show(name: str) -> None:
    own = inspect.signature(getattr(Client, name))
    assert own == inspect.signature(getattr(AsyncClient, name))
    assert list(own.parameters)[1:] == list(inspect.signature(CALLS[name]).parameters)
    with Client() as client:
        assert "self" not in inspect.signature(getattr(client, name)).parameters


def test_the_clients_differ_in_nothing_but_their_awaits() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    assert public(Exec) == public(AsyncExec)
    assert public(Files) == public(AsyncFiles)
    assert set(inspect.signature(Client).parameters) - set(inspect.signature(AsyncClient).parameters) == {"over"}
