"""What is remembered. The only place with SQL.

`Store` is plain synchronous code on a thread of its own that commits in groups; callers await its answers.
"""

from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import SchemaMismatch, migrate
from sandbox_server.store.store import Store
from sandbox_server.store.transaction import HostTaken, Reader, Request, Stale, Transaction

__all__ = ["Cipher", "HostTaken", "Reader", "Request", "SchemaMismatch", "Stale", "Store", "Transaction", "migrate"]
