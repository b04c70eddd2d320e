"""ListVolumes and DeleteVolume: the disks that deleted sandboxes left."""

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain.event import Event
from sandbox_server.rpc import listing, render


def writer(most: int) -> Callable[[int, Iterator[Event]], bytes]:
    """Returns a function that encodes a page of at most `most` disks; see `listing.paged`."""
    return listing.paged(most, pb.ListVolumesResponse, lambda event: pb.ListVolumesResponse(volumes=[kept(event)]))


def kept(event: Event) -> Any:
    """Returns the KeptVolume of the last event of a sandbox that has left its disk."""
    sandbox = event.sandbox
    storage = sandbox.spec.storage
    volume = sandbox.status.volume
    return {
        "sandbox_id": sandbox.id,
        "namespace": sandbox.namespace,
        "uid": sandbox.uid,
        "tenant": sandbox.tenant,
        "project": sandbox.spec.project,
        "labels": sandbox.spec.labels,
        "name": volume.name if volume else "",
        "size": (volume.size if volume else "") or storage.size,
        "storage_class": storage.storage_class,
        "access_mode": storage.access_mode,
        "keep_time": render.time(sandbox.status.transition_time),
        "message": sandbox.status.message,
    }
