"""A billing job: charges a sandbox for CPU and memory while it runs, and for its disk until that is removed.

What it charges and the sequence up to which that is complete are written in one transaction, so that the job may be killed at
any moment: it goes on exactly there. Times are those of the service, so that it may be away for a while as well.
"""

import os
import pathlib
import sqlite3
import time

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc

SERVER = os.environ.get("SANDBOX_SERVER", "127.0.0.1:50051")
DATABASE = os.environ.get("BILLING_DATABASE", "billing.db")
TOKEN = os.environ.get("SANDBOX_TOKEN", "")
# That of an operator, who sees the sandboxes of all tenants. Without tokens, as with `make run`, there is one tenant.
METADATA = [("authorization", f"Bearer {TOKEN}")] if TOKEN else []
SERVICE_CONFIG = pathlib.Path(__file__).parents[2] / "protos" / "service_config.json"
OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG.read_text()),
    # A connection that went silent is noticed within 40 seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
SCHEMA = """
CREATE TABLE IF NOT EXISTS place (sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS charged (uid TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS usage (
    tenant TEXT NOT NULL, sandbox TEXT NOT NULL, uid TEXT NOT NULL, project TEXT NOT NULL,
    what TEXT NOT NULL, size TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER
);
"""


def used(status: pb.SandboxStatus) -> dict[str, str]:
    """Returns what a sandbox is charged for from this status on, with its size."""
    found = {}
    if status.phase != pb.PHASE_TERMINATED or status.reason == pb.REASON_VOLUME_KEPT:
        found["disk"] = status.storage_size
    if status.desired_state == pb.DESIRED_STATE_RUNNING and status.phase in (pb.PHASE_RUNNING, pb.PHASE_UPDATING):
        found["compute"] = f"{status.resources.cpu_request} {status.resources.memory_request}"
    return found


def charge(db: sqlite3.Connection, status: pb.SandboxStatus) -> None:
    """Ends and begins rows of usage as a status says. It is the caller's transaction."""
    known = db.execute("SELECT sequence FROM charged WHERE uid = ?", (status.uid,)).fetchone()
    if known is not None and known[0] >= status.sequence:
        return  # The list was newer than the sequence from which the watch went on.
    name = f"{status.namespace}/{status.sandbox_id}"
    at = status.transition_time.ToMicroseconds()
    begun = status.create_time.ToMicroseconds()
    if known is None:
        # A sandbox that had this name before may have left its disk to this one.
        db.execute(
            "UPDATE usage SET until = ? WHERE sandbox = ? AND uid != ? AND until IS NULL", (begun, name, status.uid)
        )
    present = used(status)
    for what in ("compute", "disk"):
        size = present.get(what)
        row = db.execute(
            "SELECT size FROM usage WHERE uid = ? AND what = ? AND until IS NULL", (status.uid, what)
        ).fetchone()
        if row is not None and row[0] != size:
            db.execute(
                "UPDATE usage SET until = ? WHERE uid = ? AND what = ? AND until IS NULL", (at, status.uid, what)
            )
        if size is not None and (row is None or row[0] != size):
            since = begun if known is None and what == "disk" else at
            db.execute(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (status.tenant, name, status.uid, status.project, what, size, since),
            )
    db.execute("INSERT OR REPLACE INTO charged VALUES (?, ?)", (status.uid, status.sequence))


def keep(db: sqlite3.Connection, sequence: int) -> None:
    """Keeps the sequence up to which the usage is complete. It is the caller's transaction."""
    db.execute("DELETE FROM place")
    db.execute("INSERT INTO place VALUES (?)", (sequence,))


def take_stock(db: sqlite3.Connection, stub: sandbox_pb2_grpc.SandboxServiceStub) -> None:
    """Charges for what there is: at the very beginning, and when the history has a gap."""
    first: int | None = None
    uids: set[str] = set()
    token = ""
    with db:
        db.execute("DELETE FROM charged")
        while first is None or token:
            page = stub.ListSandboxes(
                # Those that have ended, too: one may have ended since the sequence that was kept.
                pb.ListSandboxesRequest(phases=pb.Phase.values()[1:], view=pb.SANDBOX_VIEW_BASIC, page_token=token),
                metadata=METADATA,
            )
            for sandbox in page.sandboxes:
                charge(db, sandbox.status)
                uids.add(sandbox.uid)
            # What happens while the other pages are read comes after the sequence of the first one.
            first = page.sequence if first is None else first
            token = page.next_page_token
        for (uid,) in db.execute("SELECT DISTINCT uid FROM usage WHERE until IS NULL").fetchall():
            if uid not in uids:  # It has ended, and nobody remembers when.
                db.execute("UPDATE usage SET until = ? WHERE uid = ? AND until IS NULL", (time.time_ns() // 1000, uid))
        keep(db, first)


def main() -> None:
    db = sqlite3.connect(DATABASE)
    db.executescript(SCHEMA)
    with grpc.insecure_channel(SERVER, OPTIONS) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
        while True:
            try:
                if db.execute("SELECT * FROM place").fetchone() is None:
                    take_stock(db, stub)
                (after,) = db.execute("SELECT sequence FROM place").fetchone()
                print(f"charging from sequence {after} on", flush=True)
                for message in stub.WatchStatus(pb.WatchStatusRequest(after_sequence=after), metadata=METADATA):
                    with db:
                        if message.HasField("status"):
                            charge(db, message.status)
                        keep(db, message.sequence)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    with db:
                        db.execute("DELETE FROM place")
                elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    time.sleep(1)
                else:
                    raise


if __name__ == "__main__":
    main()
