"""What an API server does with a write that names an object as it was: the same of a real one and of the scripted one."""

import asyncio
from collections.abc import Awaitable

from sandbox_server import engines
from sandbox_server.engines.kubernetes import client, manifests
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource

from tests.support.objects import HELD
from tests.support.waiting import PATIENCE


class Preconditions:
    """Writes to objects of a namespace."""

    def __init__(self, api: client.Client, namespace: str) -> None:
        self._api = api
        self._service = Reference(Kind.SERVICE, namespace, "precondition")
        self._secret = Reference(Kind.SECRET, namespace, "precondition")

    def _resource(self, value: str) -> Resource:
        metadata = {"name": "precondition", "labels": {manifests.ID: "none"}, "annotations": {"value": value}}
        spec = {"clusterIP": "None", "ports": [{"name": "a", "port": 80}]}
        return Resource(self._service, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})

    async def _apply(self, value: str, known: Known | None) -> Known:
        return Known.of(await self._api.apply(self._resource(value), known, HELD))

    async def _refused(self, write: Awaitable[Object | Known | None]) -> bool:
        try:
            await write
        except (client.Conflict, engines.Outdated):
            return True
        return False

    async def check(self) -> None:
        """Raises AssertionError if the API server does not refuse what it must, or refuses what it must not."""
        first = await self._apply("1", None)
        assert await self._refused(self._apply("2", None)), "makes an object over another one"
        second = await self._apply("2", first)
        assert second.uid == first.uid
        assert second.version != first.version
        assert await self._apply("2", second) == second, "a write that changes nothing gives another version"
        assert await self._refused(self._apply("3", first)), "takes a write to an earlier version"
        assert await self._refused(self._apply("2", first)), "takes a write to an earlier version if it changes nothing"
        # An object of another uid has another version as well.
        other = Known("another", first.version)
        assert await self._refused(self._apply("3", other)), "takes a write to another object"
        for known in (first, other):
            assert await self._refused(self._api.delete(self._service, known, HELD)), "removes what was not named"
        await self._api.delete(self._service, second, HELD)
        await self._api.delete(self._service, second, HELD)
        assert await self._refused(self._apply("3", second)), "makes an object in place of the one that is gone"
        await self._check_owned(second)
        await self._check_immutable()

    async def _check_owned(self, gone: Known) -> None:
        """An object that is made when its owner has been gone goes as well."""
        metadata = {"name": "precondition", "labels": {manifests.ID: "none"}}
        secret = Resource(self._secret, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        await self._api.apply(manifests.owned_by(secret, self._service, gone.uid), None, HELD)
        async with asyncio.timeout(20 * PATIENCE):
            while await self._api.find(self._secret) is not None:
                await asyncio.sleep(0.05)

    async def _check_immutable(self) -> None:
        """The content of an immutable Secret is never another; its metadata may change."""

        def content(value: str, **more: object) -> Resource:
            metadata = {"name": "precondition", "labels": {manifests.ID: "none"}, "annotations": {"value": value}}
            manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"A": value}}
            return Resource(self._secret, manifest | more)

        known = Known.of(await self._api.apply(content("MQ==", immutable=True), None, HELD))
        for changed in (content("Mg==", immutable=True), content("MQ==")):
            try:
                await self._api.apply(changed, known, HELD)
            except client.Immutable:
                continue
            raise AssertionError("takes a change of an immutable Secret")
        none, empty = content("", immutable=True), content("", immutable=True, data={})
        del none.manifest["data"]
        await self._api.delete(self._secret, known, HELD)
        known = Known.of(await self._api.apply(none, None, HELD))
        assert Known.of(await self._api.apply(none, known, HELD)) == known
        try:
            await self._api.apply(empty, known, HELD)
        except client.Immutable:
            await self._api.delete(self._secret, known, HELD)
        else:
            raise AssertionError("takes empty data for no data")
        known = Known.of(await self._api.apply(content("MQ==", immutable=True), None, HELD))
        labelled = content("MQ==", immutable=True)
        labelled.manifest["metadata"]["annotations"]["value"] = "another"
        await self._api.delete(self._secret, Known.of(await self._api.apply(labelled, known, HELD)), HELD)
