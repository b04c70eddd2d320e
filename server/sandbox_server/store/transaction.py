"""What one transaction reads, and how the changes of a group share one.

A change is a function of what it reads: it returns the sandbox as it should be, or raises. So a refused change leaves
nothing behind, and each one sees what those before it in its group changed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain import errors
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.store import documents, history, rows, search
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor

CHUNK = 25
"""Sandboxes that a search reads at once: their specs can be 256 KiB each, and a page may end after a few."""


class Stale(Exception):
    """The row was changed since it was read, or a unique name was taken: read again and decide again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a change wants written: a sandbox made from the row as it was read, and its environment if that changes.

    A new sandbox has sequence 0. One equal to the row writes nothing.
    """

    sandbox: Sandbox
    env: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a change take effect once: its id, and the payload that a repeat has to be equal to."""

    tenant: str
    id: str
    payload: bytes


class Reader:
    """Reads as of one moment."""

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        self._cursor = cursor
        self._cipher = cipher

    def sandbox(self, key: Key) -> Sandbox | None:
        """The sandbox of that key, TERMINATED ones too."""
        found = self._last(key)
        return None if found is None else self._sandboxes([found])[0]

    def _last(self, key: Key) -> documents.Row | None:
        """The last entry of a sandbox."""
        found = self._cursor.first(rows.SANDBOX, rows.of(key))
        return None if found is None else documents.Row(*found)

    def _sandboxes(self, found: Sequence[tuple[Any, ...]]) -> list[Sandbox]:
        """The sandboxes of entries of the log as they were read."""
        return documents.sandboxes([documents.Row(*one) for one in found], self._specs)

    def _specs(self, sequences: Collection[int]) -> Sequence[tuple[Any, ...]]:
        if len(sequences) > 1:
            return self._cursor.find(rows.specs(sequences))
        # To write the statement anew takes a hundred times as long as to run it.
        return [one for sequence in sequences for one in self._cursor.rows(rows.SPEC, {"of_sequence": sequence})]

    def _entries(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[Sandbox]:
        """The sandboxes that a statement on entries of the log finds."""
        return self._sandboxes(self._cursor.rows(statement, parameters))

    def env(self, key: Key) -> dict[str, str]:
        """The environment of the sandbox of that key; empty if there is none."""
        found = self._cursor.first(rows.ENV, rows.of(key))
        return {} if found is None else self._cipher.decrypt(found[1], found[0])

    def unknown_keys(self) -> list[str]:
        """The ids, in hexadecimal, of keys that wrote environments and are not given."""
        return sorted(bytes(found).hex() for (found,) in self._cursor.rows(rows.KEYS) if not self._cipher.knows(found))

    def ping(self) -> None:
        """Raises if the database does not answer."""
        self._cursor.first(rows.STANDS)

    def sequence(self) -> int:
        """Where the log stands."""
        return self._cursor.rows(rows.STANDS)[0][0]  # type: ignore[no-any-return]

    def search(self, wanted: search.Search, after: Key | None) -> Iterator[Sandbox]:
        """The sandboxes that match, in the order of their keys, after `after`; read as far as they are taken."""
        for namespace in sorted(wanted.namespaces):
            if after is not None and namespace < after.namespace:
                continue
            last = after.id if after is not None and namespace == after.namespace else ""
            while found := self._cursor.find(search.page(wanted, namespace, last, CHUNK)):
                yield from (sandboxes := self._sandboxes(found))
                last = sandboxes[-1].id

    def live(self) -> tuple[int, list[Sandbox]]:
        """The log's sequence and every sandbox that is not TERMINATED."""
        return self.sequence(), self._entries(rows.LIVE)

    def events(self, after: int, limit: int) -> list[Sandbox]:
        """The log after a sequence. Raises `errors.OutOfRange` where it was trimmed."""
        self._kept(after)
        # The log has no gaps.
        return self._entries(rows.EVENTS, {"after": after, "until": after + limit})

    def history(self, scope: history.Scope, after: int, until: int, most: int) -> list[Sandbox]:
        """The first entries of a scope after `after` and up to `until`. Raises `errors.OutOfRange` as `events`."""
        self._kept(after)
        place = {"after": after, "until": until, "most": most}
        if not scope.keys:
            return self._entries(history.OF_TENANT, place | {"of_tenant": scope.tenant})
        if len(scope.keys) == 1:
            return self._entries(history.OF_SANDBOX, place | rows.of(next(iter(scope.keys))))
        return self._sandboxes(self._cursor.find(history.of_sandboxes(scope.keys, **place)))

    def _kept(self, after: int) -> None:
        if after < self._cursor.rows(rows.TRIMMED)[0][0]:
            raise errors.OutOfRange(
                "HISTORY_TRIMMED", "the changes after after_sequence are no longer kept: open again without it"
            )


@dataclass(slots=True)
class _Row:
    """A row of `sandbox` as it was, and as the group leaves it: `columns` if it changed, with `env` if that did.

    `parts`: the entries that have the parts of the sandbox as it now is; None for one of the first release.
    """

    was: Sandbox | None
    now: Sandbox | None
    parts: dict[str, int | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


class Group(Reader):
    """Changes that share one transaction. Rows are written once, as the last change leaves them."""

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        super().__init__(cursor, cipher)
        # From here to the commit nobody else appends, so that nothing that is read changes under a change.
        self._stands: int
        self._trimmed: int
        self._stands, self._trimmed = cursor.rows(rows.APPENDING)[0]
        self._rows: dict[Key, _Row] = {}
        self._requests: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._events: list[dict[str, Any]] = []
        self._added: list[dict[str, Any]] = []
        self._replaced: list[dict[str, Any]] = []
        self.committed: list[Sandbox] = []
        """What the commit appends to the log, in order."""

    def sandbox(self, key: Key) -> Sandbox | None:
        """The sandbox of that key as the group leaves it so far."""
        return self._row(key).now

    def _row(self, key: Key) -> _Row:
        if (row := self._rows.get(key)) is None:
            found = self._last(key)
            sandbox = None if found is None else self._sandboxes([found])[0]
            row = self._rows[key] = _Row(sandbox, sandbox)
            if found is not None:
                row.parts = {"spec": found.spec_sequence, "env_names": found.env_names_sequence}
        return row

    def env(self, key: Key) -> dict[str, str]:
        """The environment of that key as the group leaves it so far."""
        columns = self._row(key).columns
        changed = columns.get("env")
        return super().env(key) if changed is None else self._cipher.decrypt(changed, columns["uid"])

    def run(self, change: Callable[[Reader], Wanted], request: Request | None) -> Sandbox:
        """The answer to a change; the same again to a repeated request. Raises what `change` raises, and `Stale`."""
        if request is None:
            return self._take(change(self))
        name = request.tenant, request.id
        known = self._requests.get(name) or self._cursor.first(
            rows.REQUEST, {"of_tenant": request.tenant, "of_request_id": request.id}
        )
        if known is None:
            answer = self._take(change(self))
            fingerprint = self._cipher.fingerprint(request.payload)
            self._requests[name] = (fingerprint, answer.namespace, answer.id, answer.uid, answer.sequence)
            return answer
        fingerprint, namespace, sandbox_id, uid, sequence = known
        if not self._cipher.same(fingerprint, request.payload):
            told = errors.Violation("request_id", "was used with another payload: make a new one")
            raise errors.Invalid((told,), "REQUEST_ID_REUSED")
        present = self.sandbox(Key(namespace, sandbox_id))
        return present if present is not None and present.uid == uid else self._entry(sequence, sandbox_id)

    def _entry(self, sequence: int, sandbox_id: str) -> Sandbox:
        """An entry of the log, about a sandbox that is no more. Raises `errors.NotFound` where it was trimmed."""
        if sequence > self._stands:
            return self.committed[sequence - self._stands - 1]
        found = self._entries(rows.EVENT, {"of_sequence": sequence})
        if not found:
            said = f"the sandbox {sandbox_id!r} was deleted: create another"
            raise errors.NotFound("SANDBOX_NOT_FOUND", said, sandbox_id=sandbox_id)
        return found[0]

    def _take(self, wanted: Wanted) -> Sandbox:
        after = wanted.sandbox
        row = self._row(after.key)
        before = row.now
        if before is not None and before.uid == after.uid:
            if before.sequence != after.sequence:
                raise Stale
            if before == after and wanted.env is None:
                return before
        elif after.sequence or (before is not None and before.status.phase is not Phase.TERMINATED):
            raise Stale
        # All that is the same is the same object: the feed keeps some thousand changes in memory.
        spec = before.spec if before is not None and before.spec == after.spec else after.spec
        after = replaced(after, sequence=self._stands + len(self.committed) + 1, spec=spec)
        columns = rows.columns(after)
        columns["env"] = row.columns.get("env")
        if wanted.env is not None:
            columns["env"] = self._cipher.encrypt(wanted.env, after.uid)
        kept = before is not None and before.uid == after.uid
        changed = {
            name: documents.part(after, name)
            for name in documents.PARTS
            if not (kept and row.parts[name] and getattr(before, name) == getattr(after, name))
        }
        # Nothing is raised from here on: a change that cannot be written has left nothing behind.
        for name, text in changed.items():
            if former := row.parts.get(name):
                self._replaced.append({"of_sequence": former, "of_name": name, "replaced_at": after.sequence})
            self._added.append({"sequence": after.sequence, "name": name, "document": text})
            row.parts[name] = after.sequence
        columns |= {f"{name}_sequence": sequence for name, sequence in row.parts.items()}
        row.now, row.columns = after, columns
        self._events.append(columns)
        self.committed.append(after)
        return after

    def flush(self) -> None:
        """Sends everything to the database. Raises `Stale` if a row is not what was read."""
        removed: list[dict[str, Any]] = []
        inserted: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        # What a trim kept as the last entry of a sandbox is not the last any more.
        forgotten: list[dict[str, Any]] = []
        for row in self._rows.values():
            was, columns = row.was, row.columns
            if not columns:
                continue
            if was is not None and was.sequence <= self._trimmed:
                forgotten.append({"of_sequence": was.sequence})
            if was is not None and was.uid == columns["uid"]:
                updated.append(columns | rows.of_version(was) | {"of_uid": was.uid})
                continue
            if was is not None:
                removed.append(rows.of_version(was) | {"of_uid": was.uid})
            inserted.append(columns)
        requests = [dict(zip(rows.REMEMBERED, (*name, *known), strict=True)) for name, known in self._requests.items()]
        log = [{"last_sequence": self._stands + len(self._events)}] if self._events else []
        for statement, parameters in (
            (rows.REMOVE, removed),
            (rows.REMOVE_ENV, removed),
            (rows.INSERT, inserted),
            (rows.INSERT_ENV, inserted),
            (rows.UPDATE, updated),
            (rows.UPDATE_ENV, [one for one in updated if one["env"] is not None]),
            (rows.ADD_PART, self._added),
            (rows.REPLACE_PART, self._replaced),
            (rows.APPEND, self._events),
            (rows.FORGET, forgotten),
            (rows.APPENDED, log),
            (rows.REMEMBER, requests),
        ):
            if parameters and self._cursor.write(statement, parameters) != len(parameters):
                raise Stale
