"""Files of a sandbox."""

import enum
import stat
from dataclasses import dataclass


class FileType(enum.IntEnum):
    """What there is at a path. The numbers are those of the contract."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    LINK = 3
    OTHER = 4


_TYPES = {stat.S_IFREG: FileType.FILE, stat.S_IFDIR: FileType.DIRECTORY, stat.S_IFLNK: FileType.LINK}


@dataclass(frozen=True, slots=True)
class File:
    """What there is at a path. `mode` is as `stat` has it, `device` and `inode` identify it, `modified` is in nanoseconds."""

    path: bytes
    mode: int
    size: int
    modified: int
    inode: int
    device: int
    target: bytes = b""

    @property
    def type(self) -> FileType:
        """Its type."""
        return _TYPES.get(stat.S_IFMT(self.mode), FileType.OTHER)

    @property
    def permissions(self) -> int:
        """The permission bits of its mode."""
        return stat.S_IMODE(self.mode)

    @property
    def etag(self) -> str:
        """Changes with the content. Is kept by a rename, so that it is known before a file gets its name."""
        return f"{self.device:x}-{self.inode:x}-{self.size:x}-{self.modified:x}"


@dataclass(frozen=True, slots=True)
class Write:
    """How to write a file. `mode`: None for that of the former file. `size`: None if it is not known before.

    `match` is the etag that the former file must have, `*` for any file, empty for any or none.
    """

    mode: int | None = None
    size: int | None = None
    match: str = ""
