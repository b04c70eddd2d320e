"""Looks for the objects that facts are about."""

from collections.abc import Collection, Sequence

from sandbox_server import engines
from sandbox_server.domain.legacy import Fact, Place
from sandbox_server.engines.kubernetes import inspection
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
        for fact in facts:
            if fact.namespace not in namespaces:
                words = "the service has no such namespace: give it to a tenant, and import again"
                found[fact.place] = Outcome.SKIPPED, words
                continue
            try:
                kind = await inspection.workload(api, *fact.place)
            except engines.Unreachable as error:
                raise OSError(f"{error}: nothing was imported, try again") from None
            except engines.Refused as refused:
                words = f"{refused.fault.message}: let the user of the kubeconfig get StatefulSets and Deployments"
                found[fact.place] = Outcome.NOT_CHECKED, f"{words} in the namespace, and import again"
                continue
            words = "neither a StatefulSet nor a Deployment has this name: there is nothing to adopt"
            found[fact.place] = (Outcome.ABSENT, words) if kind is None else kind.title
    return found
