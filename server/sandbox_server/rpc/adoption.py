"""The RPCs of AdoptionService, and the conversion of their messages."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from sandbox.v1 import adoption_pb2 as pb

from sandbox_server import engines
from sandbox_server.adoption import Adoption, Wanted
from sandbox_server.domain import check, errors
from sandbox_server.domain.adoption import Entry, Former, Outcome, Unfit
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.legacy import Fact, Place
from sandbox_server.domain.principal import Operator, Principal
from sandbox_server.rpc import convert
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields

Request = pb.AdoptSandboxesRequest | pb.GiveBackSandboxesRequest
Facts = Mapping[Place, Fact]
_OUTCOMES = {
    Outcome.ADOPTED: pb.ADOPTION_OUTCOME_ADOPTED,
    Outcome.UNCHANGED: pb.ADOPTION_OUTCOME_UNCHANGED,
    Outcome.GIVEN_BACK: pb.ADOPTION_OUTCOME_GIVEN_BACK,
    Outcome.SKIPPED: pb.ADOPTION_OUTCOME_SKIPPED,
}


class Finder(Protocol):
    """Finds what a former system made: in a namespace, by a label selector, for a project or, if empty, for that of each."""

    def __call__(self, namespace: str, selector: str, project: str, /) -> Awaitable[Sequence[Former | Unfit]]:
        """Returns what was found. Raises `engines.Refused`, `engines.Unreachable` and `errors.FailedPrecondition`."""


class AdoptionServicer:
    """Implements AdoptionService; see `calls.Servicer`. `owner` returns whose a namespace is, `facts` what an import told."""

    described = pb.DESCRIPTOR.services_by_name["AdoptionService"]
    endless = frozenset[str]()

    def __init__(
        self, adoption: Adoption, find: Finder, owner: Callable[[str], str], facts: Callable[[], Facts]
    ) -> None:
        self._adoption = adoption
        self._find = find
        self._owner = owner
        self._facts = facts

    async def AdoptSandboxes(self, principal: Principal, request: pb.AdoptSandboxesRequest, _caller: Caller) -> Fields:
        keeps_pods = request.restart != pb.ADOPTION_RESTART_NOW
        wanted = await self._wanted(principal, request, "AdoptSandboxes", request.project, keeps_pods)
        found = await self._found(request, request.project)
        return {"results": [*map(_result, await self._adoption.adopt(wanted, found))]}

    async def GiveBackSandboxes(
        self, principal: Principal, request: pb.GiveBackSandboxesRequest, _caller: Caller
    ) -> Fields:
        wanted = await self._wanted(principal, request, "GiveBackSandboxes", "", True)
        found = await self._found(request, "")
        return {"results": [*map(_result, await self._adoption.give_back(wanted, found))]}

    async def _wanted(
        self, principal: Principal, request: Request, method: str, project: str, keeps_pods: bool
    ) -> Wanted:
        if not isinstance(principal, Operator):
            raise errors.PermissionDenied(
                "OPERATORS_ONLY", "sandboxes are adopted by operators: use the token of one that may write"
            )
        if found := (*_violations(request), *check.project("project", project)):
            raise errors.Invalid(found)
        owner = self._owner(request.namespace)
        if not owner:
            raise errors.NotFound(
                "NAMESPACE_UNKNOWN",
                f"the namespace {request.namespace!r} is no tenant's: give it to one in the token file",
            )
        return Wanted(
            tenant=owner,
            namespace=request.namespace,
            keeps_pods=keeps_pods,
            dry=request.dry_run,
            cause=Cause(Kind.MUTATION, principal.name, convert.valid_request_id(request), method),
            project=project,
            facts=await asyncio.to_thread(self._facts),
        )

    async def _found(self, request: Request, project: str) -> Sequence[Former | Unfit]:
        try:
            return await self._find(request.namespace, request.selector, project)
        except engines.Refused as refused:
            raise errors.FailedPrecondition(
                "ADOPTION_REFUSED", f"{refused}: grant deploy/adoption.yaml to the service, or correct the selector"
            ) from None
        except engines.Unreachable as unreachable:
            raise errors.Unavailable("CLUSTER_NOT_REACHED", f"{unreachable}: repeat the call") from None


async def unsupported(_namespace: str, _selector: str, _project: str) -> Sequence[Former | Unfit]:
    """The finder of an engine that knows no former system. Raises `errors.FailedPrecondition`."""
    raise errors.FailedPrecondition(
        "ADOPTION_UNSUPPORTED", "the engine of the service is not Kubernetes: there is nothing to adopt"
    )


def _violations(request: Request) -> Iterator[errors.Violation]:
    yield from check.namespace("namespace", request.namespace, True)
    if request.request_id:
        yield from check.request_id("request_id", request.request_id)


def _result(entry: Entry) -> dict[str, Any]:
    """Returns the AdoptionResult of an entry."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "outcome": _OUTCOMES[entry.outcome],
        "why": entry.why,
        "project": entry.project,
        "desired_state": entry.desired,
        "public_url": entry.public_url,
        "ttyd_url": entry.ttyd_url,
        "notes": entry.notes,
    }
