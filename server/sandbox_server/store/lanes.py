"""The lanes of readers. Each has its own thread and connection: a read never waits for one of another lane."""

import enum
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import sqlalchemy as sa
import structlog

from sandbox_server.domain import errors
from sandbox_server.store import connection
from sandbox_server.store.address import Location
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.reader import Reader

log = structlog.get_logger()
T = TypeVar("T")


class Lane(enum.Enum):
    """What a read is for."""

    HEALTH = enum.auto()
    RECONCILER = enum.auto()
    FEED = enum.auto()
    """The feed follows the log."""
    HISTORY = enum.auto()
    """Watches read events that the feed no longer has in memory."""
    LISTS = enum.auto()
    SINGLE = enum.auto()
    """A call reads one sandbox or a few; the service reads what it needs before it serves."""


class Lanes:
    """The lanes of one database."""

    def __init__(self, url: Location, cipher: Cipher, busy_timeout: float) -> None:
        """The arguments are those of `connection.connect`. A lane connects when it is first used."""
        self._cipher = cipher
        self._lanes = {
            lane: (
                ThreadPoolExecutor(1, f"store-read-{lane.name.lower()}"),
                connection.Database(url, writes=False, busy_timeout=busy_timeout),
            )
            for lane in Lane
        }

    def executor(self, lane: Lane) -> ThreadPoolExecutor:
        """Returns the thread of a lane."""
        return self._lanes[lane][0]

    def read(self, lane: Lane, query: Callable[[Reader], T]) -> T:
        """Runs `query` as of one moment, on the thread of its lane. Raises `errors.Unavailable`."""
        database = self._lanes[lane][1]
        try:
            with database.begin() as cursor:
                return query(Reader(cursor, self._cipher))
        except (database.Error, sa.exc.SQLAlchemyError) as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Finishes all reads that were asked for, then closes the connections."""
        for executor, database in self._lanes.values():
            executor.shutdown()
            database.close()


def unavailable(error: Exception) -> errors.Unavailable:
    """Returns the error for callers when the database failed. The cause is logged."""
    log.warning("database_failed", error=type(error).__name__, message=str(error).partition("\n")[0][:300])
    return errors.Unavailable(
        "DATABASE_UNAVAILABLE", "the database does not answer: repeat the call with the same request_id"
    )
