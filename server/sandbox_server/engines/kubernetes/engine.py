"""The Kubernetes engine: observes, applies and deletes, in each of the namespaces that it follows."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.logs import Asked, Part
from sandbox_server.domain.observed import Fault, Observed, Pod
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Addresses, Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Scratch, Snapshot, Taken
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    clones,
    connections,
    contest,
    disk,
    entrance,
    environments,
    grants,
    leftovers,
    logs,
    manifests,
    observe,
    patch,
    preflight,
    removal,
    replacement,
    resize,
    resources,
    takeover,
    writer,
)
from sandbox_server.engines.kubernetes.moving import Moves
from sandbox_server.engines.kubernetes.snapshots import Snapshots
from sandbox_server.engines.kubernetes.verifying import Verifying
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Kubernetes


class KubernetesEngine:
    """See `engines.Engine`."""

    def __init__(self, settings: Kubernetes, pace: Pace, default_image: str) -> None:
        """`default_image`: of pods of the service itself, where the settings name none. Raises ValueError for settings that make no pod."""
        preflight.check(settings)
        self._settings = settings
        self._pace = pace
        self._api = client.Client(settings, pace)
        self._grants = grants.Grants(self._api, pace)
        self._snapshots = Snapshots(self._api, settings.snapshot_class)
        self._moves = Moves(self._api, settings, pace)
        self._verifying = Verifying(self._api, settings, pace, default_image)
        self._views: dict[str, View] = {}
        # One for each view, which runs its informers. Those of `_ending` have been cancelled.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._contests = contest.Contests(lambda _: None, pace)
        self._held: Callable[[str], int] = lambda _namespace: 0

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None], held: Callable[[str], int]) -> None:
        """Connects; `follow` begins to list and watch. Raises ValueError if there is no usable kubeconfig."""
        await self._api.open()
        self._changed = changed
        self._held = held
        self._contests = contest.Contests(changed, self._pace)

    def follow(self, namespaces: Iterable[str]) -> None:
        """Lists and watches exactly these namespaces from now on."""
        wanted = set(namespaces)
        for namespace in self._views.keys() - wanted:
            self._let_go(namespace)
        for namespace in wanted - self._views.keys():
            view = View(self._api, namespace, self._changed, self._pace)
            self._views[namespace] = view
            self._tasks[namespace] = asyncio.create_task(view.run())

    def _let_go(self, namespace: str) -> None:
        del self._views[namespace]
        task = self._tasks.pop(namespace)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Stops observing."""
        self.follow(())
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._moves.close()
        self._contests.close()
        await self._api.close()

    @property
    def any_synced(self) -> bool:
        """Whether one namespace at least is synced."""
        return any(view.synced for view in self._views.values())

    async def reachable(self) -> bool:
        """Whether the API server answers, even if it refuses."""
        try:
            async with self._api.call("GET", "version"):
                return True
        except engines.Refused:
            return True
        except engines.Unreachable:
            return False

    def synced(self, namespace: str) -> bool:
        """Whether every informer of the namespace has listed and is in contact, or the namespace is known to have ended."""
        view = self._views.get(namespace)
        return view is not None and view.synced

    def unobservable(self, namespace: str) -> Fault | None:
        """Returns what the API server refuses to show, or that the namespace is being removed or is not followed."""
        view = self._views.get(namespace)
        if view is None:
            return Fault(Reason.NAMESPACE_MISSING, _not_followed(namespace))
        return view.fault

    async def examine(self, namespace: str) -> None:
        """Looks at the namespace itself."""
        if view := self._views.get(namespace):
            await view.examine()

    def readable(self, namespace: str) -> bool | None:
        """Whether the service may get the namespace; None if that is not known."""
        view = self._views.get(namespace)
        return None if view is None else view.namespace.readable

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Names and URLs under the ingress domain."""
        return manifests.addresses(sandbox, self._settings)

    def observe(self, sandbox: Sandbox) -> Observed:
        """Returns what the informers remember of this sandbox."""
        view = self._view(sandbox.namespace)
        observed = view.observe(sandbox, self._contests.fault(sandbox))
        pod = observed.pod and resize.shown(sandbox, observed.pod, view, self._settings)
        return dataclasses.replace(observed, pod=pod, move=self._moves.shown(sandbox, observed))

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Applies the Service, the claim, unless the sandbox has its disk, the Secret, and the StatefulSet last. A disk that
        lacks what the sandbox asks for is asked to grow after that, and a pod that runs is given its resources.

        The Service owns the Secret, and the VolumeSnapshot of a clone. The engine may watch neither: if one reaches the API
        server only after the sandbox was deleted, the engine never sees it, and the garbage collector removes it. Without
        replicas nothing reads the Secret, and it is not made.
        """
        write = self._begin(sandbox, replicas)
        view = write.view
        listed = [secret.name for secret in environments.listed(view, sandbox)]
        try:
            objects = manifests.objects(sandbox, env, replicas, self._settings, view.names(sandbox), listed)
        except patch.Inapplicable as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, str(error))) from None
        service = await write.write(await takeover.due(write, objects.service))
        if not sandbox.volume_uid:
            await disk.make(write, objects.claim, service)
        if replicas:
            secret = manifests.owned_by(objects.secret, objects.service.reference, service.metadata.uid)
            await environments.make(write, secret)
        if view.secret_missing(sandbox):
            view.supplied(sandbox)
        before = view.stateful_sets.get(sandbox.id)
        if before is not None and before.replicas < replicas:
            view.events.pass_by(sandbox.id)
        await takeover.bind(write, service)
        later = [await write.write(await takeover.due(write, resource)) for resource in objects.watched[1:]]
        await disk.resize(write)
        await resize.resize(write)
        if sandbox.awaits_takeover:
            await takeover.mark_pod(self._api, sandbox, write.fence)
        else:
            await replacement.replace_former(write, self._pace)
        self._moves.go_on(
            sandbox, view, write.fence, self._moves.shown(sandbox, view.observe(sandbox, None)), self._changed
        )
        write.done()
        return observe.revision(observe.workload(written) for written in (service, *later))

    async def touch(self, sandbox: Sandbox) -> int:
        """Applies the StatefulSet with the present time in an annotation."""
        view = self._view(sandbox.namespace)
        touched = manifests.touched(sandbox, self._settings, datetime.now(UTC).isoformat(), view.names(sandbox))
        fence = Fence(self._held, sandbox.namespace)
        known = view.known(sandbox, touched.reference)
        if known is None:
            raise engines.Outdated(f"the {touched.reference} is gone")
        former = sandbox.awaits_takeover and ownership.was_adopted(sandbox, known.uid)
        if former:
            touched = manifests.marks(touched)
            await takeover.mark_pod(self._api, sandbox, fence)
        try:
            await writer.apply(self._api, view.stateful_sets, touched, known, fence)
        except client.Conflict as conflict:
            raise engines.Outdated(str(conflict)) from None
        # Never INCOMPLETE: while an object is missing, what is observed must not seem to be what was applied.
        return observe.revision([found for found in view.watched(sandbox) if found is not None])

    async def remove_superseded(self, sandbox: Sandbox) -> None:
        """Deletes the Secrets of former generations, and the VolumeSnapshot of a clone once its disk is made."""
        view = self._views.get(sandbox.namespace)
        if view is not None and view.synced and not view.namespace.ends:
            fence = Fence(self._held, sandbox.namespace)
            await environments.remove_former(self._api, view, sandbox, fence)
            await clones.remove_used(self._api, view, sandbox, fence)

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Deletes the StatefulSet in the foreground, as `removal` explains."""
        view = self._view(sandbox.namespace)
        if not view.namespace.ends:
            await removal.remove_workload(self._api, view, sandbox, Fence(self._held, sandbox.namespace))

    async def delete(self, sandbox: Sandbox) -> None:
        """Asks for the removal of what is the sandbox's, in the order that `removal` explains.

        What is in a namespace that is being removed goes with it, without the service, whose Role goes as well.
        """
        view = self._view(sandbox.namespace)
        if view.namespace.ends:
            return
        await self._moves.end(sandbox.key)
        write = self._begin(sandbox, None)
        try:
            if sandbox.adopted is not None and sandbox.adopted.given_back:
                await takeover.give_back(write)
            else:
                await removal.remove(write)
        finally:
            # What was removed before a refusal may be made again as well.
            write.done()
        view.forget(sandbox)

    def leftovers(self, key: Key, living: Sandbox | None) -> set[str]:
        """Returns what the informers remember."""
        view = self._views.get(key.namespace)
        return leftovers.owners(view, key, living) if view is not None and not view.namespace.ends else set()

    async def remove_leftovers(self, former: Sandbox) -> None:
        """Deletes what the informers remember. The garbage collector removes the Secret."""
        await leftovers.remove(self._api, self._view(former.namespace), former, Fence(self._held, former.namespace))

    def _begin(self, sandbox: Sandbox, replicas: int | None) -> writer.Writer:
        """Returns the writer of an act that is about to be done. Raises what `Contests.begin` raises."""
        view = self._view(sandbox.namespace)
        begun = self._contests.begin(sandbox.key, (sandbox.generation, replicas))
        fence = Fence(self._held, sandbox.namespace)
        known = {one: found for one in view.names(sandbox).written if (found := view.known(sandbox, one))}
        return writer.Writer(self._api, view, self._settings, sandbox, self._contests, begun, fence, known)

    def _view(self, namespace: str) -> View:
        """Returns the view of a namespace that has been listed. Raises `engines.Unreachable` if there is none.

        A namespace may be let go, and followed again, while an act for a sandbox in it is under way. A view that has not
        been listed shows nothing, as if everything were gone.
        """
        view = self._views.get(namespace)
        if view is None:
            raise engines.Unreachable(_not_followed(namespace))
        if not view.listed:
            raise engines.Unreachable(f"{namespace} has not been listed yet")
        return view

    async def growth_obstacle(self, sandbox: Sandbox) -> str:
        """Reads the claim and its storage class, where the service may read those."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.possible_within):
                return await disk.growth_obstacle(self._api, sandbox)
        return ""

    async def restore_obstacle(self, origin: Origin, storage_class: str) -> str:
        """Reads the VolumeSnapshot or the claim, and the storage classes where the service may list those."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.possible_within):
                return await disk.restore_obstacle(self._api, origin, storage_class)
        return ""

    async def resizes_in_place(self, namespace: str) -> bool:
        """Asks the API server what it can do, and what the service may do in the namespace."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.possible_within):
                return await resize.possible(self._api, namespace)
        return False

    async def granted(self, namespace: str) -> bool | None:
        """Asks the API server, once in a while."""
        return await self._grants.granted(namespace)

    async def incarnation(self, sandbox: Sandbox) -> str:
        """Returns the pod's uid and how often its container was restarted."""
        pod = await self._pod(sandbox)
        return "" if pod is None else pod.incarnation

    async def ended_by(self, sandbox: Sandbox, incarnation: str) -> Reason | None:
        """Returns what the pod still tells."""
        return entrance.ended_by(await self._pod(sandbox), incarnation)

    def enter(
        self, sandbox: Sandbox, incarnation: str, program: Sequence[str]
    ) -> AbstractAsyncContextManager[engines.Entered]:
        """Runs a program in the container of the sandbox."""
        return entrance.enter(self._api, sandbox, incarnation, program, self._pace.access_within)

    def connect(self, sandbox: Sandbox, incarnation: str, port: int) -> AbstractAsyncContextManager[engines.Connection]:
        """Connects to a port of the pod."""
        return connections.connect(self._api, sandbox, incarnation, port, self._pace.port_settled)

    async def _pod(self, sandbox: Sandbox) -> Pod | None:
        """Returns the pod of a sandbox as the view shows it, or as the API server does where the namespace is not followed."""
        view = self._views.get(sandbox.namespace)
        if view is None or not view.synced:
            return await entrance.read_pod(self._api, sandbox)
        pod = view.pods.get(resources.pod_name(sandbox))
        return pod if pod is not None and ownership.owned(sandbox, pod) else None

    def logs(self, sandbox: Sandbox, asked: Asked) -> AsyncGenerator[Part, None]:
        """Reads the log of the container of the sandbox."""
        return logs.read(self._api, sandbox, asked, self._pace)

    async def snapshots_missing(self, namespace: str) -> str:
        """Asks the API server whether it serves them, and lets the service make them."""
        return await self._snapshots.missing(namespace)

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        """Makes a VolumeSnapshot of the claim."""
        await self._snapshots.take(snapshot, sandbox, Fence(self._held, snapshot.namespace))

    async def taken(self, snapshot: Snapshot) -> Taken:
        """Asks the API server for the VolumeSnapshot."""
        return await self._snapshots.taken(snapshot)

    async def discard(self, snapshot: Snapshot) -> None:
        """Deletes the VolumeSnapshot."""
        await self._snapshots.discard(snapshot, Fence(self._held, snapshot.namespace))

    async def verify(self, snapshot: Snapshot) -> None:
        """Makes a claim from the VolumeSnapshot, and a pod that counts what is on it."""
        await self._verifying.begin(snapshot, Fence(self._held, snapshot.namespace))

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        """Asks the API server for the claim and the pod."""
        return await self._verifying.scratch(snapshot)

    async def clear(self, snapshot: Snapshot) -> None:
        """Deletes the pod and the claim."""
        await self._verifying.clear(snapshot, Fence(self._held, snapshot.namespace))


def _not_followed(namespace: str) -> str:
    return f"the service does not observe {namespace}"
