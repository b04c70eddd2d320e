"""What `apply` and `delete` do to a sandbox's folder, after asking whose it is."""

from sandbox_server import engines
from sandbox_server.domain.sandbox import Fault, Reason, Sandbox
from sandbox_server.engines.local import processes, volumes


def prepare(folder: volumes.Folder, sandbox: Sandbox, replicas: int) -> None:
    """Makes the folder, the first time the volume, and writes down what is wanted.

    Raises OSError, and `engines.Refused` for what is another's or a disk that is not the one with the data: `observe`
    may be of half a second ago.
    """
    whole, volume = _ours(folder, sandbox)
    if not whole or (not volume and not sandbox.volume_uid):
        told = f"{folder.path} belongs to another sandbox; it is left alone. Remove it or choose another id"
        raise engines.Refused(Fault(Reason.NAME_CONFLICT, told))
    found = folder.volume()
    if replicas and sandbox.volume_uid and (found is None or found[1] != sandbox.volume_uid):
        raise engines.Refused(Fault(Reason.VOLUME_LOST, "the disk was removed or replaced"))
    folder.make()
    if replicas and not sandbox.volume_uid:
        folder.make_volume(sandbox.uid)
    wanted = {"owner": sandbox.uid, "generation": sandbox.generation, "replicas": replicas, "boot": processes.BOOT}
    volumes.write(folder.record, wanted)


def clear(folder: volumes.Folder, sandbox: Sandbox, keep_volume: bool) -> None:
    """Removes the folder, or all of it but a volume that is kept or another's. Raises OSError."""
    whole, volume = _ours(folder, sandbox)
    if whole:
        folder.remove(keep_volume or not volume)


def _ours(folder: volumes.Folder, sandbox: Sandbox) -> tuple[bool, bool]:
    """Whether the folder, and whether the volume in it, are the sandbox's. What is not there is nobody else's.

    A volume that has lost its label or its home is that of the folder's owner.
    """
    record, found = volumes.read(folder.record), folder.volume()
    recorded = record is not None and record["owner"] == sandbox.uid
    if found is None:
        return recorded or record is None, recorded or not folder.home.parent.exists()
    owner, uid = found
    return recorded or record is None, owner == sandbox.uid or uid == sandbox.volume_uid
