"""How the mutations of a group share one transaction.

A mutation is a function of what it reads: it returns what to write, or raises. So a refused mutation leaves nothing
behind, and each mutation sees what those before it in its group wrote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox_server.domain import errors
from sandbox_server.domain.event import Cause, Event
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.store import documents, rows
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor
from sandbox_server.store.reader import Reader


class Stale(Exception):
    """There is a newer event of the sandbox than the one that was decided on, or a unique name is taken: decide again."""


@dataclass(frozen=True, slots=True)
class Write:
    """The next event of a sandbox, with its environment if that changes.

    `decided_on` is the sequence of the sandbox's event from which `sandbox` was made; 0 for a new sandbox. A sandbox
    equal to that of the event, without an environment, writes nothing.
    """

    sandbox: Sandbox
    decided_on: int
    cause: Cause
    env: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a mutation take effect once: its id, and the payload that a repeat has to be equal to."""

    tenant: str
    id: str
    payload: bytes


@dataclass(slots=True)
class _Row:
    """The last event of a sandbox as it was, and as the group leaves it: `columns` if it changed, with `env` if that did.

    `parts`: the sequences of the events that have the parts of the sandbox as it now is; None for one of the first
    release. `newer`: the document of the last event, if a newer release wrote it.
    """

    was: Event | None
    now: Event | None
    parts: dict[str, int | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    newer: str | None = None


class Group(Reader):
    """Mutations that share one transaction. Rows are written once, as the last mutation leaves them."""

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        super().__init__(cursor, cipher)
        # From here to the commit nobody else appends, so that nothing changes that a mutation has read.
        self._stands: int
        self._trimmed: int
        self._stands, self._trimmed = cursor.rows(rows.APPENDING)[0]
        self._rows: dict[Key, _Row] = {}
        self._requests: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._appended: list[dict[str, Any]] = []
        self._added: list[dict[str, Any]] = []
        self._replaced: list[dict[str, Any]] = []
        self.committed: list[Event] = []
        """What the commit appends to the log, in order."""

    def last(self, key: Key) -> Event | None:
        """The last event of a sandbox as the group leaves it so far."""
        return self._row(key).now

    def _row(self, key: Key) -> _Row:
        if (row := self._rows.get(key)) is None:
            found = self._last_row(key)
            event = None if found is None else documents.events([found], self._specs)[0]
            row = self._rows[key] = _Row(event, event)
            if found is not None:
                row.parts = {"spec": found.spec_sequence, "env_names": found.env_names_sequence}
                row.newer = found.document if documents.of_newer_release(found.document) else None
        return row

    def env(self, key: Key) -> dict[str, str]:
        """The environment of that key as the group leaves it so far."""
        columns = self._row(key).columns
        changed = columns.get("env")
        return super().env(key) if changed is None else self._cipher.decrypt(changed, columns["uid"])

    def run(self, mutation: Callable[[Reader], Write], request: Request | None) -> Event:
        """The answer to a mutation: the event that it wrote, or the last event of the sandbox where it wrote nothing. A
        repeated request has the same answer, or the sandbox's last event.

        Raises what `mutation` raises, and `Stale`.
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
            violation = errors.Violation("request_id", "was used with another payload: make a new one")
            raise errors.Invalid((violation,), "REQUEST_ID_REUSED")
        last = self.last(Key(namespace, sandbox_id))
        return last if last is not None and last.sandbox.uid == uid else self._event(sequence, sandbox_id)

    def _event(self, sequence: int, sandbox_id: str) -> Event:
        """An event of a sandbox that is no more. Raises `errors.NotFound` where it was trimmed."""
        if sequence > self._stands:
            return self.committed[sequence - self._stands - 1]
        found = self._events(rows.EVENT, {"of_sequence": sequence})
        if not found:
            said = f"the sandbox {sandbox_id!r} was deleted: create another"
            raise errors.NotFound("SANDBOX_NOT_FOUND", said, sandbox_id=sandbox_id)
        return found[0]

    def _take(self, write: Write) -> Event:
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
        if before is not None and before.spec == after.spec:
            # All that is the same is the same object: the feed keeps some thousand events in memory.
            after = replace(after, spec=before.spec)
        event = Event(self._stands + len(self.committed) + 1, after, write.cause)
        newer = row.newer if same else None
        columns = rows.columns(event, newer)
        columns["env"] = row.columns.get("env")
        if write.env is not None:
            columns["env"] = self._cipher.encrypt(write.env, after.uid)
        changed = {
            name: documents.part(after, name)
            for name in documents.PARTS
            if not (same and row.parts[name] and getattr(before, name) == getattr(after, name))
        }
        # Nothing is raised from here on: a mutation that cannot be written has left nothing behind.
        for name, text in changed.items():
            if former := row.parts.get(name):
                self._replaced.append({"of_sequence": former, "of_name": name, "replaced_at": event.sequence})
            self._added.append({"sequence": event.sequence, "name": name, "document": text})
            row.parts[name] = event.sequence
        columns |= {f"{name}_sequence": sequence for name, sequence in row.parts.items()}
        row.now = event
        row.newer = newer and columns["document"]
        row.columns = columns
        self._appended.append(columns)
        self.committed.append(event)
        return event

    def flush(self) -> None:
        """Sends everything to the database. Raises `Stale` if a row is not what was read."""
        removed: list[dict[str, Any]] = []
        inserted: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        # What a trim kept as the last event of a sandbox is not the last any more.
        forgotten: list[dict[str, Any]] = []
        for row in self._rows.values():
            was, columns = row.was, row.columns
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
