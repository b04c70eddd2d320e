"""The input of an exec as messages. Without I/O, for both clients."""

from collections.abc import Iterable, Iterator

from sandbox.v1 import access_pb2 as pb

from sandbox_client import errors, execs

PART = 64 * 1024
"""Bytes of a message at most."""
WINDOW = 4 * 1024 * 1024
"""Bytes of a call at most: these are kept until the service has accepted them."""
LONGEST = 30.0
"""Seconds of a call at most. Then it is made again: whether it is stuck or the command does not read, nothing is written twice."""
IDLE = 10.0
"""Seconds without input after which a call ends: it keeps a program in the sandbox. A person who types needs no new one."""


def parts(chunks: bytes | Iterable[bytes]) -> Iterator[bytes]:
    """Yields chunks in parts of the size of a message."""
    for chunk in (chunks,) if isinstance(chunks, bytes) else chunks:
        for begin in range(0, len(chunk), PART):
            yield chunk[begin : begin + PART]


class Unaccepted:
    """The messages of the input that the service is not known to have accepted. `end` is the offset behind them."""

    def __init__(self, place: execs.Place, offset: int) -> None:
        self._place = place
        self.end = offset
        self.messages: list[pb.WriteStdinRequest] = []

    def add(self, data: bytes, eof: bool) -> None:
        """Adds a message."""
        self.messages.append(pb.WriteStdinRequest(**self._place.fields(), offset=self.end, data=data, eof=eof))
        self.end += len(data)

    @property
    def ends(self) -> bool:
        """Whether the input ends with the last message."""
        return bool(self.messages) and self.messages[-1].eof

    def was_accepted(self, error: errors.ServiceError) -> bool:
        """Whether an earlier try, whose answer was lost, has ended the input: a repeat finds it closed."""
        closed = error.reason == "STDIN_CLOSED" and self.ends
        return closed and error.facts.get("accepted_offset") == str(self.end)
