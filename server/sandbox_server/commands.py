"""What the command line does."""

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime

import uvloop

from sandbox_server import VERSION, app, settings, store
from sandbox_server.domain import check, wishes
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.spec import made_id
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import convert, probe


def serve(chosen: settings.Settings) -> None:
    """Runs the service until it is told to stop."""
    app.tune()
    uvloop.run(app.serve(chosen))


def config(chosen: settings.Settings) -> None:
    """Prints the version and every setting, secrets hidden, and what keeps local sandboxes apart."""
    from sandbox_server.engines import local

    shown = (
        {"version": VERSION} | chosen.model_dump(mode="json") | {"isolation": local.describe(chosen.local_isolation)}
    )
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


def migrate(chosen: settings.Settings) -> None:
    """Brings the database's schema to this release's."""
    store.migrate(chosen.database)


def rotate_keys(chosen: settings.Settings) -> None:
    """Encrypts with the first key what others wrote."""

    async def rotate() -> int:
        database = store.Store(chosen.database, app.cipher(chosen))
        await database.open(lambda _committed: None)
        try:
            return await database.reencrypt()
        finally:
            await database.close()

    sys.stdout.write(f"{asyncio.run(rotate())} environments encrypted anew\n")


def render(chosen: settings.Settings) -> None:
    """Prints the YAML of the sandbox that a CreateSandboxRequest on standard input asks for.

    Raises ValueError for what the service would not start with.
    """
    from sandbox_server.engines import kubernetes

    kubernetes.check(chosen)
    request = convert.written(sys.stdin.read())
    namespaces = (request.namespace,) if check.namespace.fits(request.namespace) else chosen.namespace_names
    key, spec, env = convert.creation(Tenant(chosen.tenant, namespaces), request, chosen)
    key = Key(key.namespace, key.id or made_id(spec.project, "000000"))
    sandbox = wishes.new(key, chosen.tenant, str(uuid.UUID(int=0)), "h00000000000", spec, env, datetime.now(UTC))
    sys.stdout.write(kubernetes.render(sandbox, env, chosen))


def health(chosen: settings.Settings) -> None:
    """Prints the version of the service at the listen address, and exits 0 if it is SERVING."""
    answer, version = probe.ask(chosen.listen, chosen.tls_cert)
    if answer != "SERVING":
        sys.exit(f"sandbox-server: health: {answer}")
    sys.stdout.write(f"{answer} {version}\n")
