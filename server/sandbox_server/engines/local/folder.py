"""A sandbox's folder under the data directory: made, recognised by its label, and removed without following a link."""

import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox


def read(path: Path) -> dict[str, Any]:
    """The JSON objects in a file, one a line, as one; without what is not there, or not whole."""
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError, TypeError, ValueError):
        for line in path.read_text().splitlines():
            told |= json.loads(line)
    return told


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Has what the machine refuses told in the sandbox's status."""
    try:
        yield
    except OSError as error:
        # Whoever lives in a home gives a file the name he likes; a status is text.
        name = os.fsencode(error.filename or "").decode(errors="replace")
        raise engines.Refused(Fault(Reason.ENGINE_REFUSED, f"{name}: {error.strerror}")) from error


class Folder:
    """`<data>/sandboxes/<namespace>/<id>/`: the disk in `volume/home` of it; the files of its process begin `main`."""

    def __init__(self, root: Path, key: Key) -> None:
        """`root`: the data directory."""
        self._root = root
        self.path = root / "sandboxes" / key.namespace / key.id
        self.process = self.path / "main"
        self._volume = self.path / "volume"
        self.home = self._volume / "home"

    @property
    def stands(self) -> bool:
        """Whether the disk is there, with no link in its place."""
        return all(_is_directory(one) for one in (self.home, self._volume, self.path))

    def label(self) -> dict[str, str]:
        """The `owner` and the `uid` of the volume, whether its home is there or not; empty if it has no label."""
        return read(self._volume / "volume.json")

    @_refusing()
    def prepare(self, sandbox: Sandbox, replicas: int) -> None:
        """Makes the folder and, before the first start, the volume. Raises `engines.Refused`."""
        self._reach(self._volume)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not replicas or sandbox.volume_uid or self.stands:
            return
        if self._volume.exists() and self._ours(sandbox):
            # A disk that was lost, by the word of its owner.
            _remove(self._volume, self.path)
        # At once with its label, or not at all. The same name whenever it is tried: what is in the way is told but once.
        fresh = self.path / "new"
        if os.path.lexists(fresh):
            _remove(fresh, self.path)
        fresh.mkdir(mode=0o700)
        (fresh / "home").mkdir(mode=0o700)
        with (fresh / "volume.json").open("w") as file:
            json.dump({"owner": sandbox.uid, "uid": str(uuid.uuid4())}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._volume)

    @_refusing()
    def clear(self, sandbox: Sandbox) -> None:
        """Removes the folder, or all of it but a volume that is kept; nothing if it is another's.

        Raises `engines.Refused`: what is left then can be cleared later.
        """
        self._reach(self.path)
        if self.path.exists() and self._ours(sandbox):
            for entry in list(self.path.iterdir()):
                if entry != self._volume or not sandbox.keep_volume:
                    _remove(entry, self.path)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def _reach(self, path: Path) -> None:
        """Raises OSError if there is a link between the data directory and `path`."""
        # Unlike Path.resolve, it takes a link that leads to itself as it takes a file.
        if Path(os.path.realpath(path)) != self._root.resolve() / path.relative_to(self._root):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))

    def _ours(self, sandbox: Sandbox) -> bool:
        """Whether the volume is the sandbox's. One that is not there, or lost its label since, is nobody else's."""
        if label := self.label():
            return ownership.owns_volume(sandbox, label["owner"], label["uid"])
        return bool(sandbox.volume_uid) or not os.path.lexists(self._volume)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _remove(top: Path, folder: Path) -> None:
    """Removes an entry of a folder, a directory with all in it.

    Each directory is first renamed to lie in `folder` itself, so that no tree is too deep, and so that a mount point,
    which cannot be renamed, stops it before anything in there is touched.
    """
    lifted: list[Path] = []

    def take(path: Path) -> None:
        if not _is_directory(path):
            path.unlink()
            return
        if os.geteuid() != 0:
            # No sandbox keeps its own from going by taking away its owner's right to list and change it.
            path.chmod(0o700)
        # The same name whenever it is tried: what is in the way is told but once.
        lifted.append(path.rename(folder / f"going-{path.stat().st_ino}"))

    take(top)
    while lifted:
        going = lifted.pop()
        for entry in list(going.iterdir()):
            take(entry)
        going.rmdir()
