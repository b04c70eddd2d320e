"""The log's entries. Each tells how a sandbox stands from then on, and what made it so. All frozen."""

from dataclasses import dataclass

from sandbox_server.domain.open_enum import OpenEnum
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox


class Kind(OpenEnum):
    """What made an event."""

    MUTATION = 1
    """A call changed the spec, the environment or the desired state: the reconciler has work to do."""
    OBSERVED = 2
    """The reconciler recorded what the engine shows, or what it did there."""
    POLICY = 3
    """A rule of the service changed the desired state. This release only reads such events."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why there is an event. A mutation has the tenant that asked for it, and its request id if it had one."""

    kind: Kind
    actor: str = ""
    request_id: str = ""


OBSERVED = Cause(Kind.OBSERVED)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log. `sequence` orders all events of all sandboxes, without a gap."""

    sequence: int
    sandbox: Sandbox
    cause: Cause

    @property
    def terminated(self) -> bool:
        """Whether the sandbox has ended with this event."""
        return self.sandbox.status.phase is Phase.TERMINATED
