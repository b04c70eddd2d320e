"""Commands that callers start in a running sandbox."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class State(enum.IntEnum):
    """Where an exec stands. The numbers are those of the contract."""

    STARTING = 1
    RUNNING = 2
    EXITED = 3
    LOST = 4


class ExitReason(enum.IntEnum):
    """Why an exec ended. The numbers are those of the contract."""

    UNSPECIFIED = 0
    EXIT = 1
    SIGNAL = 2
    TIMEOUT = 3
    OUT_OF_MEMORY = 4
    SANDBOX_STOPPED = 5
    POD_REPLACED = 6
    NODE_LOST = 7


class Channel(enum.IntEnum):
    """What a command prints to. The numbers are those of the contract."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True)
class Terminal:
    """The size of a terminal."""

    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Start:
    """What to start. `folder` is the working directory, empty for that of the sandbox. `timeout_seconds`: 0 for no limit.

    On a terminal a command has an input, and everything that it prints is in one channel.
    """

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    stdin: bool = False
    timeout_seconds: int = 0
    terminal: Terminal | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How an exec ended. `code` is what a shell would report; `signal` is the number of the signal that ended it, or 0."""

    code: int
    signal: int
    reason: ExitReason

    @property
    def state(self) -> State:
        """EXITED, or LOST if what the command would have answered is not known."""
        return State.LOST if self.reason >= ExitReason.OUT_OF_MEMORY else State.EXITED


def ended(code: int, cause: ExitReason = ExitReason.EXIT) -> End:
    """Returns the end that a shell reports as `code`. Over 128 it is a signal, or the command's own way to say that it was."""
    signal = code - 128 if 128 < code <= 128 + 64 else 0
    return End(code, signal, ExitReason.SIGNAL if signal and cause is ExitReason.EXIT else cause)


@dataclass(frozen=True, slots=True)
class Exec:
    """An exec as it now stands.

    `incarnation` is that of the sandbox in which it runs or ran. For each channel, `kept` is the offset of the first byte
    that is kept and `printed` that of the end. `accepted` counts the bytes of its input that were accepted.
    """

    id: str
    incarnation: str
    end: End | None = None
    kept: Mapping[Channel, int] = field(default_factory=dict)
    printed: Mapping[Channel, int] = field(default_factory=dict)
    accepted: int = 0
    terminal: Terminal | None = None

    @property
    def state(self) -> State:
        """Where it stands."""
        return State.RUNNING if self.end is None else self.end.state
