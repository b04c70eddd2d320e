"""How the mutations of a group share one transaction.

A mutation is a function of what it reads: it returns what to write, or raises. So a refused mutation leaves nothing
behind, and each mutation sees what those before it in its group wrote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox_server.domain import changes, errors
from sandbox_server.domain.event import Cause, Event
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.store import documents, rows
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor
from sandbox_server.store.reader import Reader


class Stale(Exception):
    """The sandbox has a newer event than the one that was decided on, a unique name is taken, or another replica holds the
    namespace. Read and decide again."""


@dataclass(frozen=True, slots=True)
class Write:
    """The next event of a sandbox, with its environment if that changes.

    `decided_on` is the sequence of the sandbox's event from which `sandbox` was made; 0 for a new sandbox. A sandbox
    equal to that of the event, without an environment, writes nothing. With `epoch`, the lease of the namespace, where there
    are leases, must still be of that epoch.
    """

    sandbox: Sandbox
    decided_on: int
    cause: Cause
    env: Mapping[str, str] | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """The identity of a request, so that it takes effect once. A repeat must have the same payload."""

    tenant: str
    id: str
    payload: bytes


def reused() -> errors.Invalid:
    """Returns the error for a request id that was used before with another payload."""
    violation = errors.Violation("request_id", "was used with another payload: make a new one")
    return errors.Invalid((violation,), "REQUEST_ID_REUSED")


@dataclass(slots=True)
class _Row:
    """The last event of a sandbox before the group (`was`), and as the group leaves it so far (`now`).

    `columns` is empty until the group changes the sandbox. `parts` has the sequences under which the present parts are
    stored; None for a part in a document of the first release. `newer` is the document of the last event if a newer
    release wrote it.
    """

    was: Event | None
    now: Event | None
    parts: dict[str, int | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    newer: str | None = None


class Group(Reader):
    """Mutations that share one transaction. Each row is written once, as the last mutation leaves it."""

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        super().__init__(cursor, cipher)
        # From here to the commit no other transaction appends: nothing that a mutation has read changes.
        self._stands: int
        self._trimmed: int
        self._stands, self._trimmed = cursor.rows(rows.APPENDING)[0]
        self._rows: dict[Key, _Row] = {}
        self._requests: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._appended: list[dict[str, Any]] = []
        self._added: list[dict[str, Any]] = []
        self._replaced: list[dict[str, Any]] = []
        self.committed: list[Event] = []
        """The events of the group, in order."""
        self.specs: list[tuple[str, int, SandboxSpec]] = []
        """The specs that the group stores: the uid of the sandbox, the sequence, and the spec."""
        self.epochs: set[tuple[str, int]] = set()
        """Namespaces and the epochs of their leases under which events were decided."""

    def last(self, key: Key) -> Event | None:
        """Returns the last event of a sandbox as the group leaves it so far."""
        return self._row(key).now

    def _row(self, key: Key) -> _Row:
        if (row := self._rows.get(key)) is None:
            found = self._last_row(key)
            event = None if found is None else next(documents.events([found], self._specs))
            row = self._rows[key] = _Row(event, event)
            if found is not None:
                row.parts = {"spec": found.spec_sequence, "env_names": found.env_names_sequence}
                row.newer = found.document if documents.of_newer_release(found.document) else None
        return row

    def env(self, key: Key) -> dict[str, str]:
        """Returns the environment of a sandbox as the group leaves it so far."""
        columns = self._row(key).columns
        changed = columns.get("env")
        return super().env(key) if changed is None else self._cipher.decrypt(changed, columns["uid"])

    def run(self, mutation: Callable[[Reader], Write], request: Request | None) -> Event:
        """Runs a mutation and returns its event, or the last event of the sandbox where it writes nothing.

        A repeated request runs nothing. Its answer is the last event of its sandbox, or, where another sandbox has the
        key by then, the event of the first answer. Raises what `mutation` raises, and `Stale`.
        """
        if request is None:
            return self._take(mutation(self))
        name = request.tenant, request.id
        known = self._requests.get(name) or self._cursor.first(
            rows.REQUEST, {"of_tenant": request.tenant, "of_request_id": request.id}
        )
        if known is None:
            answer = self._take(mutation(self))
            made = answer.sandbox
            fingerprint = self._cipher.fingerprint(request.payload)
            self._requests[name] = (fingerprint, made.namespace, made.id, made.uid, answer.sequence)
            return answer
        fingerprint, namespace, sandbox_id, uid, sequence = known
        if not self._cipher.same(fingerprint, request.payload):
            raise reused()
        last = self.last(Key(namespace, sandbox_id))
        return last if last is not None and last.sandbox.uid == uid else self._event(sequence, sandbox_id)

    def _event(self, sequence: int, sandbox_id: str) -> Event:
        """Returns an event of a sandbox whose key another has by now. Raises `errors.NotFound` if it was trimmed."""
        if sequence > self._stands:
            return self.committed[sequence - self._stands - 1]
        found = self._events(rows.EVENT, {"of_sequence": sequence})
        if not found:
            message = f"the sandbox {sandbox_id!r} was deleted: create another"
            raise errors.NotFound("SANDBOX_NOT_FOUND", message, sandbox_id=sandbox_id)
        return found[0]

    def _take(self, write: Write) -> Event:
        """Adds an event to the group; returns it, or the last event where there is nothing to write. Raises `Stale`."""
        after = write.sandbox
        row = self._row(after.key)
        last = row.now
        before = None if last is None else last.sandbox
        same = before is not None and before.uid == after.uid
        if last is not None and same:
            if last.sequence != write.decided_on:
                raise Stale
            if before == after and write.env is None:
                return last
        elif write.decided_on or not (last is None or last.terminated):
            raise Stale
        if before is not None and before.spec is not after.spec and before.spec == after.spec:
            # Equal specs are one object: the feed keeps some thousand events in memory.
            after = replace(after, spec=before.spec)
        changed_fields = changes.between(before, after) if before is not None and same else None
        event = Event(self._stands + len(self.committed) + 1, after, write.cause, changed_fields)
        newer = row.newer if same else None
        columns = rows.columns(event, newer)
        columns["env"] = row.columns.get("env")
        if write.env is not None:
            columns["env"] = self._cipher.encrypt(write.env, after.uid)
        changed: dict[str, str] = {}
        if before is None or not (same and row.parts["spec"] and before.spec == after.spec):
            changed["spec"] = documents.spec(after.spec, self._spec(row.parts["spec"]) if same else None)
        if before is None or not (same and row.parts["env_names"] and before.env_names == after.env_names):
            changed["env_names"] = documents.env_names(after.env_names)
        # Nothing below raises: a mutation that cannot be encoded has left no trace in the group.
        for name, text in changed.items():
            if former := row.parts.get(name):
                self._replaced.append({"of_sequence": former, "of_name": name, "replaced_at": event.sequence})
            self._added.append({"sequence": event.sequence, "name": name, "document": text})
            row.parts[name] = event.sequence
        if "spec" in changed:
            self.specs.append((after.uid, event.sequence, after.spec))
        columns |= {f"{name}_sequence": sequence for name, sequence in row.parts.items()}
        if write.epoch is not None:
            self.epochs.add((after.namespace, write.epoch))
        row.now = event
        row.newer = newer and columns["document"]
        row.columns = columns
        self._appended.append(columns)
        self.committed.append(event)
        return event

    def _spec(self, sequence: int | None) -> str | None:
        """Returns the document of the spec that is stored under a sequence, by this group or before it."""
        if sequence is None:
            return None
        if sequence <= self._stands:
            return str(next(text for _, text in self._specs([sequence])))
        return str(next(one["document"] for one in self._added if (one["sequence"], one["name"]) == (sequence, "spec")))

    def flush(self) -> None:
        """Writes the group to the database. Raises `Stale` if a row has changed since it was read."""
        removed: list[dict[str, Any]] = []
        inserted: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        # The trimmed log still has the last event of each sandbox; these are the last no more.
        forgotten: list[dict[str, Any]] = []
        for row in self._rows.values():
            was = row.was
            columns = row.columns
            if not columns:
                continue
            if was is not None and was.sequence <= self._trimmed:
                forgotten.append({"of_sequence": was.sequence})
            if was is not None and was.sandbox.uid == columns["uid"]:
                updated.append(columns | rows.of_version(was) | {"of_uid": was.sandbox.uid})
                continue
            if was is not None:
                removed.append(rows.of_version(was) | {"of_uid": was.sandbox.uid})
            inserted.append(columns)
        requests = [dict(zip(rows.REMEMBERED, (*name, *known), strict=True)) for name, known in self._requests.items()]
        log = [{"last_sequence": self._stands + len(self._appended)}] if self._appended else []
        for statement, parameters in (
            (rows.REMOVE, removed),
            (rows.REMOVE_ENV, removed),
            (rows.INSERT, inserted),
            (rows.INSERT_ENV, inserted),
            (rows.UPDATE, updated),
            (rows.UPDATE_ENV, [one for one in updated if one["env"] is not None]),
            (rows.ADD_PART, self._added),
            (rows.REPLACE_PART, self._replaced),
            (rows.APPEND, self._appended),
            (rows.FORGET, forgotten),
            (rows.APPENDED, log),
            (rows.REMEMBER, requests),
        ):
            if parameters and self._cursor.write(statement, parameters) != len(parameters):
                raise Stale
