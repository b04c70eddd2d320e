"""The folder of a sandbox under the data directory. Nothing here follows a link that a sandbox may have made."""

import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox_server import engines, failpoints
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox


def read(path: Path) -> dict[str, Any]:
    """Returns the JSON objects of a file, one a line, merged into one. A missing file or a broken line ends the reading."""
    merged: dict[str, Any] = {}
    with contextlib.suppress(OSError, TypeError, ValueError):
        for line in path.read_text().splitlines():
            merged |= json.loads(line)
    return merged


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Raises `engines.Refused` for an OSError, so that the status of the sandbox shows it."""
    try:
        yield
    except OSError as error:
        # A sandbox can give a file a name that is not UTF-8, and a status is text.
        name = os.fsencode(error.filename or "").decode(errors="replace")
        raise engines.Refused(Fault(Reason.ENGINE_REFUSED, f"{name}: {error.strerror}")) from error


class Folder:
    """`<data>/sandboxes/<namespace>/<id>/`, with the disk in `volume/home`. The names of the process's files begin `main`."""

    def __init__(self, root: Path, key: Key) -> None:
        """`root` is the data directory."""
        self._root = root
        self.path = root / "sandboxes" / key.namespace / key.id
        self.process = self.path / "main"
        self.log = self.path / "main.log"
        self._volume = self.path / "volume"
        self.home = self._volume / "home"

    @property
    def has_volume(self) -> bool:
        """Whether the disk exists and is no link."""
        return all(_is_directory(path) for path in (self.home, self._volume, self.path))

    def label(self) -> dict[str, str]:
        """Returns `owner` and `uid` of the volume, even if its home is gone. Empty if there is no label."""
        return read(self._volume / "volume.json")

    @_refusing()
    def prepare(self, sandbox: Sandbox, replicas: int) -> None:
        """Creates the folder and, before the first start, the volume. Raises `engines.Refused`."""
        self._check_links(self._volume)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        failpoints.hit("local_folder_made")
        if replicas == 0 or sandbox.volume_uid or self.has_volume:
            return
        if self._volume.exists() and self._owns_volume(sandbox):
            # What is left of a lost disk, which the caller has given up.
            _remove(self._volume, self.path)
        # The rename makes the volume and its label appear together. The name is always the same, so that the error of
        # each try is the same and the status does not change.
        fresh = self.path / "new"
        if os.path.lexists(fresh):
            _remove(fresh, self.path)
        fresh.mkdir(mode=0o700)
        (fresh / "home").mkdir(mode=0o700)
        with (fresh / "volume.json").open("w") as file:
            json.dump({"owner": sandbox.uid, "uid": str(uuid.uuid4())}, file)
            file.flush()
            os.fsync(file.fileno())
        failpoints.hit("local_volume_labelled")
        fresh.rename(self._volume)
        failpoints.hit("local_volume_made")

    @_refusing()
    def clear(self, sandbox: Sandbox) -> None:
        """Removes the folder, without the volume if the sandbox keeps it. A folder with a foreign volume stays.

        Raises `engines.Refused`. Call it again then: what is left can be removed later.
        """
        self._check_links(self.path)
        if not self.path.exists() or not self._owns_volume(sandbox):
            return
        for entry in list(self.path.iterdir()):
            if entry != self._volume or not sandbox.keep_volume:
                _remove(entry, self.path)
                failpoints.hit("local_entry_removed")
        if not any(self.path.iterdir()):
            self.path.rmdir()
            failpoints.hit("local_folder_removed")

    def _check_links(self, path: Path) -> None:
        """Raises OSError if there is a link between the data directory and `path`."""
        # Unlike Path.resolve, realpath does not fail for a link to itself.
        if Path(os.path.realpath(path)) != self._root.resolve() / path.relative_to(self._root):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))

    def _owns_volume(self, sandbox: Sandbox) -> bool:
        """Whether the volume belongs to the sandbox. A missing volume, or its own that lost its label, does too."""
        label = self.label()
        if label:
            return ownership.owns_volume(sandbox, label["owner"], label["uid"])
        return sandbox.volume_uid != "" or not os.path.lexists(self._volume)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _remove(top: Path, folder: Path) -> None:
    """Removes an entry of `folder`, a directory with its content.

    Each directory is first moved up into `folder`, so that no path is too long. A mount point cannot be moved, so that
    it stops the removal before anything in it is touched. Raises OSError.
    """
    moved: list[Path] = []

    def unlink_or_move(path: Path) -> None:
        if not _is_directory(path):
            path.unlink()
            return
        if os.geteuid() != 0:
            # The sandbox may have removed the rights to list and change its directory.
            path.chmod(0o700)
        # Named after the inode, so that the error of each try is the same and the status does not change.
        moved.append(path.rename(folder / f"going-{path.stat().st_ino}"))

    unlink_or_move(top)
    while moved:
        directory = moved.pop()
        for entry in list(directory.iterdir()):
            unlink_or_move(entry)
        directory.rmdir()
