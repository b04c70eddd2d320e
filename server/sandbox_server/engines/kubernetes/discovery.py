"""Finds what a former system made in a namespace, without changing anything."""

from collections.abc import Callable
from typing import Any

import msgspec

from sandbox_server.domain.adoption import Former, Unfit
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client, inspection, reading, reading_deployments
from sandbox_server.engines.kubernetes.objects import OBJECT, Object
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.reading_pods import Unread
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.settings import Defaults, Kubernetes

PAGE_SIZE = "200"


async def discover(
    settings: Kubernetes, pace: Pace, namespace: str, selector: str, project: str, defaults: Defaults
) -> list[Former | Unfit]:
    """As `find`, over a connection of its own. Raises ValueError if there is no usable kubeconfig."""
    async with inspection.connected(settings, pace) as api:
        return await find(api, namespace, selector, project, defaults)


async def find(
    api: client.Client, namespace: str, selector: str, project: str, defaults: Defaults
) -> list[Former | Unfit]:
    """Returns what carries the label of the former system and is chosen by a further label selector, by name.

    Raises what `Client.call` raises.
    """
    chosen = {"labelSelector": ",".join(filter(None, (reading.LABEL, selector)))}
    workloads = await _workloads(api, Kind.STATEFUL_SET, namespace, chosen)
    deployments = await _workloads(api, Kind.DEPLOYMENT, namespace, chosen)
    # A sandbox that has adopted a Deployment has a StatefulSet of that name, until the Deployment goes.
    moving = {one["metadata"]["name"] for one in deployments}
    workloads = [one for one in workloads if one["metadata"]["name"] not in moving or not reading.is_marked(one)]
    around = reading.Around(
        await _list(api, client.path(Kind.SERVICE, namespace), {}),
        await _list(api, client.path(Kind.INGRESS, namespace), {}),
        {one["metadata"]["name"]: one for one in await _list(api, client.path(Kind.CLAIM, namespace), {})},
    )
    read = [_read(reading.read, one, around, project, defaults) for one in workloads]
    if deployments:
        owned = reading_deployments.Owned(
            await _objects(api, client.path(Kind.REPLICA_SET, namespace)),
            await _objects(api, client.path(Kind.POD, namespace)),
        )
        read += [_read(reading_deployments.read, one, around, owned, project, defaults) for one in deployments]
    return read


def _read(reader: Callable[..., Former], workload: Manifest, *around: object) -> Former | Unfit:
    try:
        return reader(workload, *around)
    except Unread as error:
        return Unfit(workload["kind"], workload["metadata"]["name"], str(error))


async def _workloads(api: client.Client, kind: Kind, namespace: str, chosen: dict[str, str]) -> list[Manifest]:
    """Returns workloads with their kind, which the items of a list do not say."""
    return [one | {"kind": kind.title} for one in await _list(api, client.path(kind, namespace), chosen)]


async def _objects(api: client.Client, path: str) -> list[Object]:
    return [OBJECT.decode(msgspec.json.encode(one)) for one in await _list(api, path, {})]


async def _list(api: client.Client, path: str, parameters: dict[str, str]) -> list[Manifest]:
    """Returns the whole objects at a path, in the order of their names."""
    found: list[Manifest] = []
    parameters = parameters | {"limit": PAGE_SIZE}
    while True:
        async with api.call("GET", path, parameters=parameters) as response:
            page: dict[str, Any] = msgspec.json.decode(await response.read())
        found += page.get("items") or ()
        more = page["metadata"].get("continue")
        if not more:
            return sorted(found, key=lambda one: str(one["metadata"]["name"]))
        parameters["continue"] = more
