"""The answer to GetCapabilities. Each value is that of the place that enforces it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sandbox.v1 import access_pb2
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import VERSION, manager
from sandbox_server.access import asking, logs, ports, scripts, talk_script, trees
from sandbox_server.access import execs as calls_about_execs
from sandbox_server.domain import batch, check, selector
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.tenant import ANY
from sandbox_server.rpc import execs, files, filters, listing, server, waits
from sandbox_server.rpc import ports as rpc_ports
from sandbox_server.rpc.calls import Fields
from sandbox_server.terminal import sessions


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the wiring of the service decided.

    - `engine`: the name of the engine.
    - `history`: how long events are kept.
    - `tls`, `tokens`, `reflection`: whether the service speaks TLS, asks for tokens and reflects.
    - `execs_per_tenant`: calls about execs of a tenant that are open at once.
    """

    engine: str
    history: timedelta
    tls: bool
    tokens: bool
    reflection: bool
    execs_per_tenant: int


Answers = Mapping[str, bool | None]
"""For each namespace of a caller an answer of the engine; None if it could not be asked."""


def answer(
    principal: Principal,
    deployment: Deployment,
    pace: Pace,
    readable: Answers,
    granted: Answers,
    missing: Mapping[str, str],
) -> Fields:
    """Returns the answer for a caller. The service may get the namespaces that are `readable`, and enter the sandboxes of those
    that are `granted`. `missing` is why no snapshot can be taken in a namespace; empty if one can."""
    return {
        "version": VERSION,
        "engine": deployment.engine,
        "tenant": principal.tenant,
        "namespaces": principal.namespaces,
        "default_namespace": principal.default_namespace,
        "operator": principal.name if principal.tenant == ANY else "",
        "reads_only": not principal.writes,
        "limits": _limits(deployment, pace),
        "parts": list(_parts(deployment, readable, granted, missing)),
        "access": _access(deployment, pace),
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


def _access(deployment: Deployment, pace: Pace) -> dict[str, Any]:
    """What the service has a method for, it does."""
    methods = access_pb2.DESCRIPTOR.services_by_name["SandboxAccess"].methods_by_name
    return {
        "exec": "StartExec" in methods,
        "files": "ReadFile" in methods,
        "logs": "StreamLogs" in methods,
        "ports": "ForwardPort" in methods,
        "terminal": "ResizeExec" in methods,
        "execs": scripts.EXECS_MOST,
        "command_words": execs.WORDS_MOST,
        "command_bytes": execs.BYTES_MOST,
        "exec_seconds": execs.TIMEOUT_MOST,
        "wait_seconds": execs.WAIT_MOST,
        "kept_bytes": scripts.KEPT,
        "pending_bytes": talk_script.PENDING_MOST,
        "stdin_bytes": execs.INPUT_MOST,
        "log_streams": logs.OF_SANDBOX,
        "tenant_log_streams": logs.OF_TENANT,
        "connections": ports.OF_SANDBOX,
        "tenant_connections": ports.OF_TENANT,
        "port_bytes": rpc_ports.DATA_MOST,
        "path_bytes": files.PATH_MOST,
        "write_bytes": files.DATA_MOST,
        "write_silence_seconds": pace.access_idle,
        "file_page_size": trees.ENTRIES_MOST,
        "file_calls": asking.OF_SANDBOX,
        "tenant_file_calls": asking.OF_TENANT,
        "exec_calls": calls_about_execs.OF_SANDBOX,
        "tenant_exec_calls": deployment.execs_per_tenant,
        "terminals": sessions.OF_SANDBOX,
        "tenant_terminals": sessions.OF_TENANT,
    }


def _parts(
    deployment: Deployment, readable: Answers, granted: Answers, missing: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yields each part; one that does not work with the reason."""
    yield _part(pb.PART_NAME_TLS, deployment.tls, "the service was started without tls-cert and tls-key")
    yield _part(pb.PART_NAME_TOKENS, deployment.tokens, "the service was started without a token-file")
    yield _part(pb.PART_NAME_REFLECTION, deployment.reflection, "the service was started with reflection turned off")
    get = "the service lacks the right to get {} (deploy/namespaces.yaml)"
    yield _in_namespaces(pb.PART_NAME_NAMESPACES, readable, get)
    enter = "the service lacks the right to work in the pods of {} (deploy/access.yaml)"
    yield _in_namespaces(pb.PART_NAME_ACCESS, granted, enter)
    lacking = [reason for reason in missing.values() if reason]
    yield _part(pb.PART_NAME_SNAPSHOTS, not lacking, next(iter(lacking), ""))


def _in_namespaces(name: "pb.PartName.ValueType", answers: Answers, refusal: str) -> dict[str, Any]:
    refused = [namespace for namespace, one in answers.items() if one is False]
    unknown = [namespace for namespace, one in answers.items() if one is None]
    reason = refusal.format(", ".join(refused)) if refused else f"the service cannot look now at {', '.join(unknown)}"
    return _part(name, not refused and not unknown, reason)


def _part(name: "pb.PartName.ValueType", available: bool, otherwise: str) -> dict[str, Any]:
    return {"name": name, "available": available, "message": "" if available else otherwise}
