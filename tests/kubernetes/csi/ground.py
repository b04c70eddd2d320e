"""A namespace whose sandboxes have disks of CSI."""

import asyncio
from pathlib import Path

from sandbox_server.domain.spec import SandboxSpec, Storage

from tests.kubernetes.csi.sidecars import EXPANDABLE, SNAPSHOTS
from tests.kubernetes.ground import KubernetesGround, grant_snapshots
from tests.support import samples
from tests.support.rig import Rig


class CsiGround(KubernetesGround):
    """Its service has the right to take snapshots."""

    def spec(self, storage_class: str = EXPANDABLE) -> SandboxSpec:
        return samples.spec(storage=Storage("1Gi", storage_class, "ReadWriteOnce"))


async def csi_rig(ground: KubernetesGround, folder: Path) -> Rig:
    """A rig in the namespace of `ground`, which is to be started."""
    await asyncio.to_thread(grant_snapshots, ground.cluster, ground.namespace)
    made = CsiGround(ground.cluster, ground.node, folder, ground.namespace)
    classes = {"storage_class": EXPANDABLE, "snapshot_class": SNAPSHOTS, "default_storage_size": "1Gi"}
    made.settings = made.settings.model_copy(update=classes)
    return Rig(made, folder)
