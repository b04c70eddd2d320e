"""The RPCs of SandboxAccess that list, make, move and remove files, and the conversion of their messages."""

import base64
import binascii
from collections.abc import Iterator

from sandbox.v1 import access_pb2 as pb

from sandbox_server import manager
from sandbox_server.access import trees
from sandbox_server.access.trees import Trees
from sandbox_server.domain import errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.files import File
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import convert, deadlines, files, listing
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields


class TreeCalls:
    """Implements the RPCs that list, make, move and remove files."""

    def __init__(self, found: Trees, pace: Pace) -> None:
        self._trees = found
        self._tree_pace = pace

    async def ListFiles(self, principal: Principal, request: pb.ListFilesRequest, caller: Caller) -> bytes:
        principal.permit("ListFiles")
        most = min(request.page_size or manager.PAGE_DEFAULT, trees.ENTRIES_MOST)
        where = files.where(principal, request, _bad_page(request))
        listed = self._trees.list(where, name_of(request.page_token), most)
        found, following = await deadlines.within(self._tree_pace.call_most, caller, listed)
        page = listing.filled(most, found, _entry)
        if page.more and page.last is not None:
            following = page.last.path.rsplit(b"/", 1)[1]
        rest = pb.ListFilesResponse(next_page_token=token_of(following))
        return b"".join((*page.written, rest.SerializeToString()))

    async def MakeDirectory(self, principal: Principal, request: pb.MakeDirectoryRequest, caller: Caller) -> Fields:
        where = files.where(principal, request, files.bad_change(request))
        mode = request.mode if request.HasField("mode") else None
        stored = convert.mutation(principal, where.key, request).request
        made = self._trees.make(where, stored, request.parents, mode)
        return {"file": files.file_fields(await deadlines.within(self._tree_pace.call_most, caller, made))}

    async def RemoveFile(self, principal: Principal, request: pb.RemoveFileRequest, caller: Caller) -> Fields:
        where = files.where(principal, request, (*files.bad_change(request), *_bad_end("path", request.path)))
        stored = convert.mutation(principal, where.key, request).request
        removed = self._trees.remove(where, stored, request.recursive)
        await deadlines.within(self._tree_pace.call_most, caller, removed)
        return {}

    async def MoveFile(self, principal: Principal, request: pb.MoveFileRequest, caller: Caller) -> Fields:
        bad = (
            *files.bad_change(request),
            *_bad_end("path", request.path),
            *files.bad_path("to", request.to),
            *_bad_end("to", request.to),
        )
        where = files.where(principal, request, bad)
        stored = convert.mutation(principal, where.key, request).request
        moved = self._trees.move(where, files.normal(request.to), stored, request.overwrite)
        return {"file": files.file_fields(await deadlines.within(self._tree_pace.call_most, caller, moved))}


def _entry(one: File) -> bytes:
    return pb.ListFilesResponse(files=[pb.FileInfo(**files.file_fields(one))]).SerializeToString()


def _bad_page(request: pb.ListFilesRequest) -> Iterator[Violation]:
    if request.page_size < 0:
        yield Violation("page_size", "must not be negative")
    try:
        name_of(request.page_token)
    except errors.Invalid as invalid:
        yield from invalid.violations


def _bad_end(field: str, path: bytes) -> Iterator[Violation]:
    """Yields the violation of a path that names what nothing may replace or remove."""
    if path and files.normal(path) in (b"", b"/"):
        yield Violation(field, "must not be the root, or the directory of the sandbox")


def token_of(name: bytes) -> str:
    """Returns the token of the page after a name; empty for no name."""
    return base64.urlsafe_b64encode(name).decode()


def name_of(token: str) -> bytes:
    """Returns the last name of the page before. Raises `errors.Invalid`."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        violation = Violation("page_token", "must be the next_page_token of a page, or empty")
        raise errors.Invalid((violation,)) from None
