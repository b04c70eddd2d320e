"""Looks for the objects that facts are about."""

from collections.abc import Collection, Sequence

from sandbox_server import engines
from sandbox_server.domain.legacy import Fact, Place
from sandbox_server.engines.kubernetes import client, inspection
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.importing.report import Outcome
from sandbox_server.settings import Import

Found = str | tuple[Outcome, str]
"""The kind of an object, or what becomes of its row without it, and why."""


async def look(settings: Import, facts: Sequence[Fact], namespaces: Collection[str]) -> dict[Place, Found]:
    """Returns what there is at the place of each fact. `namespaces` are those of the service.

    Raises ValueError if there is no usable kubeconfig, and OSError if the API server does not answer.
    """
    found: dict[Place, Found] = {}
    async with inspection.connected(settings.kubernetes, settings.pace) as api:
        for namespace in sorted({fact.namespace for fact in facts}):
            names = [fact.name for fact in facts if fact.namespace == namespace]
            if namespace not in namespaces:
                words = "the service has no such namespace: give it to a tenant, and import again"
                found |= {Place(namespace, name): (Outcome.SKIPPED, words) for name in names}
                continue
            kinds, otherwise = await _workloads(api, namespace)
            found |= {Place(namespace, name): kinds.get(name, otherwise) for name in names}
    return found


async def _workloads(api: client.Client, namespace: str) -> tuple[dict[str, str], tuple[Outcome, str]]:
    """Returns the kind of each workload of a namespace, and what becomes of rows that name no such workload."""
    kinds: dict[str, str] = {}
    otherwise = Outcome.ABSENT, "neither a StatefulSet nor a Deployment has this name: there is nothing to adopt"
    # A Deployment that has been adopted goes after its StatefulSet has come.
    for kind in (Kind.DEPLOYMENT, Kind.STATEFUL_SET):
        try:
            kinds |= dict.fromkeys(await inspection.names(api, kind, namespace), kind.title)
        except engines.Unreachable as error:
            raise OSError(f"{error}: nothing was imported, try again") from None
        except engines.Refused as refused:
            words = f"{refused.fault.message}: let the user of the kubeconfig list {kind.plural}, and import again"
            otherwise = Outcome.NOT_CHECKED, words
    return kinds, otherwise
