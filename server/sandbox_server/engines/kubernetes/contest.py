"""Acts that somebody undoes each time: changes, removes or makes again what the service writes.

The first repetitions come at once, so that a single edit by hand is reverted. Later ones are delayed as failures are,
whatever the watches show. What was undone twice in a row is a fault of the sandbox that names the managers of the fields.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.kubernetes.manifests import FIELD_MANAGER
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Reference

FREE = 2
"""Repetitions without a delay."""
NAMED = 3
"""How many fields a message names."""

Act = tuple[int, int | None]
"""A generation, and its replicas; None for the removal."""


@dataclass(eq=False)
class Contest:
    """The repetitions of one act for one sandbox."""

    act: Act
    count: int = 0
    """How often the act was done."""
    last: float = 0.0
    wrote: bool = False
    """Whether the present repetition has written anything."""
    fault: Fault | None = None
    timer: asyncio.TimerHandle | None = None
    _fields: dict[Reference, set[str]] = field(default_factory=dict)
    _removed: dict[Reference, str] = field(default_factory=dict)
    _undone: list[str] = field(default_factory=list)
    _undone_before: list[str] = field(default_factory=list)

    @property
    def watched(self) -> bool:
        """Whether the act has been repeated, so that each object is read before it is written again."""
        return self.count >= FREE

    def compare(self, reference: Reference, found: Object | None) -> None:
        """Notes what was undone of an object since the service last wrote it. `found` is the object as it is now."""
        if reference not in self._fields:
            return
        if found is None:
            self._note(f"somebody removes the {reference} each time the service makes it")
            return
        lost = self._fields[reference] - _ours(found)
        owned = {entry: fields for entry, fields in _owned(found) if entry[0] != FIELD_MANAGER}
        taken = {manager: lost & fields for (manager, _), fields in owned.items()}
        for manager, fields in sorted(taken.items()):
            if fields:
                self._note(f"{manager} changes {_listed(fields)} of the {reference} each time the service sets it")
        if removed := lost.difference(*owned.values()):
            self._note(f"somebody removes {_listed(removed)} of the {reference} each time the service sets it")

    def _note(self, undone: str) -> None:
        # An act that was begun and not done is begun again, and finds the same.
        if undone not in self._undone:
            self._undone.append(undone)

    def written(self, reference: Reference, answer: Object) -> None:
        """Notes which fields of an object the service owns after a write. `answer` is the object as it was answered."""
        self.wrote = True
        if self.count >= FREE - 1:
            self._fields[reference] = _ours(answer)

    def removed(self, reference: Reference, found: Object) -> None:
        """Notes that the service has removed an object. `found` is the object as it was."""
        self.wrote = True
        if self._removed.get(reference, found.metadata.uid) != found.metadata.uid:
            managers = sorted({entry.manager for entry in found.metadata.managedFields})
            self._note(
                f"{', '.join(managers) or 'somebody'} makes the {reference} again each time the service removes it"
            )
        self._removed[reference] = found.metadata.uid

    def done(self, now: float) -> None:
        """Counts one repetition. What was undone before it and before the previous one is undone each time."""
        self.count += 1
        self.last = now
        each_time = [act for act in self._undone if act in self._undone_before]
        self.fault = Fault(Reason.FIELD_CONFLICT, "; ".join(each_time)) if each_time else None
        self._undone_before, self._undone = self._undone, []

    def delay(self, pace: Pace) -> float:
        """Returns the seconds between the last repetition and the next, as those between two failed passes."""
        if self.count <= FREE:
            return 0.0
        return min(pace.retry_most, pace.retry_first * 2.0 ** min(self.count - FREE - 1, 16))


class Contests:
    """The recent acts, one for each sandbox. `changed` is called when an act is no longer contested."""

    def __init__(self, changed: Callable[[Key], None], pace: Pace, now: Callable[[], float] = time.monotonic) -> None:
        self._changed = changed
        self._pace = pace
        self._now = now
        self._of: dict[Key, Contest] = {}

    def begin(self, key: Key, act: Act) -> Contest:
        """Returns the contest of an act that is about to be done. Another act for the sandbox begins a new contest.

        Raises `engines.Refused` if it is too soon to repeat the act, or `Unreachable` if it is not known what was undone.
        """
        self._forget_quiet()
        contest = self._of.get(key)
        if contest is None or contest.act != act:
            self.forget(key)
            contest = self._of[key] = Contest(act, last=self._now())
        elif self._now() < contest.last + contest.delay(self._pace):
            if contest.fault is not None:
                raise engines.Refused(contest.fault)
            raise engines.Unreachable("what the service writes does not last: it waits before it writes it again")
        contest.wrote = False
        return contest

    def done(self, key: Key, contest: Contest) -> None:
        """Counts an act that has been done, if it wrote anything."""
        if not contest.wrote:
            return
        contest.done(self._now())
        if contest.timer is not None:
            contest.timer.cancel()
        if contest.fault is not None:
            contest.timer = asyncio.get_running_loop().call_later(self._pace.contest_quiet + 0.1, self._changed, key)
        # Keeps the order of the acts: the most recent is the last. While a long act ran, its contest may have been removed for
        # being quiet.
        self._of.pop(key, None)
        self._of[key] = contest

    def fault(self, sandbox: Sandbox) -> Fault | None:
        """Returns what of the sandbox's generation is contested, and by whom."""
        contest = self._of.get(sandbox.key)
        if contest is None or contest.act[0] != sandbox.generation or self._is_quiet(contest):
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

    def _is_quiet(self, contest: Contest) -> bool:
        return self._now() > contest.last + self._pace.contest_quiet

    def _forget_quiet(self) -> None:
        while self._of:
            key, contest = next(iter(self._of.items()))
            if not self._is_quiet(contest):
                return
            del self._of[key]


def _ours(found: Object) -> set[str]:
    """Returns the fields that the service owns, by whatever operation."""
    return set().union(*(fields for (manager, _), fields in _owned(found) if manager == FIELD_MANAGER))


def _owned(found: Object) -> Iterator[tuple[tuple[str, str], set[str]]]:
    """Yields each manager with its operation, and the fields that it owns."""
    for entry in found.metadata.managedFields:
        yield (entry.manager, entry.operation), set(_paths(msgspec.json.decode(entry.fieldsV1 or b"{}"), ""))


def _paths(fields: dict[str, Any], at: str) -> Iterator[str]:
    """Yields the paths of the fields in a FieldsV1 (apimachinery/pkg/apis/meta/v1/types.go)."""
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
