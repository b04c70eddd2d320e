"""The Kubernetes engine: applies, deletes and observes."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sandbox_server import engines
from sandbox_server.domain.observed import Fault, Observed, Pod, Volume, Workload
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox
from sandbox_server.engines.kubernetes import client, contest, manifests, observe, patch, preflight
from sandbox_server.engines.kubernetes.informer import Informer
from sandbox_server.engines.kubernetes.namespace import Namespace
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.settings import Settings

LABELLED: dict[str, Callable[[Object], Any]] = dict.fromkeys(("Service", "Ingress", "StatefulSet"), observe.workload)
"""The kinds beside the pod that are watched by our label, and what is remembered of each object."""
SUPPLY_EVERY = 30.0
"""Seconds between two supplies of a Secret that the kubelet misses, which looks again within 15 (its backOffPeriod)."""
EMPTIES = ("StatefulSet", "PersistentVolumeClaim")
"""The kinds of which every sandbox has an object."""
PROTECTION = "kubernetes.io/pvc-protection"
"""The finalizer that keeps a claim while a pod uses it."""
INCOMPLETE = -1
"""The revision while an object is missing. No apply returns it."""
TROUBLES = ("type=Warning,reason!=FailedScheduling", "reason=FailedBinding")
"""The events that are read. What the scheduler says stands in the pod as well; that there is no volume and no class for a
claim is said as if it were nothing (controller/volume/persistentvolume/pv_controller.go)."""


class _Sight:
    """The informers of one namespace."""

    def __init__(self, api: client.Client, namespace: str, changed: Callable[[Key], None], relist: float) -> None:
        def heard(sandbox: str) -> None:
            changed(Key(namespace, sandbox))

        def rewound() -> None:
            for one in self.all:
                one.list_anew()

        def informer(kind: str, value: Callable[[Object], Any], selector: dict[str, str]) -> Informer[Any]:
            path = client.path(kind, namespace)
            return Informer(api, path, selector, value, heard, relist, rewound, self.examine)

        self.disrupted: dict[str, Pod] = {}
        self.of = {kind: informer(kind, value, {"labelSelector": manifests.ID}) for kind, value in LABELLED.items()}
        self.of["Pod"] = informer("Pod", self._pod, {"labelSelector": manifests.ID})
        # By its name alone: a disk is not lost because somebody took our label away.
        self.of["PersistentVolumeClaim"] = informer("PersistentVolumeClaim", observe.volume, {})
        self.troubles = [informer("Event", observe.trouble, {"fieldSelector": one}) for one in TROUBLES]
        self.all = [*self.of.values(), *self.troubles]
        # Up to which version each of `troubles` had heard of all events when a pod was last there or asked for.
        self._past: dict[str, tuple[int, ...]] = {}
        # Secrets may not be watched: what is remembered of them is what we wrote.
        self.of["Secret"] = informer("Secret", observe.workload, {})
        self.namespace = Namespace(api, namespace)

    @property
    def in_sight(self) -> bool:
        """Whether what is remembered is what there is. Nothing comes into a namespace that is being removed."""
        if self.namespace.gone:
            return True
        return all(one.listed if self.namespace.ends else one.in_sight for one in self.all)

    @property
    def fault(self) -> Fault | None:
        """Why the namespace takes nothing new, or what the API server refuses to show of it."""
        refused = next(filter(None, (one.refused for one in self.all)), None)
        if self.namespace.ends or refused is None:
            return self.namespace.ends and self.namespace.fault
        return self.namespace.with_hint(refused)

    async def examine(self) -> None:
        """Looks at the namespace itself."""
        await self.namespace.examine(lambda: all(self.of[kind].emptied for kind in EMPTIES))

    def _pod(self, found: Object) -> Pod:
        """A pod. One that the cluster ended is remembered by its name: it is gone before all else that happens then."""
        pod = observe.pod(found)
        if pod.disruption is not None:
            self.disrupted[found.metadata.name] = pod
        return pod

    def pod(self, name: str) -> Pod | None:
        """A pod, with what only events say: why it cannot be made, and what its probe was answered."""
        pod: Pod | None = self.of["Pod"].get(name)
        uid = self.of["Pod"].uid(name)
        if pod and pod.reason is Reason.CONTAINER_CREATING and not pod.message:
            return dataclasses.replace(pod, message=self.trouble(uid) or observe.MAKING)
        words = self.trouble(observe.probe_of(uid))
        if pod and words and pod.reason is Reason.NOT_READY and pod.message.endswith(observe.UNREADY):
            return dataclasses.replace(pod, message=f"{pod.message}: {words}", quoted=words)
        return pod

    def uid(self, sandbox: Sandbox, manifest: manifests.Manifest) -> str:
        """The uid of the object of a manifest's name that is remembered as this sandbox's; empty if none is."""
        name, informer = manifest["metadata"]["name"], self.of[manifest["kind"]]
        found = informer.get(name)
        return informer.uid(name) if found and found.owner == sandbox.uid else ""

    def trouble(self, uid: str) -> str:
        """What an event says of the object with that uid."""
        return next((found[0] for one in self.troubles if (found := one.get(uid))), "")

    def obstacle(self, sandbox: Sandbox) -> str:
        """What an event says is in the way of the next pod of the StatefulSet: one that came after the last pod.

        No clock decides. Events are compared with events alone, whose versions may be those of an etcd of their own.
        Where no pod has been seen since the start of the service, every event counts that the cluster still keeps.
        """
        uid = self.of["StatefulSet"].uid(sandbox.id)
        for informer, past in zip(self.troubles, self._past.get(sandbox.id, (0,) * len(self.troubles)), strict=True):
            words, version = informer.get(uid) or ("", 0)
            # Versions that went back begin anew.
            if words and (version > past or past > informer.version):
                return str(words)
        return ""

    def pass_by(self, sandbox: Sandbox) -> None:
        """What events said so far is not in the way of the next pod."""
        self._past[sandbox.id] = tuple(one.version for one in self.troubles)

    def forget(self, sandbox: Sandbox) -> None:
        """Drops what is remembered beside the objects themselves."""
        self._past.pop(sandbox.id, None)
        self.disrupted.pop(manifests.pod_name(sandbox), None)
        self.of["Secret"].forget(manifests.secret_name(sandbox))


class KubernetesEngine:
    """See `engines.Engine`."""

    def __init__(self, settings: Settings, namespaces: Iterable[str] = ()) -> None:
        """`namespaces`: those that are observed from the beginning. Raises ValueError for settings that make no pod."""
        preflight.check(settings)
        self._settings = settings
        self._namespaces = namespaces
        self._api = client.Client(settings)
        self._sights: dict[str, _Sight] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._supplied: dict[Key, float] = {}
        self._contests = contest.Contests(lambda _: None)

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Begins to list and watch. Raises ValueError if there is no usable kubeconfig."""
        await self._api.open()
        self._changed = changed
        self._contests = contest.Contests(changed)
        self.follow(self._namespaces)

    def follow(self, namespaces: Iterable[str]) -> None:
        """Lists and watches those that are not watched yet."""
        for one in namespaces:
            if one not in self._sights:
                self._sights[one] = _Sight(self._api, one, self._changed, self._settings.resync)
                self._tasks += [asyncio.create_task(informer.run()) for informer in self._sights[one].all]

    async def close(self) -> None:
        """Stops observing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._contests.close()
        await self._api.close()

    @property
    def in_sight(self) -> bool:
        """Whether it sees a namespace."""
        return any(map(self.sees, self._sights))

    def sees(self, namespace: str) -> bool:
        """Whether every informer of the namespace has listed and is in contact, or the namespace is known to have ended."""
        sight = self._sights.get(namespace)
        return sight is not None and sight.in_sight

    def blind(self, namespace: str) -> Fault | None:
        """What the API server refuses to show, or that the namespace is being removed."""
        sight = self._sights.get(namespace)
        if sight is None:
            return Fault(Reason.NAMESPACE_MISSING, f"the service does not observe {namespace}")
        return sight.fault

    async def examine(self, namespace: str) -> None:
        """Looks at the namespace itself."""
        if sight := self._sights.get(namespace):
            await sight.examine()

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Names and URLs under the ingress domain."""
        return manifests.addresses(sandbox, self._settings)

    def observe(self, sandbox: Sandbox) -> Observed:
        """What the informers remember of this sandbox."""
        sight, name = self._sights[sandbox.namespace], manifests.pod_name(sandbox)
        if sight.namespace.gone:
            return Observed(namespace=sight.namespace.fault)
        pod: Pod | None = sight.pod(name)
        readiness = sandbox.spec.readiness
        if pod and not (readiness.http_path or readiness.tcp_port):
            pod = dataclasses.replace(pod, probed=False)
        volume = self._disk(sandbox)
        if pod:
            sight.pass_by(sandbox)
        if pod and pod.reason is Reason.SCHEDULING and volume and not volume.bound:
            words = sight.trouble(volume.uid)
            pod = dataclasses.replace(pod, reason=Reason.VOLUME_PENDING, message=words) if words else pod
        made: list[Any] = [sight.of[kind].get(name) for kind, name in manifests.watched(sandbox)]
        workload: Workload | None = made[-1]
        if workload is not None:
            whole = all(made) and (volume or sandbox.volume_uid)
            revision = observe.revision(made) if whole and not self._starved(sandbox, pod) else INCOMPLETE
            words = sight.obstacle(sandbox)
            fault = observe.refused(words) if words else None
            workload = dataclasses.replace(workload, revision=revision, fault=fault)
        ended = sight.disrupted.get(name)
        return Observed(
            workload=workload,
            pod=pod,
            volume=volume,
            disruption=ended.disruption if ended and ended.owner == sandbox.uid else None,
            fault=self._contests.fault(sandbox),
            namespace=sight.namespace.fault,
        )

    def _disk(self, sandbox: Sandbox) -> Volume | None:
        """The claim, if it is the sandbox's. A placeholder is no disk: told of is only one that has to be removed."""
        claims = self._sights[sandbox.namespace].of["PersistentVolumeClaim"]
        volume: Volume | None = claims.get(manifests.claim_name(sandbox))
        if volume is None or (volume.owner != sandbox.uid and volume.uid != sandbox.volume_uid):
            return None
        goes = sandbox.desired is DesiredState.DELETED and not sandbox.keep_volume
        return volume if volume.uid or goes else None

    def _starved(self, sandbox: Sandbox, pod: Pod | None) -> bool:
        """Whether the pod's kubelet misses the Secret, which we may not watch, and was given none for a while."""
        # kubelet/kubelet_pods.go hands on the words of apimachinery/pkg/api/errors.NewNotFound
        words = f'secret "{manifests.secret_name(sandbox)}" not found'
        missed = pod is not None and pod.reason is Reason.CONTAINER_CONFIG and words in pod.message
        return missed and time.monotonic() - self._supplied.get(sandbox.key, -SUPPLY_EVERY) >= SUPPLY_EVERY

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Applies the claim, unless the sandbox has its disk, and then all but the StatefulSet before it."""
        act = self._contests.begin(sandbox.key, (sandbox.generation, replicas))
        try:
            claim, secret, *objects = manifests.objects(sandbox, env, replicas, self._settings)
        except patch.Inapplicable as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, str(error))) from None
        if not sandbox.volume_uid:
            await self._make_disk(sandbox, claim, act)
        await self._write(sandbox, secret, act)
        sight = self._sights[sandbox.namespace]
        if self._starved(sandbox, sight.of["Pod"].get(manifests.pod_name(sandbox))):
            self._supplied[sandbox.key] = time.monotonic()
        stands: Workload | None = sight.of["StatefulSet"].get(sandbox.id)
        if stands is not None and stands.replicas < replicas:
            sight.pass_by(sandbox)
        revision = observe.revision([observe.workload(await self._write(sandbox, one, act)) for one in objects])
        self._contests.done(sandbox.key, act)
        return revision

    async def touch(self, sandbox: Sandbox) -> int:
        """Applies the StatefulSet with the present time in an annotation."""
        manifest = manifests.touched(sandbox, self._settings, datetime.now(UTC).isoformat())
        of = self._sights[sandbox.namespace].of
        await self._apply(sandbox, manifest, of["StatefulSet"].uid(sandbox.id))
        made: list[Workload | None] = [of[kind].get(name) for kind, name in manifests.watched(sandbox)]
        return observe.revision([one for one in made if one is not None])

    async def _write(self, sandbox: Sandbox, manifest: manifests.Manifest, act: contest.Contest) -> Object:
        """Applies to the very object that is remembered as ours, or makes one where none is: never to a stranger's."""
        if act.watched:
            act.compare(manifest, await self._api.find(manifest))
        try:
            written = await self._apply(sandbox, manifest, self._sights[sandbox.namespace].uid(sandbox, manifest))
        except client.Conflict:
            found = await self._api.find(manifest)
            _check_ours(sandbox, manifest, found)
            written = await self._apply(sandbox, manifest, found.metadata.uid if found else "")
        act.written(manifest, written)
        return written

    async def _apply(self, sandbox: Sandbox, manifest: manifests.Manifest, uid: str) -> Object:
        """Applies to the object with that uid, or makes one where it is empty, and remembers the answer."""
        informer = self._sights[sandbox.namespace].of[manifest["kind"]]
        position = informer.position(manifest["metadata"]["name"])
        written = await self._api.apply(manifest, uid)
        informer.answered(written, position)
        return written

    async def _make_disk(self, sandbox: Sandbox, claim: manifests.Manifest, act: contest.Contest) -> None:
        """Makes the claim, unless it is there already: a claim can never change, so nothing is applied over one.

        Raises `engines.Unreachable` while the name is taken by a claim that has to go first: a placeholder, one that is
        being removed, or one that lost its volume. The cluster keeps a claim as long as a pod uses it, so that the
        workload is scaled down as well.
        """
        sight = self._sights[sandbox.namespace]
        claims = sight.of["PersistentVolumeClaim"]
        position = claims.position(claim["metadata"]["name"])
        try:
            await self._apply(sandbox, claim, "")
            return
        except client.Conflict:
            found = await self._api.find(claim, whole=True)
            if found is None:
                raise
        _check_ours(sandbox, claim, found)
        disk = observe.volume(found)
        if not (disk.terminating or disk.lost or not disk.uid):
            claims.answered(found, position)
            return
        try:
            await self._at_rest(sandbox, act)
        finally:
            # The apply will not be done, and yet somebody may undo this part of it each time.
            self._contests.done(sandbox.key, act)
        await self._api.delete(claim, found.metadata.uid)
        said = f"the claim {disk.name} has to go before there can be a fresh one"
        # As long as a pod uses it the cluster keeps it, and that it ends takes no more than its grace period.
        if sight.of["Pod"].get(manifests.pod_name(sandbox)) is not None:
            raise engines.Unreachable(said)
        raise engines.Busy(f"{said}; its finalizers: {_listed(found.metadata.finalizers)}")

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Deletes the StatefulSet in the foreground: the garbage collector removes its pod first.

        Its controller makes nothing for a StatefulSet that is being removed, and nothing for the next one, which has no
        replicas from the first. The claim is no part of it, unless somebody changed what becomes of claims.
        """
        sight = self._sights[sandbox.namespace]
        if sight.namespace.ends:
            return
        claim, *_, manifest = manifests.objects(sandbox, {}, 0, self._settings)
        disk = await self._api.find(claim)
        if (
            disk
            and disk.metadata.ownerReferences
            and (sandbox.desired is not DesiredState.DELETED or sandbox.keep_volume)
        ):
            owners = ", ".join(f"{one.kind} {one.name}" for one in disk.metadata.ownerReferences)
            raise engines.Busy(f"the claim {disk.metadata.name} would go with its owner: {owners}")
        sets = sight.of["StatefulSet"]
        if uid := sight.uid(sandbox, manifest):
            await self._api.delete(manifest, uid, version=str(sets.position(sandbox.id)), foreground=True)

    async def delete(self, sandbox: Sandbox) -> None:
        """Deletes what is ours, by uid, so that nothing that took its name meanwhile is hit.

        The StatefulSet comes to rest before it and the claim go: they are asked for again once its controller has seen
        that there is nothing to make and the pod is gone. Deleted under a controller that is at work, it would get a
        pod, and a claim, when all is gone. It goes last, so that it shows as long as anything may be left.

        What is in a namespace that is being removed goes with it, without the service, whose Role goes as well.
        """
        if self._sights[sandbox.namespace].namespace.ends:
            return
        act = self._contests.begin(sandbox.key, (sandbox.generation, None))
        try:
            await self._delete(sandbox, act)
        finally:
            # What was removed before a refusal may be made again as well.
            self._contests.done(sandbox.key, act)
        self._supplied.pop(sandbox.key, None)
        self._sights[sandbox.namespace].forget(sandbox)

    async def _delete(self, sandbox: Sandbox, act: contest.Contest) -> None:
        at_rest = await self._at_rest(sandbox, act)
        placeholders = at_rest and await self._remove_placeholders(sandbox)
        for manifest in manifests.objects(sandbox, {}, 0, self._settings):
            kind = manifest["kind"]
            if (not at_rest and kind in EMPTIES) or (placeholders and kind == "StatefulSet"):
                continue
            found = await self._api.find(manifest)
            if found is None or found.metadata.deletionTimestamp or not observe.ours(sandbox, found):
                continue
            disk = kind == "PersistentVolumeClaim" and observe.volume(found).uid
            if not (disk and sandbox.keep_volume):
                await self._api.delete(manifest, found.metadata.uid)
                act.removed(manifest, found)

    async def _remove_placeholders(self, sandbox: Sandbox) -> bool:
        """Asks for the removal of the claims of other pods. Returns whether there were any, which has to be asked again.

        Raises `engines.Busy` while something else than the cluster's own protection holds one.
        """
        listed = await self._api.labelled("PersistentVolumeClaim", sandbox.namespace, manifests.ID, sandbox.id)
        found = [one for one in listed if observe.placeholder(sandbox, one)]
        for one in found:
            name, held = one.metadata.name, {*one.metadata.finalizers} - {PROTECTION}
            if one.metadata.deletionTimestamp is None:
                named = {"name": name, "namespace": sandbox.namespace}
                await self._api.delete({"kind": "PersistentVolumeClaim", "metadata": named}, one.metadata.uid)
            elif held:
                raise engines.Busy(f"the claim {name} has to go first; its finalizers: {_listed(sorted(held))}")
        return bool(found)

    async def _at_rest(self, sandbox: Sandbox, act: contest.Contest) -> bool:
        """Whether nothing will be made any more. Asks for it where that was not done."""
        of = self._sights[sandbox.namespace].of
        workload = of["StatefulSet"].get(sandbox.id)
        pod = of["Pod"].get(manifests.pod_name(sandbox))
        if workload is None or workload.owner != sandbox.uid:
            return True
        if workload.terminating:
            return pod is None
        if workload.replicas:
            *_, manifest = manifests.objects(sandbox, {}, 0, self._settings)
            try:
                workload = observe.workload(await self._write(sandbox, manifest, act))
            except engines.Refused:
                # Nobody is kept from deleting by who may not change.
                return True
        return workload.replicas == 0 and workload.obeyed and pod is None


def _check_ours(sandbox: Sandbox, manifest: manifests.Manifest, found: Object | None) -> None:
    """Raises what is to be said of an object that has the name of a manifest and is not of this sandbox."""
    if found is None or observe.ours(sandbox, found):
        return
    called = f"{manifest['kind']} {manifest['metadata']['name']}"
    if found.metadata.deletionTimestamp:
        # Such as the Ingress of who had the id before, whose load balancer takes its time to go.
        said = f"the {called} of a former owner is being removed and has to go first"
        raise engines.Busy(f"{said}; its finalizers: {_listed(found.metadata.finalizers)}") from None
    said = f"the {called} belongs to somebody else; it is left alone. Remove it or choose another id"
    raise engines.Refused(Fault(Reason.NAME_CONFLICT, said)) from None


def _listed(finalizers: Iterable[str]) -> str:
    return ", ".join(finalizers) or "none"
