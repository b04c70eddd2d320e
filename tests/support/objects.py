"""Objects as an API server shows them, and the calls for single objects."""

import itertools
import json
from collections.abc import Callable
from typing import Any

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, manifests, resources
from sandbox_server.engines.kubernetes.contest import Contests
from sandbox_server.engines.kubernetes.objects import OBJECT, Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.writer import Writer
from sandbox_server.settings import Settings

_versions = itertools.count(1)

HELD = Fence(lambda _namespace: 1, "")
"""The fence of a replica that holds every namespace."""


def read(value: dict[str, Any]) -> Object:
    """An object as the service reads it, newer than all objects before it."""
    metadata = {"uid": f"{value['metadata']['name']}-uid", "resourceVersion": str(next(_versions))}
    return OBJECT.decode(json.dumps({**value, "metadata": metadata | value["metadata"]}))


def made(owner: Sandbox, name: str, metadata: dict[str, Any] | None = None, **content: Any) -> Object:
    """An object that was made for `owner`, newer than all objects before it."""
    usual = {
        "name": name,
        "labels": {manifests.ID: owner.id},
        "annotations": {manifests.UID: owner.uid, manifests.GENERATION: str(owner.generation)},
    }
    return read({"metadata": usual | (metadata or {}), **content})


class Api:
    """The calls of `client.Client` for single objects, with the objects in a dictionary.

    `calls` has each write with the name of its object. A removed object stays. `meanwhile` is called during each apply.
    """

    def __init__(self, *found: Object) -> None:
        self.objects = {one.metadata.name: one for one in found}
        self.calls: list[tuple[str, str]] = []
        self.preconditions: list[tuple[str, str, bool]] = []
        """The uid, the version and the propagation of each removal."""
        self.meanwhile: Callable[[], None] = lambda: None

    async def find(self, reference: Reference, *, whole: bool = False) -> Object | None:
        return self.objects.get(reference.name)

    async def labelled(self, kind: Kind, namespace: str, label: str, value: str) -> list[Object]:
        return [one for one in self.objects.values() if one.metadata.labels.get(label) == value]

    async def apply(self, resource: Resource, known: Known | None, fence: Fence) -> Object:
        fence.check()
        name = resource.reference.name
        self.calls.append(("apply", name))
        found = self.objects.get(name)
        if known != (None if found is None else Known.of(found)):
            raise client.Conflict("409")
        answer = self.objects[name] = read(resource.manifest)
        self.meanwhile()
        return answer

    async def delete(self, reference: Reference, known: Known, fence: Fence, *, foreground: bool = False) -> None:
        fence.check()
        self.calls.append(("delete", reference.name))
        self.preconditions.append((*known, foreground))


def begun(view: View, api: Api, sandbox: Sandbox) -> Writer:
    """An act for a sandbox that has written nothing yet."""
    calls: Any = api
    contests = Contests(lambda _: None, Pace())
    contest = contests.begin(sandbox.key, (sandbox.generation, None))
    known = {one: found for one in resources.names(sandbox).written if (found := view.known(sandbox, one))}
    return Writer(calls, view, Settings().kubernetes, sandbox, contests, contest, HELD, known)
