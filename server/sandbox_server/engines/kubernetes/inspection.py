"""Looks at a cluster without changing it: the server, its clock, and what the service may do there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import client, manifests, pods, resources, rights
from sandbox_server.engines.kubernetes.objects import OBJECT, PAGE, Meta
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.settings import Kubernetes


@dataclass(frozen=True, slots=True)
class Server:
    """An API server that answers. `user` is who the service is to it; empty if it does not say.

    `ahead` is how far its clock is ahead of this machine's, at least.
    """

    version: str
    user: str
    ahead: timedelta


class _Version(msgspec.Struct):
    gitVersion: str = ""


class _User(msgspec.Struct):
    username: str = ""


class _Status(msgspec.Struct):
    allowed: bool = False
    userInfo: _User = msgspec.field(default_factory=_User)


class _Review(msgspec.Struct):
    status: _Status


class Class(msgspec.Struct, frozen=True):
    """A storage class or an ingress class. The last three fields are a storage class's."""

    metadata: Meta = Meta()
    provisioner: str = ""
    allowVolumeExpansion: bool = False
    volumeBindingMode: str = ""

    @property
    def is_default(self) -> bool:
        """Whether objects that name no class get this one."""
        return any(
            value == "true" for name, value in self.metadata.annotations.items() if name.endswith("/is-default-class")
        )


class _Classes(msgspec.Struct):
    items: list[Class] | None = None


STORAGE_CLASSES = "apis/storage.k8s.io/v1/storageclasses"
INGRESS_CLASSES = "apis/networking.k8s.io/v1/ingressclasses"
_CLASSES = msgspec.json.Decoder(_Classes)


@contextlib.asynccontextmanager
async def connected(settings: Kubernetes, pace: Pace) -> AsyncIterator[client.Client]:
    """Yields a client of the API server. Raises ValueError if there is no usable kubeconfig."""
    api = client.Client(settings, pace)
    await api.open()
    try:
        yield api
    finally:
        await api.close()


async def server(api: client.Client) -> Server:
    """Asks the API server who it is, and who the service is. Raises `engines.Refused` for bad credentials."""
    before = datetime.now(UTC)
    async with api.call("GET", "version") as response:
        ahead = _ahead(response.headers.get("Date", ""), before, datetime.now(UTC))
        version = msgspec.json.decode(await response.read(), type=_Version).gitVersion
    try:
        user = (await _review(api, "authentication", "SelfSubjectReview")).userInfo.username
    except client.Missing:
        # Kubernetes before 1.28.
        user = ""
    return Server(version, user, ahead)


def _ahead(date: str, before: datetime, after: datetime) -> timedelta:
    """Returns how far a clock is ahead, at least: the header has whole seconds, and was written between the two times."""
    try:
        earliest = parsedate_to_datetime(date)
    except ValueError:
        return timedelta()
    latest = earliest + timedelta(seconds=1)
    if earliest > after:
        return earliest - after
    return latest - before if latest < before else timedelta()


async def allowed(api: client.Client, namespace: str, group: str, resource: str, verb: str) -> bool:
    """Returns whether the API server lets the service do so in a namespace. Every user may ask this.

    `resource` is one such as `pods`, or a part of its objects such as `pods/exec`.
    """
    resource, _, part = resource.partition("/")
    what = {"namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb}
    spec = {"resourceAttributes": what}
    return (await _review(api, "authorization", "SelfSubjectAccessReview", spec=spec)).allowed


async def missing_rights(api: client.Client, namespace: str) -> list[tuple[Kind, str]]:
    """Returns the rights of `rights.ROLE` that the service does not have in a namespace."""
    needed = [(kind, verb) for kind, verbs in rights.ROLE.items() for verb in verbs]
    asked = (allowed(api, namespace, kind.group, kind.plural, verb) for kind, verb in needed)
    return [one for one, is_allowed in zip(needed, await asyncio.gather(*asked), strict=True) if not is_allowed]


async def missing_access(api: client.Client, namespace: str) -> list[str]:
    """Returns the rights of `rights.ACCESS` that the service does not have in a namespace, as `create pods/exec`."""
    needed = [(resource, verb) for resource, verbs in rights.ACCESS.items() for verb in verbs]
    answers = await asyncio.gather(*(allowed(api, namespace, "", *one) for one in needed))
    return [f"{verb} {resource}" for (resource, verb), allows in zip(needed, answers, strict=True) if not allows]


async def missing_snapshots(api: client.Client, namespace: str) -> list[str]:
    """Returns the rights of `rights.SNAPSHOTS` that the service does not have in a namespace, as `create volumesnapshots`."""
    kind = Kind.SNAPSHOT
    asked = (allowed(api, namespace, kind.group, kind.plural, verb) for verb in rights.SNAPSHOTS)
    answers = zip(rights.SNAPSHOTS, await asyncio.gather(*asked), strict=True)
    return [f"{verb} {kind.plural}" for verb, allows in answers if not allows]


async def missing_verification(api: client.Client, namespace: str) -> list[str]:
    """Returns the rights of `rights.VERIFICATION` that the service does not have in a namespace, as `create pods`."""
    plural = Kind.POD.plural
    asked = (allowed(api, namespace, "", plural, verb) for verb in rights.VERIFICATION)
    answers = zip(rights.VERIFICATION, await asyncio.gather(*asked), strict=True)
    return [f"{verb} {plural}" for verb, allows in answers if not allows]


async def labels(api: client.Client, namespace: str) -> Mapping[str, str]:
    """Returns the labels of a namespace. Raises `engines.Refused` without the right to get it, or if it is missing."""
    async with api.call("GET", f"api/v1/namespaces/{namespace}", accept=client.METADATA) as response:
        return OBJECT.decode(await response.read()).metadata.labels


async def classes(api: client.Client, path: str) -> Sequence[Class]:
    """Returns the classes at `STORAGE_CLASSES` or `INGRESS_CLASSES`. Raises `engines.Refused` without the right to list them."""
    async with api.call("GET", path) as response:
        return _CLASSES.decode(await response.read()).items or ()


async def try_pod(api: client.Client, sandbox: Sandbox, settings: Kubernetes) -> None:
    """Has the API server admit the pod of a sandbox without making it. Raises `engines.Refused` with the cause if it does not.

    The pod is as the StatefulSet controller would make it.
    """
    template = manifests.stateful_set(sandbox, 1, settings).manifest["spec"]["template"]
    volume = {"name": pods.VOLUME, "persistentVolumeClaim": {"claimName": resources.claim_name(sandbox)}}
    metadata = template["metadata"] | {"name": resources.pod_name(sandbox)}
    spec = template["spec"] | {"volumes": [*template["spec"].get("volumes", ()), volume]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    path = client.path(Kind.POD, sandbox.namespace)
    async with api.call("POST", path, parameters={"dryRun": "All"}, body=body):
        pass


async def names(api: client.Client, kind: Kind, namespace: str) -> set[str]:
    """Returns the names of all objects of a kind. Raises `engines.Refused` for a right that is missing, and as `Client.call`."""
    found: set[str] = set()
    parameters = {"limit": "500"}
    while True:
        path = client.path(kind, namespace)
        async with api.call("GET", path, parameters=parameters, accept=client.METADATA_LIST) as response:
            page = PAGE.decode(await response.read())
        found |= {one.metadata.name for one in page.objects}
        if not page.metadata.continue_:
            return found
        parameters["continue"] = page.metadata.continue_


async def _review(api: client.Client, group: str, kind: str, **content: Any) -> _Status:
    version = f"{group}.k8s.io/v1"
    body = {"apiVersion": version, "kind": kind, **content}
    async with api.call("POST", f"apis/{version}/{kind.lower()}s", body=body) as response:
        return msgspec.json.decode(await response.read(), type=_Review).status
