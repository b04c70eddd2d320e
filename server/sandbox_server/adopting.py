"""The command `adopt`: reads the cluster, and writes to the store beside a running service, which does the rest."""

import asyncio
from collections.abc import Callable

from sandbox_server import app, engines, settings, store
from sandbox_server.adoption import Adoption, Wanted, report
from sandbox_server.domain.adoption import Former, Unfit
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.engines import kubernetes
from sandbox_server.rpc import auth

ACTOR = "sandbox-server adopt"


async def run(chosen: settings.Adoption, say: Callable[[str], object]) -> str:
    """Returns the report. What cannot be taken back is said before anything is done.

    Raises ValueError for a namespace that is not the service's or a cluster that cannot be asked.
    """
    tenant = _tenant(chosen)
    warning = "" if chosen.undo else report.NOW if chosen.restart == "now" else report.AT_NEXT_START
    if warning and chosen.output == "table":
        say(f"{warning}\n\n")
    found = await _found(chosen)
    opened = store.Store(chosen.database, app.cipher(chosen))
    await opened.open(lambda _committed: None)
    try:
        adoption = Adoption(opened, kubernetes.KubernetesEngine(chosen.kubernetes, chosen.pace, chosen.default_image))
        wanted = Wanted(
            tenant=tenant,
            namespace=chosen.namespace,
            keeps_pods=chosen.restart == "at-next-start",
            dry=chosen.dry_run,
            cause=Cause(Kind.MUTATION, ACTOR),
            project=chosen.project,
            facts=await asyncio.to_thread(store.legacy.known, chosen.database),
        )
        entries = await (adoption.give_back if chosen.undo else adoption.adopt)(wanted, found)
    finally:
        await opened.close()
    if chosen.output == "json":
        return report.json(entries, warning, dry=chosen.dry_run)
    return report.text(entries, dry=chosen.dry_run)


async def _found(chosen: settings.Adoption) -> list[Former | Unfit]:
    try:
        return await kubernetes.discover(
            chosen.kubernetes, chosen.pace, chosen.namespace, chosen.selector, chosen.project, chosen.defaults
        )
    except (engines.Refused, engines.Unreachable) as error:
        raise ValueError(f"namespace {chosen.namespace}: {error}: grant deploy/adoption.yaml to this user") from None


def _tenant(chosen: settings.Adoption) -> str:
    """Returns whose the namespace is. Raises ValueError if the service does not look at it, or it is another's."""
    owners = dict.fromkeys(chosen.namespace_names, chosen.tenant)
    if chosen.token_file is not None:
        principals = auth.read(chosen.token_file).principals.values()
        owners = {one: owner.name for owner in principals if owner.tenant for one in owner.namespaces}
    owner = owners.get(chosen.namespace)
    if owner is None:
        raise ValueError(f"namespace {chosen.namespace}: is no tenant's: name it in namespaces or the token file")
    if "tenant" in chosen.model_fields_set and owner != chosen.tenant:
        raise ValueError(f"tenant: the namespace {chosen.namespace} belongs to the tenant {owner!r}")
    return owner
