"""The commands of `sandbox-server`. Each takes the settings and raises ValueError or OSError for what it cannot do.

Each imports what it needs: a probe that runs `health` every few seconds must not pay for what serving needs.
"""

import asyncio
import json
import os
import sys
import uuid
from datetime import UTC, datetime

from sandbox_server import VERSION, settings


def serve(chosen: settings.Settings) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    import uvloop

    from sandbox_server import app

    app.tune()
    uvloop.run(app.serve(chosen))


def config(chosen: settings.Settings) -> None:
    """Prints the version, every setting with secrets hidden, and how local sandboxes are isolated."""
    from sandbox_server.engines import local

    version = {"version": VERSION}
    isolation = {"isolation": local.describe(chosen.local_isolation)}
    shown = version | chosen.model_dump(mode="json") | isolation
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


def migrate(chosen: settings.Settings) -> None:
    """Migrates the database to the schema of this release."""
    from sandbox_server import store

    store.migrate(chosen.database)


def rotate_keys(chosen: settings.Settings) -> None:
    """Encrypts environments again with the first key, if they are encrypted with another. Prints how many."""
    from sandbox_server import app, store

    async def rotate() -> int:
        opened = store.Store(chosen.database, app.cipher(chosen))
        await opened.open(lambda _committed: None)
        try:
            return await opened.reencrypt()
        finally:
            await opened.close()

    sys.stdout.write(f"{asyncio.run(rotate())} environments encrypted anew\n")


def render(chosen: settings.Settings) -> None:
    """Prints the Kubernetes objects, in YAML, of the sandbox that a CreateSandboxRequest on standard input asks for.

    Raises ValueError for settings with which the service would not start, and `errors.Invalid` for a bad request.
    """
    from sandbox_server.domain import check, mutations
    from sandbox_server.domain.sandbox import Key
    from sandbox_server.domain.spec import made_id
    from sandbox_server.domain.tenant import Tenant
    from sandbox_server.engines import kubernetes
    from sandbox_server.rpc import convert

    kubernetes.check(chosen.kubernetes)
    request = convert.from_json(sys.stdin.read())
    namespaces = (request.namespace,) if check.namespace.fits(request.namespace) else chosen.namespace_names
    key, spec, env = convert.creation(Tenant(chosen.tenant, namespaces), request, chosen.defaults, chosen.policy)
    key = Key(key.namespace, key.id or made_id(spec.project, "000000"))
    sandbox = mutations.new(key, chosen.tenant, str(uuid.UUID(int=0)), "h00000000000", spec, env, datetime.now(UTC))
    sys.stdout.write(kubernetes.render(sandbox, env, chosen.kubernetes))


def health(chosen: settings.Settings) -> None:
    """Prints the health and the version of the service at the listen address. Exits 1 if it is not SERVING."""
    from sandbox_server.rpc import probe

    answer, version = probe.ask(chosen.listen, chosen.tls_cert)
    if answer != "SERVING":
        sys.exit(f"sandbox-server: health: {answer}")
    sys.stdout.write(f"{answer} {version}\n")


def doctor(chosen: settings.Doctor) -> None:
    """Prints what is well and what is not. Exits 1 if a check failed."""
    from sandbox_server import doctor
    from sandbox_server.doctor import report

    results = asyncio.run(doctor.examine(chosen, os.environ))
    sys.stdout.write(report.json(results) if chosen.output == "json" else report.table(results, sys.stdout))
    if report.failed(results):
        sys.exit(1)


def import_(chosen: settings.Import) -> None:
    """Prints what became of each row. Exits 1 if the cluster did not say of each object whether it is there."""
    from sandbox_server import importing
    from sandbox_server.importing import report

    done = asyncio.run(importing.run(chosen))
    sys.stdout.write(report.json(done) if chosen.output == "json" else report.table(done))
    if not done.complete:
        sys.exit(1)


def adopt(chosen: settings.Adoption) -> None:
    """Adopts the sandboxes of a former system, or gives them back, and prints what becomes of each.

    Raises ValueError for a namespace that is not the service's, and `engines.Refused` or `engines.Unreachable` where the API
    server does not show what is there.
    """
    from sandbox_server import adopting

    sys.stdout.write(asyncio.run(adopting.run(chosen, sys.stdout.write)))
