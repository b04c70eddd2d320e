"""The pod of a Deployment that has the files of a sandbox until they are on its disk, and programs in the pods of a move."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Adopted
from sandbox_server.engines.kubernetes import client, entrance, pods, reading_deployments, streams
from sandbox_server.engines.kubernetes.home_copy import Side
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference

_ENDED = ("Failed", "Succeeded")
"""Phases of a pod that never runs again. What it had but for claims is gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """How programs are run in a container: in a pod that `is_meant`, and in no other of its name."""

    api: client.Client
    pace: Pace
    pod: Reference
    container: str
    is_meant: Callable[[Object], bool]

    @contextlib.asynccontextmanager
    async def enter(self, program: tuple[str, ...]) -> AsyncIterator[streams.Stream]:
        """See `home_copy.Enter`."""
        async with entrance.started(self.api, self.pod, self.container, program, self.pace.access_within) as stream:
            # A call names a pod, whichever has the name. Nothing has been written to it yet.
            found = await self.api.find(self.pod, whole=True)
            if found is None or not self.is_meant(found):
                raise engines.Unreachable(f"the {self.pod} has ended")
            async with self._while_meant():
                yield stream

    @contextlib.asynccontextmanager
    async def _while_meant(self) -> AsyncIterator[None]:
        """Ends what is done meanwhile once the pod is not the one that is meant: a connection to a lost node may stay open.

        Raises `engines.Unreachable` then.
        """
        limit = asyncio.timeout(None)
        looking = asyncio.create_task(self._look(limit))
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise engines.Unreachable(f"the {self.pod} has ended, or its node does not answer") from None
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def _look(self, limit: asyncio.Timeout) -> None:
        while True:
            await asyncio.sleep(self.pace.home_watch_every)
            try:
                found = await self.api.find(self.pod, whole=True)
            except (engines.Unreachable, engines.Refused):
                continue
            if found is None or not self.is_meant(found):
                limit.reschedule(asyncio.get_running_loop().time())
                return


@dataclass(frozen=True, slots=True)
class FormerPod:
    """The pod that had the files when its Deployment was adopted. Whatever its ReplicaSet makes in its place has not."""

    api: client.Client
    pace: Pace
    namespace: str
    adopted: Adopted

    @property
    def name(self) -> str:
        """The name of the pod."""
        return self.adopted.pod

    @property
    def source(self) -> Side:
        """Its home."""
        return Side(Entry(self.api, self.pace, self._reference, self.adopted.container, self._has_files).enter)

    async def runs(self) -> bool:
        """Whether its files are there; False once they are gone for good.

        Raises `engines.Unreachable` while that cannot be found out, as of a node that does not answer.
        """
        found = await self.api.find(self._reference, whole=True)
        if found is None or self._lost(found):
            return False
        if not self._has_files(found):
            raise engines.Unreachable(f"the pod {self.name}, which has the files, does not run now")
        return True

    @property
    def _reference(self) -> Reference:
        return Reference(Kind.POD, self.namespace, self.adopted.pod)

    @property
    def _uid(self) -> str:
        return self.adopted.incarnation.rpartition(".")[0]

    def _has_files(self, found: Object) -> bool:
        """Whether a container runs that has the files: an `emptyDir` is there for each container that the pod starts."""
        running = reading_deployments.pod(found, self.adopted.container).incarnation
        same = running != "" and found.metadata.uid == self._uid
        return same and (self._has_volume(found) or running == self.adopted.incarnation)

    def _lost(self, found: Object) -> bool:
        """Whether no container of the pod will have the files again."""
        if found.metadata.uid != self._uid or found.status.phase in _ENDED:
            return True
        running = reading_deployments.pod(found, self.adopted.container).incarnation
        return not self._has_volume(found) and running not in ("", self.adopted.incarnation)

    def _has_volume(self, found: Object) -> bool:
        """Whether the home is a volume, which of a Deployment that was adopted is an `emptyDir`."""
        mounts = [one.volumeMounts for one in found.spec.containers if one.name == self.adopted.container]
        return any(one.mountPath.rstrip("/") == pods.HOME for own in mounts for one in own)
