"""The real sidecars of CSI and the snapshot controller beside a CSI double, against a control plane."""

import contextlib
import shutil
import subprocess
import tempfile
import urllib.error
from pathlib import Path
from typing import Any, Self

import yaml

from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.csi.built import build
from tests.kubernetes.csi.driver import NAME, Driver
from tests.support.waiting import eventually

EXPANDABLE = "csi"
"""The StorageClass whose volumes can grow."""
FIXED = "csi-fixed"
"""The StorageClass whose volumes cannot."""
SNAPSHOTS = "csi-snapshots"
"""The VolumeSnapshotClass."""
CORE = "/api/v1"
STORAGE = "/apis/storage.k8s.io/v1"
SNAPSHOT = "/apis/snapshot.storage.k8s.io/v1"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = {"volumesnapshots", "volumesnapshotclasses", "volumesnapshotcontents"}
PROGRAMS = ("snapshot-controller", "csi-snapshotter", "csi-provisioner", "csi-resizer")
FLAGS = ("--leader-election=false", "--kube-api-qps=500", "--kube-api-burst=1000", "--retry-interval-start=100ms")
RESYNC = "--resync-period=5s"
"""For the programs of snapshots, instead of 15 minutes: a snapshot that the storage took while its VolumeSnapshot was being removed
is forgotten by csi-snapshotter until it looks at everything again."""


class Sidecars:
    """Use as a context manager. All that it made is gone afterwards: volumes, classes, definitions and processes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._folder = Path(tempfile.mkdtemp(prefix="csi-"))
        self.driver = Driver(self._folder)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self._folder)
            undo.enter_context(self.driver)
            undo.callback(eventually, lambda: not self._served(), within=30)
            for file in sorted((build() / "crd").glob("*.yaml")):
                self._make(undo, CRD, yaml.safe_load(file.read_text()))
            eventually(self._served, within=30)
            self._make(undo, f"{STORAGE}/csidrivers", {"metadata": {"name": NAME}, "spec": {"attachRequired": False}})
            for name, grows in ((EXPANDABLE, True), (FIXED, False)):
                body = {"metadata": {"name": name}, "provisioner": NAME, "allowVolumeExpansion": grows}
                self._make(undo, f"{STORAGE}/storageclasses", body)
            body = {"metadata": {"name": SNAPSHOTS}, "driver": NAME, "deletionPolicy": "Delete"}
            body |= {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass"}
            self._make(undo, f"{SNAPSHOT}/volumesnapshotclasses", body)
            for name in PROGRAMS:
                undo.callback(_end, self._run(name))
            undo.callback(self._empty)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def log(self, name: str) -> str:
        """The end of what a sidecar has printed."""
        return (self._folder / f"{name}.log").read_text()[-3000:]

    def _make(self, undo: contextlib.ExitStack, collection: str, body: dict[str, Any]) -> None:
        self.cluster.request("POST", collection, body)
        undo.callback(self._remove, f"{collection}/{body['metadata']['name']}")

    def _remove(self, path: str) -> None:
        """Removes an object, and returns when it is gone: a definition takes a moment, and can then be made again."""
        self.cluster.request("DELETE", path)
        eventually(lambda: not self._found(path), within=30)

    def _found(self, path: str) -> bool:
        with contextlib.suppress(urllib.error.HTTPError):
            return bool(self.cluster.request("GET", path))
        return False

    def _served(self) -> bool:
        """Whether the API server has taken in the definitions."""
        with contextlib.suppress(urllib.error.HTTPError):
            return {one["name"] for one in self.cluster.request("GET", SNAPSHOT)["resources"]} >= KINDS
        return False

    def _run(self, name: str) -> subprocess.Popen[bytes]:
        """Starts one of the programs. It ends with this process, whatever ends that."""
        flags = [f"--kubeconfig={self.cluster.kubeconfig(self._folder / 'kubeconfig', ADMIN)}", *FLAGS]
        if name != "snapshot-controller":
            flags.append(f"--csi-address={self.driver.socket}")
        if "snapshot" in name:
            flags.append(RESYNC)
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", build() / name, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _empty(self) -> None:
        """Removes all snapshots, claims and volumes of the driver, for which its sidecars have to run."""
        self.driver.heal()
        for group, resource in ((SNAPSHOT, "volumesnapshots"), (CORE, "persistentvolumeclaims")):
            for one in self._ours(group, resource):
                path = f"{group}/namespaces/{one['namespace']}/{resource}/{one['name']}"
                with contextlib.suppress(urllib.error.HTTPError):
                    self.cluster.request("DELETE", path)
            eventually(lambda group=group, resource=resource: not self._ours(group, resource), within=30)
        eventually(lambda: not self.driver.disks.volumes and not self.driver.disks.snapshots, within=30)

    def _ours(self, group: str, resource: str) -> list[dict[str, Any]]:
        """The metadata of each snapshot, or of each claim that is of a class of the driver."""
        found = self.cluster.request("GET", f"{group}/{resource}")["items"]
        if group == CORE:
            found = [one for one in found if one["spec"].get("storageClassName") in (EXPANDABLE, FIXED)]
        return [one["metadata"] for one in found]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
