"""The entries of the log. Each has a sandbox as it is from then on, and what changed it. All values are frozen."""

from dataclasses import dataclass

from sandbox_server.domain.open_enum import OpenEnum
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox


class Kind(OpenEnum):
    """What caused an event."""

    MUTATION = 1
    """A call changed the spec, the environment or the desired state: the reconciler has work to do."""
    OBSERVED = 2
    """The reconciler recorded what the engine shows, or what it did there."""
    POLICY = 3
    """A rule of the service changed the desired state. This release only reads such events."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of an event.

    For a mutation, `actor` is the tenant or the operator that asked for it, and `method` the RPC; `request_id` may be empty.
    `method` is empty if the release that recorded the event stored none.
    """

    kind: Kind
    actor: str = ""
    request_id: str = ""
    method: str = ""


OBSERVED = Cause(Kind.OBSERVED)


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the log. `sequence` orders the events of all sandboxes, without gaps.

    `changed` has the fields of the status that differ from the sandbox's event before it: see `changes.between`. It is None
    for the first event of a sandbox, and if the release that recorded the event stored none.
    """

    sequence: int
    sandbox: Sandbox
    cause: Cause
    changed: tuple[str, ...] | None = None

    @property
    def terminated(self) -> bool:
        """Whether the sandbox is TERMINATED with this event."""
        return self.sandbox.status.phase is Phase.TERMINATED
