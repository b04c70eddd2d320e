"""A disk of this machine: `volume/` in a folder of its own. Nothing here follows a link that a sandbox may have made."""

import contextlib
import ctypes
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox_server import failpoints
from sandbox_server.engines.local.copying import DIRECTORY, Copied, Copying


def read(path: Path) -> dict[str, Any]:
    """Returns the JSON objects of a file, one a line, merged into one. A missing file or a broken line ends the reading."""
    merged: dict[str, Any] = {}
    with contextlib.suppress(OSError, TypeError, ValueError):
        for line in path.read_text().splitlines():
            merged |= json.loads(line)
    return merged


class Gone(Exception):
    """What was to be copied is not there, or was removed or replaced before it was copied."""


class Disk:
    """The disk in the folder `path`: its home in `volume/home`, and its label, which says what it is.

    A volume is made under the name `new` and renamed when it is whole, so that it and its label appear together. The name is
    always the same, so that the error of each try is the same and the status does not change.
    """

    def __init__(self, root: Path, path: Path) -> None:
        """`root` is the data directory."""
        self._root = root
        self.path = path
        self.volume = path / "volume"
        self.home = self.volume / "home"
        self._fresh = path / "new"

    @property
    def is_there(self) -> bool:
        """Whether the disk exists and is no link."""
        return all(is_directory(path) for path in (self.home, self.volume, self.path))

    def label(self) -> dict[str, Any]:
        """Returns what the label says, even if the home is gone. Empty if there is no label."""
        return read(self.volume / "volume.json")

    def check_links(self, path: Path) -> None:
        """Raises OSError if there is a link between the data directory and `path`."""
        # Unlike Path.resolve, realpath does not fail for a link to itself.
        if Path(os.path.realpath(path)) != self._root.resolve() / path.relative_to(self._root):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))

    def make_folder(self) -> None:
        """Makes the folder of the disk, unless it is there. Raises OSError."""
        self.check_links(self.volume)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def make(self, label: Mapping[str, Any]) -> None:
        """Makes an empty disk in the folder. Raises OSError."""
        self._begin()
        self._label(label)
        failpoints.hit("local_volume_labelled")
        self._fresh.rename(self.volume)
        failpoints.hit("local_volume_made")

    def make_from(
        self, source: "Disk", uid: str, label: Callable[[Copied], Mapping[str, Any]], check: Callable[[], None]
    ) -> None:
        """Makes a disk in the folder that is a copy of `source`, whose label has this `uid`.

        Raises `Gone` or OSError, and then leaves nothing of it. `label` is asked for once all is copied. `check` is called
        often, and may raise what ends the copy: what is left is removed when it is made again, or discarded.
        """
        self.make_folder()
        self._begin()
        failpoints.hit("local_copy_begun")
        try:
            source.check_is(uid)
            copied = self._copy(source, check)
            self._label(label(copied))
            _sync(self._fresh)
            source.check_is(uid)
        except (OSError, Gone):
            self._clear_fresh()
            source.check_is(uid)
            raise
        check()
        failpoints.hit("local_copy_labelled")
        self._fresh.rename(self.volume)
        with _opened(self.path) as folder:
            os.fsync(folder)
        failpoints.hit("local_copy_made")

    def check_is(self, uid: str) -> None:
        """Raises `Gone` unless the disk is there and its label has this uid."""
        if not self.is_there or self.label().get("uid") != uid:
            raise Gone

    def _copy(self, source: "Disk", check: Callable[[], None]) -> Copied:
        source.check_links(source.home)
        links = self._fresh / "links"
        links.mkdir(mode=0o700)
        with _opened(source.home) as reading, _opened(self._fresh / "home") as writing, _opened(links) as linking:
            copied = Copying(reading, writing, linking, check).run()
        remove(links, self.path)
        return copied

    def _begin(self) -> None:
        self._clear_fresh()
        self._fresh.mkdir(mode=0o700)
        (self._fresh / "home").mkdir(mode=0o700)

    def _clear_fresh(self) -> None:
        if os.path.lexists(self._fresh):
            remove(self._fresh, self.path)

    def _label(self, label: Mapping[str, Any]) -> None:
        with (self._fresh / "volume.json").open("w") as file:
            json.dump(label, file)
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        """Removes the folder with all that is in it. No half of a disk is ever seen as one. Raises OSError."""
        self.check_links(self.path)
        if not self.path.exists():
            return
        self._clear_fresh()
        if os.path.lexists(self.volume):
            self.volume.rename(self._fresh)
            failpoints.hit("local_disk_hidden")
        for entry in list(self.path.iterdir()):
            remove(entry, self.path)
            failpoints.hit("local_disk_entry_removed")
        self.path.rmdir()


def is_directory(path: Path) -> bool:
    """Whether there is a directory, and no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def remove(top: Path, folder: Path) -> None:
    """Removes an entry of `folder`, a directory with its content.

    Each directory is first moved up into `folder`, so that no path is too long. A mount point cannot be moved, so that
    it stops the removal before anything in it is touched. Raises OSError.
    """
    moved: list[Path] = []

    def unlink_or_move(path: Path) -> None:
        if not is_directory(path):
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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _sync(folder: Path) -> None:
    """Has everything of the file system that a folder is on reach the disk. Raises OSError.

    One call for all files: a call for each takes a hundred times as long where they are many.
    """
    with _opened(folder) as fd:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
