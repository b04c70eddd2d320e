"""What the process of a sandbox prints."""

import enum
from dataclasses import dataclass
from datetime import datetime


class EndReason(enum.IntEnum):
    """Why the process ended. The numbers are those of the contract."""

    PROCESS_ENDED = 1
    SANDBOX_STOPPED = 2
    POD_REPLACED = 3
    NODE_LOST = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """Which output is asked for.

    - `previous`: of the process before the current one.
    - `follow`: whether to go on until the process has ended.
    - `tail_lines`: how many lines of what is kept, the last ones; None for all.
    - `since`: from when on.
    - `after`: the position after which to begin; empty to begin as the two others say.
    """

    previous: bool = False
    follow: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Output, and the position after it. `at` is when its last line was printed, where that is known."""

    data: bytes
    position: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Output between what was sent before and what follows is no longer kept."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process has ended, and its output is complete."""

    reason: EndReason


Part = Lines | Gap | Ended
