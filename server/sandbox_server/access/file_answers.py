"""What the programs that work on files answer. It was written by the user of the sandbox, so it is checked."""

import re

from sandbox_server.access.conversation import Cut, Lines
from sandbox_server.domain import errors
from sandbox_server.domain.files import File
from sandbox_server.domain.usage import Usage

_STAT = re.compile(
    rb"([0-9a-f]{1,8}) ([0-9]{1,19}) (-?[0-9]{1,12}) ([0-9]{1,20}) ([0-9]{1,20}) [^.]{0,30}(?:\.([0-9]{9}))?[^.]{0,30}\Z"
)
_USAGE = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19}) ([0-9]{1,19}) ([0-9]{1,19}) ([0-9]{1,19})\Z")
_SIZE_MOST = 2**63 - 1
# How the C libraries of GNU and musl, and a tool's own words, end a line of what it says.
_CAUSES = (
    ("missing", rb"No such file(?: or directory)?|(?:Directory )?nonexistent(?: directory)?|No such device or address"),
    ("directory", rb"Is a directory"),
    ("not_a_file", rb"Not a regular file|Too many levels of symbolic links|Symbolic link loop"),
    ("not_a_directory", rb"Not a directory"),
    ("denied", rb"Permission denied|Operation not permitted|Read-only file system"),
    ("full", rb"No space left on device|Disk quota exceeded|Quota exceeded|File too large"),
    ("no_tool", rb"not found|invalid input flag: .fullblock.|bad operand|unrecognized option.*|invalid option.*"),
    ("exists", rb"File exists"),
    ("not_empty", rb"Directory not empty"),
    ("elsewhere", rb"(?:Invalid )?Cross-device link"),
    ("too_long", rb"File ?name too long"),
)
_CAUSE = re.compile(
    rb": ?(?:"
    + b"|".join(b"(?P<%s>%s)" % (name.encode(), text) for name, text in _CAUSES)
    + rb")(?: \(os error \d+\))?$",
    re.MULTILINE | re.IGNORECASE,
)


def refusal(said: bytes) -> errors.ServiceError:
    """Returns the error that a tool has told of. A name in its words may look like a cause: the last one counts."""
    causes = [one.lastgroup for one in _CAUSE.finditer(said)]
    match causes[-1] if causes else None:
        case "missing":
            return errors.NotFound("FILE_NOT_FOUND", "there is nothing at this path: check it")
        case "directory":
            return errors.FailedPrecondition("NOT_A_FILE", "a directory is at this path: name a file")
        case "not_a_file":
            message = "what is at this path is no regular file, or leads through too many links: name a file"
            return errors.FailedPrecondition("NOT_A_FILE", message)
        case "not_a_directory":
            message = "a part of the path that must be a directory is none: check it"
            return errors.FailedPrecondition("NOT_A_DIRECTORY", message)
        case "denied":
            message = "the sandbox's user may not do this: change the permissions in the sandbox, or use another path"
            return errors.FailedPrecondition("PERMISSION_DENIED_IN_SANDBOX", message)
        case "full":
            message = "the disk of the sandbox is full, or its quota is used up: remove files, or give it a larger disk"
            return errors.ResourceExhausted("DISK_FULL", message)
        case "no_tool":
            message = "the image has no stat, dd, head, readlink or mv that works: install coreutils or busybox"
            return errors.FailedPrecondition("EXEC_UNSUPPORTED", message)
        case "exists":
            message = "there is something at this path: remove it, or choose another path"
            return errors.FailedPrecondition("FILE_EXISTS", message)
        case "not_empty":
            message = "the directory is not empty: remove what is in it, or remove it with everything in it"
            return errors.FailedPrecondition("DIRECTORY_NOT_EMPTY", message)
        case "elsewhere":
            message = "the paths are on different file systems: write the file at the new path, and remove it here"
            return errors.FailedPrecondition("FILE_REFUSED", message)
        case "too_long":
            violation = errors.Violation("path", "is longer than the sandbox's file system allows")
            return errors.Invalid((violation,))
    message = "the file system of the sandbox refuses this for another reason: try it in the sandbox"
    return errors.FailedPrecondition("FILE_REFUSED", message)


class Answers:
    """The answers of a program about one path. Every method raises `Cut`."""

    def __init__(self, lines: Lines, path: bytes) -> None:
        self.lines = lines
        self._folder = b""
        self._path = path

    async def begin(self) -> None:
        """Reads the directory to which the path is relative."""
        self._folder = await self.lines.field()
        self.turn(self._path)

    def turn(self, path: bytes) -> None:
        """Has the answers that follow be about another path."""
        self._path = absolute(self._folder, path)

    def within(self, name: bytes) -> bytes:
        """Returns the path of what has this name in the directory that the answers are about."""
        return absolute(self._path, name)

    async def word(self, expected: bytes, within: float | None = None) -> None:
        """Reads the next field. Raises the error that a tool has told of instead, if it has."""
        word = await self.lines.field(within)
        if word == b"failed":
            raise refusal(await self.lines.field())
        if word != expected:
            raise Cut("the sandbox gives an answer that is none")

    async def file(self) -> File:
        """Returns the file of the next answer. Raises as `word`."""
        await self.word(b"file")
        return self.parsed(await self.lines.field(), await self.lines.field())

    async def found(self) -> File | errors.NotFound:
        """Returns what there is at the path, or the error that tells that there is nothing. Raises any other error."""
        match await self.lines.field(), await self.lines.field():
            case b"there", said:
                return self.parsed(said)
            case b"not", said:
                refused = refusal(said)
                if isinstance(refused, errors.NotFound):
                    return refused
                raise refused
        raise Cut("the sandbox gives an answer that is none")

    def parsed(self, text: bytes, target: bytes = b"", path: bytes = b"") -> File:
        """Returns the file of which `stat` has printed `text`. `path`: another than the one that the answers are about."""
        found = _STAT.match(text)
        if not found or int(found[2]) > _SIZE_MOST:
            raise Cut("the sandbox gives an answer that is none")
        modified = int(found[3]) * 10**9 + int(found[6] or 0)
        return File(
            path or self._path, int(found[1], 16), int(found[2]), modified, int(found[4]), int(found[5]), target
        )


def usage(text: bytes) -> Usage:
    """Returns the usage of the disk of which `stat` has printed `text`. Raises `Cut` if it is none."""
    found = _USAGE.match(text)
    if not found:
        raise Cut("the sandbox gives an answer that is none")
    block, blocks, free, inodes, free_inodes = map(int, found.groups())
    used, capacity = max(0, blocks - free) * block, blocks * block
    if capacity > _SIZE_MOST or inodes > _SIZE_MOST:
        raise Cut("the sandbox gives an answer that is none")
    return Usage(used, capacity, max(0, inodes - free_inodes), inodes)


def absolute(folder: bytes, path: bytes) -> bytes:
    """Returns the path from the root. `path` may be relative to the folder, or empty for the folder itself."""
    if path.startswith(b"/"):
        return path
    if not folder.startswith(b"/"):
        raise Cut("the sandbox gives an answer that is none")
    return (folder.rstrip(b"/") + b"/" + path).rstrip(b"/") or b"/"
