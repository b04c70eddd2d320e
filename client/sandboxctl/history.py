"""`sandboxctl events`: what happened, and what caused it."""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Annotated

import typer
from rich.table import Table
from sandbox.v1 import sandbox_pb2 as pb

from sandboxctl import answers, settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.targets import Ids, Selector, Tenant

_PAGE = 1000
"""The most events that a page has."""


def events(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project")] = "",
    after: Annotated[int, typer.Option(help="only events after this sequence")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="at most so many, the newest")] = 50,
    tenant: Tenant = "",
) -> None:
    """Show the history of sandboxes, the newest event last; without ids, of everything there is."""
    everything = targets.Targets([(chosen.namespace, "")], True, "")
    meant = targets.of(sandbox_ids, selector) if sandbox_ids or selector.strip() else everything

    def read(namespace: str, sandbox_id: str) -> list[pb.Event]:
        return list(newest(namespace, sandbox_id, project, after, limit, tenant))

    settling.collected(meant, read, lambda found: _printed(found, limit))


def _printed(found: list[list[pb.Event]], limit: int) -> None:
    """Prints the newest events of several histories as one."""
    merged = heapq.merge(*found, key=lambda one: -one.sequence)
    told = list(itertools.islice(merged, limit))[::-1]
    if answers.structured({"events": told}):
        return
    show.out.print(table(told, several=len({(one.status.namespace, one.status.sandbox_id) for one in told}) != 1))
    if not told:
        show.err.print("no event matches: the service keeps a history for a week, unless it is configured otherwise")


def newest(namespace: str, sandbox_id: str, project: str, after: int, limit: int, tenant: str) -> Iterator[pb.Event]:
    """Yields events from the newest back, at most `limit`, and reads them page by page."""
    token = ""
    while limit > 0:
        page = chosen.client.events_page(
            sandbox_id,
            namespace=namespace,
            project=project,
            tenant=tenant,
            after_sequence=after,
            page_size=min(limit, _PAGE),
            page_token=token,
        )
        yield from page.events[:limit]
        limit -= len(page.events)
        token = page.next_page_token
        if not token:
            return


def table(found: Sequence[pb.Event], several: bool) -> Table:
    """Returns a line for each event, with the sandbox if there are several."""
    made = Table(box=None, pad_edge=False)
    for heading in ("SEQUENCE", "TIME", *["SANDBOX"] * several, "PHASE", "REASON", "CAUSE", "MESSAGE"):
        made.add_column(heading, no_wrap=True)
    for one in found:
        made.add_row(
            str(one.sequence),
            one.record_time.ToDatetime(UTC).isoformat(timespec="seconds"),
            *[f"{one.status.namespace}/{one.status.sandbox_id}"] * several,
            show.coloured(show.phase(one.status)),
            show.reason(one.status.reason),
            _cause(one.cause),
            show.printable(one.status.message),
        )
    return made


def _cause(cause: pb.Cause) -> str:
    """Returns what caused an event: a call by its name and caller, or where it was observed."""
    if cause.kind == pb.CAUSE_KIND_MUTATION:
        return show.printable(
            f"{cause.method or 'a call'} by {cause.actor}" if cause.actor else cause.method or "a call"
        )
    return {pb.CAUSE_KIND_OBSERVED: "observed", pb.CAUSE_KIND_POLICY: "policy"}.get(cause.kind, "-")
