"""The command `cp`."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from sandbox.v1 import access_pb2 as pb
from sandbox_client import errors

from sandboxctl import linking, show, targets
from sandboxctl.options import chosen

Advance = Callable[[int], None]
_NO_FILE = "it is no file, directory or link"


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a sandbox."""

    namespace: str
    sandbox_id: str
    path: bytes

    def child(self, name: bytes) -> "Place":
        """Returns the place of an entry of the directory."""
        return Place(self.namespace, self.sandbox_id, self.path.rstrip(b"/") + b"/" + name)

    def info(self) -> pb.FileInfo | None:
        """Returns what is there, through links; None for nothing."""
        try:
            return chosen.client.files.stat(self.sandbox_id, self.path, follow_link=True, namespace=self.namespace)
        except errors.NotFound as error:
            if error.reason != "FILE_NOT_FOUND":
                raise
            return None


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be copied: a directory, a file, or a link, by its names below the top."""

    names: tuple[bytes, ...]
    kind: "pb.FileType.ValueType"
    size: int
    mode: int
    leads_to: bytes = b""


def cp(
    source: Annotated[str, typer.Argument(help="PATH, or SANDBOX_ID:PATH", metavar="SOURCE")],
    target: Annotated[str, typer.Argument(help="SANDBOX_ID:PATH, or PATH", metavar="TARGET")],
) -> None:
    """Copy files and directories to a sandbox, or from one. A directory that is there gets the copy in it."""
    there, here = _place(source), _place(target)
    if (there is None) == (here is None):
        raise typer.BadParameter("one of the two must be in a sandbox: SANDBOX_ID:PATH")
    left_out = _download(there, Path(target)) if there is not None else 0
    left_out = _upload(Path(source), here) if here is not None else left_out
    if left_out:
        raise typer.Exit(1)


def _place(text: str) -> Place | None:
    """Returns the place in a sandbox that an argument names; None for a path of this machine, as one with / before its colon.

    An id has no dot and may follow its namespace and a slash: `a/b:c` is in a sandbox, `./a/b:c` is not.
    """
    name, colon, path = text.partition(":")
    if not colon or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        return None
    namespace, sandbox_id = targets.named(name)
    return Place(namespace, sandbox_id, os.fsencode(path) or b".")


def _upload(source: Path, target: Place) -> int:
    """Copies to a sandbox. Returns how many entries were left out."""
    entries = list(_local(source, ()))
    found = target.info()
    if found is not None and found.type == pb.FILE_TYPE_DIRECTORY:
        target = target.child(os.fsencode(source.resolve().name))
    left_out = 0
    folders: dict[tuple[bytes, ...], bytes] = {}
    links: list[tuple[bytes, bytes]] = []
    with _progress(entries, source.name) as advance:
        for entry in entries:
            place = target
            for name in entry.names:
                place = place.child(name)
            if entry.kind == pb.FILE_TYPE_DIRECTORY:
                made = chosen.client.files.make_directory(
                    place.sandbox_id, place.path, parents=True, mode=entry.mode | 0o700, namespace=place.namespace
                )
                folders[entry.names] = made.path
            elif entry.kind == pb.FILE_TYPE_LINK:
                links.append((folders[entry.names[:-1]] + b"/" + entry.names[-1], entry.leads_to))
            elif entry.kind == pb.FILE_TYPE_FILE:
                content = source.joinpath(*map(os.fsdecode, entry.names))
                chosen.client.files.write(
                    place.sandbox_id, place.path, content, mode=entry.mode, namespace=place.namespace, sent=advance
                )
            else:
                left_out += _left_out(source.joinpath(*map(os.fsdecode, entry.names)), _NO_FILE)
    # Links at last: nothing is written through them.
    for path, why in linking.make(target.sandbox_id, target.namespace, links):
        left_out += _left_out(Path(os.fsdecode(path)), why)
    return left_out


def _local(path: Path, names: tuple[bytes, ...]) -> Iterator[Entry]:
    """Yields what is at a path, directories before what is in them. Raises OSError."""
    # A link that is named is followed, and one that is found is not.
    found = path.lstat() if names else path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        yield Entry(names, pb.FILE_TYPE_DIRECTORY, 0, mode)
        for child in sorted(path.iterdir()):
            yield from _local(child, (*names, os.fsencode(child.name)))
    elif stat.S_ISREG(found.st_mode):
        yield Entry(names, pb.FILE_TYPE_FILE, found.st_size, mode)
    elif stat.S_ISLNK(found.st_mode):
        yield Entry(names, pb.FILE_TYPE_LINK, 0, mode, os.readlink(os.fsencode(path)))  # noqa: PTH115 - as it is written
    else:
        yield Entry(names, pb.FILE_TYPE_OTHER, 0, mode)


def _download(source: Place, target: Path) -> int:
    """Copies from a sandbox. Returns how many entries were left out."""
    found = chosen.client.files.stat(source.sandbox_id, source.path, follow_link=True, namespace=source.namespace)
    entries = list(_remote(source, found, ()))
    if target.is_dir():
        target = target / (os.fsdecode(found.path.rstrip(b"/").rpartition(b"/")[2]) or source.sandbox_id)
    left_out = 0
    with _progress(entries, os.fsdecode(source.path)) as advance:
        for entry in entries:
            place = source
            for name in entry.names:
                place = place.child(name)
            path = target.joinpath(*map(os.fsdecode, entry.names))
            if entry.kind == pb.FILE_TYPE_DIRECTORY:
                # A link, such as one of a former copy, would lead what follows to another place.
                if path.is_symlink():
                    path.unlink()
                path.mkdir(exist_ok=True)
            elif entry.kind == pb.FILE_TYPE_FILE:
                _fetch(place, path, entry.mode, advance)
            elif entry.kind != pb.FILE_TYPE_LINK:
                left_out += _left_out(path, _NO_FILE)
    # Links at last: nothing is written through them. Modes too: a directory may not let its owner write.
    for entry in reversed(entries):
        path = target.joinpath(*map(os.fsdecode, entry.names))
        if entry.kind == pb.FILE_TYPE_LINK:
            left_out += _linked(path, entry.leads_to)
        elif entry.kind == pb.FILE_TYPE_DIRECTORY:
            path.chmod(entry.mode & 0o777)
    return left_out


def _remote(place: Place, found: pb.FileInfo, names: tuple[bytes, ...]) -> Iterator[Entry]:
    """Yields what is at a place, directories before what is in them."""
    yield Entry(names, found.type, found.size, found.mode, found.link_target)
    if found.type == pb.FILE_TYPE_DIRECTORY:
        for one in chosen.client.files.list(place.sandbox_id, place.path, namespace=place.namespace):
            name = one.path.rpartition(b"/")[2]
            if name in (b"", b".", b".."):
                raise ValueError(f"the sandbox names an entry of a directory {os.fsdecode(name)!r}")
            yield from _remote(place.child(name), one, (*names, name))


def _fetch(place: Place, path: Path, mode: int, advance: Advance) -> None:
    """Reads a file into one beside its place, which gets its name once it is complete."""
    beside = _beside(path)
    try:
        with beside.open("xb") as file:
            for part in chosen.client.files.parts(place.sandbox_id, place.path, namespace=place.namespace):
                file.write(part)
                advance(len(part))
        beside.chmod(mode & 0o777)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _linked(path: Path, leads_to: bytes) -> int:
    """Makes a link, which replaces a file or link. Returns how many were left out: 1 if it could not be made, else 0."""
    beside = _beside(path)
    try:
        beside.symlink_to(os.fsdecode(leads_to))
        beside.replace(path)
    except OSError as error:
        return _left_out(path, error.strerror or str(error))
    finally:
        beside.unlink(missing_ok=True)
    return 0


def _beside(path: Path) -> Path:
    """Returns where something is made that gets its name once it is complete."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.part")


def _left_out(path: Path, why: str) -> int:
    show.failure("left out", f"{path}: {why}")
    return 1


@contextmanager
def _progress(entries: list[Entry], name: str) -> Iterator[Advance]:
    """Shows a bar on a terminal while the context lasts, by the bytes that are reported."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=show.err, transient=True, disable=not show.err.is_terminal) as bar:
        task = bar.add_task(show.printable(name), total=sum(entry.size for entry in entries))
        yield lambda size: bar.advance(task, size)
