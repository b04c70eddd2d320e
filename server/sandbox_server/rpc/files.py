"""The RPCs of SandboxAccess that are about files, and the conversion of their messages."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.v1 import access_pb2 as pb

from sandbox_server.access.asking import Where
from sandbox_server.access.files import Files
from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.files import File, Write
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import convert, deadlines, receive, usage
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields
from sandbox_server.rpc.receive import Stream

PATH_MOST = 4000
"""Bytes of a path. The kernel takes 4,095, with the directory of the sandbox before a relative one."""
NAME_MOST = 255
DATA_MOST = 1 << 20
_SECONDS = range(-62_135_596_800, 253_402_300_800)
"""The seconds that a Timestamp can have."""
_NO_LIMIT = 2**63 - 1


class FileCalls:
    """Implements the RPCs that are about files."""

    def __init__(self, found: Files, pace: Pace) -> None:
        self._files = found
        self._file_pace = pace

    async def GetVolumeUsage(self, principal: Principal, request: pb.GetVolumeUsageRequest, caller: Caller) -> Fields:
        principal.permit("GetVolumeUsage")
        found = tuple(_bad_names(principal, request))
        if found:
            raise errors.Invalid(found)
        asked = self._files.usage(principal, principal.key(request.namespace, request.sandbox_id))
        return usage.fields(await deadlines.within(self._file_pace.call_most, caller, asked))

    async def StatFile(self, principal: Principal, request: pb.StatFileRequest, caller: Caller) -> Fields:
        principal.permit("StatFile")
        found = self._files.stat(where(principal, request), request.follow_link)
        return {"file": file_fields(await deadlines.within(self._file_pace.call_most, caller, found))}

    async def ReadFile(self, principal: Principal, request: pb.ReadFileRequest, caller: Caller) -> None:
        principal.permit("ReadFile")
        limit = request.limit if request.HasField("limit") else _NO_LIMIT
        negative = (
            Violation(name, "must not be negative")
            for name, value in (("offset", request.offset), ("limit", limit))
            if value < 0
        )
        to = where(principal, request, negative)

        async def begin(file: File) -> None:
            await send(pb.ReadFileResponse(file=pb.FileInfo(**file_fields(file))).SerializeToString())

        async def send(message: bytes) -> None:
            await deadlines.taken(self._file_pace.access_idle, caller.write(message))

        await self._files.read(to, request.offset, limit, begin, lambda data: send(_data(data)))

    async def WriteFile(self, principal: Principal, requests: Stream[pb.WriteFileRequest], _caller: Caller) -> Fields:
        first = requests.first
        to = where(principal, first, _bad_write(first))
        asked = Write(
            first.mode if first.HasField("mode") else None,
            first.size if first.HasField("size") else None,
            first.if_match,
        )
        data = first.data
        first.ClearField("data")
        # The content is a part of the payload of its own, whatever messages it comes in.
        request = convert.mutation(principal, to.key, first).request

        async def parts() -> AsyncIterator[bytes | memoryview]:
            yield data
            encoded = requests.encoded()
            while (one := await receive.further(encoded, self._file_pace.access_idle)) is not None:
                part = _written(one)
                if len(part) > DATA_MOST:
                    raise errors.Invalid(tuple(_bad_data(part)))
                yield part

        return {"file": file_fields(await self._files.write(to, request, asked, parts()))}


def where(principal: Principal, request: Any, violations: Iterable[Violation] = ()) -> Where:
    """Returns which path of which sandbox a request is about. Raises `errors.Invalid` with every bad field, and
    `errors.NotFound`."""
    found = [*_bad_names(principal, request), *bad_path("path", request.path), *violations]
    if found:
        raise errors.Invalid(tuple(found))
    return Where(principal, principal.key(request.namespace, request.sandbox_id), normal(request.path))


def _bad_names(principal: Principal, request: Any) -> Iterator[Violation]:
    yield from check.sandbox_id("sandbox_id", request.sandbox_id, True)
    yield from convert.bad_namespace(principal, request.namespace)


def normal(path: bytes) -> bytes:
    """Returns a path without what has no meaning: empty names, `.`, and a slash at its end."""
    root = b"/" if path.startswith(b"/") else b""
    return root + b"/".join(one for one in path.split(b"/") if one not in (b"", b"."))


def bad_path(field: str, path: bytes) -> Iterator[Violation]:
    """Yields the violation of a path that cannot be one."""
    if not path or b"\0" in path or len(path) > PATH_MOST or any(len(one) > NAME_MOST for one in path.split(b"/")):
        text = f"must be a path of 1 to {PATH_MOST} bytes without NUL, each name in it of at most {NAME_MOST} bytes"
        yield Violation(field, text)


def bad_change(request: Any) -> Iterator[Violation]:
    """Yields the violations of what requests have in common that change something."""
    yield from check.request_id("request_id", request.request_id)
    if "mode" in request.DESCRIPTOR.fields_by_name and request.HasField("mode") and not 0 <= request.mode <= 0o7777:
        yield Violation("mode", "must be permission bits, from 0 to 4095 (octal 7777)")


def _bad_write(request: pb.WriteFileRequest) -> Iterator[Violation]:
    yield from bad_change(request)
    yield from _bad_data(request.data)
    if request.HasField("size") and request.size < 0:
        yield Violation("size", "must not be negative")
    if len(request.if_match) > 100:
        yield Violation("if_match", "must be an etag as an answer has it, `*`, or empty")


def _bad_data(data: bytes | memoryview) -> Iterator[Violation]:
    if len(data) > DATA_MOST:
        yield Violation("data", f"must be at most {DATA_MOST} bytes: send several messages")


_READ = pb.ReadFileResponse(data=b" ").SerializeToString()[:1]
_WRITTEN = pb.WriteFileRequest(data=b" ").SerializeToString()[:1]


def _data(data: bytes) -> bytes:
    """Returns the encoded message that has `data`. Protobuf itself would copy the data once more."""
    return _head(_READ, len(data)) + data


def _written(encoded: bytes) -> bytes | memoryview:
    """Returns the `data` of an encoded message. Protobuf itself would copy the data twice."""
    for size in range(2, 5):
        length = len(encoded) - size
        if length >= 0 and len(head := _head(_WRITTEN, length)) == size and encoded.startswith(head):
            return memoryview(encoded)[size:]
    # The message has other fields, or is malformed.
    return receive.parsed(pb.WriteFileRequest, encoded).data


def _head(tag: bytes, length: int) -> bytes:
    """Returns the encoding of a field of bytes up to these."""
    head = tag
    while length > 127:
        head += bytes((length & 127 | 128,))
        length >>= 7
    return head + bytes((length,))


def file_fields(one: File) -> dict[str, Any]:
    """Returns the fields of a FileInfo."""
    seconds, nanos = divmod(one.modified, 10**9)
    seconds = max(_SECONDS.start, min(seconds, _SECONDS.stop - 1))
    return {
        "path": one.path,
        "type": one.type.value,
        "size": one.size,
        "mode": one.permissions,
        "modified_at": Timestamp(seconds=seconds, nanos=nanos),
        "etag": one.etag,
        "link_target": one.target,
    }
