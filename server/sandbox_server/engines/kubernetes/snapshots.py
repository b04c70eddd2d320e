"""Snapshots of disks in the cluster, which this release cannot take."""

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Taken

MISSING = (
    "this release takes no snapshots on Kubernetes: make a VolumeSnapshot of the sandbox's claim with kubectl, or use a "
    "release that does"
)


class Snapshots:
    """See `engines.Snapshots`. There is nothing of any snapshot."""

    async def snapshots_missing(self, namespace: str) -> str:
        """Returns why there are none."""
        return MISSING

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        """Raises `engines.Refused`."""
        raise engines.Refused(Fault(Reason.ENGINE_REFUSED, MISSING))

    async def taken(self, snapshot: Snapshot) -> Taken:
        """Returns that there is nothing."""
        return Taken(state=State.DELETED, reason=SnapshotReason.DELETED)

    async def discard(self, snapshot: Snapshot) -> None:
        """Does nothing."""
