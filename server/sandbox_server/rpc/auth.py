"""Who calls: bearer tokens to tenants. The seam where more kinds of credentials join is `Authenticator`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import grpc
import msgspec

from sandbox_server import files
from sandbox_server.domain import check, errors
from sandbox_server.domain.tenant import Tenant

Caller = grpc.aio.ServicerContext[bytes, bytes]


class Authenticator(Protocol):
    """Tells the tenant of a call."""

    def follow(self, heard: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `heard` with the namespaces of all tenants, now and whenever they change."""

    def tenant(self, caller: Caller) -> Tenant:
        """Raises `errors.Unauthenticated`."""


class Anyone:
    """Everybody is the one tenant: for loopback, where whoever connects is on the machine already."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def follow(self, heard: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `heard` once: the namespaces are the tenant's."""
        heard(self._tenant.namespaces)

    def tenant(self, caller: Caller) -> Tenant:
        """The one tenant."""
        return self._tenant


_FORM_OF_ONE = r"^(sha256:[0-9a-fA-F]{64}|(?!sha256:)[!-~][ -~]{14,}[!-~])\Z"
"""Other tokens would never match: metadata is printable ASCII, and loses the spaces around it."""


class _Tenant(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    namespaces: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    tokens: tuple[Annotated[str, msgspec.Meta(pattern=_FORM_OF_ONE)], ...]


class _Tenants(msgspec.Struct):
    tenants: tuple[_Tenant, ...]


class TokenFile:
    """Tokens from a JSON file: `{"tenants": [{"name": …, "namespaces": […], "tokens": […]}]}`.

    A token is at least 16 characters of printable ASCII, or `sha256:` and the hexadecimal digest of one, so that the file need not hold
    it. Only digests are kept and looked up, which takes the same time for a near miss as for any other. A file that was
    replaced counts from the next call on; calls that are open go on.
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError, saying what is wrong where, and never a token."""
        self._known = files.Reloaded(lambda: _read(path), path)
        self._heard: Callable[[tuple[str, ...]], None] = lambda _namespaces: None
        self._namespaces: tuple[str, ...] = ()

    def follow(self, heard: Callable[[tuple[str, ...]], None]) -> None:
        """See `Authenticator`."""
        self._heard, self._namespaces = heard, ()
        self._tenants()

    def tenant(self, caller: Caller) -> Tenant:
        """The tenant of the bearer token in `authorization`."""
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
        """The tenants by the digests of their tokens, once new namespaces are followed."""
        known = self._known()
        if known.namespaces != self._namespaces:
            self._namespaces = known.namespaces
            self._heard(known.namespaces)
        return known.tenants


@dataclass(frozen=True, slots=True)
class _Known:
    """What a token file says: tenants by the digests of their tokens, and the namespaces of all."""

    tenants: Mapping[bytes, Tenant]
    namespaces: tuple[str, ...]


def _read(path: Path) -> _Known:
    content = files.read("token file", path)
    tenants: dict[bytes, Tenant] = {}
    owners: dict[str, str] = {}
    try:
        for one in msgspec.json.decode(content, type=_Tenants).tenants:
            if one.name in owners.values():
                raise ValueError(f"tenant {one.name!r} is there twice")
            for namespace in one.namespaces:
                if check.namespace("", namespace, True):
                    raise ValueError(f"tenant {one.name!r}: {namespace!r} is no DNS label")
                if owners.setdefault(namespace, one.name) != one.name:
                    raise ValueError(f"namespace {namespace!r} belongs to two tenants")
            for token in one.tokens:
                if tenants.setdefault(_digest(token), Tenant(one.name, one.namespaces)).name != one.name:
                    raise ValueError(f"tenant {one.name!r} shares a token with another")
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"token file {path}: {error}: {_FORM}") from None
    return _Known(tenants, tuple(sorted(owners)))


_FORM = 'it must be {"tenants": [{"name": ..., "namespaces": [...], "tokens": [...]}]}, each namespace with one tenant'


def _digest(token: str) -> bytes:
    hashed = token.startswith("sha256:")
    return bytes.fromhex(token[7:]) if hashed else hashlib.sha256(token.encode()).digest()
