"""The store: one thread that writes in groups, and the lanes of readers."""

import asyncio
import contextlib
import functools
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from sandbox_server import failpoints
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import SnapshotEvent
from sandbox_server.store import batches, connection, documents, housekeeping, leases, notices, schema
from sandbox_server.store.address import Location
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.history import Scope
from sandbox_server.store.lanes import Lane, Lanes, unavailable
from sandbox_server.store.reader import Reader
from sandbox_server.store.schedule_log import Recorded as ScheduleRecorded
from sandbox_server.store.schedule_log import ScheduleLog, ScheduleMutation
from sandbox_server.store.snapshot_log import SnapshotLog, SnapshotMutation
from sandbox_server.store.transaction import Group, Request, Stale, Write

T = TypeVar("T")
Mutation = Callable[[Reader], Write]

GROUP_MOST = 256
"""Mutations in one commit. At 50 us each, the first caller waits 13 ms for the last mutation."""


@dataclass(slots=True)
class _Job:
    mutation: Mutation
    request: Request | None
    future: asyncio.Future[Event]
    outcome: Event | Exception = field(init=False)


@dataclass(frozen=True, slots=True)
class _Chore:
    """`begin` opens the transaction, whose connection or cursor `work` gets."""

    work: Callable[[Any], Any]
    begin: Callable[[], contextlib.AbstractContextManager[Any]]
    future: Future[Any]


class Store:
    """Sandboxes, the log of events and requests in a database. Methods must be called on the loop that opened it."""

    def __init__(
        self,
        url: Location,
        cipher: Cipher,
        *,
        busy_timeout: float = Pace.sqlite_busy_timeout,
        group_most: int = GROUP_MOST,
    ) -> None:
        """`url`: sqlite:///path or postgresql://...; `busy_timeout`: seconds to wait for a locked SQLite file."""
        self._url = url
        self._cipher = cipher
        self._busy_timeout = busy_timeout
        self._group_most = group_most
        self._jobs: queue.SimpleQueue[_Job | _Chore | None] = queue.SimpleQueue()
        self.name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        """Of this replica, to tell it from every other that uses the database, now or at another time."""
        self.shared = connection.driver_arguments(url) is not None
        """Whether other replicas may use the database as well."""

    async def open(self, committed: Callable[[Sequence[Event]], None]) -> None:
        """Opens the database, and makes the schema in an empty one.

        `committed` is called on the loop with the events of each commit, before the callers of its mutations are
        answered. Raises `schema.SchemaMismatch`, and ValueError if the key of a stored environment is not given.
        """
        await asyncio.to_thread(schema.check, self._url)
        self._loop = asyncio.get_running_loop()
        self._committed = committed
        self._writer = connection.Database(self._url, writes=True, busy_timeout=self._busy_timeout)
        self._lanes = Lanes(self._url, self._cipher, self._busy_timeout)
        # No mutation keeps a lease from being renewed.
        self._leases = connection.Database(self._url, writes=True, busy_timeout=self._busy_timeout)
        self._leasing = ThreadPoolExecutor(1, "store-leases")
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._thread.start()
        if unknown := await self.read(lambda reader: reader.unknown_keys()):
            await self.close()
            raise ValueError(
                f"encryption keys: environments were encrypted with {', '.join(unknown)}: give that key too"
            )

    async def close(self) -> None:
        """Finishes all reads and writes that were asked for, then closes the connections."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._leasing.shutdown()
        self._leases.close()
        self._lanes.close()
        self._writer.close()

    async def write(self, mutation: Mutation, request: Request | None = None) -> Event:
        """Runs `mutation` on the writing thread and returns the event that it wrote, once that is committed.

        Where it writes nothing, that is the last event of the sandbox. A repeated request is answered as before.
        `mutation` may run more than once. An exception that it raises leaves the other mutations of the commit alone.
        If the caller is cancelled, the mutation may still be committed. Raises `Stale`; `errors.Invalid` for a request id
        with another payload; `errors.Unavailable` if the database did not commit (a repeat with the same request id is
        safe).
        """
        job = _Job(mutation, request, self._loop.create_future())
        self._jobs.put(job)
        return await job.future

    async def write_snapshot(self, mutation: SnapshotMutation, request: Request | None = None) -> SnapshotEvent:
        """Runs `mutation` as `write` does, and returns the event of a snapshot that it wrote, or the last one of the snapshot.

        Its event is in a log of its own, which nobody is called with. Raises as `write`, and what `mutation` raises.
        """

        def run(cursor: connection.Cursor, log: SnapshotLog) -> SnapshotEvent:
            event = log.run(mutation, request)
            self._share_snapshot(cursor, log)
            failpoints.hit("snapshot_before_commit")
            return event

        event = await self._logged(run)
        failpoints.hit("snapshot_after_commit")
        return event

    async def write_schedule(self, mutation: ScheduleMutation, request: Request | None = None) -> ScheduleRecorded:
        """Runs `mutation` as `write_snapshot` does, and returns what was recorded of a schedule. Raises as that."""

        def run(cursor: connection.Cursor, log: SnapshotLog) -> ScheduleRecorded:
            recorded = ScheduleLog(cursor, self._cipher, log).run(mutation, request)
            self._share_snapshot(cursor, log)
            failpoints.hit("schedule_before_commit")
            return recorded

        recorded = await self._logged(run)
        failpoints.hit("schedule_after_commit")
        return recorded

    async def _logged(self, run: Callable[[connection.Cursor, SnapshotLog], T]) -> T:
        """Runs `run` on the writing thread, in a transaction of its own that may append to the log of snapshots."""

        def begun(cursor: connection.Cursor) -> T:
            return run(cursor, SnapshotLog(cursor, self._cipher))

        done: T = await self._done(_Chore(begun, self._writer.begin, Future()))
        return done

    def _share_snapshot(self, cursor: connection.Cursor, log: SnapshotLog) -> None:
        """Makes sure of what a transaction was decided on, and tells the other replicas of its snapshot. Raises `Stale`."""
        if self.shared:
            appended = log.appended
            notice = None if appended is None else notices.Notice(self.name, snapshots=appended.sequence)
            self._share(cursor, log.epochs, notice)

    async def decided(self, request: Request, namespace: str, sandbox_ids: Sequence[str]) -> tuple[str, ...]:
        """Returns the ids of the sandboxes that a batch is about: see `batches.decided`. Raises `errors.Unavailable` too."""
        return await self._exclusively(
            functools.partial(
                batches.decided, cipher=self._cipher, request=request, namespace=namespace, sandbox_ids=sandbox_ids
            )
        )

    async def read(self, query: Callable[[Reader], T], lane: Lane = Lane.SINGLE) -> T:
        """Runs `query` on the thread of its lane, as of one moment. Raises `errors.Unavailable`."""
        return await self._loop.run_in_executor(self._lanes.executor(lane), self._lanes.read, lane, query)

    async def load(self) -> tuple[int, list[Event]]:
        """Returns the log's sequence, and the last event of every sandbox that is not TERMINATED."""
        return await self.read(lambda reader: reader.live())

    async def last(self, keys: Sequence[Key]) -> tuple[int, list[Event]]:
        """Returns the log's sequence, and the last events of the sandboxes with these keys, TERMINATED ones too."""

        def query(reader: Reader) -> tuple[int, list[Event]]:
            return reader.sequence(), [one for key in keys if (one := reader.last(key)) is not None]

        return await self.read(query)

    async def events(self, after: int, limit: int) -> list[Event]:
        """Returns at most `limit` events after a sequence. Raises `errors.OutOfRange` if one of them was trimmed."""
        return await self.read(lambda reader: reader.events(after, limit), Lane.FEED)

    async def history(self, scope: Scope, after: int, until: int, most: int) -> Iterator[Event]:
        """Returns at most `most` events of a scope after `after` and up to `until`. Raises as `events`.

        Each event is made as it is taken: a page that a thread made would hold Python's lock against the loop.
        """
        return await self.read(lambda reader: reader.history(scope, after, until, most), Lane.HISTORY)

    async def listen(self, heard: Callable[[notices.Notice | None], None], again: float) -> None:
        """Calls `heard` with what other replicas announce, as `notices.listen`. Runs until it is cancelled."""

        def others(notice: notices.Notice | None) -> None:
            if notice is None or notice.sender != self.name:
                heard(notice)

        await notices.listen(self._url, others, again)

    async def trim(self, before: datetime) -> None:
        """Removes events and requests from before that time, and the sandboxes and snapshots that ended before it.

        A sandbox whose volume is kept stays. Raises `errors.Unavailable`.
        """
        for page in (housekeeping.trim_history, housekeeping.trim_snapshots, housekeeping.trim_requests):
            while await self._exclusively(functools.partial(page, before=before)):
                failpoints.hit("trimmed_page")

    async def reencrypt(self) -> int:
        """Encrypts with the first key the environments that another key wrote. Returns their number."""
        count = 0
        after = ""
        while page := await self._exclusively(
            functools.partial(housekeeping.reencrypt, cipher=self._cipher, after=after)
        ):
            reencrypted, after = page
            count += reencrypted
            failpoints.hit("reencrypted_page")
        return count

    async def _exclusively(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs `work` on the writing thread with a connection, in a transaction of its own. Raises `errors.Unavailable`.

        Mutations that wait are committed first. Long work must be asked for in pages: a mutation waits for one page at
        most.
        """
        done: T = await self._done(_Chore(work, self._writer.engine.begin, Future()))
        return done

    async def _done(self, chore: _Chore) -> Any:
        self._jobs.put(chore)
        return await asyncio.wrap_future(chore.future)

    async def leasing(self, work: Callable[..., T], *arguments: object) -> T:
        """Runs `work` with a connection and these arguments on the thread of the leases, in a transaction of its own.

        It waits for no mutation. Raises `errors.Unavailable`.
        """

        def run() -> T:
            try:
                with self._leases.engine.begin() as opened:
                    return work(opened, *arguments)
            except sa.exc.SQLAlchemyError as error:
                raise unavailable(error) from error

        return await self._loop.run_in_executor(self._leasing, run)

    def _run(self) -> None:
        """Takes what waits, commits mutations in groups, and works on chores between the groups. Runs until `close`."""
        while True:
            job = self._jobs.get()
            jobs: list[_Job] = []
            while isinstance(job, _Job):
                jobs.append(job)
                if len(jobs) == self._group_most or self._jobs.empty():
                    break
                job = self._jobs.get()
            if jobs:
                self._loop.call_soon_threadsafe(self._deliver, jobs, self._commit(jobs))
            if job is None:
                return
            if isinstance(job, _Chore):
                self._do(job)

    def _do(self, chore: _Chore) -> None:
        if not chore.future.set_running_or_notify_cancel():
            return
        try:
            with chore.begin() as opened:
                done = chore.work(opened)
        except (self._writer.Error, sa.exc.SQLAlchemyError) as error:
            chore.future.set_exception(unavailable(error))
        except Exception as error:
            chore.future.set_exception(error)
        else:
            chore.future.set_result(done)

    def _commit(self, jobs: list[_Job]) -> list[Event]:
        """Runs the jobs in one transaction. Returns the events of the commit."""
        try:
            with self._writer.begin() as cursor:
                group = Group(cursor, self._cipher)
                for job in jobs:
                    try:
                        job.outcome = group.run(job.mutation, job.request)
                    except self._writer.Error:
                        raise
                    except Exception as error:
                        job.outcome = error
                group.flush()
                if self.shared:
                    sequence = group.committed[-1].sequence if group.committed else None
                    self._share(cursor, group.epochs, None if sequence is None else notices.Notice(self.name, sequence))
                failpoints.hit("before_commit")
            failpoints.hit("after_commit")
            for stored in group.specs:
                documents.remember(*stored)
            return group.committed
        except (Stale, self._writer.IntegrityError):
            if len(jobs) > 1:
                return [one for job in jobs for one in self._commit([job])]
            failure: Exception = Stale()
        except (self._writer.Error, sa.exc.SQLAlchemyError) as error:
            failure = unavailable(error)
        except Exception as error:
            failure = error
        for job in jobs:
            job.outcome = failure
        return []

    def _share(
        self, cursor: connection.Cursor, epochs: Collection[tuple[str, int]], notice: notices.Notice | None
    ) -> None:
        """Makes sure that this replica still holds what it has decided on, and sends the others a notice.

        Raises `Stale`.
        """
        if not leases.hold(cursor, self.name, epochs):
            raise Stale
        if notice is not None:
            cursor.rows(notices.SEND, {"notice": str(notice)})

    def _deliver(self, jobs: list[_Job], committed: list[Event]) -> None:
        """Publishes a commit, then answers its callers. Runs on the loop."""
        if committed:
            self._committed(committed)
            failpoints.hit("after_publish")
        for job in jobs:
            if job.future.cancelled():
                continue
            if isinstance(job.outcome, Exception):
                job.future.set_exception(job.outcome)
            else:
                job.future.set_result(job.outcome)
