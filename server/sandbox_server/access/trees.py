"""Directories of sandboxes that run: what is in them is listed, made, moved and removed."""

import re
from collections.abc import Sequence

from sandbox_server import store
from sandbox_server.access import tree_scripts
from sandbox_server.access.asking import Asking, Where
from sandbox_server.access.conversation import Cut, number
from sandbox_server.access.file_answers import Answers
from sandbox_server.domain import errors
from sandbox_server.domain.files import File, FileType

ENTRIES_MOST = 1000
"""Entries of one page."""
_RECORD = re.compile(rb"([^/]*) \./([^/]+)/\n")
_RECORD_MOST = 512
_NOTHING = "-"


class Trees:
    """The directories of all sandboxes, on behalf of principals.

    Every method raises `errors.NotFound`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and `errors.Unavailable`,
    and what changes something `errors.Aborted` if it cannot tell any more whether a repeated request took effect.
    """

    def __init__(self, store: store.Store, asking: Asking) -> None:
        self._store = store
        self._asking = asking

    async def list(self, where: Where, after: bytes, most: int) -> tuple[Sequence[File], bytes]:
        """Returns what is in a directory, at most `most` entries after a name in the order of bytes, and the name after which
        there is more, empty if there is not."""
        async with self._asking.about(where, lambda _: tree_scripts.listed(where.path)) as answers:
            chosen, more = await _chosen(answers, after, most)
            found: list[File] = []
            if chosen:
                # In the order of their numbers: what is read is the same, and a sandbox that answers otherwise is found.
                await answers.lines.send(b" ".join(b"%d" % number for number in chosen.values()) + b"\n")
                found = await _described(answers, chosen)
            # The last name may be gone by now.
            return sorted(found, key=lambda one: one.path), [*chosen][-1] if more else b""

    async def make(self, where: Where, request: store.Request | None, parents: bool, mode: int | None) -> File:
        """Makes a directory, and returns it. With `parents`, those that are missing, and it may exist."""
        async with self._asking.about(where, lambda _: tree_scripts.made(where.path, parents, mode)) as answers:
            now = await answers.found()
            before = await self._before(where, request, now)
            # What was not there when this request was first made, it has made.
            if isinstance(now, File) and before != _NOTHING and not (parents and now.type is FileType.DIRECTORY):
                message = "there is something at this path: remove it, or choose another path"
                raise errors.FailedPrecondition("FILE_EXISTS", message)
            await answers.lines.send(b"go\n")
            return await answers.file()

    async def remove(self, where: Where, request: store.Request | None, recursive: bool) -> None:
        """Removes a file or a directory, with `recursive` together with everything in it."""
        async with self._asking.about(where, lambda one: tree_scripts.removed(where.path, recursive, one)) as answers:
            now = await answers.found()
            before = await self._before(where, request, now)
            if before == _NOTHING:
                raise _changed() if isinstance(now, File) else now
            if not isinstance(now, File) or _identity(now.etag) != _identity(before):
                return
            if now.etag != before:
                raise _changed()
            await answers.lines.send(b"go\n")
            await answers.word(b"done", within=self._asking.pace.access_stored_within)

    async def move(self, where: Where, to: bytes, request: store.Request | None, overwrite: bool) -> File:
        """Renames a file or a directory, and returns it."""
        async with self._asking.about(where, lambda _: tree_scripts.moved(where.path, to, overwrite)) as answers:
            now = await answers.found()
            answers.turn(to)
            there = await answers.found()
            before = await self._before(where, request, now)
            if before == _NOTHING:
                raise _changed() if isinstance(now, File) else now
            if not isinstance(now, File) or now.etag != before:
                if isinstance(there, File) and there.etag == before:
                    return there
                raise _changed()
            await answers.lines.send(b"go\n")
            return await answers.file()

    async def _before(self, where: Where, request: store.Request | None, now: File | errors.NotFound) -> str:
        """Returns the etag of what the first call with this request has found, `_NOTHING` if there was nothing."""
        found = now.etag if isinstance(now, File) else _NOTHING
        if request is None:
            return found
        (before,) = await self._store.decided(request, where.key.namespace, (found,))
        return before


def _identity(etag: str) -> str:
    """Returns the part of an etag that stays when the file is changed."""
    return etag.rsplit("-", 2)[0]


def _changed() -> errors.Aborted:
    message = "what is at this path has changed since this request was first made: look at it, and decide again"
    return errors.Aborted("FILE_CHANGED", message)


async def _chosen(answers: Answers, after: bytes, most: int) -> tuple[dict[bytes, int], bool]:
    """Returns the first `most` names after a name with their numbers, and whether there are more. Keeps no more in memory."""
    await answers.word(b"names")
    kept: dict[bytes, int] = {}
    more = False
    count = 0
    async for names in answers.lines.fields():
        kept |= {name: at for at, name in enumerate(names, count + 1) if name > after and _is_entry(name)}
        count += len(names)
        if len(kept) > most:
            kept, more = _first(kept, most), True
    return kept, more


def _is_entry(name: bytes) -> bool:
    """Returns whether the directory can have an entry of this name: a sandbox may answer with any."""
    return b"/" not in name and name not in (b".", b"..")


def _first(names: dict[bytes, int], most: int) -> dict[bytes, int]:
    return dict(sorted(names.items())[:most])


async def _described(answers: Answers, chosen: dict[bytes, int]) -> list[File]:
    """Returns what `stat` tells of the names, without those that have vanished."""
    records = await answers.lines.field(most=(1 + len(chosen)) * _RECORD_MOST)
    targets: dict[int, bytes] = {}
    while which := await answers.lines.field():
        targets[number(which)] = await answers.lines.field()
    # A tool may print a name that is not UTF-8 with other bytes.
    names = {one.decode(errors="replace").encode(): one for one in chosen} | {one: one for one in chosen}
    found = []
    for text, printed in _RECORD.findall(records):
        name = names.get(printed)
        if name is None:
            raise Cut("the sandbox gives an answer that is none")
        found.append(answers.parsed(text, targets.get(chosen[name], b""), answers.within(name)))
    return found
