"""Removes the Deployment that a sandbox has adopted, once the sandbox has its files or is to go.

The claim says when that is done: the rights to look at Deployments are taken away then.
"""

import structlog

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import home_marks
from sandbox_server.engines.kubernetes.former_pod import FormerPod
from sandbox_server.engines.kubernetes.home_copy import NotMoved
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference
from sandbox_server.engines.kubernetes.writer import Writer

log = structlog.get_logger()


async def replace_former(write: Writer, pace: Pace) -> None:
    """Asks for the removal of the Deployment that the sandbox has replaced, unless that is done.

    Where its pod has written since it was copied, that is nowhere else: the Deployment stays, and is left to people. Raises
    `engines.Refused`, and `engines.Unreachable` while it cannot be found out whether it has.
    """
    if not _remains(write):
        return
    if (found := await _deployment(write)) is not None:
        if await _wrote(write, pace):
            log.warning("deployment_kept", sandbox=write.sandbox.id, namespace=write.sandbox.namespace)
        else:
            await _remove(write, found)
    await home_marks.write(write.api, write.view, write.sandbox, write.fence, home_marks.OVER)


async def remove_former(write: Writer) -> None:
    """Asks for the removal of the Deployment, whose files are to be no more, unless it was removed or left to people.

    Raises `engines.Refused`.
    """
    adopted = write.sandbox.adopted
    if adopted is None or not (write.sandbox.moves or _remains(write)):
        return
    if (found := await _deployment(write)) is not None:
        await _remove(write, found)
    if _remains(write):
        await home_marks.write(write.api, write.view, write.sandbox, write.fence, home_marks.OVER)


def _remains(write: Writer) -> bool:
    """Whether the sandbox has replaced a Deployment, and it has not been recorded that this is gone."""
    adopted, volume = write.sandbox.adopted, write.view.volume(write.sandbox)
    replaced = adopted is not None and adopted.moved
    return replaced and volume is not None and volume.home not in ("", home_marks.OVER)


async def _wrote(write: Writer, pace: Pace) -> bool:
    """Whether the former pod has written anything since its home was copied."""
    sandbox, volume = write.sandbox, write.view.volume(write.sandbox)
    if sandbox.adopted is None or volume is None:
        return False
    former = FormerPod(write.api, pace, sandbox.namespace, sandbox.adopted)
    try:
        return await former.runs() and await former.source.digest() != home_marks.digest(volume)
    except NotMoved:
        # What cannot be read was not there when all was copied.
        return True
    except (engines.NotGranted, engines.Unsupported) as error:
        raise engines.Unreachable(str(error)) from None


async def _deployment(write: Writer) -> Object | None:
    """Returns the Deployment, if it is there and stays."""
    sandbox = write.sandbox
    found = await write.api.find(_reference(write))
    if found is None or not ownership.was_adopted(sandbox, found.metadata.uid):
        return None
    return found if found.metadata.deletionTimestamp is None else None


async def _remove(write: Writer, found: Object) -> None:
    await write.api.delete(_reference(write), Known.of(found), write.fence)
    log.info("deployment_removed", sandbox=write.sandbox.id, namespace=write.sandbox.namespace)


def _reference(write: Writer) -> Reference:
    return Reference(Kind.DEPLOYMENT, write.sandbox.namespace, write.sandbox.objects.stateful_set)
