"""Acts that are undone: somebody changes, removes or makes again what the service writes, each time.

The first repetitions are made at once, so that an edit by hand is put back. After that they back off as failures do,
whatever the watches say; and what was undone twice in a row is a fault of the sandbox, with the managers of the fields.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.kubernetes.manifests import FIELD_MANAGER
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Reference

FREE = 2
"""Repetitions without a delay."""
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 30.0
"""Seconds, as those of `reconciler.queue`."""
QUIET = 45.0
"""Seconds without a repetition after which nothing is contested any more; longer than the longest delay."""
NAMED = 3
"""Fields that a message names."""

Act = tuple[int, int | None]
"""A generation, and its replicas; None for the removal."""


@dataclass(eq=False)
class Contest:
    """One act of one sandbox, and what becomes of it."""

    act: Act
    count: int = 0
    """How often the act was done."""
    last: float = 0.0
    wrote: bool = False
    """Whether the act, as it is now being done, has written anything."""
    fault: Fault | None = None
    timer: asyncio.TimerHandle | None = None
    _fields: dict[Reference, set[str]] = field(default_factory=dict)
    _removed: dict[Reference, str] = field(default_factory=dict)
    _undone: list[str] = field(default_factory=list)
    _undone_before: list[str] = field(default_factory=list)

    @property
    def watched(self) -> bool:
        """Whether the act has been repeated, so that each object is worth a look before it is written again."""
        return self.count >= FREE

    def compare(self, reference: Reference, found: Object | None) -> None:
        """Notes what was undone of an object since the service last wrote it. `found`: the object as it now is."""
        if reference not in self._fields:
            return
        if found is None:
            self._undone.append(f"somebody removes the {reference} each time the service makes it")
            return
        owned = dict(_owned(found))
        lost = self._fields[reference] - owned.pop((FIELD_MANAGER, "Apply"), set())
        for manager, of in sorted({who: lost & theirs for (who, _), theirs in owned.items()}.items()):
            if of:
                self._undone.append(f"{manager} changes {_listed(of)} of the {reference} each time the service sets it")
        if removed := lost.difference(*owned.values()):
            self._undone.append(f"somebody removes {_listed(removed)} of the {reference} each time the service sets it")

    def written(self, reference: Reference, answer: Object) -> None:
        """Notes the fields that the service owns of an object which it has just written."""
        self.wrote = True
        if self.count >= FREE - 1:
            self._fields[reference] = dict(_owned(answer)).get((FIELD_MANAGER, "Apply"), set())

    def removed(self, reference: Reference, found: Object) -> None:
        """Notes an object that the service has just removed. `found`: the object as it was."""
        self.wrote = True
        if self._removed.get(reference, found.metadata.uid) != found.metadata.uid:
            who = ", ".join(sorted({one.manager for one in found.metadata.managedFields})) or "somebody"
            self._undone.append(f"{who} makes the {reference} again each time the service removes it")
        self._removed[reference] = found.metadata.uid

    def done(self, now: float) -> None:
        """The act has been done once more. What was undone now and the time before is undone each time."""
        self.count += 1
        self.last = now
        each_time = [one for one in self._undone if one in self._undone_before]
        self.fault = Fault(Reason.FIELD_CONFLICT, "; ".join(each_time)) if each_time else None
        self._undone_before, self._undone = self._undone, []

    def delay(self) -> float:
        """Seconds between the last time and the next."""
        return 0.0 if self.count <= FREE else min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self.count - FREE - 1, 16))


class Contests:
    """The acts of the last seconds, one of each sandbox. `changed` is called when a sandbox is contested no more."""

    def __init__(self, changed: Callable[[Key], None], now: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._now = now
        self._of: dict[Key, Contest] = {}

    def begin(self, key: Key, act: Act) -> Contest:
        """Returns the contest of an act that is about to be done. Another act of the sandbox begins a new one.

        Raises `engines.Refused`, or `Unreachable` where it is not known what was undone, if it is too soon to repeat it.
        """
        self._forget_quiet()
        contest = self._of.get(key)
        if contest is None or contest.act != act:
            self.forget(key)
            contest = self._of[key] = Contest(act, last=self._now())
        elif self._now() < contest.last + contest.delay():
            if contest.fault is not None:
                raise engines.Refused(contest.fault)
            raise engines.Unreachable("what the service writes does not last: it waits before it writes it again")
        contest.wrote = False
        return contest

    def done(self, key: Key, contest: Contest) -> None:
        """The act has been done: it counts if it wrote anything."""
        if not contest.wrote:
            return
        contest.done(self._now())
        if contest.timer is not None:
            contest.timer.cancel()
        if contest.fault is not None:
            contest.timer = asyncio.get_running_loop().call_later(QUIET + 0.1, self._changed, key)
        # The latest at the end.
        self._of[key] = self._of.pop(key)

    def fault(self, sandbox: Sandbox) -> Fault | None:
        """What is contested of the sandbox's generation, and by whom."""
        contest = self._of.get(sandbox.key)
        if contest is None or contest.act[0] != sandbox.generation or self._now() > contest.last + QUIET:
            return None
        return contest.fault

    def forget(self, key: Key) -> None:
        """Drops what is remembered of a sandbox."""
        contest = self._of.pop(key, None)
        if contest is not None and contest.timer is not None:
            contest.timer.cancel()

    def close(self) -> None:
        """Drops everything."""
        for key in list(self._of):
            self.forget(key)

    def _forget_quiet(self) -> None:
        while self._of:
            key, contest = next(iter(self._of.items()))
            if self._now() <= contest.last + QUIET:
                return
            del self._of[key]


def _owned(found: Object) -> Iterator[tuple[tuple[str, str], set[str]]]:
    """Managers with the way in which they write, and the fields that they own."""
    for one in found.metadata.managedFields:
        yield (one.manager, one.operation), set(_paths(msgspec.json.decode(one.fieldsV1 or b"{}"), ""))


def _paths(fields: dict[str, Any], at: str) -> Iterator[str]:
    """The fields of a FieldsV1 as people write them (apimachinery/pkg/apis/meta/v1/types.go)."""
    for step, below in fields.items():
        kind, _, name = step.partition(":")
        path = f"{at}.{name}".lstrip(".") if kind == "f" else f"{at}[{name}]" if name else at
        if below:
            yield from _paths(below, path)
        else:
            yield path


def _listed(fields: set[str]) -> str:
    named = ", ".join(sorted(fields)[:NAMED])
    return f"{named} and {len(fields) - NAMED} more" if len(fields) > NAMED else named
