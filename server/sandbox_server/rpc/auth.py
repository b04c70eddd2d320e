"""Who calls: bearer tokens to tenants. The seam where more kinds of credentials join is `Authenticator`."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sandbox_server.domain import check, errors
from sandbox_server.domain.tenant import Tenant

Metadata = Sequence[tuple[str, str | bytes]]


class Authenticator(Protocol):
    """Tells the tenant of a call from its metadata."""

    needs_metadata: bool

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every tenant's namespaces."""

    def tenant(self, metadata: Metadata) -> Tenant:
        """Raises `errors.Unauthenticated`."""


class Anyone:
    """Everybody is the one tenant: for loopback, where whoever connects is on the machine already."""

    needs_metadata = False

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The one tenant's namespaces."""
        return self._tenant.namespaces

    def tenant(self, metadata: Metadata) -> Tenant:
        """The one tenant."""
        return self._tenant


class TokenFile:
    """Tokens from a JSON file: `{"tenants": [{"name": …, "namespaces": […], "tokens": […]}]}`.

    A token is at least 16 characters, or `sha256:` and the hexadecimal digest of one, so that the file need not hold
    it. Only digests are kept and looked up, which takes the same time for a near miss as for any other.
    """

    needs_metadata = True

    def __init__(self, path: Path) -> None:
        """Raises ValueError, saying what is wrong where, and never a token."""
        self._tenants: dict[bytes, Tenant] = {}
        owners: dict[str, str] = {}
        try:
            listed = json.loads(path.read_text())["tenants"]
            entries = [(one["name"], tuple(one["namespaces"]), list(one["tokens"])) for one in listed]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"token file {path}: {type(error).__name__}: {_FORM}") from None
        for name, namespaces, tokens in entries:
            if not name or not namespaces or any(tuple(check.namespace("", one)) for one in namespaces):
                raise ValueError(f"token file {path}: tenant {name!r} needs a name and namespaces that are DNS labels")
            for namespace in namespaces:
                if owners.setdefault(namespace, name) != name:
                    raise ValueError(f"token file {path}: namespace {namespace} belongs to two tenants: {_FORM}")
            for token in tokens:
                if self._tenants.setdefault(_digest(path, name, token), Tenant(name, namespaces)).name != name:
                    raise ValueError(f"token file {path}: tenant {name!r} shares a token with another")

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every tenant's namespaces."""
        return tuple(sorted({name for one in self._tenants.values() for name in one.namespaces}))

    def tenant(self, metadata: Metadata) -> Tenant:
        """The tenant of the bearer token in `authorization`."""
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
                tenant = self._tenants.get(hashlib.sha256(value[7:].strip().encode()).digest())
                if tenant is not None:
                    return tenant
        raise errors.Unauthenticated(
            "UNAUTHENTICATED", "send a valid token in the metadata `authorization: Bearer <token>`"
        )


_FORM = 'it must be {"tenants": [{"name": ..., "namespaces": [...], "tokens": [...]}]}, each namespace with one tenant'


def _digest(path: Path, name: str, token: str) -> bytes:
    if token.startswith("sha256:"):
        return bytes.fromhex(token.removeprefix("sha256:"))
    if len(token) < 16:
        raise ValueError(f"token file {path}: tenant {name!r} has a token of less than 16 characters")
    return hashlib.sha256(token.encode()).digest()
