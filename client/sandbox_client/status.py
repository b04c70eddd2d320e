"""A status of a sandbox as a typed Python value."""

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import words


class Phase(enum.StrEnum):
    """The phases of the contract, as words."""

    CREATING = "CREATING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    UPDATING = "UPDATING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"


class Remedy(enum.StrEnum):
    """Who can remove the cause of a phase."""

    NONE = "NONE"
    """There is no cause to remove: the sandbox is in its desired state."""
    WAIT = "WAIT"
    CALLER = "CALLER"
    OPERATOR = "OPERATOR"


@dataclass(frozen=True, slots=True)
class Status:
    """What most callers read of a `SandboxStatus`, with words for numbers; `whole` has the rest.

    `phase` and `remedy` are plain words if a newer service sent values that this client does not know.

    >>> status = Status.of(client.create("demo", command=["sleep", "1000"]))
    >>> status.phase is Phase.CREATING, status.phase == "CREATING"
    (True, True)
    """

    sandbox_id: str
    namespace: str
    project: str
    phase: Phase | str
    reason: str
    message: str
    remedy: Remedy | str
    since: datetime
    """When the phase last changed."""
    generation: int
    observed_generation: int
    restart_count: int
    public_url: str
    sequence: int
    stale: bool
    whole: pb.SandboxStatus

    @classmethod
    def of(cls, answer: pb.SandboxStatus | pb.Sandbox) -> Self:
        """Returns the status of an answer of the service."""
        status = answer.status if isinstance(answer, pb.Sandbox) else answer
        phase = words.short(pb.Phase, status.phase)
        remedy = words.short(pb.Remedy, status.remedy) if status.remedy else "NONE"
        return cls(
            sandbox_id=status.sandbox_id,
            namespace=status.namespace,
            project=status.project,
            phase=Phase.__members__.get(phase, phase),
            reason=words.short(pb.Reason, status.reason),
            message=status.message,
            remedy=Remedy.__members__.get(remedy, remedy),
            since=status.transition_time.ToDatetime(UTC),
            generation=status.generation,
            observed_generation=status.observed_generation,
            restart_count=status.restart_count,
            public_url=status.public_url,
            sequence=status.sequence,
            stale=status.stale,
            whole=status,
        )
