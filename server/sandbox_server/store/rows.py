"""Where rows and domain values cross."""

from typing import Any

import msgspec

from sandbox_server.domain.sandbox import Sandbox

_DECODER = msgspec.json.Decoder(Sandbox)
_ENCODER = msgspec.json.Encoder()


def document(sandbox: Sandbox) -> str:
    """The whole value as JSON. It has no value of an environment variable."""
    return _ENCODER.encode(sandbox).decode()


def sandbox(text: str) -> Sandbox:
    """The value that `document` wrote."""
    return _DECODER.decode(text)


def columns(value: Sandbox, text: str) -> dict[str, Any]:
    """The columns of `sandbox` that a change can touch, `text` being its document."""
    return {
        "desired": value.desired.name,
        "phase": value.status.phase.name,
        "generation": value.generation,
        "version": value.version,
        "sequence": value.sequence,
        "document": text,
    }


def identity(value: Sandbox) -> dict[str, Any]:
    """The columns of `sandbox` that never change."""
    return {
        "namespace": value.namespace,
        "id": value.id,
        "uid": value.uid,
        "host": value.host,
        "tenant": value.tenant,
        "project": value.spec.project,
        "k8s_deployment_name": value.stateful_set_name,
        "created_at": value.created_at,
    }


def event(value: Sandbox, text: str, at: Any) -> dict[str, Any]:
    """The columns of `status_event`."""
    return {
        "sequence": value.sequence,
        "namespace": value.namespace,
        "sandbox_id": value.id,
        "tenant": value.tenant,
        "at": at,
        "document": text,
    }
