"""Converts the messages of SandboxAccess."""

import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from sandbox.v1 import access_pb2 as pb

from sandbox_server import store
from sandbox_server.access import streams
from sandbox_server.access.execs import Place
from sandbox_server.access.following import Part
from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.execs import Channel, End, Exec, Start, State, Terminal
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import convert
from sandbox_server.rpc.receive import Stream

WORDS_MOST = 1000
BYTES_MOST = 64 * 1024
"""Bytes of a command, and of an environment: the sandbox's shell reads them byte by byte."""
TIMEOUT_MOST = 7 * 24 * 3600
WAIT_MOST = 30.0
"""Seconds that one call waits, as WaitForPhase."""
INPUT_MOST = 1 << 20
SIZE_MOST = 10_000
SIGNALS = ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "STOP", "CONT", "WINCH")

_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_]{0,62}\Z")
_INCARNATION = re.compile(r"[-A-Za-z0-9_.]{0,100}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def place(principal: Principal, request: Any, violations: Iterable[Violation] = ()) -> Place:
    """Returns which exec a request is about. Raises `errors.Invalid` with every bad field, and `errors.NotFound`."""
    found = [*_bad_names(principal, request), *_bad_incarnation("incarnation", request.incarnation), *violations]
    if not _ID.match(request.exec_id):
        found.append(Violation("exec_id", "must be the id of an exec"))
    if found:
        raise errors.Invalid(tuple(found))
    return Place(principal, principal.key(request.namespace, request.sandbox_id), request.exec_id, request.incarnation)


def sandbox(principal: Principal, request: pb.ListExecsRequest | pb.OpenTerminalRequest) -> Place:
    """Returns which sandbox a request is about. Raises as `place`."""
    if found := tuple(_bad_names(principal, request)):
        raise errors.Invalid(found)
    return Place(principal, principal.key(request.namespace, request.sandbox_id), "", "")


def start(principal: Principal, request: pb.StartExecRequest) -> tuple[Place, store.Request | None, str, Start]:
    """Returns where to start what, the request if it has an id, and a digest of the payload. Raises as `place`."""
    if found := tuple(_bad_start(principal, request)):
        raise errors.Invalid(found)
    key = principal.key(request.namespace, request.sandbox_id)
    # Clears the request id: what is left is the payload.
    mutation = convert.mutation(principal, key, request)
    payload = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    asked = Start(
        tuple(request.command),
        dict(request.env),
        request.cwd,
        request.stdin,
        request.timeout_seconds,
        Terminal(request.tty.rows, request.tty.cols) if request.HasField("tty") else None,
    )
    return Place(principal, key, request.exec_id, ""), mutation.request, payload, asked


def _bad_start(principal: Principal, request: pb.StartExecRequest) -> Iterator[Violation]:
    yield from _bad_names(principal, request)
    yield from check.request_id("request_id", request.request_id)
    yield from _bad_incarnation("expected_incarnation", request.expected_incarnation)
    if request.exec_id:
        if not _ID.match(request.exec_id):
            yield Violation("exec_id", "must be 1 to 63 letters, digits, - and _, beginning with a letter or digit")
    elif not request.request_id:
        yield Violation("request_id", "is required without an exec_id: a repeat could run the command twice")
    words = list(request.command)
    if not words or not words[0] or len(words) > WORDS_MOST or sum(map(_size, words)) > BYTES_MOST:
        yield Violation("command", f"must be a program and arguments: at most {WORDS_MOST}, and {BYTES_MOST} bytes")
    if any("\0" in word for word in words):
        yield Violation("command", "must not have a NUL character")
    pairs = request.env.items()
    if not all(map(_VARIABLE.match, request.env)) or any("\0" in value for value in request.env.values()):
        yield Violation("env", "must have names of letters, digits and _, and values without a NUL character")
    if sum(_size(name) + _size(value) for name, value in pairs) > BYTES_MOST:
        yield Violation("env", f"must be at most {BYTES_MOST} bytes")
    if "\0" in request.cwd or _size(request.cwd) > 4096:
        yield Violation("cwd", "must be a path of at most 4096 bytes without a NUL character")
    if request.HasField("tty"):
        yield from _bad_size("tty", request.tty)
    if not 0 <= request.timeout_seconds <= TIMEOUT_MOST:
        yield Violation("timeout_seconds", f"must be from 0 to {TIMEOUT_MOST}")


def _bad_size(field: str, terminal: pb.Terminal) -> Iterator[Violation]:
    for name, value in (("rows", terminal.rows), ("cols", terminal.cols)):
        if not 1 <= value <= SIZE_MOST:
            yield Violation(f"{field}.{name}", f"must be from 1 to {SIZE_MOST}")


def _size(text: str) -> int:
    return len(text.encode())


def _bad_names(principal: Principal, request: Any) -> Iterator[Violation]:
    yield from check.sandbox_id("sandbox_id", request.sandbox_id, True)
    yield from convert.bad_namespace(principal, request.namespace)


def _bad_incarnation(field: str, value: str) -> Iterator[Violation]:
    if not _INCARNATION.match(value):
        yield Violation(field, "must be an incarnation as an answer has it, or empty")


def attached(principal: Principal, request: pb.AttachExecRequest) -> tuple[Place, dict[Channel, int]]:
    """Returns which exec to attach to, and from where. Raises as `place`."""
    offsets = {Channel.STDOUT: request.stdout_offset, Channel.STDERR: request.stderr_offset}
    negative = (
        Violation(f"{channel.name.lower()}_offset", "must not be negative")
        for channel, offset in offsets.items()
        if offset < 0
    )
    return place(principal, request, negative), offsets


def signalled(principal: Principal, request: pb.SignalExecRequest) -> tuple[Place, str]:
    """Returns which exec to signal, and the name of the signal. Raises as `place`."""
    unknown = (
        Violation("signal", f"must be one of {', '.join(SIGNALS)}") for _ in "1" if request.signal not in SIGNALS
    )
    return place(principal, request, unknown), request.signal


def resized(principal: Principal, request: pb.ResizeExecRequest) -> tuple[Place, Terminal]:
    """Returns which exec has a terminal of what size from now on. Raises as `place`."""
    found = place(principal, request, _bad_size("terminal", request.terminal))
    return found, Terminal(request.terminal.rows, request.terminal.cols)


async def written(
    principal: Principal, requests: Stream[pb.WriteStdinRequest]
) -> tuple[Place, AsyncIterator[streams.Input]]:
    """Returns to which exec to write, and the parts of its input. Raises as `place`, from the parts too."""
    first = requests.first
    to = place(principal, first)

    async def parts() -> AsyncIterator[streams.Input]:
        yield _part(first)
        async for one in requests.rest():
            yield _part(one)

    return to, parts()


def _part(request: pb.WriteStdinRequest) -> streams.Input:
    if request.offset < 0:
        raise errors.Invalid((Violation("offset", "must not be negative"),))
    if len(request.data) > INPUT_MOST:
        raise errors.Invalid((Violation("data", f"must be at most {INPUT_MOST} bytes: send several messages"),))
    return streams.Input(request.offset, request.data, request.eof)


def wait_seconds(request: pb.WaitExecRequest, caller_allows: float | None) -> float:
    """Returns the seconds to wait. Raises `errors.Invalid`."""
    asked_for = request.timeout_seconds if request.HasField("timeout_seconds") else math.inf
    if not asked_for >= 0:
        raise errors.Invalid((Violation("timeout_seconds", "must be a number of seconds, 0 or more"),))
    allowed = math.inf if caller_allows is None else caller_allows - min(1.0, caller_allows / 10)
    return min(asked_for, allowed, WAIT_MOST)


def exec_fields(one: Exec) -> dict[str, Any]:
    """Returns the fields of an Exec."""
    return {
        "exec_id": one.id,
        "incarnation": one.incarnation,
        "state": one.state.value,
        "exited": None if one.end is None else _exited(one.end),
        "stdout_length": one.printed.get(Channel.STDOUT, 0),
        "stderr_length": one.printed.get(Channel.STDERR, 0),
        "accepted_offset": one.accepted,
        "terminal": None if one.terminal is None else {"rows": one.terminal.rows, "cols": one.terminal.cols},
    }


def _exited(end: End) -> dict[str, Any]:
    code = None if end.state is State.LOST else end.code
    return {"code": code, "signal": end.signal, "reason": end.reason.value}


def happening(one: streams.Happening) -> bytes:
    """Returns the encoded message of an attached stream."""
    match one:
        case streams.Started(incarnation):
            fields: dict[str, Any] = {"started": {"incarnation": incarnation}}
        case Part(channel, offset, data):
            fields = {"output": {"channel": channel.value, "offset": offset, "data": data}}
        case streams.Gap(channel, offset, length):
            fields = {"gap": {"channel": channel.value, "offset": offset, "length": length}}
        case streams.Beat():
            fields = {"heartbeat": {}}
        case End():
            fields = {"exited": _exited(one)}
    return pb.AttachExecResponse(**fields).SerializeToString()
