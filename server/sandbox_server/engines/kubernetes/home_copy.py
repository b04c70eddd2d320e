"""Copies a home from one container to another, and compares both: by GNU tar, GNU find and sha256sum in each.

A pass lists both homes and sends what differs. So a copy that was cut off is resumed, and what changes while it is copied is
sent again. It is complete once nothing differs, every hash is the same, and the source has not changed since it was listed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple

from sandbox_server import engines, failpoints
from sandbox_server.engines.kubernetes import home_listing, pods, streams
from sandbox_server.engines.kubernetes.home_listing import Changes, Listing

PASSES = 6
"""How often files that change all the time are sent again, before the copy is given up for a while."""
LISTED_MOST = 64 << 20
"""Bytes of the list of a home: half a million files. Each takes a kilobyte of memory while it is compared."""
_CHUNK = 256 * 1024
_WORDS = 500
"""Bytes of what tar says, in a message: it says something of each file that it cannot write."""
_SHOWN = 5
"""Names in a message."""
_DONE = b"done"
"""The last output of a program that has succeeded: a connection that is cut looks like one that ends."""

_CHECK = """LC_ALL=C; export LC_ALL
tar --version | grep -q GNU && find . -maxdepth 0 -printf '' && printf '' | xargs -0 -r sha256sum -z && head -c 0 && printf done"""
# A program that stores again into a page that it has mapped and that is not on the disk yet changes no time of the file.
_LIST = rf"""cd "$1" && {{ timeout 20 sync -f . >/dev/null 2>&1 || :; }} && \
find . -xdev ! -type s \( \( -type l -o -readable \) -printf 'r\0' -o -printf '-\0' \) \
-printf '{home_listing.FORMAT}' && printf done"""
_HASH = """cd "$1" && find . -xdev -type f -print0 | xargs -0 -r sha256sum -z -- && printf done"""
_SEND = """cd "$1" && head -c "$2" | tar --format=posix --numeric-owner -S --no-recursion --null -T - -cf - && printf done"""
_RECEIVE = """cd "$1" && tar -xpf - --numeric-owner 2>&1 && printf done"""
_REMOVE = """cd "$1" && head -c "$2" | xargs -0 -r rm -rf -- 2>&1 && printf done"""


class NotMoved(Exception):
    """The home cannot be copied. The text says why, and ends with the next step."""


class _Unsteady(Exception):
    """A program has failed, as it does where files go while it reads them."""


Enter = Callable[[tuple[str, ...]], AbstractAsyncContextManager[streams.Stream]]
"""Runs a program in a container. Raises `engines.Unreachable`, also if that is no longer the container that is meant."""


@dataclass(frozen=True, slots=True)
class Side:
    """A container with a home."""

    enter: Enter

    async def able(self) -> bool:
        """Whether the image has the programs."""
        with contextlib.suppress(_Unsteady):
            return await self._output(_CHECK) == b""
        return False

    async def list(self) -> Listing:
        """Returns what is in the home. Raises `NotMoved` if some of it cannot be read."""
        async with self._run(_LIST) as stream:
            printed = await _all(stream)
        if not stream.end.exit_code:
            _check(stream, printed)
        listing = await asyncio.to_thread(home_listing.parse, printed[: printed.rfind(b"\0") + 1])
        if names := home_listing.unreadable(listing):
            raise NotMoved(f"the user of its pod may not read {_said(names)}: make that readable there, or remove it")
        _check(stream, printed)
        return listing

    async def digest(self) -> str:
        """Returns the digest of what is in the home now; empty if files go while they are listed. Raises as `list`."""
        with contextlib.suppress(_Unsteady):
            return await asyncio.to_thread(home_listing.digest, await self.list())
        return ""

    async def changing(self) -> NotMoved:
        """Returns that files go on changing, and those that have changed last. Raises as `list`."""
        with contextlib.suppress(_Unsteady):
            return _changing(home_listing.newest(await self.list()))
        return _changing([])

    async def hash(self) -> dict[bytes, bytes]:
        """Returns the hash of each file, by name."""
        printed = await self._output(_HASH)
        lines = (one.split(b"  ./", 1) for one in printed.split(b"\0") if one)
        return {name: value for value, name in lines}

    async def remove(self, names: Iterable[bytes]) -> None:
        """Removes what is there of these names."""
        given = _given(names)
        async with self._run(_REMOVE, str(len(given))) as stream:
            await stream.write(given)
            await stream.close()
            said = await _all(stream)
            if not said.endswith(_DONE):
                _check(stream, said)

    @contextlib.asynccontextmanager
    async def _run(self, script: str, *words: str) -> AsyncIterator[streams.Stream]:
        async with self.enter(("/bin/sh", "-c", script, "sh", pods.HOME, *words)) as stream:
            yield stream

    async def _output(self, script: str) -> bytes:
        async with self._run(script) as stream:
            printed = await _all(stream)
            _check(stream, printed)
            return printed.removesuffix(_DONE)

    def sends(self, names: Iterable[bytes]) -> "AbstractAsyncContextManager[streams.Stream]":
        """Begins to send what has these names."""
        return self._sends(_given(names))

    @contextlib.asynccontextmanager
    async def _sends(self, given: bytes) -> AsyncIterator[streams.Stream]:
        async with self._run(_SEND, str(len(given))) as stream:
            writing = asyncio.create_task(stream.write(given))
            try:
                yield stream
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    def receives(self) -> "AbstractAsyncContextManager[streams.Stream]":
        """Begins to receive what another sends."""
        return self._run(_RECEIVE)


class Copy(NamedTuple):
    """A copy that is complete: how many files it has, their bytes, and the digest of the source."""

    files: int
    bytes: int
    digest: str


async def copy(source: Side, target: Side, say: Callable[[str], None]) -> Copy:
    """Makes the home of `target` that of `source`. `say` is told how far it is.

    Raises `NotMoved`, and `engines.Unreachable` where it was cut off.
    """
    if not await source.able():
        raise NotMoved(
            "its image lacks a program that the copy needs: GNU tar, find and xargs, and head and sha256sum of GNU coreutils. "
            "Copy its files by hand, into a new sandbox"
        )
    last: tuple[bytes, ...] = ()
    for number in range(PASSES):
        with contextlib.suppress(_Unsteady):
            listed = await source.list()
            found = await _differences(source, target, listed)
            if found:
                last = found.sent or found.gone
                say(f"pass {number + 1}: {len(found.sent)} of {len(listed)} files and folders are sent")
                await _send(source, target, found)
                failpoints.hit("home_sent")
            elif (digest := await source.digest()) == await asyncio.to_thread(home_listing.digest, listed):
                return Copy(*home_listing.files(listed), digest)
    raise _changing(last)


def _changing(names: Iterable[bytes]) -> NotMoved:
    return NotMoved(
        f"its files go on changing while they are copied, such as {_said(names)}: have its processes leave them alone for a while"
    )


async def _differences(source: Side, target: Side, listed: Listing) -> Changes:
    """Compares the contents only where nothing else differs."""
    found = await asyncio.to_thread(home_listing.changes, listed, await target.list())
    if found:
        return found
    wanted, there = await asyncio.gather(source.hash(), target.hash())
    return home_listing.contents(listed, [name for name, value in wanted.items() if there.get(name) != value])


async def _send(source: Side, target: Side, found: Changes) -> None:
    if found.gone:
        await target.remove(found.gone)
    async with source.sends(found.sent) as sending, target.receives() as receiving:
        # What is said meanwhile has to be read, or no more is received.
        saying = asyncio.create_task(_last(receiving))
        try:
            # The end of the output says whether it is complete, and is no part of the archive.
            held = b""
            while data := await sending.read(_CHUNK):
                held += data
                await receiving.write(held[: -len(_DONE)])
                held = held[-len(_DONE) :]
            complete = held == _DONE
            if not complete:
                await receiving.write(held)
            await receiving.close()
            said = await saying
        finally:
            saying.cancel()
            await asyncio.wait([saying])
        if not said.endswith(_DONE) and receiving.end.exit_code and complete:
            words = said.decode(errors="replace").strip()
            raise NotMoved(
                f"the disk does not take its files: {words}. Give it more room (UpdateSandbox) if it is full"
            )
    _check(sending, held)
    _check(receiving, said)


def _check(stream: streams.Stream, printed: bytes) -> None:
    """Raises `_Unsteady` if the program has failed, and `engines.Unreachable` if it was cut off."""
    if printed.endswith(_DONE):
        return
    if stream.end.exit_code:
        raise _Unsteady
    raise engines.Unreachable("exec: the copy was cut off")


async def _all(stream: streams.Stream) -> bytes:
    """Returns the output. Raises `NotMoved` for what has more than a list of files may have."""
    printed = bytearray()
    while data := await stream.read(_CHUNK):
        printed += data
        if len(printed) > LISTED_MOST:
            raise NotMoved(
                "it has too many files, more than about half a million: have its processes remove some, such as caches"
            )
    return bytes(printed)


async def _last(stream: streams.Stream) -> bytes:
    """Returns the end of the output."""
    held = b""
    while data := await stream.read(_CHUNK):
        held = (held + data)[-_WORDS:]
    return held


def _given(names: Iterable[bytes]) -> bytes:
    return b"".join(b"./" + name + b"\0" for name in names)


def _said(names: Iterable[bytes]) -> str:
    shown = [(name.decode(errors="backslashreplace") or ".") for name in list(names)[:_SHOWN]]
    return ", ".join(map(repr, shown))
