"""What is remembered. The only place with SQL.

`Store` is plain synchronous code on a thread of its own that commits in groups; callers await its answers.
"""

from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import SchemaMismatch, migrate
from sandbox_server.store.store import Store
from sandbox_server.store.transaction import Reader, Request, Stale, Wanted

__all__ = ["Cipher", "Reader", "Request", "SchemaMismatch", "Stale", "Store", "Wanted", "migrate"]
