"""ListEvents: its request, and pages that every client can receive."""

from collections.abc import Callable, Iterator

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import store
from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import convert, filters, listing, render

_SEQUENCE_MOST = 2**63 - 1


def asked(principal: Principal, request: pb.ListEventsRequest) -> tuple[store.Selection, int | None]:
    """Returns what to list, and the sequence that the page begins beyond: None for the first page.

    Raises `errors.Invalid`, and `errors.NotFound` for a sandbox in another tenant's namespace.
    """
    found = [
        *convert.bad_namespace(principal, request.namespace, names_sandboxes=bool(request.sandbox_id)),
        *check.project("project", request.project),
        *filters.bad_tenant(request.tenant),
    ]
    if request.sandbox_id:
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
    if request.after_sequence < 0:
        found.append(Violation("after_sequence", "must not be negative"))
    if request.order not in pb.EventOrder.values():
        found.append(Violation("order", f"must be {' or '.join(pb.EventOrder.keys()[1:])}, or unset"))
    found += filters.bad_page_size(request.page_size)
    token = request.page_token
    cursor = int(token) if token.isascii() and token.isdigit() and len(token) < 20 else None
    if token and (cursor is None or cursor > _SEQUENCE_MOST):
        found.append(Violation("page_token", "must be the next_page_token of the page before"))
    if found:
        raise errors.Invalid(tuple(found))
    key = principal.key(request.namespace, request.sandbox_id) if request.sandbox_id else None
    reach = principal.reach(request.namespace, request.tenant)
    selection = store.Selection(
        tenant=reach.tenant,
        namespaces=reach.namespaces,
        key=key,
        project=request.project,
        after=request.after_sequence,
        oldest_first=request.order == pb.EVENT_ORDER_OLDEST_FIRST,
    )
    return selection, cursor


def writer(most: int) -> Callable[[store.Extent, Iterator[store.Recorded]], bytes]:
    """Returns a function that encodes a page of at most `most` events, fewer if they are large.

    It is called on the thread that reads the events.
    """

    def write(extent: store.Extent, found: Iterator[store.Recorded]) -> bytes:
        page = listing.filled(most, found, _encoded)
        following = extent.edge
        if page.more and page.last is not None:
            following = page.last.event.sequence
        rest = pb.ListEventsResponse(
            next_page_token="" if following is None else str(following),
            sequence=extent.sequence,
            first_kept_sequence=extent.first_kept,
        )
        return b"".join((*page.written, rest.SerializeToString()))

    return write


def _encoded(recorded: store.Recorded) -> bytes:
    """Returns a page with one event. Protobuf reads concatenated messages as one message with all their events."""
    event, at = recorded
    fields = {
        "sequence": event.sequence,
        "record_time": render.time(at),
        "status": render.status(event),
        "cause": {
            "kind": event.cause.kind.value,
            "actor": event.cause.actor,
            "method": event.cause.method,
            "request_id": event.cause.request_id,
        },
        "changed_fields": render.changed(event),
    }
    return pb.ListEventsResponse(events=[fields]).SerializeToString()  # type: ignore[list-item]
