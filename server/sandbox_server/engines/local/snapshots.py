"""Snapshots of the local engine, which are copies of disks, and the disks that are made from them or from one another."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Taken
from sandbox_server.engines.local.copies import Copies
from sandbox_server.engines.local.copying import Copied
from sandbox_server.engines.local.disk import Disk, Gone
from sandbox_server.engines.local.folder import Folder, new_label, words

log = structlog.get_logger()


def disk_of(root: Path, namespace: str, uid: str) -> Disk:
    """Returns the disk that a snapshot consists of, in `<data>/snapshots/<namespace>/<uid>/`. `root`: the data directory."""
    return Disk(root, root / "snapshots" / namespace / uid)


class Snapshots:
    """Takes and discards snapshots: see `engines.Snapshots`. Why a copy failed is remembered until it is discarded."""

    def __init__(self, root: Path, copies: Copies) -> None:
        """`root` is the data directory."""
        self._root = root
        self._copies = copies
        self._failed: dict[Path, Taken] = {}

    def _disk(self, snapshot: Snapshot) -> Disk:
        return disk_of(self._root, snapshot.namespace, snapshot.uid)

    def take(self, snapshot: Snapshot, key: Key) -> None:
        """Begins to copy the disk of the sandbox `key`, unless that was done or has failed."""
        disk = self._disk(snapshot)
        if disk.path in self._copies or disk.path in self._failed or disk.is_there:
            return
        source = Folder(self._root, key).disk

        def label(copied: Copied) -> dict[str, object]:
            return {"uid": snapshot.uid, "used_bytes": copied.used, "message": _left_out(copied)}

        def done(failure: Exception | None) -> None:
            if failure is not None:
                self._failed[disk.path] = _failed(failure)

        self._copies.begin(disk.path, lambda check: disk.make_from(source, snapshot.volume_uid, label, check), done)

    def taken(self, snapshot: Snapshot) -> Taken:
        """Returns how far the copy is. A part of one that was cut off counts as not asked for, and a `take` replaces it."""
        disk = self._disk(snapshot)
        if disk.path in self._copies:
            return Taken(state=State.CREATING, reason=SnapshotReason.COPYING, message="the disk is being copied")
        if disk.path in self._failed:
            return self._failed[disk.path]
        if disk.is_there:
            label = disk.label()
            return Taken(
                state=State.READY,
                reason=SnapshotReason.READY,
                message=label.get("message", ""),
                used_bytes=label.get("used_bytes", 0),
            )
        if disk.path.exists():
            return Taken(state=State.CREATING, reason=SnapshotReason.ACCEPTED)
        return Taken(state=State.DELETED, reason=SnapshotReason.DELETED)

    async def discard(self, snapshot: Snapshot) -> None:
        """Ends the copy, and removes what there is of it. Raises `engines.Refused`."""
        disk = self._disk(snapshot)
        await self._copies.end(disk.path)
        self._failed.pop(disk.path, None)
        try:
            await asyncio.to_thread(disk.discard)
        except OSError as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, words(error))) from error


@dataclass(slots=True)
class _Failure:
    """Why a disk could not be made. `told`: that was answered to an `apply`, so that the next one tries again."""

    fault: Fault
    told: bool = False


class Restores:
    """Makes the disks of sandboxes from their origins."""

    def __init__(self, root: Path, copies: Copies, changed: Callable[[Key], None]) -> None:
        """`changed` is called when a disk was made, or could not be."""
        self._root = root
        self._copies = copies
        self._changed = changed
        self._failures: dict[Path, _Failure] = {}

    def under_way(self, sandbox: Sandbox) -> bool:
        """Whether the disk of a sandbox is being made now."""
        return Folder(self._root, sandbox.key).path in self._copies

    def begin(self, sandbox: Sandbox) -> None:
        """Begins to make the disk of a sandbox, unless that is under way.

        Raises `engines.Refused` if it was tried and has failed, also while it is tried again.
        """
        folder = Folder(self._root, sandbox.key)
        failure = self._failures.get(folder.path)
        if folder.path not in self._copies and (failure is None or failure.told):
            self._begin(sandbox, folder)
        if failure is not None:
            failure.told = True
            raise engines.Refused(failure.fault)

    def _begin(self, sandbox: Sandbox, folder: Folder) -> None:
        origin = sandbox.origin
        if origin is None:
            raise ValueError("a sandbox without an origin has an empty disk")
        if origin.snapshot_uid:
            source, uid = disk_of(self._root, origin.sandbox.namespace, origin.snapshot_uid), origin.snapshot_uid
        else:
            source, uid = Folder(self._root, origin.sandbox).disk, origin.volume_uid

        def done(failure: Exception | None) -> None:
            self._failures.pop(folder.path, None)
            if failure is not None:
                self._failures[folder.path] = _Failure(_restore_failed(failure, bool(origin.snapshot_uid)))
            self._changed(sandbox.key)

        self._copies.begin(
            folder.path, lambda check: folder.disk.make_from(source, uid, lambda _: new_label(sandbox), check), done
        )

    async def forget(self, sandbox: Sandbox) -> None:
        """Ends the making of a disk. Returns when nothing is written into the sandbox's folder any more."""
        path = Folder(self._root, sandbox.key).path
        await self._copies.end(path)
        self._failures.pop(path, None)


def _left_out(copied: Copied) -> str:
    counted = ", ".join(f"{count} of kind {kind!r}" for kind, count in sorted(copied.left_out.items()))
    return f"not in the snapshot, since the service may not or cannot copy it: {counted}" if counted else ""


def of_failure(failure: Exception) -> tuple[SnapshotReason, str]:
    """Returns what made a copy fail, and its words."""
    match failure:
        case Gone():
            return SnapshotReason.DISK_GONE, "the disk was removed or replaced before it was copied"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return SnapshotReason.NO_SPACE, f"the data directory is full: {words(failure)}"
        case OSError():
            return SnapshotReason.STORAGE_FAILED, words(failure)
        case _:
            log.error("copy_failed", exc_info=failure)
            return SnapshotReason.STORAGE_FAILED, "the service failed; its log says why"


def _failed(failure: Exception) -> Taken:
    reason, message = of_failure(failure)
    return Taken(state=State.FAILED, reason=reason, message=message)


def _restore_failed(failure: Exception, from_snapshot: bool) -> Fault:
    if isinstance(failure, Gone):
        what = "the snapshot" if from_snapshot else "the disk of the other sandbox"
        return Fault(Reason.RESTORE_FAILED, f"{what} is gone: delete the sandbox and create it from another one")
    reason, message = of_failure(failure)
    return Fault(Reason.VOLUME_PENDING if reason is SnapshotReason.NO_SPACE else Reason.ENGINE_REFUSED, message)
