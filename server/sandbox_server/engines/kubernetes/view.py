"""What the informers of one namespace show of a sandbox."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Fault, Observed, Pod, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.kubernetes import client, containers, events, growth, manifests, observe, resources
from sandbox_server.engines.kubernetes.cache import Cache
from sandbox_server.engines.kubernetes.informer import Informer
from sandbox_server.engines.kubernetes.namespace import Namespace
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resources

log = structlog.get_logger()

T = TypeVar("T")


class View:
    """The informers of one namespace, and what they show of a sandbox."""

    def __init__(self, api: client.Client, namespace: str, changed: Callable[[Key], None], pace: Pace) -> None:
        """`changed` is called with the key of a sandbox of which something changed."""

        def sandbox_changed(sandbox_id: str) -> None:
            changed(Key(namespace, sandbox_id))

        def rewound() -> None:
            log.warning("versions_went_backwards", namespace=namespace)
            self.absent.clear()
            self.cloned.clear()
            for informer in self.informers:
                informer.list_anew()

        def cache(value: Callable[[Object], T]) -> Cache[T]:
            return Cache(observe.identify, value, sandbox_changed, rewound)

        def informer(kind: Kind, cache: Cache[object], selector: dict[str, str]) -> Informer:
            return Informer(api, client.path(kind, namespace), selector, cache, pace, self.examine)

        self.pace = pace
        self.services = cache(observe.workload)
        self.ingresses = cache(observe.workload)
        self.stateful_sets = cache(observe.workload)
        self.pods = cache(self._read_pod)
        self.claims = cache(observe.volume)
        # The service may not watch Secrets: what is remembered of them is the answers to our own writes.
        self.secrets = cache(observe.workload)
        self.written = {
            Kind.SECRET: self.secrets,
            Kind.SERVICE: self.services,
            Kind.INGRESS: self.ingresses,
            Kind.STATEFUL_SET: self.stateful_sets,
        }
        """The objects that are written again and again: all but claims."""
        self.caches: dict[Kind, Cache[Workload] | Cache[Volume]] = {**self.written, Kind.CLAIM: self.claims}
        event_caches = [Cache(events.identify, events.read, sandbox_changed, rewound) for _ in events.SELECTORS]
        self.events = events.Events(event_caches)
        labelled = {"labelSelector": manifests.ID}
        self.informers = (
            informer(Kind.SERVICE, self.services, labelled),
            informer(Kind.INGRESS, self.ingresses, labelled),
            informer(Kind.STATEFUL_SET, self.stateful_sets, labelled),
            informer(Kind.POD, self.pods, labelled),
            # Claims are found by name alone: a disk is not lost because somebody removed our label.
            informer(Kind.CLAIM, self.claims, {}),
            *(
                informer(Kind.EVENT, cache, {"fieldSelector": selector})
                for selector, cache in zip(events.SELECTORS, event_caches, strict=True)
            ),
        )
        self.namespace = Namespace(api, namespace)
        # A pod that the cluster ended is kept by its name, because the pod goes before all else that follows.
        self._disrupted: dict[str, Pod] = {}
        # When the Secret of a sandbox, by its id, was last written because its kubelet missed it.
        self._supplied: dict[str, float] = {}
        self.refusals = growth.Refusals(pace)
        self.pod_refusals = growth.Refusals(pace)
        self.unresizable: dict[str, tuple[int, str]] = {}
        """By the uid of a sandbox: the generation whose resources its pod does not take where it runs, and the uid of the pod."""
        self.cloned: set[str] = set()
        """The uids of the clones whose VolumeSnapshot was looked for when their disk was made, and removed."""
        self.absent: dict[str, set[str]] = {}
        """The Secrets of former generations, by the id of their sandbox, that were looked for and are not there."""

    @property
    def listed(self) -> bool:
        """Whether everything has been listed once, or the namespace does not exist."""
        return self.namespace.gone or all(informer.contact.listed for informer in self.informers)

    @property
    def synced(self) -> bool:
        """Whether what is remembered is what there is. Nothing comes into a namespace that is being removed."""
        if self.namespace.ends:
            return self.listed
        return all(informer.contact.synced for informer in self.informers)

    @property
    def fault(self) -> Fault | None:
        """Why the namespace takes nothing new, or what the API server refuses to show of it."""
        if self.namespace.ends:
            return self.namespace.fault
        for informer in self.informers:
            if informer.contact.refused is not None:
                return self.namespace.with_hint(informer.contact.refused)
        return None

    async def run(self) -> None:
        """Lists and watches until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self.informers:
                tasks.create_task(informer.run())

    async def examine(self) -> None:
        """Looks at the namespace itself. Every sandbox has a StatefulSet and a claim."""
        await self.namespace.examine(lambda: self.stateful_sets.emptied and self.claims.emptied)

    def observe(self, sandbox: Sandbox, contested: Fault | None) -> Observed:
        """Returns what there is of `sandbox`. `contested` says by whom the writes of the service are undone each time."""
        if self.namespace.gone:
            return Observed(namespace=self.namespace.fault)
        pod, volume = self._pod(sandbox), self.volume(sandbox)
        if pod is not None:
            self.events.pass_by(sandbox.id)
        if pod is not None and pod.reason is Reason.SCHEDULING and volume is not None and not volume.bound:
            message = self.events.message(volume.uid)
            reason = observe.unbound(sandbox, message)
            pod = dataclasses.replace(pod, reason=reason, message=message) if message else pod
        ended = self._disrupted.get(resources.pod_name(sandbox))
        return Observed(
            workload=self._workload(sandbox, volume),
            pod=pod,
            volume=volume,
            disruption=ended.disruption if ended is not None and ownership.owned(sandbox, ended) else None,
            fault=contested,
            namespace=self.namespace.fault,
        )

    def names(self, sandbox: Sandbox) -> Resources[Reference]:
        """Returns where the objects of the sandbox are.

        The Secret is that of a former release where the pod's template names that one: the template stays as it is.
        """
        names = resources.names(sandbox)
        workload = self.stateful_sets.get(sandbox.id)
        if workload is None or not ownership.owned(sandbox, workload) or workload.generation < sandbox.pod_generation:
            return names
        former = resources.named(sandbox.namespace, sandbox.objects).secret
        return dataclasses.replace(names, secret=former) if former.name in workload.environments else names

    def watched(self, sandbox: Sandbox) -> list[Workload | None]:
        """Returns the objects that are `watched`, each None while it is missing."""
        return [self.written[reference.kind].get(reference.name) for reference in resources.names(sandbox).watched]

    def known(self, sandbox: Sandbox, reference: Reference) -> Known | None:
        """Returns the object to write to; None if the sandbox has none of that name yet."""
        cache = self.written[reference.kind]
        found = cache.get(reference.name)
        return cache.known(reference.name) if found is not None and ownership.owned(sandbox, found) else None

    def secret_missing(self, sandbox: Sandbox) -> bool:
        """Whether the pod's kubelet misses the Secret, and the Secret was not supplied for a while.

        This is the only way to learn that a Secret was removed, because the service may not watch Secrets.
        """
        pod = self.pods.get(resources.pod_name(sandbox))
        if pod is None or not self._misses_secret(sandbox, pod):
            return False
        supplied = self._supplied.get(sandbox.id)
        return supplied is None or time.monotonic() - supplied >= self.pace.supply_every

    def supplied(self, sandbox: Sandbox) -> None:
        """Notes that the Secret has been written."""
        self._supplied[sandbox.id] = time.monotonic()

    def forget(self, sandbox: Sandbox) -> None:
        """Drops what is remembered beside the objects that are watched."""
        self.events.forget(sandbox.id)
        for name in (self.names(sandbox).secret.name, *self.absent.pop(sandbox.id, ())):
            self.secrets.forget(name)
        self._disrupted.pop(resources.pod_name(sandbox), None)
        self._supplied.pop(sandbox.id, None)
        self.refusals.allowed(sandbox)
        self.pod_refusals.allowed(sandbox)
        self.unresizable.pop(sandbox.uid, None)
        self.cloned.discard(sandbox.uid)

    def _read_pod(self, found: Object) -> Pod:
        pod = observe.pod(found)
        if pod.disruption is not None:
            self._disrupted[found.metadata.name] = pod
        return pod

    def _pod(self, sandbox: Sandbox) -> Pod | None:
        """Returns the pod, with what only events say: why it cannot be made, and what its probe was answered."""
        name = resources.pod_name(sandbox)
        pod, uid = self.pods.get(name), self.pods.uid(name)
        if pod is None:
            return None
        answer = self.events.message(events.probe_of(uid))
        if self._misses_secret(sandbox, pod):
            # The caller has nothing to mend: the service writes the Secret again, and the kubelet looks again.
            pod = dataclasses.replace(pod, reason=Reason.CONTAINER_CREATING)
        elif pod.reason is Reason.CONTAINER_CREATING and not pod.message:
            pod = dataclasses.replace(pod, message=self.events.message(uid) or containers.MAKING)
        elif answer and pod.reason is Reason.NOT_READY and pod.awaits_probe:
            pod = dataclasses.replace(pod, message=f"{pod.message}: {answer}", quoted=answer)
        readiness = sandbox.spec.readiness
        probed = bool(readiness.http_path or readiness.tcp_port)
        return pod if probed else dataclasses.replace(pod, probed=False)

    def volume(self, sandbox: Sandbox) -> Volume | None:
        """Returns the claim of the sandbox, with what keeps its disk from growing.

        A placeholder is no disk: it is returned only where it has to be removed.
        """
        volume = self.claims.get(resources.claim_name(sandbox))
        if volume is None or not ownership.owned(sandbox, volume):
            return None
        to_be_removed = sandbox.desired is DesiredState.DELETED and not sandbox.keep_volume
        if not volume.uid:
            return volume if to_be_removed else None
        stands = volume.growth
        failure = self.events.message(f"{volume.uid} {growth.FAILED}")
        if failure and stands is not None and stands.reason is Reason.VOLUME_EXPANDING and not stands.message:
            volume = dataclasses.replace(volume, growth=dataclasses.replace(stands, message=failure))
        refusal = self.refusals.of(sandbox)
        if refusal is None:
            return volume
        return dataclasses.replace(volume, growth=refusal.growth, refused=refusal.recent)

    def _workload(self, sandbox: Sandbox, volume: Volume | None) -> Workload | None:
        """Returns the StatefulSet, with a revision that stands for all objects of the sandbox."""
        workload = self.stateful_sets.get(sandbox.id)
        if workload is None:
            return None
        revision = observe.revision(self.watched(sandbox))
        has_volume = volume is not None or sandbox.volume_uid != ""
        if not has_volume or self.secret_missing(sandbox):
            revision = observe.INCOMPLETE
        message = self.events.obstacle(sandbox.id, self.stateful_sets.uid(sandbox.id))
        return dataclasses.replace(workload, revision=revision, fault=observe.refused(message) if message else None)

    def _misses_secret(self, sandbox: Sandbox, pod: Pod) -> bool:
        """Whether the container cannot be made because the Secret of the sandbox's environment is not there."""
        if pod.reason is not Reason.CONTAINER_CONFIG:
            return False
        # kubelet/kubelet_pods.go hands on the words of apimachinery/pkg/api/errors.NewNotFound
        return f'secret "{self.names(sandbox).secret.name}" not found' in pod.message
