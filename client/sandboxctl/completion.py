"""What a shell completes: ids, projects, phases and contexts. A completion never fails, it only finds nothing."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import words
from sandbox_client.sync import Client

from sandboxctl import contexts, options

WITHIN = 1.0
"""Seconds for the service to answer: a person is waiting for each key."""


def ids(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids that begin so."""
    with contextlib.suppress(Exception):
        return _beginning(incomplete, _names(incomplete, _sandboxes(context)))
    return []


def first_id(context: typer.Context, incomplete: str) -> list[str]:
    """Returns ids for the first word alone: the words behind it are variables."""
    return [] if context.params.get("words") else ids(context, incomplete)


def volumes(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of kept disks that begin so."""
    with contextlib.suppress(Exception), _connected(context) as reached:
        found = reached.volumes_page(namespace=options.chosen.namespace, page_size=1000).volumes
        return _beginning(incomplete, _names(incomplete, found))
    return []


def snapshots(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of snapshots that begin so."""
    with contextlib.suppress(Exception), _connected(context) as reached:
        found = reached.snapshots_page(namespace=options.chosen.namespace, page_size=1000).snapshots
        return _beginning(incomplete, {one.snapshot_id for one in found})
    return []


def schedules(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of schedules that begin so."""
    with contextlib.suppress(Exception), _connected(context) as reached:
        found = reached.schedules_page(namespace=options.chosen.namespace, page_size=1000).schedules
        return _beginning(incomplete, {one.schedule_id for one in found})
    return []


def exec_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids of the execs of the sandbox before it that begin so."""
    with contextlib.suppress(Exception), _connected(context) as reached:
        namespace, _, sandbox_id = context.params["sandbox_id"].rpartition("/")
        found = reached.execs(sandbox_id, namespace=namespace or options.chosen.namespace)
        return _beginning(incomplete, {one.exec_id for one in found})
    return []


def ids_and_projects(context: typer.Context, incomplete: str) -> list[str]:
    """Returns the ids and projects that begin so."""
    with contextlib.suppress(Exception):
        found = list(_sandboxes(context))
        return _beginning(incomplete, _names(incomplete, found) | {one.status.project for one in found})
    return []


def phases(incomplete: str) -> list[str]:
    """Returns the phases that begin so, in lower case if what is typed is."""
    names = [words.short(pb.Phase, number) for number in pb.Phase.values() if number]
    if incomplete.islower():
        names = [name.lower() for name in names]
    return [name for name in names if name.startswith(incomplete)]


def context_names(incomplete: str) -> list[str]:
    """Returns the contexts that begin so."""
    with contextlib.suppress(Exception):
        return [name for name in contexts.load().contexts if name.startswith(incomplete)]
    return []


def _names(incomplete: str, found: Iterable[pb.Sandbox | pb.KeptVolume]) -> set[str]:
    """Returns the ids, or `namespace/id` for those of several namespaces, and where that is being typed."""
    keys = {(one.namespace, one.sandbox_id) for one in found}
    if "/" in incomplete or len({namespace for namespace, _ in keys}) > 1:
        return {"/".join(key) for key in keys}
    return {sandbox_id for _, sandbox_id in keys}


def _beginning(incomplete: str, names: set[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _sandboxes(context: typer.Context) -> Iterator[pb.Sandbox]:
    """Yields sandboxes from one page."""
    with _connected(context) as reached:
        yield from reached.page(namespace=options.chosen.namespace, page_size=1000, basic=True).sandboxes


def _connected(context: typer.Context) -> contextlib.AbstractContextManager[Client]:
    """Returns a client by the options that are typed already."""
    _take(context.find_root().params)

    def client(server: str, **secrets: Any) -> Client:
        return Client(server, timeout=WITHIN, contact_timeout=WITHIN, **secrets)

    return options.chosen.connected(client)


def _take(params: dict[str, Any]) -> None:
    """Takes the options before the command; those behind it, which count more, are taken already."""
    given = options.chosen.given
    for field in dataclasses.fields(given):
        if getattr(given, field.name) == field.default and params.get(field.name) is not None:
            setattr(given, field.name, params[field.name])
