"""The Secrets with the environments of a sandbox: one for each generation that its pod is made from, which never changes.

The template of a generation names the Secret of that generation, which is there before the template is. So each start of a
process has the environment of the generation that its pod was made from, whatever is written meanwhile.

The service may not list Secrets. The Service of the sandbox is written before each of them and lists those that may be
there; it owns them, so that the garbage collector removes them with it. Those of former generations are removed once the
controller has seen the template and no pod of another one is left. Names are never used again, so that a removal may be late.

A sandbox of a former release has one Secret, which can change. It stays until a template of a later generation names
another.
"""

import re
from collections.abc import Iterator

from sandbox_server.domain import ownership
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, resources, writer
from sandbox_server.engines.kubernetes.objects import Known
from sandbox_server.engines.kubernetes.resources import Reference, Resource
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.writer import Writer


def listed(view: View, sandbox: Sandbox) -> list[Reference]:
    """Returns the Secrets that may be there, but for those that were looked for in vain."""
    names = resources.names(sandbox)
    service, workload = view.services.get(names.service.name), view.stateful_sets.get(names.stateful_set.name)
    found: list[str] = []
    if service is not None and ownership.owned(sandbox, service):
        # The Service of a former release lists none.
        found += service.environments or (sandbox.objects.secret,)
    if workload is not None and ownership.owned(sandbox, workload):
        found += workload.environments
    absent = view.absent.get(sandbox.id, set())
    ours = [name for name in dict.fromkeys(found) if _generation(sandbox, name) is not None and name not in absent]
    return [names.secret._replace(name=name) for name in ours]


def _generation(sandbox: Sandbox, name: str) -> int | None:
    """Returns the generation of a Secret by its name: 0 for that of a former release, None for one that is none of these."""
    former = sandbox.objects.secret
    if name == former:
        return 0
    number = name.removeprefix(f"{former}-")
    # A pattern with the name of the sandbox would be compiled anew for each.
    return int(number) if number != name and re.fullmatch("[0-9]{1,18}", number) else None


async def make(write: Writer, secret: Resource) -> None:
    """Makes the Secret of this generation. One of its name that has another content is removed first.

    Somebody has made that by hand, or it is of a generation that a backup of the database does not know. Raises what
    `Writer.write` raises.
    """
    try:
        written = await write.write(secret)
        if written.data == secret.manifest.get("data", {}):
            return
    except client.Immutable:
        pass
    found = await write.api.find(secret.reference)
    writer.check_owned(write.sandbox, secret.reference, found)
    if found is not None:
        await write.api.delete(secret.reference, Known.of(found), write.fence)
        write.view.secrets.forget(secret.reference.name)
    await write.write(secret)


async def remove_former(api: client.Client, view: View, sandbox: Sandbox, fence: Fence) -> None:
    """Asks for the removal of the Secrets of former generations, once nothing can use them any more.

    Each is looked for once, and again by the next replica that takes the namespace: a former holder may have made it late.
    """
    for reference in _former(view, sandbox):
        # A removal of what is remembered is refused if it is not as it was: then it has to be looked for.
        known = view.known(sandbox, reference)
        view.secrets.forget(reference.name)
        if known is None and (found := await writer.removable(api, sandbox, reference)) is not None:
            known = Known.of(found)
        if known is not None:
            await api.delete(reference, known, fence)
        view.absent.setdefault(sandbox.id, set()).add(reference.name)


def _former(view: View, sandbox: Sandbox) -> Iterator[Reference]:
    """Yields the Secrets of generations before the template's; none while a pod of a former template is there or may come."""
    workload, pod = view.stateful_sets.get(sandbox.id), view.pods.get(resources.pod_name(sandbox))
    if sandbox.desired is DesiredState.DELETED or workload is None or not ownership.owned(sandbox, workload):
        return
    stands = workload.generation == sandbox.generation and not workload.terminating and workload.controller_caught_up
    if not stands or (pod is not None and pod.template != workload.template):
        return
    present = _generation(sandbox, view.names(sandbox).secret.name) or 0
    for reference in listed(view, sandbox):
        generation = _generation(sandbox, reference.name)
        if generation is not None and generation < present:
            yield reference
