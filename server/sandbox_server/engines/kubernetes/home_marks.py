"""What the claim says of a home that is moved to it: which state of the home was copied, and that nothing is left to do."""

from datetime import UTC, datetime

from sandbox_server import engines
from sandbox_server.domain.observed import Volume
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, manifests, resources
from sandbox_server.engines.kubernetes.view import View

OVER = "over"
"""The Deployment is gone, or has been left to people."""


def copied(digest: str) -> str:
    """Returns what is said once a home with that digest has been copied."""
    return f"{digest} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def digest(volume: Volume) -> str:
    """Returns the digest of the home that was copied."""
    return volume.home.partition(" ")[0]


def copied_at(volume: Volume) -> str:
    """Returns when it was copied, for people."""
    return volume.home.partition(" ")[2]


def read(view: View, sandbox: Sandbox) -> Volume:
    """Returns the volume that says it. Raises `engines.Outdated` if there is none."""
    found = view.volume(sandbox)
    if found is None:
        raise engines.Outdated("the claim is gone")
    return found


async def write(api: client.Client, view: View, sandbox: Sandbox, fence: Fence, home: str) -> None:
    """Says on the claim what is known of the home. Raises `engines.Outdated`."""
    volume, reference = read(view, sandbox), resources.names(sandbox).claim
    known, position = view.claims.known(volume.name), view.claims.position(volume.name)
    if known is None or known.uid != volume.uid:
        raise engines.Outdated("the claim is another")
    fields = {"metadata": {"annotations": {manifests.HOME: home}}}
    try:
        written = await api.merge(reference, known, fields, fence)
    except (client.Conflict, client.Missing) as changed:
        raise engines.Outdated(str(changed)) from None
    view.claims.answered(written, position)
