"""The calls about the disks of sandboxes, and those that deleted sandboxes left."""

import uuid

from sandbox.v1 import access_pb2
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import calls


def volumes_page(
    *,
    namespace: str = "",
    project: str = "",
    label_selector: str = "",
    tenant: str = "",
    page_size: int = 0,
    page_token: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.ListVolumesResponse]:
    """Returns a page of kept disks and the token of the next page. `tenant` is for operators."""
    request = pb.ListVolumesRequest(
        namespace=namespace,
        project=project,
        label_selector=label_selector,
        tenant=tenant,
        page_size=page_size,
        page_token=page_token,
    )
    return calls.Call("ListVolumes", request, "", timeout)


def delete_volume(
    volume: calls.Named | pb.KeptVolume,
    *,
    namespace: str = "",
    uid: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.Sandbox]:
    """Removes the disk that a deleted sandbox left, and returns that sandbox.

    With `uid`, or a `KeptVolume` as `volume`, nothing happens to the disk of a later sandbox of the same id.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> deleted = client.wait_until(client.delete(made, keep_volume=True), "TERMINATED")
    >>> (volume,) = [one for one in client.volumes(project="demo") if one.uid == made.uid]
    >>> volume.sandbox_id == made.sandbox_id, volume.size
    (True, '5Gi')
    >>> Status.of(client.wait_until(client.delete_volume(volume), "TERMINATED")).reason
    'DELETED'
    """
    sandbox_id, namespace = calls.target(volume, namespace)
    request = pb.DeleteVolumeRequest(
        request_id=request_id or str(uuid.uuid4()),
        sandbox_id=sandbox_id,
        namespace=namespace,
        uid=uid or (volume.uid if isinstance(volume, pb.KeptVolume) else ""),
    )
    return calls.Call("DeleteVolume", request, "sandbox", timeout)


def volume_usage(
    sandbox: calls.Named, *, namespace: str = "", timeout: float | None = None
) -> calls.Call[access_pb2.GetVolumeUsageResponse]:
    """Returns how full the disk of a running sandbox is.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> usage = client.volume_usage(made)
    >>> 0 < usage.used_bytes < usage.capacity_bytes
    True
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = access_pb2.GetVolumeUsageRequest(sandbox_id=sandbox_id, namespace=namespace)
    return calls.Call("GetVolumeUsage", request, "", timeout)
