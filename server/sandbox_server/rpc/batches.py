"""BatchStart, BatchStop and BatchDelete: many mutations in one call, each with a result of its own."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager, store
from sandbox_server.domain import batch, check, errors, selector
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.event import Event
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import not_found
from sandbox_server.rpc import convert, render
from sandbox_server.rpc import errors as rpc_errors

WHOLE_BYTES = 3 * 1024 * 1024
"""Bytes of results with whole sandboxes. gRPC clients receive 4 MiB unless configured otherwise: a thousand results with
the names alone have less than the rest."""
AT_ONCE = 20
"""Results that are made at once, in about a millisecond. Other calls go on between."""

Act = Callable[[manager.Mutation], Awaitable[Event]]
OF_ONE = (errors.NotFound, errors.FailedPrecondition)
"""The errors that are about one sandbox. Any other ends the call: a repeat completes the batch."""
Outcome = Event | errors.NotFound | errors.FailedPrecondition


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What the three batches have in common. The id of the key in `mutation` is empty."""

    mutation: manager.Mutation
    selection: feed.Filter
    sandbox_ids: tuple[str, ...]


def asked(principal: Principal, request: convert.BatchRequest) -> Batch:
    """Returns the batch that is asked for. Raises `errors.Invalid` with every bad field."""
    namespace = request.namespace or principal.default_namespace
    labels = selector.EVERYTHING
    found = [
        *check.request_id("request_id", request.request_id),
        *convert.bad_namespace(principal, request.namespace),
        *_bad_ids(request),
    ]
    try:
        labels = selector.parse("label_selector", request.label_selector)
    except errors.Invalid as invalid:
        found += invalid.violations
    if found:
        raise errors.Invalid(tuple(found))
    sandbox_ids = tuple(request.sandbox_ids)
    mutation = convert.mutation(principal, Key(namespace, ""), request)
    return Batch(mutation, feed.Filter(principal, namespace=namespace, labels=labels), sandbox_ids)


def _bad_ids(request: convert.BatchRequest) -> Iterator[Violation]:
    """Yields the violation of `sandbox_ids` as a whole or, if there is none, one for each bad id."""
    sandbox_ids = request.sandbox_ids
    if sandbox_ids and request.label_selector:
        yield Violation("sandbox_ids", "must be empty with a label_selector: send one of them")
    elif not sandbox_ids and not request.label_selector.strip():
        yield Violation("sandbox_ids", f"is required, 1 to {batch.MOST} ids, or a label_selector instead")
    elif len(sandbox_ids) > batch.MOST:
        yield Violation("sandbox_ids", f"must have at most {batch.MOST} ids")
    else:
        yield from _each_bad_id(sandbox_ids)


def _each_bad_id(sandbox_ids: Sequence[str]) -> Iterator[Violation]:
    seen = set[str]()
    for index, sandbox_id in enumerate(sandbox_ids):
        field = f"sandbox_ids[{index}]"
        malformed = check.sandbox_id(field, sandbox_id, True)
        yield from malformed
        if not malformed and sandbox_id in seen:
            yield Violation(field, "is named twice: leave one of them out")
        seen.add(sandbox_id)


async def outcomes(sandboxes: manager.StatefulSetManager, whole: Batch, act: Act) -> list[tuple[Key, Outcome]]:
    """Carries out `act` for each sandbox of a batch, and returns what became of each.

    Each is a mutation of its own, with a request id that follows from that of the batch, and all of them are given to the
    store at once. Raises what `manager.StatefulSetManager.batch` raises, and an error that is not `OF_ONE` sandbox when all
    have ended.
    """
    namespace = whole.selection.namespace
    if whole.selection.principal.reach(namespace).empty:
        return [(Key(namespace, one), not_found(one)) for one in whole.sandbox_ids]
    request = whole.mutation.request
    keys = [Key(namespace, one) for one in await sandboxes.batch(request, whole.selection, whole.sandbox_ids)]
    mutations = [dataclasses.replace(whole.mutation, key=key, request=_part(request, key)) for key in keys]
    ended = await asyncio.gather(*(act(one) for one in mutations), return_exceptions=True)
    found: list[tuple[Key, Outcome]] = []
    for key, outcome in zip(keys, ended, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, OF_ONE):
            raise outcome
        found.append((key, outcome))
    return found


def _part(request: store.Request | None, key: Key) -> store.Request | None:
    """Returns the request of one sandbox. The payload is compared once, for the whole batch."""
    return request and store.Request(request.tenant, f"{request.id}/{key.id}", b"")


async def answer(found: list[tuple[Key, Outcome]], stale: bool) -> bytes:
    """Returns the answer with these results, encoded. `stale`: the sandboxes cannot be observed now."""
    written: list[bytes] = []
    size = 0
    for index, (key, outcome) in enumerate(found):
        if index % AT_ONCE == 0:
            await asyncio.sleep(0)
        part = _encoded(key, _result(outcome, stale))
        if size + len(part) > WHOLE_BYTES and isinstance(outcome, Event):
            part = _encoded(key, {"sandbox": render.brief(outcome)})
        size += len(part)
        written.append(part)
    # Protobuf reads concatenated messages as one message with all their results, of any of the three answers.
    return b"".join(written)


def _encoded(key: Key, result: dict[str, Any]) -> bytes:
    made = pb.BatchResult(sandbox_id=key.id, namespace=key.namespace, **result)
    return pb.BatchStartResponse(results=[made]).SerializeToString()


def _result(outcome: Outcome, stale: bool) -> dict[str, Any]:
    if isinstance(outcome, Event):
        return {"sandbox": render.whole(outcome, stale, basic=True)}
    code = rpc_errors.CODES[type(outcome)]
    return {"error": {"code": code, "reason": outcome.reason, "message": outcome.message}}
