"""The output of an exec and its end, read by offsets. Without I/O, for both clients."""

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sandbox.v1 import access_pb2 as pb

from sandbox_client import execs, words

KEPT = 64 * 1024 * 1024
"""Bytes of each channel that a result has at most: the last ones."""


class Channel(enum.StrEnum):
    """What a command prints to."""

    STDOUT = "stdout"
    STDERR = "stderr"


_CHANNELS = {pb.EXEC_CHANNEL_STDOUT: Channel.STDOUT, pb.EXEC_CHANNEL_STDERR: Channel.STDERR}


@dataclass(frozen=True, slots=True)
class Output:
    """A part of what a command printed. `offset` is that of its first byte in its channel."""

    channel: Channel
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that is no longer kept: `length` bytes from `offset` on."""

    channel: Channel
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    `code` is None if the sandbox was stopped or its process replaced: the exit code is then unknown. `reason` is EXIT, SIGNAL, TIMEOUT,
    OUT_OF_MEMORY, SANDBOX_STOPPED, POD_REPLACED or NODE_LOST.
    """

    code: int | None
    signal: int
    reason: str

    @classmethod
    def of(cls, exited: pb.ExecExited) -> Self:
        """Returns the end of an exec as the service tells it."""
        code = exited.code if exited.HasField("code") else None
        return cls(code, exited.signal, words.short(pb.ExecExitReason, exited.reason))


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command printed, and how it ended. `gaps` are the parts that `stdout` and `stderr` lack."""

    exec_id: str
    exit_code: int | None
    reason: str
    stdout: bytes
    stderr: bytes
    gaps: Sequence[Gap]

    @property
    def truncated(self) -> bool:
        """Whether a part of the output is missing."""
        return bool(self.gaps)


class Position:
    """How far the output of an exec was read, from where reading goes on after a cut."""

    def __init__(self, place: execs.Place) -> None:
        self._place = place
        self._offsets = dict.fromkeys(Channel, 0)
        self.ended: Ended | None = None

    def request(self) -> pb.AttachExecRequest:
        """Returns the request that opens the stream at this position."""
        return pb.AttachExecRequest(
            **self._place.fields(),
            stdout_offset=self._offsets[Channel.STDOUT],
            stderr_offset=self._offsets[Channel.STDERR],
        )

    def take(self, message: pb.AttachExecResponse) -> Output | Gap | None:
        """Returns the output of a message or the gap, None for other messages, and moves the position behind it."""
        match message.WhichOneof("event"):
            case "output":
                output = message.output
                channel = _CHANNELS[output.channel]
                self._offsets[channel] = output.offset + len(output.data)
                return Output(channel, output.offset, output.data)
            case "gap":
                gap = message.gap
                channel = _CHANNELS[gap.channel]
                self._offsets[channel] = gap.offset + gap.length
                return Gap(channel, gap.offset, gap.length)
            case "exited":
                self.ended = Ended.of(message.exited)
        return None


class Collected:
    """The output of an exec, of which the last `most` bytes of each channel are kept, in whole parts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: dict[Channel, deque[Output]] = {channel: deque() for channel in Channel}
        self._sizes = dict.fromkeys(Channel, 0)
        self._begins = dict.fromkeys(Channel, 0)
        self._gaps: list[Gap] = []

    def add(self, part: Output | Gap) -> None:
        """Takes in a part, and drops the oldest ones beyond the limit."""
        if isinstance(part, Gap):
            self._gaps.append(part)
            return
        channel = part.channel
        self._parts[channel].append(part)
        self._sizes[channel] += len(part.data)
        while self._sizes[channel] > self._most:
            dropped = self._parts[channel].popleft()
            self._sizes[channel] -= len(dropped.data)
            self._begins[channel] = dropped.offset + len(dropped.data)

    def completed(self, exec_id: str, ended: Ended) -> Completed:
        """Returns the whole."""
        dropped = [Gap(channel, 0, begin) for channel, begin in self._begins.items() if begin]
        behind = [gap for gap in self._gaps if gap.offset >= self._begins[gap.channel]]
        stdout, stderr = (b"".join(part.data for part in self._parts[channel]) for channel in Channel)
        return Completed(exec_id, ended.code, ended.reason, stdout, stderr, (*dropped, *behind))
