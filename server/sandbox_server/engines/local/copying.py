"""Copies a directory with all that is in it, while a sandbox may change it. Nothing here follows a link.

`cp -a` and `rsync` name each file by its path: a directory that is replaced by a link meanwhile leads them out of the tree,
a path longer than PATH_MAX stops them, and a file that has vanished is an error. Here each entry is found in its directory,
which is open, and stays what it was when it was found.
"""

import collections
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sandbox_server import failpoints
from sandbox_server.engines.local.contents import Contents

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What the opening of a directory says that was there a moment ago, and was removed or replaced."""


@dataclass(slots=True)
class _Level:
    """A directory on the way from the top to the one that is open. `number` is its inode's, `left` are those in it that
    are to be entered."""

    name: str
    number: int
    left: list[str]


@dataclass(slots=True)
class Copied:
    """`used`: the bytes that the files take. `left_out` counts, by its kind, what could not be copied."""

    used: int = 0
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)


class Copying:
    """One copy of the directory `source`, all of whose content gets into `target`. Both are descriptors of directories.

    Kept are holes, owners, modes, times, links, hard links, FIFOs, sockets, and extended attributes of files and directories.
    Left out and counted are what lies on another file system, and what this process may not make. Entries that vanish are
    left out; each file is as it was at one moment of the copy or another. `links` is the descriptor of an empty directory
    beside `target`, which is full afterwards. `check` is called often, and raises what ends the copy.
    """

    def __init__(self, source: int, target: int, links: int, check: Callable[[], None]) -> None:
        self._top = source
        self._target = target
        self._links = links
        self._check = check
        self._device = os.fstat(source).st_dev
        self._contents = Contents(check)
        self._copied = Copied()

    def run(self) -> Copied:
        """Copies everything. Raises OSError, which names the entry, if one cannot be read or written."""
        with contextlib.ExitStack() as opened:
            source, target = _Held(os.dup(self._top)), _Held(os.dup(self._target))
            opened.callback(source.close)
            opened.callback(target.close)
            levels = [_Level("", os.fstat(source.fd).st_ino, self._fill(source.fd, target.fd))]
            while levels:
                self._check()
                if levels[-1].left:
                    self._enter(levels, source, target)
                    continue
                levels.pop()
                if levels:
                    self._leave(levels, source, target)
        return self._copied

    def _enter(self, levels: list[_Level], source: "_Held", target: "_Held") -> None:
        """Goes down into the next directory and copies what is in it, unless it has vanished."""
        name = levels[-1].left.pop()
        try:
            inside = os.open(name, DIRECTORY, dir_fd=source.fd)
        except OSError as error:
            if error.errno not in _GONE:
                raise OSError(error.errno, error.strerror, name) from error
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=target.fd)
            return
        found = os.fstat(inside)
        if found.st_dev != self._device:
            os.close(inside)
            self._copied.left_out["mounted directory"] += 1
            return
        source.replace(inside)
        target.replace(os.open(name, DIRECTORY, dir_fd=target.fd))
        levels.append(_Level(name, found.st_ino, self._fill(source.fd, target.fd)))

    def _leave(self, levels: list[_Level], source: "_Held", target: "_Held") -> None:
        """Goes up. Where the directory was moved meanwhile, its parent is looked for from the top."""
        target.replace(os.open("..", DIRECTORY, dir_fd=target.fd))
        above = os.open("..", DIRECTORY, dir_fd=source.fd)
        if not self._is(above, levels[-1]):
            os.close(above)
            above = self._reopened(levels)
        if self._is(above, levels[-1]):
            source.replace(above)
        else:
            os.close(above)
            levels[-1].left.clear()

    def _is(self, directory: int, level: _Level) -> bool:
        found = os.fstat(directory)
        return (found.st_dev, found.st_ino) == (self._device, level.number)

    def _reopened(self, levels: list[_Level]) -> int:
        """Returns the directory of the last level, or the one before which the way to it ends."""
        held = _Held(os.dup(self._top))
        with contextlib.suppress(OSError):
            for level in levels[1:]:
                held.replace(os.open(level.name, DIRECTORY, dir_fd=held.fd))
        return held.fd

    def _fill(self, source: int, target: int) -> list[str]:
        """Copies a directory with empty ones in the place of those in it. Returns their names."""
        inside = []
        for name in set(os.listdir(source)):
            self._check()
            with _naming(name):
                if self._entry(source, target, name):
                    inside.append(name)
            failpoints.hit("local_copy_entry")
        self._describe(source, target, os.fstat(source))
        return inside

    def _entry(self, source: int, target: int, name: str) -> bool:
        """Copies an entry, and returns whether it is a directory, which is empty yet."""
        try:
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=source)
        except FileNotFoundError:
            return False
        with _closed(found):
            status = os.fstat(found)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                return True
            # The time of the last change tells a file from another that got its number meanwhile.
            mark = f"{status.st_ino}-{status.st_ctime_ns}"
            if status.st_nlink > 1 and self._linked(mark, name, target):
                return False
            if stat.S_ISREG(status.st_mode):
                self._file(found, target, name)
            elif not self._special(found, status, target, name):
                return False
            if status.st_nlink > 1:
                with contextlib.suppress(FileExistsError):
                    os.link(name, mark, src_dir_fd=target, dst_dir_fd=self._links, follow_symlinks=False)
        return False

    def _linked(self, mark: str, name: str, target: int) -> bool:
        """Makes another link to a file that was copied before. Returns False if it was not, or can have no more links."""
        try:
            os.link(mark, name, src_dir_fd=self._links, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EMLINK):
                raise
            return False
        return True

    def _file(self, found: int, target: int, name: str) -> None:
        with (
            _closed(os.open(f"/proc/self/fd/{found}", os.O_RDONLY)) as reading,
            _closed(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)) as writing,
        ):
            self._contents.copy(reading, writing)
            status = os.fstat(reading)
            self._copied.used += status.st_blocks * 512
            self._describe(reading, writing, status)

    def _special(self, found: int, status: os.stat_result, target: int, name: str) -> bool:
        """Makes a link, a FIFO, a socket or a device. Returns False if this process may not."""
        try:
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink("", dir_fd=found), name, dir_fd=target)
            else:
                os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        except PermissionError:
            self._copied.left_out["device"] += 1
            return False
        self._own(status, name, target)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        return True

    def _own(self, status: os.stat_result, name: str, target: int) -> None:
        with self._leaving_out("owner"):
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)

    def _describe(self, source: int, target: int, status: os.stat_result) -> None:
        """Gives a file or a directory the owner, the attributes, the mode and the times of another."""
        with self._leaving_out("owner"):
            os.chown(target, status.st_uid, status.st_gid)
        try:
            names = os.listxattr(source)
        except OSError:
            names = []
        for name in names:
            with self._leaving_out("attribute"), contextlib.suppress(FileNotFoundError):
                os.setxattr(target, name, os.getxattr(source, name))
        os.chmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    @contextlib.contextmanager
    def _leaving_out(self, kind: str) -> Iterator[None]:
        """Counts what this process may not set, or the file system does not have."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENODATA:
                return
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._copied.left_out[kind] += 1


class _Held:
    """A descriptor that is closed when another takes its place."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def replace(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)


@contextlib.contextmanager
def _closed(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Has an OSError name the entry, and not a descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
