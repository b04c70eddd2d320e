"""The steps of a move: copying the home of a former pod to the disk of a sandbox, and letting that pod go.

Each is safe to begin again at any place.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from sandbox_server import engines, failpoints
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Adopted, Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, home_copy, home_marks, manifests, observe, receiver, resources
from sandbox_server.engines.kubernetes.former_pod import Entry, FormerPod
from sandbox_server.engines.kubernetes.home_copy import NotMoved, Side
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.pods import CONTAINER
from sandbox_server.engines.kubernetes.resources import Reference
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Kubernetes

log = structlog.get_logger()


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
        former = self._former
        if not await former.runs():
            raise NotMoved(
                f"{self._gone()}. What was copied of them is on the disk, and may not be all: give it back, or delete the sandbox"
            )
        receives = await self._receive()
        target = Entry(self.api, self.pace, receives.reference, CONTAINER, receives.is_in)
        made = await home_copy.copy(former.source, Side(target.enter), self.say)
        self.say(f"{made.files} files of {made.bytes} bytes are copied")
        await self._remove_receiver()
        failpoints.hit("home_verified")
        await self._mark(home_marks.copied(made.digest))
        log.info("home_copied", sandbox=self.sandbox.id, namespace=self.sandbox.namespace, **made._asdict())

    async def let_go(self, last: bool) -> bool:
        """Returns whether the former pod may go: it has changed nothing since its home was copied. Else that is copied again.

        `last`: that has been so too often already, and is said. Each time the sandbox was started for nothing.
        Files that are gone are given up by who stops the sandbox. Raises `NotMoved` until then, and what engines raise.
        """
        former, volume = self._former, home_marks.read(self.view, self.sandbox)
        if not await former.runs():
            if self.sandbox.desired is not DesiredState.STOPPED:
                at = home_marks.copied_at(volume)
                raise NotMoved(
                    f"{self._gone()}. The disk has all that was there at {at}, and nothing that was written after that: stop "
                    "the sandbox, and start it, to go on with that"
                )
            log.warning("former_pod_gone", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
            return True
        if await former.source.digest() == home_marks.digest(volume):
            return True
        log.info("former_pod_wrote", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
        await self._mark("")
        if last:
            raise await former.source.changing()
        return False

    @property
    def _former(self) -> FormerPod:
        return FormerPod(self.api, self.pace, self.sandbox.namespace, self.adopted)

    def _gone(self) -> str:
        return f"the pod {self.adopted.pod} has ended, or has started anew, and its files are gone with it"

    async def _receive(self) -> "_Receiver":
        """Makes the pod that receives the files, and returns when it runs.

        One that is there may still be written to by a replica that had the namespace before.
        """
        self.say("the pod that receives them is being made")
        await self._remove_receiver()
        # One that is made while the sandbox is deleted goes with that.
        owner = resources.names(self.sandbox).stateful_set
        known = self.view.known(self.sandbox, owner)
        if known is None:
            raise engines.Outdated(f"the {owner} is gone")
        resource = manifests.owned_by(receiver.pod(self.sandbox, self.settings), owner, known.uid)
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

    async def _mark(self, home: str) -> None:
        """Says on the claim what is known of the home."""
        await home_marks.write(self.api, self.view, self.sandbox, self.fence, home)


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
