"""Verifies snapshots of the local engine: restores each into a scratch disk of its own, and counts what is on that."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from sandbox_server import engines, failpoints
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.snapshot import Contents, Scratch, Snapshot, SnapshotReason, VerificationState
from sandbox_server.engines.local import counting
from sandbox_server.engines.local.copies import AT_ONCE, Copies
from sandbox_server.engines.local.copying import DIRECTORY
from sandbox_server.engines.local.disk import Disk, Gone
from sandbox_server.engines.local.folder import words
from sandbox_server.engines.local.snapshots import disk_of, of_failure

log = structlog.get_logger()

NICENESS = 19
"""Of the thread that restores and counts: what sandboxes do goes before."""


class Verifying:
    """The scratches of snapshots: see `engines.Snapshots`. What was counted is remembered until the scratch is cleared."""

    def __init__(self, root: Path) -> None:
        """`root` is the data directory."""
        self._root = root
        self._copies = Copies(AT_ONCE, NICENESS)
        self._ended: dict[Path, Scratch] = {}
        self._counting: set[Path] = set()

    def _disk(self, snapshot: Snapshot) -> Disk:
        return Disk(self._root, self._root / "verifications" / snapshot.namespace / snapshot.uid)

    def open(self) -> None:
        """Begins to remove the scratches whose snapshot is gone: a release that verifies nothing removes the snapshot alone."""
        for path in (self._root / "verifications").glob("*/*"):
            if not disk_of(self._root, path.parent.name, path.name).path.exists():
                self._remove(Disk(self._root, path))

    def _remove(self, disk: Disk) -> None:
        def done(failure: Exception | None) -> None:
            if failure is not None:
                log.warning("scratch_left", object=str(disk.path), message=str(failure))

        self._copies.begin(disk.path, lambda _: disk.discard(), done)

    def begin(self, snapshot: Snapshot) -> None:
        """Begins to restore and to count, unless that was begun or has ended."""
        disk = self._disk(snapshot)
        if disk.path in self._copies or disk.path in self._ended:
            return
        counted: list[Contents] = []

        def work(check: Callable[[], None]) -> None:
            disk.discard()
            source = disk_of(self._root, snapshot.namespace, snapshot.uid)
            disk.make_from(source, snapshot.uid, lambda _: {"uid": snapshot.uid}, check)
            self._counting.add(disk.path)
            top = os.open(disk.home, DIRECTORY)
            try:
                counted.append(counting.contents(top, disk.path, check))
            finally:
                os.close(top)
            failpoints.hit("local_scratch_counted")

        def done(failure: Exception | None) -> None:
            self._counting.discard(disk.path)
            self._ended[disk.path] = _passed(counted[0]) if failure is None else _failed(failure)

        self._copies.begin(disk.path, work, done)

    def scratch(self, snapshot: Snapshot) -> Scratch:
        """Returns how far it is. Of one that was cut off, a part may be there."""
        path = self._disk(snapshot).path
        if path in self._ended:
            return self._ended[path]
        if path not in self._copies:
            return Scratch(is_there=path.exists())
        if path in self._counting:
            return _running(SnapshotReason.COUNTING, "its files are being counted")
        return _running(SnapshotReason.RESTORING, "its disk is being made from the snapshot")

    async def clear(self, snapshot: Snapshot) -> None:
        """Ends what is under way, and removes the scratch. Raises `engines.Refused`."""
        disk = self._disk(snapshot)
        await self._copies.end(disk.path)
        try:
            await asyncio.to_thread(disk.discard)
        except OSError as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, words(error))) from error
        self._counting.discard(disk.path)
        self._ended.pop(disk.path, None)

    async def close(self) -> None:
        """Ends all that is under way."""
        await self._copies.close()


def _running(reason: SnapshotReason, message: str) -> Scratch:
    return Scratch(is_there=True, state=VerificationState.RUNNING, reason=reason, message=message)


def _passed(contents: Contents) -> Scratch:
    return Scratch(is_there=True, state=VerificationState.PASSED, contents=contents)


def _failed(failure: Exception) -> Scratch:
    match failure:
        case counting.Unreadable():
            reason, message = SnapshotReason.UNREADABLE, str(failure)
        case Gone():
            reason, message = SnapshotReason.LOST, "what the snapshot consists of was removed before it was restored"
        case _:
            reason, message = of_failure(failure)
    return Scratch(is_there=True, state=VerificationState.FAILED, reason=reason, message=message)
