"""A CSI driver for tests: its services on a unix socket, for the real sidecars. What it keeps are `disks`.

A test has it fail or be slow by the name of an RPC, from outside of the sidecars, which see what a driver would answer.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from tests.kubernetes.csi.built import generated
from tests.kubernetes.csi.disks import CAPACITY, Disks, Refused, Snapshot, Volume

NAME = "csi.double"
NODE = "simulated"
CONTROLLER = (
    "CREATE_DELETE_VOLUME",
    "LIST_VOLUMES",
    "GET_CAPACITY",
    "CREATE_DELETE_SNAPSHOT",
    "LIST_SNAPSHOTS",
    "EXPAND_VOLUME",
)
SERVICES = ("Identity", "Controller", "Node")


@dataclass
class Told:
    """How an RPC behaves: it waits so many seconds, then fails with this code and message if there is a code."""

    seconds: float = 0.0
    code: str = ""
    message: str = ""


class Driver:
    """Use as a context manager. `folder`: for the socket and the volumes."""

    def __init__(self, folder: Path) -> None:
        self.pb, self._stubs = generated()
        self.socket = folder / "csi.sock"
        self.disks = Disks(folder)
        self.ready = True
        """Whether new snapshots can be used at once. Until they can, their sidecar asks again."""
        self.grows_alone = False
        """Whether an expansion needs nothing of the node, as where there is no file system to grow."""
        self._told: dict[str, Told] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        for service in SERVICES:
            getattr(self._stubs, f"add_{service}Servicer_to_server")(_Servicer(self), self._server)
        self._server.add_insecure_port(f"unix://{self.socket}")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def tell(self, rpc: str, code: str = "", message: str = "", seconds: float = 0.0) -> None:
        """From now on the RPC fails with this code, if there is one, after so many seconds."""
        self._told[rpc] = Told(seconds, code, message)

    def heal(self) -> None:
        """From now on the driver behaves."""
        self._told.clear()
        self.ready = True
        self.grows_alone = False

    def call(self, service: str, rpc: str, request: Any) -> Any:
        """Calls the driver as a kubelet does. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"unix://{self.socket}") as channel:
            return getattr(getattr(self._stubs, f"{service}Stub")(channel), rpc)(request)

    def answer(self, rpc: str, request: Any) -> Any:
        """What the driver answers. Raises Refused."""
        told = self._told.get(rpc, Told())
        time.sleep(told.seconds)
        if told.code:
            raise Refused(told.code, told.message)
        with self._lock:
            return getattr(self, f"_{rpc}")(request)

    # Identity

    def _GetPluginInfo(self, _request: Any) -> Any:  # noqa: N802
        return self.pb.GetPluginInfoResponse(name=NAME, vendor_version="1")

    def _GetPluginCapabilities(self, _request: Any) -> Any:  # noqa: N802
        one = self.pb.PluginCapability
        controller = one(service=one.Service(type="CONTROLLER_SERVICE"))
        expansion = one(volume_expansion=one.VolumeExpansion(type="ONLINE"))
        return self.pb.GetPluginCapabilitiesResponse(capabilities=[controller, expansion])

    def _Probe(self, _request: Any) -> Any:  # noqa: N802
        return self.pb.ProbeResponse()

    # Controller

    def _ControllerGetCapabilities(self, _request: Any) -> Any:  # noqa: N802
        one = self.pb.ControllerServiceCapability
        return self.pb.ControllerGetCapabilitiesResponse(
            capabilities=[one(rpc=one.RPC(type=name)) for name in CONTROLLER]
        )

    def _CreateVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "name", "volume_capabilities")
        if request.volume_content_source.HasField("volume"):
            raise Refused("INVALID_ARGUMENT", "volumes are not cloned")
        snapshot = request.volume_content_source.snapshot.snapshot_id
        limits = request.capacity_range
        made = self.disks.create_volume(request.name, limits.required_bytes, limits.limit_bytes, snapshot)
        return self.pb.CreateVolumeResponse(volume=self._volume(made))

    def _DeleteVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id")
        self.disks.delete(request.volume_id)
        return self.pb.DeleteVolumeResponse()

    def _ValidateVolumeCapabilities(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id", "volume_capabilities")
        self.disks.volume(request.volume_id)
        answer = self.pb.ValidateVolumeCapabilitiesResponse
        return answer(confirmed=answer.Confirmed(volume_capabilities=request.volume_capabilities))

    def _ListVolumes(self, request: Any) -> Any:  # noqa: N802
        found, rest = _page(list(self.disks.volumes.values()), request)
        answer = self.pb.ListVolumesResponse
        return answer(entries=[answer.Entry(volume=self._volume(one)) for one in found], next_token=rest)

    def _GetCapacity(self, _request: Any) -> Any:  # noqa: N802
        free = CAPACITY - sum(one.size for one in self.disks.volumes.values())
        return self.pb.GetCapacityResponse(available_capacity=free)

    def _CreateSnapshot(self, request: Any) -> Any:  # noqa: N802
        _given(request, "name", "source_volume_id")
        made = self.disks.create_snapshot(request.name, request.source_volume_id)
        return self.pb.CreateSnapshotResponse(snapshot=self._snapshot(made))

    def _DeleteSnapshot(self, request: Any) -> Any:  # noqa: N802
        _given(request, "snapshot_id")
        self.disks.delete(request.snapshot_id)
        return self.pb.DeleteSnapshotResponse()

    def _ListSnapshots(self, request: Any) -> Any:  # noqa: N802
        chosen = [
            one
            for one in self.disks.snapshots.values()
            if request.snapshot_id in ("", one.id) and request.source_volume_id in ("", one.volume)
        ]
        found, rest = _page(chosen, request)
        answer = self.pb.ListSnapshotsResponse
        return answer(entries=[answer.Entry(snapshot=self._snapshot(one)) for one in found], next_token=rest)

    def _ControllerExpandVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id", "capacity_range")
        limits = request.capacity_range
        grown = self.disks.expand(request.volume_id, limits.required_bytes, limits.limit_bytes)
        answer = self.pb.ControllerExpandVolumeResponse
        return answer(capacity_bytes=grown.size, node_expansion_required=not self.grows_alone)

    # Node

    def _NodeGetCapabilities(self, _request: Any) -> Any:  # noqa: N802
        one = self.pb.NodeServiceCapability
        return self.pb.NodeGetCapabilitiesResponse(capabilities=[one(rpc=one.RPC(type="EXPAND_VOLUME"))])

    def _NodeGetInfo(self, _request: Any) -> Any:  # noqa: N802
        return self.pb.NodeGetInfoResponse(node_id=NODE)

    def _NodePublishVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id", "target_path", "volume_capability")
        target = Path(request.target_path)
        if not target.is_symlink():
            target.symlink_to(self.disks.path(self.disks.volume(request.volume_id).id))
        return self.pb.NodePublishVolumeResponse()

    def _NodeUnpublishVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id", "target_path")
        Path(request.target_path).unlink(missing_ok=True)
        return self.pb.NodeUnpublishVolumeResponse()

    def _NodeExpandVolume(self, request: Any) -> Any:  # noqa: N802
        _given(request, "volume_id", "volume_path")
        return self.pb.NodeExpandVolumeResponse(capacity_bytes=self.disks.grow(request.volume_id).grown)

    def _volume(self, one: Volume) -> Any:
        made = self.pb.Volume(volume_id=one.id, capacity_bytes=one.size)
        # The simulated node gives it to the container.
        made.volume_context["path"] = str(self.disks.path(one.id))
        if one.snapshot:
            made.content_source.snapshot.snapshot_id = one.snapshot
        return made

    def _snapshot(self, one: Snapshot) -> Any:
        return self.pb.Snapshot(
            snapshot_id=one.id,
            source_volume_id=one.volume,
            size_bytes=one.size,
            creation_time=one.at,
            ready_to_use=self.ready,
        )


class _Servicer:
    """All services: gRPC asks it for the method of each RPC."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __getattr__(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            if not hasattr(Driver, f"_{rpc}"):
                context.abort(grpc.StatusCode.UNIMPLEMENTED, rpc)
            try:
                return self._driver.answer(rpc, request)
            except Refused as refused:
                context.abort(grpc.StatusCode[refused.code], str(refused))

        return serve


def _given(request: Any, *fields: str) -> None:
    for name in fields:
        message = request.DESCRIPTOR.fields_by_name[name].message_type is not None
        repeated = isinstance(getattr(request, name), Sequence)
        if not (request.HasField(name) if message and not repeated else getattr(request, name)):
            raise Refused("INVALID_ARGUMENT", f"{name} is missing")


def _page(everything: list[Any], request: Any) -> tuple[list[Any], str]:
    """A page of a list, and the token of the next."""
    ids = [one.id for one in everything]
    if request.starting_token and request.starting_token not in ids:
        raise Refused("ABORTED", f"there is no {request.starting_token} to start at")
    start = ids.index(request.starting_token) if request.starting_token else 0
    end = start + request.max_entries if request.max_entries else len(ids)
    return everything[start:end], ids[end] if end < len(ids) else ""
