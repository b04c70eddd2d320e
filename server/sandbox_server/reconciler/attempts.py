"""What the reconciler remembers of its acts on one sandbox, from one pass to the next. Times are of `time.monotonic`."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandbox_server import engines


@dataclass(eq=False)
class Attempts:
    """`busy_since`: since when the engine answers that it cannot act now. `touch_at`: when the workload is touched next."""

    now: Callable[[], float] = time.monotonic
    busy_since: float | None = None
    touch_at: float | None = None
    _answer: engines.Unreachable | None = None
    _answer_holds_until: float = 0.0

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
        self._answer = None
