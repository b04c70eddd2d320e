"""Authenticates calls: maps bearer tokens to tenants. Another kind of credential is another `Authenticator`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import grpc
import msgspec

from sandbox_server import files
from sandbox_server.domain import check, errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant

Caller = grpc.aio.ServicerContext[bytes, bytes]


class Authenticator(Protocol):
    """Finds the tenant of a call. `needs_token`: whether a call without a token is refused."""

    needs_token: bool

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `changed` with the namespaces of all tenants, now and whenever they change."""

    def tenant(self, caller: Caller) -> Tenant:
        """Returns the tenant of the call. Raises `errors.Unauthenticated` for missing or unknown credentials."""


class Anyone:
    """Accepts every call as one tenant. For loopback, where every caller is already on the machine."""

    needs_token = False

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `changed` once, with the namespaces of the tenant."""
        changed(self._tenant.namespaces)

    def tenant(self, caller: Caller) -> Tenant:
        """Returns the one tenant."""
        return self._tenant


_CREDENTIAL = r"^(sha256:[0-9a-fA-F]{64}|(?!sha256:)[!-~][ -~]{14,}[!-~])\Z"
"""No call could send another token: gRPC metadata is printable ASCII without spaces at its ends."""


class _Tenant(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    namespaces: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    tokens: tuple[Annotated[str, msgspec.Meta(pattern=_CREDENTIAL)], ...]


class _Tenants(msgspec.Struct):
    tenants: tuple[_Tenant, ...]


class TokenFile:
    """Reads tokens from a JSON file: `{"tenants": [{"name": …, "namespaces": […], "tokens": […]}]}`.

    A token has at least 16 characters of printable ASCII. The file may hold `sha256:` and the hexadecimal digest of a
    token instead of the token. Only digests are kept in memory and compared, so that the time of a look-up does not
    show how much of a wrong token is right. A replaced file takes effect with the next call; open calls go on.
    """

    needs_token = True

    def __init__(self, path: Path, pace: Pace) -> None:
        """Raises ValueError that says what is wrong with the file, and never contains a token."""
        self._content = files.Reloaded(lambda: read(path), path, again=pace.files_again)
        self._changed: Callable[[tuple[str, ...]], None] = lambda _namespaces: None
        self._namespaces: tuple[str, ...] = ()

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        """See `Authenticator`."""
        self._changed = changed
        self._namespaces = ()
        self._tenants()

    def tenant(self, caller: Caller) -> Tenant:
        """Returns the tenant of the bearer token in `authorization`. Raises `errors.Unauthenticated` without one."""
        tenants = self._tenants()
        for key, value in caller.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
                tenant = tenants.get(hashlib.sha256(value[7:].strip().encode()).digest())
                if tenant is not None:
                    return tenant
        raise errors.Unauthenticated(
            "UNAUTHENTICATED", "send a valid token in the metadata `authorization: Bearer <token>`"
        )

    def _tenants(self) -> Mapping[bytes, Tenant]:
        """Returns the tenants by the digests of their tokens, after it has reported a change of the namespaces."""
        content = self._content()
        if content.namespaces != self._namespaces:
            self._namespaces = content.namespaces
            self._changed(content.namespaces)
        return content.tenants


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a token file: tenants by the digests of their tokens, and the namespaces of all tenants."""

    tenants: Mapping[bytes, Tenant]
    namespaces: tuple[str, ...]


def read(path: Path) -> Content:
    """Returns the content of a token file. Raises ValueError that says what is wrong with it, and never shows a token."""
    content = files.read("token file", path)
    tenants: dict[bytes, Tenant] = {}
    owners: dict[str, str] = {}
    try:
        for entry in msgspec.json.decode(content, type=_Tenants).tenants:
            if entry.name in owners.values():
                raise ValueError(f"tenant {entry.name!r} is there twice")
            for namespace in entry.namespaces:
                if check.namespace("", namespace, True):
                    raise ValueError(f"tenant {entry.name!r}: {namespace!r} is no DNS label")
                if owners.setdefault(namespace, entry.name) != entry.name:
                    raise ValueError(f"namespace {namespace!r} belongs to two tenants")
            tenant = Tenant(entry.name, entry.namespaces)
            for token in entry.tokens:
                if tenants.setdefault(_digest(token), tenant) != tenant:
                    raise ValueError(f"tenant {entry.name!r} shares a token with another")
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"token file {path}: {error}: {_FORM}") from None
    return Content(tenants, tuple(sorted(owners)))


_FORM = 'it must be {"tenants": [{"name": ..., "namespaces": [...], "tokens": [...]}]}, each namespace with one tenant'


def _digest(token: str) -> bytes:
    hashed = token.startswith("sha256:")
    return bytes.fromhex(token[7:]) if hashed else hashlib.sha256(token.encode()).digest()
