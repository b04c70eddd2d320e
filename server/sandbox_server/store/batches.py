"""Which sandboxes a batch is about: decided once, by the first call with its request id.

It is stored as a request of its own, before any of its sandboxes changes. Its `sandbox_id` has all their ids, joined by
commas, and there is no event that is its answer: each sandbox has a request and an answer of its own.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from sandbox_server.domain import batch
from sandbox_server.store import tables
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.transaction import Request, reused

_COLUMNS = tables.REQUEST.c


def decided(
    connection: sa.Connection, cipher: Cipher, request: Request, namespace: str, sandbox_ids: Sequence[str]
) -> tuple[str, ...]:
    """Returns the ids that the first call with this request decided on: `sandbox_ids`, where this is the first.

    Raises `errors.Invalid` for a request id with another payload, and what `batch.checked` raises.
    """
    of_request = sa.and_(_COLUMNS.tenant == request.tenant, _COLUMNS.request_id == request.id)
    known = connection.execute(sa.select(_COLUMNS.fingerprint, _COLUMNS.sandbox_id).where(of_request)).first()
    if known is not None:
        if not cipher.same(known.fingerprint, request.payload):
            raise reused()
        return tuple(known.sandbox_id.split(",")) if known.sandbox_id else ()
    found = batch.checked(sandbox_ids)
    row = {
        "tenant": request.tenant,
        "request_id": request.id,
        "fingerprint": cipher.fingerprint(request.payload),
        "namespace": namespace,
        "sandbox_id": ",".join(found),
        "sandbox_uid": "",
        "sequence": 0,
    }
    connection.execute(sa.insert(tables.REQUEST).values(row))
    return found
