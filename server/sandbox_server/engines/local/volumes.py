"""Directories under the data directory: made, recognised by a uid, and removed without ever following a link."""

import errno
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sandbox_server.domain.sandbox import Key

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON to a file so that a reader sees the old or the new, whole."""
    fresh = path.with_name(f"{path.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None if there is nothing, or nothing whole."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class Folder:
    """What belongs to one sandbox: `<data>/sandboxes/<namespace>/<id>/`, the disk in `volume/home` of it."""

    def __init__(self, root: Path, key: Key) -> None:
        """`root`: the data directory."""
        self.root = root
        self.path = root / "sandboxes" / key.namespace / key.id
        self.record = self.path / "record.json"
        self.started = self.path / "started.json"
        self.home = self.path / "volume" / "home"
        self._label = self.path / "volume" / "volume.json"

    def make(self) -> None:
        """Makes the folder, without a volume. Raises OSError, also for a link on the way to it."""
        if self.path.resolve() != self.root.resolve() / self.path.relative_to(self.root):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self.path))
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def volume(self) -> tuple[str, str] | None:
        """The owner and the uid of the volume; None if there is none, or its home is gone or no directory."""
        try:
            if not all(stat.S_ISDIR(os.lstat(one).st_mode) for one in (self.path, self.home.parent, self.home)):
                return None
        except OSError:
            return None
        label = read(self._label)
        return (label["owner"], label["uid"]) if label else None

    def make_volume(self, owner: str) -> None:
        """Makes an empty volume with a uid of its own where there is none."""
        if self.volume() is None:
            self._label.parent.mkdir(mode=0o700, exist_ok=True)
            write(self._label, {"owner": owner, "uid": str(uuid.uuid4())})
            self.home.mkdir(mode=0o700)

    def remove(self, keep_volume: bool) -> None:
        """Removes the folder, or all of it but the volume. Raises OSError, naming what is in the way.

        The record goes last: while it is there, so is the sandbox, and a removal that was cut off is taken up again.
        """
        with self._opened() as folder:
            if folder is None:
                return
            kept = {self.record.name, "volume"} if keep_volume else {self.record.name}
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor, not a path
                if name not in kept:
                    _remove(name, folder)
            with suppress(FileNotFoundError):
                os.unlink(self.record.name, dir_fd=folder)
        if not keep_volume:
            with self._opened(parent=True) as namespace:
                if namespace is not None:
                    os.rmdir(self.path.name, dir_fd=namespace)

    @contextmanager
    def _opened(self, parent: bool = False) -> Iterator[int | None]:
        """A descriptor of the folder, or its parent, reached from the data directory without following a link."""
        parts = self.path.relative_to(self.root).parts
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1] if parent else parts:
                try:
                    following = os.open(part, _OPEN, dir_fd=handle)
                except FileNotFoundError:
                    yield None
                    return
                os.close(handle)
                handle = following
            yield handle
        finally:
            os.close(handle)


def _remove(name: str, folder: int) -> None:
    """Removes an entry of an open folder, a directory with all in it.

    Each directory is first renamed to lie in `folder` itself, so that no tree is too deep, and so that a mount point,
    which cannot be renamed, stops it before anything in there is touched.
    """
    lifted: list[str] = []
    _take(name, folder, folder, lifted)
    while lifted:
        going = lifted.pop()
        handle = os.open(going, _OPEN, dir_fd=folder)
        try:
            for entry in os.listdir(handle):  # noqa: PTH208 - a descriptor, not a path
                _take(entry, handle, folder, lifted)
        finally:
            os.close(handle)
        os.rmdir(going, dir_fd=folder)


def _take(name: str, place: int, folder: int, lifted: list[str]) -> None:
    """Removes an entry of `place`, or, if it is a directory, moves it into `folder` and adds it to `lifted`."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=place)
        return
    if os.geteuid() != 0:
        # No sandbox keeps its own from going by taking away its owner's right to list and change it.
        os.chmod(name, 0o700, dir_fd=place)
    lifted.append(f"going-{uuid.uuid4().hex}")
    os.rename(name, lifted[-1], src_dir_fd=place, dst_dir_fd=folder)
