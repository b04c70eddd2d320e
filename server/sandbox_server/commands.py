"""What the command line does besides serving."""

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import app, settings, store
from sandbox_server.domain import lifecycle
from sandbox_server.domain.sandbox import Key, made_id
from sandbox_server.rpc import convert


def config(chosen: settings.Settings) -> None:
    """Prints every setting, secrets hidden, and what keeps local sandboxes apart."""
    from sandbox_server.engines import local

    isolation = local.describe(chosen.local_isolation == "auto")
    sys.stdout.write(json.dumps(settings.shown(chosen) | {"isolation": isolation}, indent=2) + "\n")


def migrate(chosen: settings.Settings) -> None:
    """Brings the database's schema to this release's."""
    store.migrate(chosen.database)


def rotate_keys(chosen: settings.Settings) -> None:
    """Encrypts with the first key what others wrote."""

    async def rotate() -> int:
        database = store.Store(chosen.database, app.cipher(chosen))
        await database.open(lambda _committed: None)
        try:
            return await database.rewrap()
        finally:
            await database.close()

    sys.stdout.write(f"{asyncio.run(rotate())} environments encrypted anew\n")


def render(chosen: settings.Settings) -> None:
    """Prints the YAML of the sandbox that a CreateSandboxRequest on standard input asks for."""
    from sandbox_server.engines import kubernetes

    try:
        request = json_format.Parse(sys.stdin.read(), pb.CreateSandboxRequest())
    except json_format.ParseError as error:
        raise ValueError(f"standard input is no CreateSandboxRequest in JSON: {error}") from None
    namespaces = (request.namespace,) if request.namespace else chosen.namespace_names
    namespace, spec, env = convert.creation(namespaces, request, app.defaults(chosen))
    key = Key(namespace, request.sandbox_id or made_id(spec.project, "000000"))
    sandbox = lifecycle.new(key, chosen.tenant, str(uuid.UUID(int=0)), "h00000000000", spec, env, datetime.now(UTC))
    engine = kubernetes.KubernetesEngine(app.kubernetes_config(chosen, chosen.namespace_names))
    sys.stdout.write(engine.render(sandbox, env))


def health(chosen: settings.Settings) -> None:
    """Exits 0 if the service at the listen address is SERVING."""
    channel = grpc.insecure_channel(chosen.listen)
    if chosen.tls_cert is not None:
        # The probe asks its own container: it trusts the very certificate that is served.
        credentials = grpc.ssl_channel_credentials(chosen.tls_cert.read_bytes())
        channel = grpc.secure_channel(chosen.listen, credentials)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError as error:
            sys.exit(f"sandbox-server: health: {error.code().name}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit("sandbox-server: health: NOT_SERVING")
