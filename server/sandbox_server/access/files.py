"""The files of sandboxes that run. Nothing is kept here."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from sandbox_server import engines, store
from sandbox_server.access import file_scripts
from sandbox_server.access.asking import Asking, Where
from sandbox_server.access.content import Content
from sandbox_server.access.conversation import Cut
from sandbox_server.access.file_answers import Answers, usage
from sandbox_server.domain import errors
from sandbox_server.domain.files import File, Write
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage

CHUNK = 512 * 1024
"""Bytes of content in one message to a caller, at most."""
_END_MOST = 512
"""Bytes of the end of an answer, which follows the content."""

Begin = Callable[[File], Awaitable[None]]
Send = Callable[[bytes], Awaitable[None]]


class Files:
    """The files of all sandboxes, on behalf of principals.

    Every method raises `errors.NotFound`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and `errors.Unavailable`.
    """

    def __init__(self, store: store.Store, asking: Asking) -> None:
        self._store = store
        self._asking = asking

    async def usage(self, principal: Principal, key: Key) -> Usage:
        """Returns how full the disk of a sandbox is."""
        async with self._asking.about(Where(principal, key, b""), lambda _: file_scripts.usage()) as answers:
            return await _usage(answers)

    async def measured(self, sandbox: Sandbox) -> Usage:
        """Returns how full the disk of a sandbox is, for the service itself: the call takes nothing from its tenant's."""
        async with self._asking.inside(sandbox, b"", lambda _: file_scripts.usage()) as answers:
            return await _usage(answers)

    async def stat(self, where: Where, follow: bool) -> File:
        """Returns what there is at a path: with `follow` where a link leads, else the link."""
        async with self._asking.about(where, lambda _: file_scripts.stat(where.path, follow)) as answers:
            return await answers.file()

    async def read(self, where: Where, offset: int, limit: int, begin: Begin, send: Send) -> None:
        """Calls `begin` with the file, and `send` with its content. Raises `errors.Aborted` if it has changed meanwhile."""
        mark = secrets.token_hex(16)
        async with self._asking.about(where, lambda _: file_scripts.read(where.path, offset, limit, mark)) as answers:
            file = await answers.file()
            await begin(file)
            # What may be the end is held back: content can have every byte, and the mark is known to nobody before.
            held: list[bytes] = []
            while data := await answers.lines.some(CHUNK):
                held.append(data)
                while sum(map(len, held[1:])) >= _END_MOST:
                    await send(held.pop(0))
            content, marked, last = b"".join(held).partition(b"\0" + mark.encode() + b"\0")
            if not marked:
                raise _ended()
            if content:
                await send(content)
            if answers.parsed(last.removesuffix(b"\0")).etag != file.etag:
                raise errors.Aborted("FILE_CHANGED", "the file was changed while it was read: read it again")

    async def write(
        self, where: Where, request: store.Request | None, asked: Write, parts: AsyncIterator[engines.Buffer]
    ) -> File:
        """Writes a file, and returns it.

        Raises `errors.Aborted` if the former file does not match, `errors.ResourceExhausted` if the disk is full,
        `errors.Invalid` for a content of another size, or a request id that was used for something else, and what the parts
        raise. The former file then stays.
        """
        async with self._asking.about(where, lambda one: file_scripts.write(where.path, asked.mode, one)) as answers:
            await answers.word(b"ready")
            content = Content(answers)
            await content.send(parts, asked.size)
            await answers.lines.send(b"end\n")
            await answers.word(b"written", within=self._asking.pace.access_stored_within)
            written = answers.parsed(await answers.lines.field())
            former = await answers.lines.field()
            if written.size != content.size:
                raise Cut("the sandbox has changed the new file")
            was = answers.parsed(former).etag if former else ""
            if request is not None:
                # The first call with this id has said what it finds and what it makes of it, before it did.
                payload = b"%b\0%d %d" % (request.payload, content.size, content.checksum)
                stored = replace(request, payload=payload)
                (decided,) = await self._store.decided(stored, where.key.namespace, (f"{was}/{written.etag}",))
                found, _, made = decided.partition("/")
                if made == was:
                    return answers.parsed(former)
                if found != was:
                    raise _changed("since this request was first made")
            if asked.match not in ("", was) and (asked.match != "*" or not was):
                raise _changed("since its etag was read, or does not exist")
            await answers.lines.send(b"keep\n")
            return await answers.file()


async def _usage(answers: Answers) -> Usage:
    await answers.word(b"usage")
    return usage(await answers.lines.field())


def _changed(when: str) -> errors.Aborted:
    return errors.Aborted("FILE_CHANGED", f"the file has changed {when}: read it, and decide again")


def _ended() -> Cut:
    return Cut("the program in the sandbox has ended")
