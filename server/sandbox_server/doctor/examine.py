"""The order of the checks, and which of them need another one."""

import functools
from collections.abc import Mapping, Sequence

from sandbox_server.doctor import database, files
from sandbox_server.doctor.examination import Examination
from sandbox_server.doctor.report import Result
from sandbox_server.settings import Settings


async def examine(settings: Settings, environment: Mapping[str, str]) -> Sequence[Result]:
    """Checks everything that a service with these settings needs. `environment` is that of the process."""
    examination = Examination(settings.pace.checked_within)
    await examination.check("settings", "", functools.partial(files.variables, environment=environment))
    for folder in files.folders(settings):
        await examination.check("disk", str(folder), files.folder)
    keys_usable = await examination.check("keys", "", functools.partial(files.keys, settings=settings))
    await database.examine(examination, settings, keys_usable=keys_usable)
    await examination.check(
        "tls", str(settings.tls_cert or ""), functools.partial(files.certificate, settings=settings)
    )
    await examination.check(
        "tokens", str(settings.token_file or ""), functools.partial(files.tokens, settings=settings)
    )
    if settings.engine == "kubernetes":
        # Its packages take a second to import, and only this engine needs them.
        from sandbox_server.doctor import cluster

        await cluster.examine(examination, settings, files.namespaces(settings))
    else:
        from sandbox_server.doctor import local

        await local.examine(examination, settings)
    return examination.results
