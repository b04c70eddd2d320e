"""Removes what arrived after the sandbox that it was made for had ended.

A replica that is cut off, or stands still, in the middle of a write may have that write done when another replica has long
removed the sandbox. Nothing can refuse it where it makes an object. The object carries the uid of its sandbox, and is shown
as every other, so that whoever holds the namespace then removes it.
"""

import structlog

from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Volume
from sandbox_server.domain.sandbox import Key, ObjectNames, Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, manifests, resources, takeover
from sandbox_server.engines.kubernetes.resources import Reference, Resources
from sandbox_server.engines.kubernetes.view import View

log = structlog.get_logger()


def owners(view: View, key: Key, living: Sandbox | None) -> set[str]:
    """Returns the uids of the sandboxes other than `living` that something with a name of `key` was made for."""
    found: set[str] = set()
    for reference in _observed(resources.named(key.namespace, ObjectNames.of(key.id))):
        value = view.caches[reference.kind].get(reference.name)
        if value is None or value.terminating or not value.owner:
            continue
        if living is None or not ownership.owned(living, value):
            found.add(value.owner)
    return found


async def remove(api: client.Client, view: View, former: Sandbox, fence: Fence) -> None:
    """Asks for the removal of what was made for `former`, but for a disk that it keeps."""
    for reference in _observed(resources.names(former)):
        cache = view.caches[reference.kind]
        value, known = cache.get(reference.name), cache.known(reference.name)
        if value is None or known is None or value.terminating or not ownership.made_for(former, value):
            continue
        is_disk = isinstance(value, Volume) and value.uid != ""
        if is_disk and former.keep_volume:
            continue
        if former.adopted is not None and ownership.was_adopted(former, known.uid):
            # It was there before the sandbox was: a mark came late, after it was given back.
            found = await api.find(reference, whole=True)
            if found is not None and found.metadata.annotations.get(manifests.UID) == former.uid:
                await takeover.unmark(api, reference, found, fence)
        else:
            await api.delete(reference, known, fence)
        log.warning("leftover_removed", namespace=former.namespace, sandbox=former.id, object=str(reference))


def _observed(names: Resources[Reference]) -> tuple[Reference, ...]:
    """Returns the objects that informers show, the StatefulSet first: its controller makes others."""
    return names.stateful_set, names.service, names.app_ingress, names.ttyd_ingress, names.claim
