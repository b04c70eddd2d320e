"""The store: one thread that writes in groups, one that reads."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.store import connection, tables
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.transaction import Group, HostTaken, Reader, Stale, Transaction

T = TypeVar("T")

GROUP_MOST = 256
"""Changes in one commit: at 100 us each the last one's caller waits 25 ms for the first's."""


@dataclass(slots=True)
class _Job:
    change: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Store:
    """Sandboxes, the watch log and requests in a database. Methods belong to the loop that opened it."""

    def __init__(self, url: str, cipher: Cipher, *, busy_timeout: float = 5.0, group_most: int = GROUP_MOST) -> None:
        """`url`: sqlite:///path or postgresql://...; `busy_timeout`: seconds to wait for a locked SQLite file."""
        self._url = url
        self._cipher = cipher
        self._busy_timeout = busy_timeout
        self._group_most = group_most
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reads = ThreadPoolExecutor(1, "store-read")

    @property
    def shared(self) -> bool:
        """Whether other replicas may write the same database, so that the log has to be followed."""
        return connection.is_shared(self._url)

    async def open(self, committed: Callable[[Sequence[Sandbox]], None]) -> None:
        """Makes the schema in an empty database and begins. Raises `connection.SchemaMismatch`.

        `committed` is called on the loop with what each commit appended to the log, before its callers are answered.
        """
        await asyncio.to_thread(connection.check, self._url)
        self._loop = asyncio.get_running_loop()
        self._committed = committed
        self._write_engine = connection.connect(self._url, writes=True, busy_timeout=self._busy_timeout)
        self._read_engine = connection.connect(self._url, writes=False, busy_timeout=self._busy_timeout)
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finishes what was asked, then closes."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reads.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()

    async def write(self, change: Callable[[Transaction], T], timeout: float | None = None) -> T:
        """Runs `change` on the store's thread and answers after its commit. It may run more than once.

        What `change` raises undoes it alone. Raises `errors.Unavailable` if the database did not commit (with a
        request id a repeat is safe), and `errors.DeadlineExceeded` after `timeout` seconds, when it may yet commit.
        """
        job = _Job(change, self._loop.create_future())
        self._jobs.put(job)
        try:
            async with asyncio.timeout(timeout):
                # A caller that leaves must not cancel what its neighbours in the group also wait for.
                return await asyncio.shield(job.future)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                "DEADLINE_EXCEEDED", "the call's time ran out: repeat it with the same request_id"
            ) from None

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Runs `query` on the reading thread, as of one moment. Raises `errors.Unavailable`."""
        return await self._loop.run_in_executor(self._reads, self._read, query)

    def _read(self, query: Callable[[Reader], T]) -> T:
        try:
            with self._read_engine.connect() as opened:
                return query(Reader(opened, self._cipher))
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise _unavailable(error) from error

    async def load(self) -> tuple[int, list[Sandbox]]:
        """The log's sequence and every sandbox that is not TERMINATED."""
        return await self.read(lambda reader: reader.live())

    async def events(self, after: int, limit: int) -> list[Sandbox]:
        """At most `limit` entries of the log after a sequence. Raises `errors.OutOfRange` where it was trimmed."""
        return await self.read(lambda reader: reader.events(after, limit))

    async def trim(self, events_before: datetime, requests_before: datetime) -> None:
        """Forgets history and requests of before these times."""

        def change(connected: sa.Connection) -> None:
            event, log, request = tables.StatusEventRow, tables.WatchLogRow, tables.RequestRow
            # Under the log's row, so that no reader meets a gap it was not told of.
            connected.execute(sa.select(log.last_sequence).with_for_update())  # type: ignore[call-overload]
            last = connected.execute(
                sa.select(sa.func.max(event.sequence)).where(event.at < events_before)  # type: ignore[arg-type]
            ).scalar()
            if last is not None:
                connected.execute(sa.delete(event).where(event.sequence <= last))  # type: ignore[arg-type]
                connected.execute(sa.update(log).values(trimmed_sequence=last))
            connected.execute(sa.delete(request).where(request.created_at < requests_before))  # type: ignore[arg-type]

        await self.write(lambda transaction: transaction.maintain(change))

    async def rewrap(self) -> int:
        """Encrypts with the first key what another wrote; returns how many environments those were."""
        return await self.write(lambda transaction: transaction.rewrap())

    def fingerprint(self, payload: bytes) -> str:
        """A keyed hash of a request."""
        return self._cipher.fingerprint(payload)

    def same(self, fingerprint: str, payload: bytes) -> bool:
        """Whether a fingerprint is that of `payload`."""
        return self._cipher.same(fingerprint, payload)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, last = [job], False
            while len(jobs) < self._group_most and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    last = True
                    break
                jobs.append(following)
            self._deliver(jobs, self._commit(jobs))
            if last:
                return

    def _commit(self, jobs: list[_Job], careful: bool = False) -> list[Sandbox]:
        """Runs the jobs in one transaction; returns what was committed."""
        try:
            with self._write_engine.begin() as opened:
                group = Group(opened, self._cipher)
                for job in jobs:
                    self._change(group, job, careful)
                group.flush()
            return group.committed
        except (Stale, sa.exc.IntegrityError) as error:
            if not careful:
                return self._commit(jobs, careful=True)
            if len(jobs) > 1:
                return [one for job in jobs for one in self._commit([job], careful=True)]
            jobs[0].error = _conflict(error)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            for job in jobs:
                job.error = _unavailable(error)
        except Exception as error:
            for job in jobs:
                job.error = error
        return []

    def _change(self, group: Group, job: _Job, careful: bool) -> None:
        job.error = None
        transaction = group.transaction(careful)
        try:
            job.result = job.change(transaction)
        except sa.exc.SQLAlchemyError:
            raise
        except Exception as error:
            job.error = error
        if transaction.assumed and (job.error is not None or not transaction.will_be_judged):
            self._change(group, job, careful=True)
        elif job.error is None:
            group.accept(transaction)

    def _deliver(self, jobs: list[_Job], committed: list[Sandbox]) -> None:
        def deliver() -> None:
            if committed:
                self._committed(committed)
            for job in jobs:
                if job.future.cancelled():
                    continue
                if job.error is not None:
                    job.future.set_exception(job.error)
                    # Whoever left does not ask for it; that is no reason to warn.
                    job.future.exception()
                else:
                    job.future.set_result(job.result)

        self._loop.call_soon_threadsafe(deliver)


def _conflict(error: Exception) -> Exception:
    """What a constraint that another replica's commit violated means for the change."""
    if isinstance(error, Stale):
        return error
    return HostTaken() if "host" in str(error.__cause__) else Stale()


def _unavailable(_error: Exception) -> errors.Unavailable:
    return errors.Unavailable(
        "DATABASE_UNAVAILABLE", "the database does not answer: repeat the call with the same request_id"
    )
