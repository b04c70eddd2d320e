"""Whether an object that has a name of a sandbox belongs to it. Asked here and nowhere else, for every kind of object.

An object carries the uid of the sandbox that it was made for, in `owner`. A foreign object has another `owner`, or none.
A volume may be adopted: then it was made for a former sandbox, and its own uid is known to be the sandbox's disk.
Other objects of a sandbox that a former system made are known by their uids until they carry the sandbox's.
"""

from sandbox_server.domain.observed import Pod, Volume, Workload
from sandbox_server.domain.sandbox import Sandbox


def made_for(sandbox: Sandbox, found: Workload | Pod | Volume) -> bool:
    """Whether an object was made for this sandbox."""
    return found.owner == sandbox.uid


def owned(sandbox: Sandbox, found: Workload | Pod | Volume) -> bool:
    """Whether an object was made for this sandbox or is its disk."""
    if isinstance(found, Volume):
        return owns_volume(sandbox, found.owner, found.uid)
    return made_for(sandbox, found)


def owns_volume(sandbox: Sandbox, owner: str, uid: str) -> bool:
    """Whether a volume with that owner and uid was made for this sandbox or is its disk."""
    return owner == sandbox.uid or uid == sandbox.volume_uid


def is_disk(sandbox: Sandbox, volume: Volume) -> bool:
    """Whether a volume is the disk with the sandbox's data.

    A disk is known by its uid once it has been seen: another volume that was made for the sandbox is not its disk.
    """
    return volume.uid == sandbox.volume_uid if sandbox.volume_uid else made_for(sandbox, volume)


def was_adopted(sandbox: Sandbox, uid: str) -> bool:
    """Whether the object with that uid was there when the sandbox was adopted from a former system."""
    return sandbox.adopted is not None and uid in sandbox.adopted.uids
