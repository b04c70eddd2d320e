"""Authenticates calls: maps bearer tokens to tenants and operators. Another kind of credential is another `Authenticator`."""

import collections
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import grpc
import msgspec

from sandbox_server import files
from sandbox_server.domain import check, errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Operator, Principal
from sandbox_server.domain.tenant import Tenant

Caller = grpc.aio.ServicerContext[bytes, bytes]


class Authenticator(Protocol):
    """Finds out who makes a call. `needs_token`: whether a call without a token is refused."""

    needs_token: bool

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `changed` with the namespaces of all tenants, now and whenever they change."""

    def principal(self, caller: Caller) -> Principal:
        """Returns who makes the call. Raises `errors.Unauthenticated` for missing or unknown credentials."""

    def owner(self, namespace: str) -> str:
        """Returns the name of the tenant whose a namespace is; empty if it is no tenant's."""


class Anyone:
    """Accepts every call as one tenant. For loopback, where every caller is already on the machine."""

    needs_token = False

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        """Calls `changed` once, with the namespaces of the tenant."""
        changed(self._tenant.namespaces)

    def principal(self, caller: Caller) -> Principal:
        """Returns the one tenant."""
        return self._tenant

    def owner(self, namespace: str) -> str:
        """See `Authenticator`."""
        return self._tenant.name if namespace in self._tenant.namespaces else ""


_CREDENTIAL = r"^(sha256:[0-9a-fA-F]{64}|(?!sha256:)[!-~][ -~]{14,}[!-~])\Z"
"""No call could send another token: gRPC metadata is printable ASCII without spaces at its ends."""


class _Tenant(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    namespaces: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    tokens: tuple[Annotated[str, msgspec.Meta(pattern=_CREDENTIAL)], ...]


class _Operator(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    tokens: tuple[Annotated[str, msgspec.Meta(pattern=_CREDENTIAL)], ...]
    access: Literal["read", "write"] = "read"


class _Principals(msgspec.Struct):
    tenants: tuple[_Tenant, ...]
    operators: tuple[_Operator, ...] = ()


class TokenFile:
    """Reads tokens from a JSON file: `{"tenants": [{"name": …, "namespaces": […], "tokens": […]}], "operators": […]}`.

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
        self._principals()

    def principal(self, caller: Caller) -> Principal:
        """Returns whose the bearer token in `authorization` is. Raises `errors.Unauthenticated` without one."""
        principals = self._principals()
        for key, value in caller.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
                principal = principals.get(hashlib.sha256(value[7:].strip().encode()).digest())
                if principal is not None:
                    return principal
        raise errors.Unauthenticated(
            "UNAUTHENTICATED", "send a valid token in the metadata `authorization: Bearer <token>`"
        )

    def owner(self, namespace: str) -> str:
        """See `Authenticator`."""
        tenants = (one for one in self._principals().values() if isinstance(one, Tenant))
        return next((one.name for one in tenants if namespace in one.namespaces), "")

    def _principals(self) -> Mapping[bytes, Principal]:
        """Returns the principals by the digests of their tokens, after it has reported a change of the namespaces."""
        content = self._content()
        if content.namespaces != self._namespaces:
            self._namespaces = content.namespaces
            self._changed(content.namespaces)
        return content.principals


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a token file: principals by the digests of their tokens, and the namespaces of all tenants."""

    principals: Mapping[bytes, Principal]
    namespaces: tuple[str, ...]


def read(path: Path) -> Content:
    """Returns the content of a token file. Raises ValueError that says what is wrong with it, and never shows a token."""
    content = files.read("token file", path)
    try:
        found = msgspec.json.decode(content, type=_Principals)
        namespaces = _namespaces(found.tenants)
        principals: dict[bytes, Principal] = {}
        for tenant in found.tenants:
            _add(principals, Tenant(tenant.name, tenant.namespaces), "tenant", tenant.tokens)
        for operator in found.operators:
            if operator.name in {one.name for one in found.tenants}:
                raise ValueError(f"operator {operator.name!r} has the name of a tenant")
            made = Operator(operator.name, namespaces, operator.access == "write")
            _add(principals, made, "operator", operator.tokens)
        _need_each_once("operator", [one.name for one in found.operators])
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"token file {path}: {error}: {_FORM}") from None
    return Content(principals, namespaces)


def _namespaces(tenants: Sequence[_Tenant]) -> tuple[str, ...]:
    """Returns the namespaces of all tenants, sorted. Raises ValueError if tenants have names or namespaces in common."""
    _need_each_once("tenant", [one.name for one in tenants])
    owners: dict[str, str] = {}
    for one in tenants:
        for namespace in one.namespaces:
            if check.namespace("", namespace, True):
                raise ValueError(f"tenant {one.name!r}: {namespace!r} is no DNS label")
            if owners.setdefault(namespace, one.name) != one.name:
                raise ValueError(f"namespace {namespace!r} belongs to two tenants")
    return tuple(sorted(owners))


def _need_each_once(kind: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{kind} {twice[0]!r} is there twice")


def _add(principals: dict[bytes, Principal], principal: Principal, kind: str, tokens: Sequence[str]) -> None:
    """Adds a principal by the digests of its tokens. Raises ValueError for a token that another one has."""
    for token in tokens:
        if principals.setdefault(_digest(token), principal) != principal:
            raise ValueError(f"{kind} {principal.name!r} shares a token with another")


_FORM = (
    'it must be {"tenants": [{"name": ..., "namespaces": [...], "tokens": [...]}]}, each namespace with one tenant, and '
    'may have "operators": [{"name": ..., "access": "read" or "write", "tokens": [...]}]'
)


def _digest(token: str) -> bytes:
    hashed = token.startswith("sha256:")
    return bytes.fromhex(token[7:]) if hashed else hashlib.sha256(token.encode()).digest()
