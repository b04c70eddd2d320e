"""Checks the settings and the operator's files: keys, tokens, TLS, and the data directory."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sandbox_server import app, store
from sandbox_server.doctor.examination import Check, Failed
from sandbox_server.doctor.report import Result
from sandbox_server.domain.tenant import ANY
from sandbox_server.rpc import auth, tls
from sandbox_server.settings import Settings, unknown

EXPIRES_SOON = timedelta(days=21)
"""A certificate manager renews sooner than that: cert-manager when a third of the time is left, which is 30 days of 90."""
SPACE_WARNING = 2**30
SPACE_FAILURE = 100 * 2**20
"""Bytes that are free. SQLite's log alone can need as many."""


async def variables(check: Check, environment: Mapping[str, str]) -> list[Result]:
    """Checks that each variable with the prefix of the settings is a setting."""
    found = unknown(environment)
    if not found:
        return [check.ok("each SANDBOX_ variable is a setting")]
    return [
        check.warning(f"{name} is no setting and is ignored", f"rename it to {like}" if like else "remove it")
        for name, like in found.items()
    ]


def sqlite_file(settings: Settings) -> Path | None:
    """Returns the file of a SQLite database.

    None for PostgreSQL, and for a URL that cannot be used, which the check of the database reports.
    """
    with contextlib.suppress(ValueError):
        return store.file(settings.database)
    return None


def folders(settings: Settings) -> list[Path]:
    """Returns the folders that the service writes to."""
    database = sqlite_file(settings)
    if database is None:
        return [settings.data_dir] if settings.engine == "local" else []
    return sorted({settings.data_dir, database.parent})


async def folder(check: Check) -> list[Result]:
    """Checks that this user may write to a folder, which the service would make, and that there is space."""
    path = Path(check.subject)
    existing = next(one for one in (path, *path.parents) if one.exists())
    if not existing.is_dir():
        raise Failed(f"{existing} is no directory", "remove it, or name another one")
    if not os.access(existing, os.W_OK | os.X_OK):
        user = f"user {os.geteuid()}, group {os.getegid()}"
        remedy = f"let {user} write it, or run this as the user of the service"
        raise Failed(f"{existing} cannot be written by {user}", remedy)
    return [_space(check, existing, "" if existing == path else "is made at the first start; ")]


def _space(check: Check, path: Path, begin: str) -> Result:
    usage = shutil.disk_usage(path)
    message = f"{begin}{_size(usage.free)} of {_size(usage.total)} are free"
    remedy = f"free space, or use a larger disk; `du -xh {path} | sort -h | tail` shows what is large"
    entries = os.statvfs(path)
    if usage.free < SPACE_FAILURE:
        return check.failure(message, remedy)
    if entries.f_files and entries.f_favail < entries.f_files / 100:
        return check.warning(f"{begin}{entries.f_favail} of {entries.f_files} inodes are free", remedy)
    return check.warning(message, remedy) if usage.free < SPACE_WARNING else check.ok(message)


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


async def keys(check: Check, settings: Settings) -> list[Result]:
    """Checks that there is an encryption key. A key file that the service would make is not made."""
    if sqlite_file(settings) is not None and not app.has_keys(settings):
        return [check.ok(f"the service makes {settings.own_key_file} when it first starts")]
    try:
        app.cipher(settings)
    except ValueError as error:
        raise Failed(
            str(error), "`openssl rand -base64 32` makes a key: put it into a file and name that in encryption-key-file"
        ) from None
    return [check.ok("every key can be used")]


async def certificate(check: Check, settings: Settings) -> list[Result]:
    """Checks that certificate and key belong together and are valid for some time."""
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None or key is None:
        if settings.allow_plaintext:
            return [check.warning("calls are not encrypted (allow-plaintext)", "give tls-cert and tls-key")]
        return [check.ok(f"not used: {settings.listen} is reached from this machine alone")]
    try:
        until = tls.expiry(chain, key)
    except ValueError as error:
        raise Failed(str(error), "give a certificate that is valid and its own key in tls-cert and tls-key") from None
    left = until - datetime.now(UTC)
    message = f"certificate and key belong together; valid until {until:%Y-%m-%d}, for {left.days} more days"
    if left < EXPIRES_SOON:
        return [check.warning(message, "renew it: the service takes new files without a restart")]
    return [check.ok(message)]


async def tokens(check: Check, settings: Settings) -> list[Result]:
    """Checks that the token file can be used."""
    if settings.token_file is None:
        if settings.allow_anonymous:
            return [check.warning("everybody may call (allow-anonymous)", "give a token-file")]
        return [check.ok(f"not used: {settings.listen} is reached from this machine alone")]
    try:
        content = auth.read(settings.token_file)
    except ValueError as error:
        raise Failed(str(error), "correct the file: docs/configuration.md has an example") from None
    names = {(one.name, one.tenant == ANY) for one in content.principals.values()}
    operators = sum(is_operator for _, is_operator in names)
    message = (
        f"tenants: {len(names) - operators}, operators: {operators}, tokens: {len(content.principals)}, "
        f"namespaces: {len(content.namespaces)}"
    )
    if not content.principals:
        return [check.warning(f"{message}; nobody can call", "add a token: `sha256:` and the digest of a secret")]
    return [check.ok(message)]


def namespaces(settings: Settings) -> tuple[str, ...]:
    """Returns the namespaces of all tenants; none if the token file cannot be used."""
    if settings.token_file is None:
        return settings.namespace_names
    with contextlib.suppress(ValueError):
        return auth.read(settings.token_file).namespaces
    return ()
