"""What replicas tell one another over PostgreSQL: that the log has grown, or that leases have changed.

A notice is a hint and can be lost, for example behind a PgBouncer that lends connections for a transaction. Every replica
also looks by itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog

from sandbox_server.store import connection
from sandbox_server.store.address import Location

log = structlog.get_logger()

CHANNEL = "sandbox_service"
SEND: sa.Select[Any] = sa.select(sa.func.pg_notify(sa.literal_column(f"'{CHANNEL}'"), sa.bindparam("notice")))

_SNAPSHOTS = "snapshots"


@dataclass(frozen=True, slots=True)
class Notice:
    """`sender` is who sent it. `sequence` is the log's last sequence, and `snapshots` that of the log of snapshots, each None if the
    notice is not about it. One without any is about leases."""

    sender: str
    sequence: int | None = None
    snapshots: int | None = None

    def __str__(self) -> str:
        if self.snapshots is not None:
            return f"{self.sender} {_SNAPSHOTS} {self.snapshots}"
        return self.sender if self.sequence is None else f"{self.sender} {self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Notice":
        """Returns the notice that was sent as `text`; of a text that no release sends, one about leases.

        A newer release may say more after the sequence. A release without snapshots takes a notice about them for one about
        leases, and looks at the leases for nothing.
        """
        sender, sequence, snapshots, *_ = *text.split(" "), "", ""
        if sequence == _SNAPSHOTS and snapshots.isdecimal():
            return cls(sender, snapshots=int(snapshots))
        return cls(sender, int(sequence) if sequence.isdecimal() else None)


def announce(opened: sa.Connection, sender: str) -> None:
    """Tells of a change of leases with the commit."""
    opened.execute(SEND, {"notice": str(Notice(sender))})


async def listen(url: Location, heard: Callable[[Notice | None], None], again: float) -> None:
    """Calls `heard` with every notice, and with None when notices may have been lost. Runs until it is cancelled.

    `again` is the time in seconds until it connects again after a failure. On SQLite, which has one replica, it hears nothing.
    """
    arguments = connection.driver_arguments(url)
    if arguments is None:
        await asyncio.Event().wait()
        return
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(autocommit=True, **arguments) as opened:
                await opened.execute(f"LISTEN {CHANNEL}")
                heard(None)
                async for notice in opened.notifies():
                    heard(Notice.parse(notice.payload))
        except psycopg.Error as error:
            log.warning("notices_not_heard", error=type(error).__name__, message=str(error).partition("\n")[0][:300])
        await asyncio.sleep(again)
