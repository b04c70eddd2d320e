"""The steps of a move: copying the home of a former pod to the disk of a sandbox, letting that pod go, and what ends the move.

Each is safe to begin again at any place.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from sandbox_server import engines, failpoints
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Volume
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Adopted, Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    entrance,
    home_copy,
    manifests,
    observe,
    reading_deployments,
    receiver,
    resources,
    streams,
)
from sandbox_server.engines.kubernetes.home_copy import NotMoved, Side
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.pods import CONTAINER
from sandbox_server.engines.kubernetes.resources import Kind, Reference
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.writer import Writer
from sandbox_server.settings import Kubernetes

log = structlog.get_logger()

_WHOLE = "whole"
"""Before the digest that the claim has of what was copied, once the former pod has been let go."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of the move of one sandbox. `say` is told how far they are."""

    api: client.Client
    settings: Kubernetes
    pace: Pace
    sandbox: Sandbox
    adopted: Adopted
    view: View
    fence: Fence
    say: Callable[[str], None]

    async def copy(self) -> None:
        """Copies the home, and says so on the claim, so that the sandbox may start.

        Raises `NotMoved`, `patch.Inapplicable` and what engines raise.
        """
        if not await self._there():
            raise NotMoved(
                f"the pod {self.adopted.pod} does not run any more, or has started anew, and its files are gone with it. "
                "What was copied of them is on the disk, and may not be all: give it back, or delete the sandbox"
            )
        receives = await self._receive()
        source = Side(functools.partial(self._enter, self._former, self.adopted.container, self._is_former))
        target = Side(functools.partial(self._enter, receives.reference, CONTAINER, receives.is_in))
        made = await home_copy.copy(source, target, self.say)
        self.say(f"{made.files} files of {made.bytes} bytes are copied")
        await self._remove_receiver()
        failpoints.hit("home_verified")
        await self._mark(made.digest)
        log.info("home_copied", sandbox=self.sandbox.id, namespace=self.sandbox.namespace, **made._asdict())

    async def let_go(self) -> None:
        """Lets the former pod go if it has changed nothing since its home was copied; else has that copied again."""
        volume = self._volume()
        if not await self._there():
            log.warning("former_pod_gone", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
            await self._mark(_WHOLE)
            return
        source = Side(functools.partial(self._enter, self._former, self.adopted.container, self._is_former))
        same = await source.digest() == volume.home
        if not same:
            log.info("former_pod_wrote", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
        await self._mark(f"{_WHOLE} {volume.home}" if same else "")

    async def wrote_since(self) -> bool:
        """Whether the former pod has written anything since it was let go."""
        if not await self._there():
            return False
        source = Side(functools.partial(self._enter, self._former, self.adopted.container, self._is_former))
        return f"{_WHOLE} {await source.digest()}" != self._volume().home

    @property
    def _former(self) -> Reference:
        return Reference(Kind.POD, self.sandbox.namespace, self.adopted.pod)

    def _is_former(self, found: Object) -> bool:
        return reading_deployments.pod(found, self.adopted.container).incarnation == self.adopted.incarnation

    async def _there(self) -> bool:
        """Whether the container still runs that has the files."""
        found = await self.api.find(self._former, whole=True)
        return found is not None and self._is_former(found)

    @contextlib.asynccontextmanager
    async def _enter(
        self, pod: Reference, container: str, is_meant: Callable[[Object], bool], program: tuple[str, ...]
    ) -> AsyncIterator[streams.Stream]:
        async with entrance.started(self.api, pod, container, program, self.pace.access_within) as stream:
            # A call names a pod, whichever has the name. Nothing has been written to it yet.
            found = await self.api.find(pod, whole=True)
            if found is None or not is_meant(found):
                raise engines.Unreachable(f"the {pod} has ended")
            yield stream

    async def _receive(self) -> "_Receiver":
        """Makes the pod that receives the files, and returns when it runs.

        One that is there may still be written to by a replica that had the namespace before.
        """
        self.say("the pod that receives them is being made")
        await self._remove_receiver()
        resource = receiver.pod(self.sandbox, self.settings)
        try:
            made = await self.api.apply(resource, None, self.fence)
        except client.Conflict:
            raise NotMoved(f"the {resource.reference} is not the sandbox's: remove it") from None
        receives = _Receiver(resource.reference, made.metadata.uid)
        while True:
            found = await self.api.find(resource.reference, whole=True)
            if found is None or found.metadata.uid != receives.uid or found.metadata.deletionTimestamp:
                raise engines.Unreachable(f"the {resource.reference} has ended")
            pod = observe.pod(found)
            if pod.ready and receives.is_in(found):
                return receives
            if pod.reason.is_error and not pod.passing:
                raise NotMoved(f"the {resource.reference} does not run: {pod.reason.name} {pod.message}")
            await asyncio.sleep(self.pace.home_look_every)

    async def _remove_receiver(self) -> None:
        """Returns when that pod is gone: a disk may let one pod have it at a time."""
        while await remove_receiver(self.api, self.sandbox, self.fence):  # noqa: ASYNC110 -- no event says it at once
            await asyncio.sleep(self.pace.home_look_every)

    def _volume(self) -> Volume:
        found = self.view.volume(self.sandbox)
        if found is None:
            raise engines.Outdated("the claim is gone")
        return found

    async def _mark(self, home: str) -> None:
        """Says on the claim what is known of the home."""
        volume, reference = self._volume(), resources.names(self.sandbox).claim
        known, position = self.view.claims.known(volume.name), self.view.claims.position(volume.name)
        if known is None or known.uid != volume.uid:
            raise engines.Outdated("the claim is another")
        fields = {"metadata": {"annotations": {manifests.HOME: home}}}
        try:
            written = await self.api.merge(reference, known, fields, self.fence)
        except (client.Conflict, client.Missing) as changed:
            raise engines.Outdated(str(changed)) from None
        self.view.claims.answered(written, position)


@dataclass(frozen=True, slots=True)
class _Receiver:
    """The very pod that a step has made to receive files."""

    reference: Reference
    uid: str

    def is_in(self, found: Object) -> bool:
        return (
            found.metadata.uid == self.uid
            and found.metadata.deletionTimestamp is None
            and found.status.phase == "Running"
        )


async def remove_receiver(api: client.Client, sandbox: Sandbox, fence: Fence) -> bool:
    """Asks for the removal of the pod that receives files. Returns whether there is one."""
    reference = receiver.reference(sandbox)
    found = await api.find(reference)
    if found is None or found.metadata.annotations.get(manifests.UID) != sandbox.uid:
        return False
    if found.metadata.deletionTimestamp is None:
        await api.delete(reference, Known.of(found), fence)
    return True


def is_whole(volume: Volume) -> bool:
    """Whether the disk has all files, and the former pod has been let go."""
    return volume.home.startswith(_WHOLE)


async def replace_former(write: Writer, pace: Pace) -> None:
    """Asks for the removal of the Deployment that the sandbox has replaced.

    Where its pod has written since it was let go, that is nowhere else, and the Deployment stays for people to look at. Raises
    `engines.Unreachable` while that cannot be found out.
    """
    adopted, found = write.sandbox.adopted, await _deployment(write)
    if adopted is None or found is None:
        return
    steps = Steps(
        write.api, write.settings, pace, write.sandbox, adopted, write.view, write.fence, lambda _message: None
    )
    try:
        keeps = await steps.wrote_since()
    except (NotMoved, engines.NotGranted, engines.Unsupported) as error:
        raise engines.Unreachable(str(error)) from None
    if keeps:
        log.warning("deployment_kept", sandbox=write.sandbox.id, namespace=write.sandbox.namespace)
    else:
        await _remove(write, found)


async def remove_former(write: Writer) -> None:
    """Asks for the removal of the Deployment, whose files are to be no more."""
    if (found := await _deployment(write)) is not None:
        await _remove(write, found)


async def _deployment(write: Writer) -> Object | None:
    """Returns the Deployment, if it is there and stays."""
    sandbox = write.sandbox
    if sandbox.adopted is None or not sandbox.adopted.pod:
        return None
    try:
        found = await write.api.find(_reference(sandbox))
    except engines.Refused:
        # The rights of a move are taken away once it is done.
        return None
    is_former = found is not None and ownership.was_adopted(sandbox, found.metadata.uid)
    return found if found is not None and is_former and found.metadata.deletionTimestamp is None else None


async def _remove(write: Writer, found: Object) -> None:
    await write.api.delete(_reference(write.sandbox), Known.of(found), write.fence)
    log.info("deployment_removed", sandbox=write.sandbox.id, namespace=write.sandbox.namespace)


def _reference(sandbox: Sandbox) -> Reference:
    return Reference(Kind.DEPLOYMENT, sandbox.namespace, sandbox.objects.stateful_set)
