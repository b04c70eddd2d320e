"""Finds what a former system made in a namespace, without changing anything."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sandbox_server.domain.adoption import Former, Unfit
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client, inspection, reading
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.reading_pods import Unread
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.settings import Defaults, Kubernetes

PAGE_SIZE = "200"
_NO_DISK = "it has no disk: its files are in its pod alone, and would be lost with it. Copy them out first"


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
    workloads = await _list(api, client.path(Kind.STATEFUL_SET, namespace), chosen)
    deployments = await _list(api, client.path(Kind.DEPLOYMENT, namespace), chosen)
    around = reading.Around(
        await _list(api, client.path(Kind.SERVICE, namespace), {}),
        await _list(api, client.path(Kind.INGRESS, namespace), {}),
        {one["metadata"]["name"]: one for one in await _list(api, client.path(Kind.CLAIM, namespace), {})},
    )
    return [*_read(workloads, around, project, defaults), *map(_deployment, deployments)]


def _read(
    workloads: Sequence[Manifest], around: reading.Around, project: str, defaults: Defaults
) -> Iterator[Former | Unfit]:
    for one in workloads:
        try:
            yield reading.read(one, around, project, defaults)
        except Unread as error:
            yield Unfit(Kind.STATEFUL_SET.title, one["metadata"]["name"], str(error))


def _deployment(found: Manifest) -> Unfit:
    return Unfit(Kind.DEPLOYMENT.title, found["metadata"]["name"], _NO_DISK)


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
