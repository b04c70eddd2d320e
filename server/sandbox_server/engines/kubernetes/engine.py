"""The Kubernetes engine: applies, deletes and observes."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sandbox_server import engines
from sandbox_server.domain.observed import Fault, Observed, Pod
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox
from sandbox_server.engines.kubernetes import client, manifests, observe
from sandbox_server.engines.kubernetes.informer import Informer
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.settings import Settings

T = TypeVar("T")
SKEW = timedelta(seconds=2)
"""Kubernetes events count in whole seconds, and by another clock."""
SUPPLY_EVERY = 30.0
"""Seconds between two supplies of a Secret that the kubelet misses, which looks again within 15 (its backOffPeriod)."""
INCOMPLETE = -1
"""The revision while an object is missing. No apply returns it."""
TROUBLES = ("type=Warning,reason!=FailedScheduling", "reason=FailedBinding")
"""The events that are read. What the scheduler says stands in the pod as well; that there is no volume and no class for a
claim is said as if it were nothing (controller/volume/persistentvolume/pv_controller.go)."""


class _Sight:
    """The informers of one namespace."""

    def __init__(self, api: client.Client, namespace: str, changed: Callable[[Key], None]) -> None:
        def heard(sandbox: str) -> None:
            changed(Key(namespace, sandbox))

        def informer(kind: str, value: Callable[[Object], T], events: str = "") -> Informer[T]:
            selector = {"fieldSelector": events} if events else {"labelSelector": manifests.ID}
            return Informer(api, client.path(kind, namespace), selector, value, heard)

        self.pods = informer("Pod", observe.pod)
        self.volumes = informer("PersistentVolumeClaim", observe.volume)
        self.made = {kind: informer(kind, observe.workload) for kind in ("Service", "Ingress", "StatefulSet")}
        # They cannot be watched: the uid that a sandbox's had when it was last written, by the sandbox's uid.
        self.secrets: dict[str, str] = {}
        self.troubles = [informer("Event", observe.trouble, one) for one in TROUBLES]
        self.all: list[Informer[Any]] = [self.pods, self.volumes, *self.made.values(), *self.troubles]

    def uid(self, sandbox: Sandbox, manifest: manifests.Manifest) -> str:
        """The uid of the object of a manifest's name that is remembered as this sandbox's; empty if none is."""
        name, informer = manifest["metadata"]["name"], self.made.get(manifest["kind"])
        if informer is None:
            return self.secrets.get(sandbox.uid, "") if manifest["kind"] == "Secret" else ""
        found = informer.get(name)
        return informer.uid(name) if found and found.owner == sandbox.uid else ""

    def trouble(self, uid: str) -> tuple[str, datetime | None]:
        """What an event says of the object with that uid, and when it last did."""
        return next(filter(None, (one.get(uid) for one in self.troubles)), ("", None))


class KubernetesEngine:
    """See `engines.Engine`."""

    name = "kubernetes"

    def __init__(self, settings: Settings, namespaces: Iterable[str]) -> None:
        """`namespaces`: those that are observed."""
        self._settings = settings
        self._namespaces = namespaces
        self._api = client.Client(settings)
        self._sights: dict[str, _Sight] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._supplied: dict[Key, float] = {}

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Begins to list and watch. Raises ValueError if there is no usable kubeconfig."""
        await self._api.open()
        self._sights = {one: _Sight(self._api, one, changed) for one in self._namespaces}
        self._tasks = [asyncio.create_task(one.run()) for sight in self._sights.values() for one in sight.all]

    async def close(self) -> None:
        """Stops observing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()

    @property
    def in_sight(self) -> bool:
        """Whether it sees a namespace."""
        return any(map(self.sees, self._sights))

    def sees(self, namespace: str) -> bool:
        """Whether every informer of the namespace has listed and is in contact."""
        sight = self._sights.get(namespace)
        return sight is not None and all(one.in_sight for one in sight.all)

    def blind(self, namespace: str) -> Fault | None:
        """What the API server refuses to show."""
        sight = self._sights.get(namespace)
        return next(filter(None, (one.refused for one in sight.all)), None) if sight else _unobserved(namespace)

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Names and URLs under the ingress domain."""
        return manifests.addresses(sandbox, self._settings)

    def observe(self, sandbox: Sandbox) -> Observed:
        """What the informers remember of this sandbox."""
        sight = self._sights.get(sandbox.namespace)
        if sight is None:
            return Observed()
        name = manifests.pod_name(sandbox)
        pod, volume = sight.pods.get(name), sight.volumes.get(manifests.claim_name(sandbox))
        if pod and pod.reason is Reason.CONTAINER_CREATING and not pod.message:
            pod = dataclasses.replace(pod, message=sight.trouble(sight.pods.uid(name))[0] or observe.MAKING)
        if volume and not volume.bound and (words := sight.trouble(volume.uid)[0]):
            volume = dataclasses.replace(volume, message=words)
            if pod and pod.reason is Reason.SCHEDULING:
                pod = dataclasses.replace(pod, reason=Reason.VOLUME_PENDING, message=words)
        if volume and not volume.uid and (sandbox.desired is not DesiredState.DELETED or sandbox.keep_volume):
            # A placeholder is no disk; told of is only one that has to be removed.
            volume = None
        made = [found for kind, name in manifests.watched(sandbox) if (found := sight.made[kind].get(name))]
        workload = sight.made["StatefulSet"].get(sandbox.id)
        if workload is not None:
            whole = len(made) == len(manifests.watched(sandbox)) and (volume or sandbox.volume_uid)
            revision = observe.revision(made) if whole and not self._starved(sandbox, pod) else INCOMPLETE
            words, at = sight.trouble(sight.made["StatefulSet"].uid(sandbox.id))
            fault = observe.refused(words) if at and at >= sandbox.attempt_at - SKEW else None
            workload = dataclasses.replace(workload, revision=revision, fault=fault)
        return Observed(workload=workload, pod=pod, volume=volume)

    def _starved(self, sandbox: Sandbox, pod: Pod | None) -> bool:
        """Whether the pod's kubelet misses the Secret, which we may not watch, and was given none for a while."""
        # kubelet/kubelet_pods.go hands on the words of apimachinery/pkg/api/errors.NewNotFound
        words = f'secret "{manifests.secret_name(sandbox)}" not found'
        missed = pod is not None and pod.reason is Reason.CONTAINER_CONFIG and words in pod.message
        return missed and time.monotonic() - self._supplied.get(sandbox.key, -SUPPLY_EVERY) >= SUPPLY_EVERY

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Applies the claim, unless the sandbox has its disk, and then all but the StatefulSet before it."""
        sight = self._sights.get(sandbox.namespace)
        if sight is None:
            raise engines.Refused(_unobserved(sandbox.namespace))
        claim, secret, *objects = manifests.objects(sandbox, env, replicas, self._settings)
        if not sandbox.volume_uid:
            await self._make_disk(sight, sandbox, claim)
        sight.secrets[sandbox.uid] = (await self._write(sight, sandbox, secret)).metadata.uid
        if self._starved(sandbox, sight.pods.get(manifests.pod_name(sandbox))):
            self._supplied[sandbox.key] = time.monotonic()
        written = [await self._write(sight, sandbox, one) for one in objects]
        for manifest, one in zip(objects, written, strict=True):
            sight.made[manifest["kind"]].put(one)
        return observe.revision(map(observe.workload, written))

    async def _write(self, sight: _Sight, sandbox: Sandbox, manifest: manifests.Manifest) -> Object:
        """Applies to the very object that is remembered as ours, or makes one where none is: never to a stranger's."""
        with contextlib.suppress(client.Conflict):
            return await self._api.apply(manifest, sight.uid(sandbox, manifest))
        found = await self._api.find(manifest)
        if found is not None and not observe.ours(sandbox, found):
            called = f"{manifest['kind']} {manifest['metadata']['name']}"
            said = f"the {called} belongs to somebody else; it is left alone. Remove it or choose another id"
            raise engines.Refused(Fault(Reason.NAME_CONFLICT, said))
        return await self._api.apply(manifest, found.metadata.uid if found else "")

    async def _make_disk(self, sight: _Sight, sandbox: Sandbox, claim: manifests.Manifest) -> None:
        """Applies the claim. Raises `engines.Unreachable` while the name is taken by a placeholder or a disk that goes."""
        made = await self._write(sight, sandbox, claim)
        sight.volumes.put(made)
        disk = observe.volume(made)
        if disk.terminating or not disk.uid:
            await self._api.delete(claim, made.metadata.uid)
            raise engines.Unreachable(f"the claim {disk.name} has to go before there can be a fresh one")

    async def delete(self, sandbox: Sandbox) -> None:
        """Deletes what is ours, by uid, so that nothing that took its name meanwhile is hit.

        The StatefulSet comes to rest first: asked again once its controller has seen that there is nothing to make and
        the pod is gone. Deleted under a controller that is at work, it would get a pod, and a claim, when all is gone.
        It goes last, so that it shows as long as anything may be left.
        """
        if not await self._at_rest(sandbox):
            return
        claim, *objects = manifests.objects(sandbox, {}, 0, self._settings)
        for manifest in (claim, *objects):
            found = await self._api.find(manifest)
            if found is None or found.metadata.deletionTimestamp or not observe.ours(sandbox, found):
                continue
            if not (sandbox.keep_volume and manifest is claim and observe.volume(found).uid):
                await self._api.delete(manifest, found.metadata.uid)
        self._supplied.pop(sandbox.key, None)
        if sight := self._sights.get(sandbox.namespace):
            sight.secrets.pop(sandbox.uid, None)

    async def _at_rest(self, sandbox: Sandbox) -> bool:
        """Whether nothing will be made any more. Asks for it where that was not done."""
        sight = self._sights.get(sandbox.namespace)
        workload = sight and sight.made["StatefulSet"].get(sandbox.id)
        if not sight or not workload or workload.owner != sandbox.uid or workload.terminating:
            return True
        if workload.replicas:
            *_, manifest = manifests.objects(sandbox, {}, 0, self._settings)
            try:
                made = await self._write(sight, sandbox, manifest)
            except engines.Refused:
                # Nobody is kept from deleting by who may not change.
                return True
            sight.made["StatefulSet"].put(made)
            workload = observe.workload(made)
        return workload.replicas == 0 and workload.obeyed and sight.pods.get(manifests.pod_name(sandbox)) is None


def _unobserved(namespace: str) -> Fault:
    return Fault(Reason.NAMESPACE_MISSING, f"the service does not observe {namespace}")
