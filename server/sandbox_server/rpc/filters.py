"""What watches and lists are about: converts their filters, pages and tokens to domain values."""

from collections.abc import Iterator

from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2

from sandbox_server import feed, manager
from sandbox_server.domain import check, selector
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert

ListRequest = pb.ListSandboxesRequest | pb.ListVolumesRequest | snapshot_pb2.ListSnapshotsRequest
WATCHED_MOST = 1000
TENANT_MOST = 1024
"""Characters of the tenant of a filter, which stays in memory with a watch."""


def watched(principal: Principal, request: pb.WatchStatusRequest) -> tuple[feed.Filter, int | None]:
    """Returns what to watch, and the sequence to resume after: None to begin with a snapshot.

    Raises `errors.Invalid`, and `errors.NotFound` for ids in another tenant's namespace.
    """
    after = request.after_sequence if request.HasField("after_sequence") else None
    with convert.collecting() as found:
        for index, sandbox_id in enumerate(request.sandbox_ids[:WATCHED_MOST]):
            found += check.sandbox_id(f"sandbox_ids[{index}]", sandbox_id, True)
        if len(request.sandbox_ids) > WATCHED_MOST:
            found.append(Violation("sandbox_ids", f"must have at most {WATCHED_MOST} ids"))
        if after is not None and after < 0:
            found.append(Violation("after_sequence", "must not be negative"))
        labels = label_selector(principal, request, found, names_sandboxes=bool(request.sandbox_ids))
    keys = principal.keys(request.namespace, request.sandbox_ids)
    return feed.Filter(principal, keys, request.namespace, request.project, labels, request.tenant), after


def listed(principal: Principal, request: pb.ListSandboxesRequest) -> tuple[feed.Filter, frozenset[Phase], Key | None]:
    """Returns what to list: a filter, the phases (all if empty), and the key that the page begins after.

    Raises `errors.Invalid`.
    """
    with convert.collecting() as found:
        for index, phase in enumerate(request.phases[: len(convert.PHASES)]):
            if phase not in convert.PHASES:
                found.append(Violation(f"phases[{index}]", "must be a phase"))
        if request.volume_kept and request.phases and pb.PHASE_TERMINATED not in request.phases:
            found.append(Violation("volume_kept", "takes PHASE_TERMINATED among the phases, or no phases"))
        if len(request.phases) > len(convert.PHASES):
            found.append(Violation("phases", f"must have at most {len(convert.PHASES)} phases"))
        found += bad_page_size(request.page_size)
        if request.view not in pb.SandboxView.values():
            found.append(Violation("view", f"must be {' or '.join(pb.SandboxView.keys()[1:])}, or unset"))
        selection, after = _matching(principal, request, found)
    phases = [pb.PHASE_TERMINATED] if request.volume_kept else request.phases
    return selection, frozenset(convert.PHASES[one] for one in phases), after


def listed_volumes(principal: Principal, request: pb.ListVolumesRequest) -> tuple[feed.Filter, Key | None]:
    """Returns which kept disks to list: a filter of their sandboxes, and the key that the page begins after.

    Raises `errors.Invalid`.
    """
    with convert.collecting() as found:
        found += bad_page_size(request.page_size)
        return _matching(principal, request, found)


def _matching(
    principal: Principal, request: pb.ListSandboxesRequest | pb.ListVolumesRequest, found: list[Violation]
) -> tuple[feed.Filter, Key | None]:
    """Checks the filter and the token of a list of sandboxes, and returns what they select. Raises as `label_selector`."""
    labels, after = matching(principal, request, found)
    return feed.Filter(principal, frozenset(), request.namespace, request.project, labels, request.tenant), after


def matching(
    principal: Principal, request: ListRequest, found: list[Violation]
) -> tuple[selector.Selector, Key | None]:
    """Checks the filter and the token of a list, and returns the label selector and the key that the page begins after.

    Adds violations to `found`. Raises as `label_selector`.
    """
    after = page_begin(request.page_token, found)
    return label_selector(principal, request, found, names_sandboxes=False), after


def page_begin(page_token: str, found: list[Violation]) -> Key | None:
    """Returns the key that a page begins after; None for the first page. Adds the violation of the token to `found`."""
    if not page_token:
        return None
    namespace, _, name = page_token.partition("/")
    if not (check.namespace.fits(namespace) and check.sandbox_id.fits(name)):
        found.append(Violation("page_token", "must be the next_page_token of the page before"))
    return Key(namespace, name)


def bad_page_size(page_size: int) -> Iterator[Violation]:
    """Yields the violation of the size of a page of a list."""
    if not 0 <= page_size <= manager.PAGE_MOST:
        yield Violation("page_size", f"must be from 1 to {manager.PAGE_MOST}, or 0 for the default")


def page_token(after: Key | None) -> str:
    """Returns the token of the page that begins after `after`; empty for None, after the last page."""
    return "" if after is None else "/".join(after)


def label_selector(
    principal: Principal,
    request: ListRequest | pb.WatchStatusRequest | snapshot_pb2.WatchSnapshotsRequest,
    found: list[Violation],
    *,
    names_sandboxes: bool,
) -> selector.Selector:
    """Checks the fields of a filter, adds their violations to `found` and returns the label selector.

    Raises `errors.Invalid` for a bad label selector, so that it has to be the last check.
    """
    found += convert.bad_namespace(principal, request.namespace, names_sandboxes)
    found += bad_tenant(request.tenant)
    found += check.project("project", request.project)
    return selector.parse("label_selector", request.label_selector)


def bad_tenant(tenant: str) -> Iterator[Violation]:
    """Yields the violation of the tenant of a filter."""
    if len(tenant) > TENANT_MOST or "\0" in tenant:
        yield Violation("tenant", f"must have at most {TENANT_MOST} characters, and no NUL")
