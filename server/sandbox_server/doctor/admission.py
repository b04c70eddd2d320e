"""Checks what a namespace demands of the pods of sandboxes: Pod Security, and all else that admits pods."""

import secrets
import uuid
from datetime import UTC, datetime

from sandbox_server import engines
from sandbox_server.doctor.examination import Check, Failed
from sandbox_server.doctor.report import Result
from sandbox_server.domain import mutations
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.spec import made_id
from sandbox_server.domain.tenant import Tenant
from sandbox_server.engines.kubernetes import inspection
from sandbox_server.engines.kubernetes.client import Client
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.rpc import convert
from sandbox_server.settings import Settings

ENFORCE = "pod-security.kubernetes.io/enforce"


async def pod_security(check: Check, api: Client) -> list[Result]:
    """Checks the level that the labels of a namespace enforce. Pods of sandboxes are admitted under each level."""
    name = check.subject
    try:
        level = (await inspection.labels(api, name)).get(ENFORCE, "")
    except engines.Refused:
        why = "the service may not get the namespace (an optional right: deploy/namespaces.yaml)"
        return [check.not_checked(why, f"see `kubectl get namespace {name} --show-labels`")]
    if level in ("", "privileged"):
        enforced = "no level" if not level else f"the level {level}, which admits every pod"
        message = f"the namespace enforces {enforced}; sandboxes comply with restricted"
        return [check.warning(message, f"run `kubectl label namespace {name} --overwrite {ENFORCE}=restricted`")]
    return [check.ok(f"the namespace enforces the level {level}")]


async def pod(check: Check, api: Client, settings: Settings) -> list[Result]:
    """Checks that the pod of a sandbox with nothing but defaults would be admitted, if the user may create pods."""
    if not await inspection.allowed(api, check.subject, Kind.POD.group, Kind.POD.plural, "create"):
        why = "a dry run of a sandbox's pod needs the right to create pods, which the service does not need"
        return [check.not_checked(why, "run `sandbox-server doctor --kubeconfig FILE` with an administrator's file")]
    try:
        await inspection.try_pod(api, _sandbox(check.subject, settings), settings.kubernetes)
    except engines.Refused as error:
        remedy = "correct what the message names: pod-patch, the defaults of sandboxes, or the policy of the namespace"
        raise Failed(f"the pod of a sandbox is not admitted: {error}", remedy) from None
    return [check.ok("the pod of a sandbox is admitted")]


def _sandbox(namespace: str, settings: Settings) -> Sandbox:
    """Returns a sandbox that is made from the defaults. Raises `errors.Invalid` for defaults that cannot be."""
    request = convert.from_json('{"spec": {"project": "doctor"}}')
    _, spec, env = convert.creation(Tenant("doctor", (namespace,)), request, settings.defaults, settings.policy)
    key = Key(namespace, made_id(spec.project, secrets.token_hex(3)))
    return mutations.new(key, "doctor", str(uuid.UUID(int=0)), "h00000000000", spec, env, datetime.now(UTC))
