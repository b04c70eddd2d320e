"""What can be read and changed inside a transaction, and how a group of changes shares one.

A change reads the database and says what to write; the writes of all changes of a group go out together, a statement
for each kind. A refused change leaves nothing in the group.

What is nearly always so is assumed, not asked: that a request id is new, and that a new sandbox's id is free. The
database's own keys are the judge: where they refuse the group, or where a change that assumed something fails, it runs
again and asks. Two questions less are half the cost of a create.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.store import rows, tables
from sandbox_server.store.cipher import Cipher

_SANDBOX: sa.Table = tables.SandboxRow.__table__  # type: ignore[attr-defined]
_EVENT: sa.Table = tables.StatusEventRow.__table__  # type: ignore[attr-defined]
_LOG: sa.Table = tables.WatchLogRow.__table__  # type: ignore[attr-defined]
_REQUEST: sa.Table = tables.RequestRow.__table__  # type: ignore[attr-defined]

_OF_KEY = sa.and_(_SANDBOX.c.namespace == sa.bindparam("of_namespace"), _SANDBOX.c.id == sa.bindparam("of_id"))
_READ_SANDBOX = sa.select(_SANDBOX.c.document).where(_OF_KEY)
_READ_ENV = sa.select(_SANDBOX.c.uid, _SANDBOX.c.env).where(_OF_KEY)
_READ_REQUEST = sa.select(
    _REQUEST.c.fingerprint, _REQUEST.c.namespace, _REQUEST.c.sandbox_id, _REQUEST.c.sequence
).where(_REQUEST.c.tenant == sa.bindparam("of_tenant"), _REQUEST.c.request_id == sa.bindparam("of_id"))
_READ_EVENT = sa.select(_EVENT.c.document).where(_EVENT.c.sequence == sa.bindparam("of_sequence"))
_READ_LOG = sa.select(_LOG.c.last_sequence).where(_LOG.c.id == tables.WATCH_LOG).with_for_update()
_WRITE_LOG = sa.update(_LOG).where(_LOG.c.id == tables.WATCH_LOG)
_OF_VERSION = sa.and_(_OF_KEY, _SANDBOX.c.version == sa.bindparam("of_version"))
_INSERT = sa.insert(_SANDBOX)
_UPDATE = sa.update(_SANDBOX).where(_OF_VERSION)
_REMOVE = sa.delete(_SANDBOX).where(_OF_VERSION)
_CHANGED: dict[str, Any] = {
    name: sa.bindparam(name) for name in ("desired", "phase", "generation", "version", "sequence", "document")
}
_UPDATE_STATUS = _UPDATE.values(_CHANGED)
_UPDATE_ENV = _UPDATE.values(_CHANGED | {"env": sa.bindparam("env")})
_APPEND = sa.insert(_EVENT)
_REMEMBER = sa.insert(_REQUEST)


class Stale(Exception):
    """The row was changed since it was read: read it again."""


class HostTaken(Exception):
    """Another sandbox has that host: choose another."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that took effect; `answer` is the sandbox that it was about, as it now stands."""

    fingerprint: str
    answer: Sandbox


class Reader:
    """Reads as of one moment."""

    def __init__(self, connection: sa.Connection, cipher: Cipher) -> None:
        self._connection = connection
        self._cipher = cipher

    def sandbox(self, key: Key) -> Sandbox | None:
        """The sandbox of that key, TERMINATED ones too."""
        found = self._connection.execute(_READ_SANDBOX, {"of_namespace": key.namespace, "of_id": key.id}).scalar()
        return None if found is None else rows.sandbox(found)

    def env(self, key: Key) -> dict[str, str]:
        """The environment of the sandbox of that key; empty if there is none."""
        found = self._connection.execute(_READ_ENV, {"of_namespace": key.namespace, "of_id": key.id}).first()
        return {} if found is None else self._cipher.decrypt(found.env, found.uid)

    def ping(self) -> None:
        """Raises if the database does not answer."""
        self._connection.execute(sa.select(1))

    def terminated(self, tenant: str) -> list[Sandbox]:
        """The TERMINATED sandboxes of a tenant."""
        query = sa.select(_SANDBOX.c.document).where(_SANDBOX.c.tenant == tenant, _SANDBOX.c.phase == "TERMINATED")
        return [rows.sandbox(text) for text in self._connection.execute(query).scalars()]

    def live(self) -> tuple[int, list[Sandbox]]:
        """The log's sequence and every sandbox that is not TERMINATED."""
        sequence = self._connection.execute(sa.select(_LOG.c.last_sequence)).scalar_one()
        query = sa.select(_SANDBOX.c.document).where(_SANDBOX.c.phase != "TERMINATED")
        return sequence, [rows.sandbox(text) for text in self._connection.execute(query).scalars()]

    def events(self, after: int, limit: int) -> list[Sandbox]:
        """The log after a sequence. Raises `errors.OutOfRange` where it was trimmed."""
        trimmed = self._connection.execute(sa.select(_LOG.c.trimmed_sequence)).scalar_one()
        if after < trimmed:
            raise errors.OutOfRange(
                "HISTORY_TRIMMED", "the changes after after_sequence are no longer kept: open again without it"
            )
        query = sa.select(_EVENT.c.document).where(_EVENT.c.sequence > after).order_by(_EVENT.c.sequence).limit(limit)
        return [rows.sandbox(text) for text in self._connection.execute(query).scalars()]


@dataclass(slots=True)
class _Writes:
    """What one change, or a group of them, wants written."""

    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[tuple[sa.Update, dict[str, Any]]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    sandboxes: dict[Key, Sandbox] = field(default_factory=dict)
    envs: dict[Key, dict[str, str]] = field(default_factory=dict)
    answers: dict[tuple[str, str], Request] = field(default_factory=dict)
    committed: list[Sandbox] = field(default_factory=list)


class Transaction(Reader):
    """What one change may do. It sees what the changes before it in its group want written."""

    def __init__(self, group: "Group", connection: sa.Connection, cipher: Cipher, careful: bool) -> None:
        super().__init__(connection, cipher)
        self._group = group
        self._careful = careful
        self.assumed = False
        self.writes = _Writes()

    def sandbox(self, key: Key) -> Sandbox | None:
        """The sandbox of that key, TERMINATED ones too."""
        return self.writes.sandboxes.get(key) or self._group.writes.sandboxes.get(key) or super().sandbox(key)

    @property
    def will_be_judged(self) -> bool:
        """Whether it writes a row whose key the database refuses if what was assumed is not so."""
        return bool(self.writes.requests or self.writes.inserts)

    def former(self, key: Key) -> Sandbox | None:
        """The sandbox that had the key of one that is to be inserted."""
        pending = self.writes.sandboxes.get(key) or self._group.writes.sandboxes.get(key)
        if pending is not None or self._careful:
            return pending or super().sandbox(key)
        self.assumed = True
        return None

    def env(self, key: Key) -> dict[str, str]:
        """The environment of the sandbox of that key; empty if there is none."""
        for writes in (self.writes, self._group.writes):
            if key in writes.envs:
                return dict(writes.envs[key])
        return super().env(key)

    def request(self, tenant: str, request_id: str) -> Request | None:
        """The request of that id, if it took effect."""
        pending = self._group.writes.answers.get((tenant, request_id))
        if pending is not None:
            return pending
        if not self._careful:
            self.assumed = True
            return None
        row = self._connection.execute(_READ_REQUEST, {"of_tenant": tenant, "of_id": request_id}).first()
        if row is None:
            return None
        present = super().sandbox(Key(row.namespace, row.sandbox_id))
        text = self._connection.execute(_READ_EVENT, {"of_sequence": row.sequence}).scalar()
        answer = rows.sandbox(text) if text is not None else present
        if present is not None and answer is not None and present.uid == answer.uid:
            answer = present
        return None if answer is None else Request(row.fingerprint, answer)

    def remember(self, tenant: str, request_id: str, fingerprint: str, answer: Sandbox, at: datetime) -> None:
        """Records that a request took effect, with the change itself."""
        self.writes.requests.append(
            {
                "tenant": tenant,
                "request_id": request_id,
                "fingerprint": fingerprint,
                "namespace": answer.namespace,
                "sandbox_id": answer.id,
                "sequence": answer.sequence,
                "created_at": at,
            }
        )
        self.writes.answers[tenant, request_id] = Request(fingerprint, answer)

    def insert(self, sandbox: Sandbox, env: Mapping[str, str]) -> Sandbox:
        """A new sandbox, in place of a TERMINATED one of its key.

        Raises `errors.AlreadyExists`, and `HostTaken` from the store's `write`.
        """
        former = self.former(sandbox.key)
        if former is not None:
            if former.status.phase.name != "TERMINATED":
                raise errors.AlreadyExists("SANDBOX_EXISTS", f"the id {sandbox.id!r} is taken: choose another")
            self._group.flush()
            of = {"of_namespace": former.namespace, "of_id": former.id, "of_version": former.version}
            if self._connection.execute(_REMOVE, of).rowcount != 1:
                raise Stale
        sandbox, text = self._append(replaced(sandbox, version=1))
        row = rows.identity(sandbox) | rows.columns(sandbox, text)
        self.writes.inserts.append(row | {"env": self._cipher.encrypt(env, sandbox.uid)})
        self.writes.envs[sandbox.key] = dict(env)
        return sandbox

    def update(self, before: Sandbox, after: Sandbox, env: Mapping[str, str] | None = None) -> Sandbox:
        """`after` in place of `before`, and a new environment if one is given. Raises `Stale`."""
        known = self.writes.sandboxes.get(before.key) or self._group.writes.sandboxes.get(before.key)
        if known is not None and (known.version != before.version or known.uid != before.uid):
            raise Stale
        sandbox, text = self._append(replaced(after, version=before.version + 1))
        row = rows.columns(sandbox, text)
        row |= {"of_namespace": before.namespace, "of_id": before.id, "of_version": before.version}
        if env is None:
            self.writes.updates.append((_UPDATE_STATUS, row))
        else:
            row["env"] = self._cipher.encrypt(env, sandbox.uid)
            self.writes.updates.append((_UPDATE_ENV, row))
            self.writes.envs[sandbox.key] = dict(env)
        return sandbox

    def maintain(self, work: Callable[[sa.Connection], None]) -> None:
        """Housekeeping that touches no sandbox; it sends the group's writes first."""
        self._group.flush()
        work(self._connection)

    def rewrap(self) -> int:
        """Encrypts with the first key what another wrote; returns how many environments those were."""
        self._group.flush()
        query = sa.select(_SANDBOX.c.namespace, _SANDBOX.c.id, _SANDBOX.c.uid, _SANDBOX.c.env)
        count = 0
        for row in self._connection.execute(query).all():
            if not self._cipher.is_current(row.env):
                env = self._cipher.encrypt(self._cipher.decrypt(row.env, row.uid), row.uid)
                of = {"of_namespace": row.namespace, "of_id": row.id}
                self._connection.execute(sa.update(_SANDBOX).where(_OF_KEY).values(env=env), of)
                count += 1
        return count

    def _append(self, sandbox: Sandbox) -> tuple[Sandbox, str]:
        sandbox = replaced(sandbox, sequence=self._group.sequence() + len(self.writes.committed) + 1)
        text = rows.document(sandbox)
        self.writes.events.append(rows.event(sandbox, text, datetime.now(UTC)))
        self.writes.sandboxes[sandbox.key] = sandbox
        self.writes.committed.append(sandbox)
        return sandbox, text


class Group:
    """Changes that share one database transaction."""

    def __init__(self, connection: sa.Connection, cipher: Cipher) -> None:
        self.writes = _Writes()
        self._connection = connection
        self._cipher = cipher
        self._sequence: int | None = None
        self._flushed: list[Sandbox] = []

    def transaction(self, careful: bool) -> Transaction:
        """For one change; `accept` takes what it wants written. `careful`: nothing is assumed."""
        return Transaction(self, self._connection, self._cipher, careful)

    def sequence(self) -> int:
        """Where the log stands with the accepted changes; from the first call on, nobody else can append."""
        if self._sequence is None:
            self._sequence = self._connection.execute(_READ_LOG).scalar_one()
        return self._sequence

    def accept(self, transaction: Transaction) -> None:
        """Takes the writes of a change that was not refused."""
        mine, new = self.writes, transaction.writes
        mine.inserts += new.inserts
        mine.updates += new.updates
        mine.events += new.events
        mine.requests += new.requests
        mine.committed += new.committed
        mine.sandboxes |= new.sandboxes
        mine.envs |= new.envs
        mine.answers |= new.answers
        if new.committed:
            self._sequence = self.sequence() + len(new.committed)

    def flush(self) -> None:
        """Sends everything to the database. Raises `Stale` if a compared version had changed."""
        writes = self.writes
        if writes.inserts:
            self._connection.execute(_INSERT, writes.inserts)
        for statement, row in writes.updates:
            if self._connection.execute(statement, row).rowcount != 1:
                raise Stale
        if writes.events:
            self._connection.execute(_APPEND, writes.events)
            self._connection.execute(_WRITE_LOG, {"last_sequence": self._sequence})
        if writes.requests:
            self._connection.execute(_REMEMBER, writes.requests)
        self._flushed += writes.committed
        writes.inserts, writes.updates, writes.events, writes.requests, writes.committed = [], [], [], [], []

    @property
    def committed(self) -> list[Sandbox]:
        """What a commit after `flush` publishes, in order."""
        return self._flushed
