"""The calls that are about many sandboxes of one namespace."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import calls


def batch_start(
    sandbox_ids: Iterable[str] = (),
    *,
    label_selector: str = "",
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[Sequence[pb.BatchResult]]:
    """Starts the sandboxes with these ids, or those that a label selector matches. Returns a result for each."""
    request = pb.BatchStartRequest(**_asked(sandbox_ids, label_selector, namespace, request_id))
    return calls.Call("BatchStart", request, "results", timeout)


def batch_stop(
    sandbox_ids: Iterable[str] = (),
    *,
    label_selector: str = "",
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[Sequence[pb.BatchResult]]:
    """Stops the sandboxes with these ids, or those that a label selector matches. Returns a result for each.

    >>> made = client.create("demo", command=["sleep", "1000"], labels={"tier": "web"})
    >>> (result,) = client.batch_stop(label_selector="tier=web")
    >>> client.wait_until(result.sandbox, "STOPPED").generation
    2
    >>> [one.error.reason for one in client.batch_start([made.sandbox_id, "never-was"])]
    ['', 'SANDBOX_NOT_FOUND']
    """
    request = pb.BatchStopRequest(**_asked(sandbox_ids, label_selector, namespace, request_id))
    return calls.Call("BatchStop", request, "results", timeout)


def batch_delete(
    sandbox_ids: Iterable[str] = (),
    *,
    label_selector: str = "",
    namespace: str = "",
    keep_volume: bool = False,
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[Sequence[pb.BatchResult]]:
    """Removes the sandboxes with these ids, or those that a label selector matches. Returns a result for each.

    Their disks go too, unless they are kept.
    """
    request = pb.BatchDeleteRequest(
        **_asked(sandbox_ids, label_selector, namespace, request_id), keep_volume=keep_volume
    )
    return calls.Call("BatchDelete", request, "results", timeout)


def _asked(sandbox_ids: Iterable[str], label_selector: str, namespace: str, request_id: str) -> dict[str, Any]:
    if isinstance(sandbox_ids, str):
        raise TypeError("sandbox_ids must be a list of ids, not one string")
    return {
        "request_id": request_id or str(uuid.uuid4()),
        "sandbox_ids": sandbox_ids,
        "label_selector": label_selector,
        "namespace": namespace,
    }
