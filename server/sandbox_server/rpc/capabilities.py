"""The answer to GetCapabilities. Each value is that of the place that enforces it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import VERSION, manager
from sandbox_server.domain import batch, check, selector
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.tenant import ANY
from sandbox_server.rpc import filters, listing, server, waits
from sandbox_server.rpc.calls import Fields


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the wiring of the service decided.

    - `engine`: the name of the engine.
    - `history`: how long events are kept.
    - `tls`, `tokens`, `reflection`: whether the service speaks TLS, asks for tokens and reflects.
    """

    engine: str
    history: timedelta
    tls: bool
    tokens: bool
    reflection: bool


def answer(principal: Principal, deployment: Deployment, pace: Pace, readable: Mapping[str, bool | None]) -> Fields:
    """Returns the answer for a caller. `readable` has for each of its namespaces whether the service may get it, or None
    if the engine could not be asked."""
    return {
        "version": VERSION,
        "engine": deployment.engine,
        "tenant": principal.tenant,
        "namespaces": principal.namespaces,
        "default_namespace": principal.default_namespace,
        "operator": principal.name if principal.tenant == ANY else "",
        "reads_only": not principal.writes,
        "limits": _limits(deployment, pace),
        "parts": list(_parts(deployment, readable)),
    }


def _limits(deployment: Deployment, pace: Pace) -> dict[str, Any]:
    return {
        "request_bytes": server.RECEIVE_MOST,
        "metadata_bytes": dict(server.OPTIONS)["grpc.max_metadata_size"],
        "call_seconds": pace.call_most,
        "wait_seconds": waits.WAIT_MOST,
        "heartbeat_seconds": pace.heartbeat,
        "history_seconds": deployment.history.total_seconds(),
        "page_size_default": manager.PAGE_DEFAULT,
        "page_size": manager.PAGE_MOST,
        "page_bytes": listing.PAGE_BYTES,
        "watched_ids": filters.WATCHED_MOST,
        "batch_sandboxes": batch.MOST,
        "selector_characters": selector.LENGTH_MOST,
        "selector_requirements": selector.REQUIREMENTS_MOST,
        "env_variables": check.ENV_VARIABLES_MOST,
        "env_bytes": check.ENV_TOTAL_MOST,
    }


def _parts(deployment: Deployment, readable: Mapping[str, bool | None]) -> Iterator[dict[str, Any]]:
    """Yields each part; one that does not work with the reason."""
    yield _part(pb.PART_NAME_TLS, deployment.tls, "the service was started without tls-cert and tls-key")
    yield _part(pb.PART_NAME_TOKENS, deployment.tokens, "the service was started without a token-file")
    yield _part(pb.PART_NAME_REFLECTION, deployment.reflection, "the service was started with reflection turned off")
    refused = [name for name, one in readable.items() if one is False]
    unknown = [name for name, one in readable.items() if one is None]
    reason = f"the service cannot look now at {', '.join(unknown)}"
    if refused:
        reason = f"the service lacks the right to get {', '.join(refused)} (deploy/namespaces.yaml)"
    yield _part(pb.PART_NAME_NAMESPACES, not refused and not unknown, reason)


def _part(name: "pb.PartName.ValueType", available: bool, otherwise: str) -> dict[str, Any]:
    return {"name": name, "available": available, "message": "" if available else otherwise}
