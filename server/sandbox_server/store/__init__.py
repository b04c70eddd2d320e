"""The database: sandboxes, snapshots, their events, schedules, requests, and the leases of replicas. Only this package has SQL.

The code is synchronous. One thread commits in groups, and each lane of readers has a thread; callers await the answers.
"""

from sandbox_server.store import leases, legacy, legacy_source
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.clock import Clock
from sandbox_server.store.connection import exclusive
from sandbox_server.store.documents import VERSION as DOCUMENTS
from sandbox_server.store.history import Scope
from sandbox_server.store.inspection import Inspection, file, inspect
from sandbox_server.store.lanes import Lane
from sandbox_server.store.notices import Notice
from sandbox_server.store.reader import Reader
from sandbox_server.store.schedule_log import Recorded as ScheduleRecorded
from sandbox_server.store.schedule_log import ScheduleMutation, ScheduleWrite
from sandbox_server.store.schema import Schema, SchemaMismatch, migrate
from sandbox_server.store.search import Search
from sandbox_server.store.snapshot_log import SnapshotMutation, SnapshotWrite
from sandbox_server.store.snapshot_reader import SnapshotSearch
from sandbox_server.store.store import Store
from sandbox_server.store.timeline import Extent, Recorded, Selection
from sandbox_server.store.transaction import Request, Stale, Write

__all__ = [
    "DOCUMENTS",
    "Cipher",
    "Clock",
    "Extent",
    "Inspection",
    "Lane",
    "Notice",
    "Reader",
    "Recorded",
    "Request",
    "ScheduleMutation",
    "ScheduleRecorded",
    "ScheduleWrite",
    "Schema",
    "SchemaMismatch",
    "Scope",
    "Search",
    "Selection",
    "SnapshotMutation",
    "SnapshotSearch",
    "SnapshotWrite",
    "Stale",
    "Store",
    "Write",
    "exclusive",
    "file",
    "inspect",
    "leases",
    "legacy",
    "legacy_source",
    "migrate",
]
