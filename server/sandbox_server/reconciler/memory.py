"""What the reconciler remembers of one sandbox from one pass to the next. Times are of `time.monotonic`.

Nothing of it has to survive the process. The refusal is what the engine answered to the last act: an act that is due is
tried again in the first pass after a restart, and until its answer is there, the error that the status reports stands for
the refusal. So a restart reports neither an error that is over nor the end of one that is not.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.reconciler.disks import Disk
from sandbox_server.reconciler.runs import Timer


@dataclass(eq=False)
class Memory:
    """`epoch`: that of the lease under which the sandbox is worked on. `touch_at`: when the workload is touched next.

    `awaited`: what the engine waits for before it goes on with the act, in its words; empty if it waits for nothing.
    """

    epoch: int
    disk: Disk
    now: Callable[[], float] = time.monotonic
    touch_at: float | None = None
    awaited: str = ""
    timer: Timer = field(default_factory=Timer)
    _refusal: Fault | None = None
    _refused_generation: int = 0
    _busy_since: float | None = None
    _answer: engines.Unreachable | None = None
    _answer_holds_until: float = 0.0

    @classmethod
    def of(cls, sandbox: Sandbox, epoch: int) -> "Memory":
        """Returns the memory of a sandbox that this process has not worked on yet, under this lease."""
        memory = cls(epoch, Disk.of(sandbox))
        if sandbox.status.phase is Phase.ERROR:
            memory.refuse(sandbox, Fault(sandbox.status.reason, sandbox.status.message))
        return memory

    def refusal(self, sandbox: Sandbox) -> Fault | None:
        """Returns why the engine refused the last act for the sandbox's generation, if it did."""
        return self._refusal if self._refused_generation == sandbox.generation else None

    def refuse(self, sandbox: Sandbox, fault: Fault) -> None:
        """Remembers why the engine refused an act for the sandbox's generation."""
        self._refusal = fault
        self._refused_generation = sandbox.generation
        self.awaited = ""

    def begun(self, awaited: str) -> None:
        """Remembers what an act that was begun waits for."""
        self.nothing_due()
        self.awaited = awaited

    def busy_for(self) -> float:
        """Returns the seconds since the engine first answered that it cannot act now; it has just done so again."""
        now = self.now()
        if self._busy_since is None:
            self._busy_since = now
        return now - self._busy_since

    def nothing_due(self) -> None:
        """Forgets what the engine answered to an act that is done, or that is not due any more."""
        self._refusal = None
        self._busy_since = None
        self.awaited = ""

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Surrounds one call of the engine that acts.

        The time for which the engine asked to be left alone holds the call back and nothing else: the sandbox is observed
        and its status decided meanwhile. Until it is over, raises the engine's last answer with the seconds that are left.
        """
        left = self._answer_holds_until - self.now()
        if self._answer is not None and left > 0:
            raise type(self._answer)(str(self._answer), left)
        try:
            yield
        except engines.Unreachable as answer:
            self._answer, self._answer_holds_until = answer, self.now() + answer.retry_after
            raise
