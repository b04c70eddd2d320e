"""What the CSI double keeps: a volume is a folder, a snapshot is a copy of one."""

import datetime
import shutil
import subprocess
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

GRANULE = 2**20
"""Bytes; sizes are multiples of it."""
CAPACITY = 2**42


class Refused(Exception):
    """Something that CSI has a status code for. `code` is its name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Volume:
    """`size` is that of the device, `grown` that of the file system on it; both in bytes. `snapshot`: the id of the one that it
    was made from; empty if it began empty."""

    id: str
    name: str
    size: int
    grown: int
    snapshot: str


@dataclass(frozen=True)
class Snapshot:
    id: str
    name: str
    volume: str
    size: int
    at: datetime.datetime


Kept = TypeVar("Kept", Volume, Snapshot)


class Disks:
    """Volumes and snapshots in a folder of this machine. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}

    def path(self, kept: str) -> Path:
        """The folder of a volume or of a snapshot."""
        return self._folder / kept

    def volume(self, key: str) -> Volume:
        return _found(self.volumes, key, "volume")

    def snapshot(self, key: str) -> Snapshot:
        return _found(self.snapshots, key, "snapshot")

    def create_volume(self, name: str, least: int, most: int, snapshot: str) -> Volume:
        """A volume of at least `least` bytes and at most `most`, if it is not 0; one of that name is the same."""
        for one in self.volumes.values():
            if one.name == name:
                if one.snapshot != snapshot or one.size < least or (most and one.size > most):
                    raise Refused("ALREADY_EXISTS", f"there is a volume {name} that is another")
                return one
        held = self.snapshot(snapshot).size if snapshot else 0
        size = -(-max(least, held, GRANULE) // GRANULE) * GRANULE
        if size > CAPACITY or (most and size > most):
            raise Refused("OUT_OF_RANGE", f"a volume of {size} bytes cannot be made")
        made = Volume(f"volume-{uuid.uuid4().hex}", name, size, size, snapshot)
        self._fill(made.id, snapshot)
        self.volumes[made.id] = made
        return made

    def create_snapshot(self, name: str, volume: str) -> Snapshot:
        for one in self.snapshots.values():
            if one.name == name:
                if one.volume != volume:
                    raise Refused("ALREADY_EXISTS", f"there is a snapshot {name} of another volume")
                return one
        size = self.volume(volume).size
        made = Snapshot(f"snapshot-{uuid.uuid4().hex}", name, volume, size, datetime.datetime.now(datetime.UTC))
        self._fill(made.id, volume)
        self.snapshots[made.id] = made
        return made

    def expand(self, volume: str, least: int, most: int) -> Volume:
        """Makes the device larger, and not its file system; one that is large enough stays as it is."""
        size = max(self.volume(volume).size, -(-least // GRANULE) * GRANULE)
        if size > CAPACITY or (most and size > most):
            raise Refused("OUT_OF_RANGE", f"the volume cannot have {size} bytes")
        self.volumes[volume] = replace(self.volume(volume), size=size)
        return self.volumes[volume]

    def grow(self, volume: str) -> Volume:
        """Makes the file system as large as its device."""
        found = self.volume(volume)
        self.volumes[volume] = replace(found, grown=found.size)
        return self.volumes[volume]

    def delete(self, kept: str) -> None:
        """Removes a volume or a snapshot, unless it is gone."""
        self.volumes.pop(kept, None)
        if self.snapshots.pop(kept, None) is not None or self.path(kept).exists():
            shutil.rmtree(self.path(kept))

    def _fill(self, kept: str, origin: str) -> None:
        if origin:
            subprocess.run(["cp", "-a", self.path(origin), self.path(kept)], check=True)
        else:
            self.path(kept).mkdir()


def _found(among: dict[str, Kept], key: str, kind: str) -> Kept:
    if not key:
        raise Refused("INVALID_ARGUMENT", f"the id of the {kind} is missing")
    if key not in among:
        raise Refused("NOT_FOUND", f"there is no {kind} {key}")
    return among[key]
