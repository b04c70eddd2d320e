"""The Kubernetes engine: applies, deletes and observes."""

import asyncio
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import yaml

from sandbox_server import engines
from sandbox_server.domain.sandbox import Addresses, Fault, Key, Observed, Pod, Reason, Sandbox, Volume, Workload
from sandbox_server.engines.kubernetes import client, manifests, observe
from sandbox_server.engines.kubernetes.informer import Informer

T = TypeVar("T")
SKEW = timedelta(seconds=2)
"""Kubernetes events count in whole seconds, and by another clock."""


class _Sight:
    """The informers of one namespace, or of all."""

    def __init__(self, api: client.Client, namespace: str, changed: Callable[[Key], None]) -> None:
        def informer(
            path: str,
            kind: type[T],
            value: Callable[[T], tuple[Hashable, Any] | None],
            where: dict[str, str] | None = None,
        ) -> Informer[Any]:
            decoder = msgspec.json.Decoder(kind)
            group, _, resource = path.rpartition("/")
            scoped = f"{group}/namespaces/{namespace}/{resource}" if namespace else path
            chosen = {"labelSelector": manifests.ID} if where is None else where

            def decode(item: msgspec.Raw | bytes) -> tuple[Hashable, Any] | None:
                return value(decoder.decode(item))

            return Informer(api, scoped, chosen, decode, changed)

        self.workloads: Informer[tuple[str, Workload]] = informer(
            "/apis/apps/v1/statefulsets", observe.WorkloadObject, _keyed(observe.workload, "{}")
        )
        self.pods: Informer[Pod] = informer("/api/v1/pods", observe.PodObject, _keyed(observe.pod, "{}-0"))
        self.volumes: Informer[Volume] = informer(
            "/api/v1/persistentvolumeclaims", observe.ClaimObject, _keyed(observe.volume, manifests.VOLUME + "-{}-0")
        )
        self.not_made: Informer[observe.Trouble] = informer(
            "/api/v1/events",
            observe.EventObject,
            observe.trouble,
            {"fieldSelector": "involvedObject.kind=StatefulSet,reason=FailedCreate"},
        )
        self.not_bound: Informer[observe.Trouble] = informer(
            "/api/v1/events",
            observe.EventObject,
            observe.trouble,
            {"fieldSelector": "involvedObject.kind=PersistentVolumeClaim,reason=ProvisioningFailed"},
        )

    @property
    def all(self) -> tuple[Informer[Any], ...]:
        return (self.workloads, self.pods, self.volumes, self.not_made, self.not_bound)


def _keyed(value: Callable[[Any], Any], name: str) -> Callable[[Any], tuple[Key, Any] | None]:
    def decode(found: Any) -> tuple[Key, Any] | None:
        key = observe.key(found.metadata, name)
        return None if key is None else (key, value(found))

    return decode


class KubernetesEngine:
    """See `engines.Engine`."""

    name = "kubernetes"

    def __init__(self, config: manifests.Config) -> None:
        self._config = config
        self._api = client.Client(config)
        self._sights: dict[str, _Sight] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Begins to list and watch. Raises ValueError if there is no usable kubeconfig."""
        await self._api.open()

        def heard(key: Key) -> None:
            # An event about a claim is known by the claim's name; everything else by the sandbox's id.
            claimed = key.id.removeprefix(f"{manifests.VOLUME}-")
            changed(key if claimed == key.id else Key(key.namespace, claimed.removesuffix("-0")))

        for namespace in self._config.namespaces or ("",):
            sight = self._sights[namespace] = _Sight(self._api, namespace, heard)
            self._tasks += [asyncio.create_task(one.run()) for one in sight.all]

    async def close(self) -> None:
        """Stops observing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()

    @property
    def in_sight(self) -> bool:
        """Whether every informer has listed and is in contact."""
        return bool(self._sights) and all(one.in_sight for sight in self._sights.values() for one in sight.all)

    def _sight(self, namespace: str) -> _Sight | None:
        return self._sights.get(namespace) or self._sights.get("")

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Names and URLs under the ingress domain."""
        return manifests.addresses(sandbox, self._config)

    def observe(self, sandbox: Sandbox) -> Observed:
        """What the informers remember of this sandbox."""
        sight, key = self._sight(sandbox.namespace), sandbox.key
        if sight is None:
            return Observed()
        found, pod, volume = sight.workloads.get(key), sight.pods.get(key), sight.volumes.get(key)
        workload = None
        if found is not None:
            uid, workload = found
            trouble = sight.not_made.get(key)
            recent = trouble is not None and trouble.at + SKEW >= sandbox.status.attempt_at
            if trouble is not None and recent and trouble.uid == uid:
                workload = dataclasses.replace(workload, fault=observe.event_fault(trouble))
        if volume is not None and not volume.bound:
            pending = sight.not_bound.get(Key(key.namespace, volume.name))
            if pending is not None and pending.uid == volume.uid:
                volume = dataclasses.replace(volume, message=pending.message)
                if pod is not None and pod.reason is Reason.SCHEDULING:
                    pod = dataclasses.replace(pod, reason=Reason.VOLUME_PENDING, message=pending.message)
        return Observed(workload=workload, pod=pod, volume=volume)

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Applies Secret, Service, Ingresses and, last, the StatefulSet."""
        sight = self._sight(sandbox.namespace)
        if sight is None:
            raise engines.Refused(Fault(Reason.NAMESPACE_MISSING, f"the service does not observe {sandbox.namespace}"))
        known = sight.workloads.get(sandbox.key)
        if known is None or known[1].owner != sandbox.uid:
            await self._refuse_strangers(sandbox)
        objects = [
            manifests.secret(sandbox, env, self._config),
            manifests.service(sandbox, self._config),
            *manifests.ingresses(sandbox, self._config),
        ]
        for manifest in objects:
            await self._api.apply(manifest)
        written = await self._api.apply(manifests.stateful_set(sandbox, replicas, self._config))
        sight.workloads.put(written)
        return msgspec.json.decode(written, type=client.Partial).metadata.generation

    async def _refuse_strangers(self, sandbox: Sandbox) -> None:
        """Raises before anything is written if an object of one of our names is not this sandbox's."""
        found = await asyncio.gather(
            *(self._api.metadata(kind, sandbox.namespace, name) for kind, name in self._objects(sandbox))
        )
        for (kind, name), meta in zip(self._objects(sandbox), found, strict=True):
            if meta is not None and meta.annotations.get(manifests.UID) != sandbox.uid:
                raise engines.Refused(
                    Fault(
                        Reason.NAME_CONFLICT,
                        f"the {kind} {name} belongs to somebody else; it is left alone. Remove it or choose another id",
                    )
                )

    def _objects(self, sandbox: Sandbox) -> list[tuple[str, str]]:
        """Kinds and names in the order in which they are removed: the workload last, so that it shows what is left."""
        application, terminal = manifests.ingress_names(sandbox)
        return [
            ("Ingress", application),
            ("Ingress", terminal),
            ("Service", sandbox.service_name),
            ("Secret", manifests.secret_name(sandbox)),
            ("StatefulSet", sandbox.id),
        ]

    async def delete(self, sandbox: Sandbox, keep_volume: bool) -> None:
        """Deletes what is ours, by uid, so that nothing that took its name meanwhile is hit."""
        names = self._objects(sandbox)
        if not keep_volume:
            names.append(("PersistentVolumeClaim", manifests.claim_name(sandbox)))
        for kind, name in names:
            meta = await self._api.metadata(kind, sandbox.namespace, name)
            if meta is None or meta.deletionTimestamp is not None:
                continue
            ours = meta.annotations.get(manifests.UID) == sandbox.uid or meta.uid == sandbox.volume_uid
            if ours:
                await self._api.delete(kind, sandbox.namespace, name, meta.uid)

    def render(self, sandbox: Sandbox, env: Mapping[str, str]) -> str:
        """Every object of the sandbox as YAML, in the order in which they are applied."""
        objects = [
            manifests.secret(sandbox, env, self._config),
            manifests.service(sandbox, self._config),
            *manifests.ingresses(sandbox, self._config),
            manifests.stateful_set(sandbox, 1, self._config),
        ]
        return yaml.safe_dump_all(objects, sort_keys=False)
