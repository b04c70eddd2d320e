"""Values that tests begin with."""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sandbox_server import store
from sandbox_server.domain.event import OBSERVED, Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import HOME_FOLDER, Addresses, ObjectNames, Sandbox, Status
from sandbox_server.domain.schedule import Schedule, Target
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotReason, State
from sandbox_server.domain.spec import Resources, SandboxSpec, Storage
from sandbox_server.rpc.capabilities import Deployment

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CANARY = "canary-8d1f2b"
DEPLOYMENT = Deployment("local", timedelta(days=7), tls=False, tokens=False, reflection=True, execs_per_tenant=512)


def spec(**changes: Any) -> SandboxSpec:
    usual = {
        "project": "demo",
        "image": "registry.example/sandbox:1",
        "resources": Resources("100m", "1", "256Mi", "1Gi"),
        "storage": Storage("5Gi", "", "ReadWriteOnce"),
    }
    return SandboxSpec(**{**usual, **changes})


def status(**changes: Any) -> Status:
    usual = {"phase": Phase.CREATING, "reason": Reason.ACCEPTED, "message": "accepted", "transition_time": NOW}
    return Status(**{**usual, **changes})


def sandbox(sandbox_id: str = "demo-1", **changes: Any) -> Sandbox:
    usual = {
        "id": sandbox_id,
        "namespace": "default",
        "tenant": "default",
        "uid": str(uuid.uuid4()),
        "host": "h" + uuid.uuid4().hex[:11],
        "spec": spec(),
        "env_names": (),
        "desired": DesiredState.RUNNING,
        "generation": 1,
        "start_generation": 1,
        "create_time": NOW,
        "attempt_at": NOW,
        "objects": ObjectNames.of(sandbox_id),
        "addresses": Addresses(dns_name="", public_url="", ttyd_url=""),
        "home_folder": HOME_FOLDER,
        "status": status(),
    }
    return Sandbox(**{**usual, **changes})


def snapshot(snapshot_id: str = "nap", **changes: Any) -> Snapshot:
    usual = {
        "id": snapshot_id,
        "namespace": "default",
        "tenant": "default",
        "uid": "9f3c7a52-6d7e-4b43-8a5e-0c2f4f0d8b11",
        "sandbox_id": "demo-1",
        "sandbox_uid": "5d1a0d4e-9a4e-4a37-8f0c-1b1d0a7a6c11",
        "volume_uid": "volume-1",
        "project": "demo",
        "size": "5Gi",
        "home_folder": HOME_FOLDER,
        "consistency": Consistency.CRASH,
        "outlives_sandbox": False,
        "labels": {},
        "create_time": NOW,
        "state": State.CREATING,
        "reason": SnapshotReason.ACCEPTED,
        "message": "accepted",
        "transition_time": NOW,
    }
    return Snapshot(**{**usual, **changes})


def schedule(schedule_id: str = "nightly", **changes: Any) -> Schedule:
    usual = {
        "id": schedule_id,
        "namespace": "default",
        "tenant": "default",
        "uid": "c1f7b2a9-8f4e-4c57-9b6d-55d2a0e7f0b3",
        "target": Target("demo-1"),
        "when": "daily 02:00",
        "keep": 7,
        "before_delete": False,
        "consistency": Consistency.CRASH,
        "outlives_sandbox": False,
        "create_time": NOW,
        "since": NOW,
    }
    return Schedule(**{**usual, **changes})


def next_generation(value: Sandbox, **changes: Any) -> Sandbox:
    """`value` at its next generation."""
    return dataclasses.replace(value, generation=value.generation + 1, **changes)


def event(value: Sandbox, sequence: int = 1, cause: Cause = OBSERVED) -> Event:
    """An event about a sandbox."""
    return Event(sequence, value, cause)


def changed(last: Event, **changes: Any) -> Event:
    """Returns `last` with a changed sandbox, as a writer passes it on."""
    return dataclasses.replace(last, sandbox=dataclasses.replace(last.sandbox, **changes))


def mutated(last: Event, **changes: Any) -> Event:
    """Returns the same as `changed`, at the next generation."""
    return changed(last, generation=last.sandbox.generation + 1, **changes)


def new(value: Sandbox, env: Mapping[str, str] | None = None) -> store.Write:
    """The first event of a sandbox."""
    return store.Write(value, 0, Cause(Kind.MUTATION, value.tenant), {} if env is None else env)


def write(value: Event, env: Mapping[str, str] | None = None) -> store.Write:
    """The next event of a sandbox: as `changed` returns it."""
    return store.Write(value.sandbox, value.sequence, OBSERVED, env)


def kubeconfig(folder: Path, port: int) -> Path:
    """Writes a kubeconfig that leads, with a token and no TLS, to a port of 127.0.0.1."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "t", "user": {"token": "t"}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path
