"""Raw calls to the API server.

The `kubernetes` package finds the server and the credentials. The calls go out without its typed models, which refuse
incomplete answers after the write took effect.
"""

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration

from sandbox_server import engines, failpoints, files
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import connector, kubeconfig, manifests, observe, proxy, rights, websocket
from sandbox_server.engines.kubernetes.objects import FAILURE, OBJECT, PAGE, Failure, Known, Object
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource
from sandbox_server.settings import Kubernetes

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
STRATEGIC = "application/strategic-merge-patch+json"
"""Containers have names, by which they are merged."""
NEVER = "1"
"""The version that no object has: etcd's before its first write. An apply with it makes an object, or conflicts. With the
uid of an object that is gone it conflicts as well."""
WAIT_MOST = 300.0
"""Seconds: a longer Retry-After counts as this one."""

_ENCODER = msgspec.json.Encoder()


class Conflict(engines.Busy):
    """409: the object has another uid or version than the call says, or there is one although none was expected."""


class Gone(engines.Unreachable):
    """410: the API server no longer keeps the version that was asked for."""


class Silent(engines.Unreachable):
    """An answer that began and then stopped, such as a watch without a sign of life."""


class Away(engines.Unreachable):
    """No connection could be made: the API server that is there afterwards may have been restored from a backup."""


class Immutable(engines.Refused):
    """422 for a change of a Secret that is immutable."""


class Missing(engines.Refused):
    """404: there is no such object or, for a write, no such namespace."""


def failure(what: str, answer: bytes | msgspec.Raw, status: int = 0, retry_after: str = "") -> Exception:
    """Returns the exception for a failed call or the ERROR of a watch: `engines.Refused`, or `Busy` if a repetition may
    succeed."""
    try:
        decoded = FAILURE.decode(answer)
    except msgspec.DecodeError:
        decoded = Failure(bytes(answer).decode(errors="replace")[:500])
    code = status or decoded.code
    if code in (409, 410, 429) or code >= 500:
        wait = min(float(retry_after), WAIT_MOST) if retry_after.isdecimal() else 0.0
        busy = {409: Conflict, 410: Gone}.get(code, engines.Busy)
        return busy(f"{what}: {code} {decoded.message}", wait)
    refused = Missing if code == 404 else engines.Refused
    # kubernetes/pkg/apis/core/validation/validation.go, ValidateSecretUpdate
    if code == 422 and "field is immutable when `immutable` is set" in decoded.message:
        refused = Immutable
    return refused(observe.refused(decoded.message or f"{what}: {code}"))


def path(kind: Kind, namespace: str, name: str = "") -> str:
    """Returns where an object is, or all of its kind, below the address of the API server."""
    group = "apis" if "/" in kind.api_version else "api"
    return f"{group}/{kind.api_version}/namespaces/{namespace}/{kind.plural}/{name}".rstrip("/")


class Client:
    """Connections to one API server."""

    def __init__(self, settings: Kubernetes, pace: Pace) -> None:
        self._settings = settings
        self._pace = pace
        self._rights = rights.Rights(pace.busy_after)

    async def open(self) -> None:
        """Reads the kubeconfig or the pod's service account. Raises ValueError if there is none that works."""
        account = self._account = Configuration()
        try:
            headers: list[tuple[str, str]] = []
            if self._settings.kubeconfig is None:
                kubernetes_config.load_incluster_config(client_configuration=account)  # type: ignore[no-untyped-call]
            else:
                self._loader = kubeconfig.Loader(self._settings.kubeconfig, self._pace.plugin_within)
                await self._loader.load_and_set(account)  # type: ignore[no-untyped-call]
                headers = self._loader.impersonation()
                account.refresh_api_key_hook = self._renew  # type: ignore[assignment]
                self._renewed = time.monotonic()
            self._tls = ssl.create_default_context(cafile=account.ssl_ca_cert)
            if not account.verify_ssl:
                self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
            self._take_certificate()
            by = proxy.find(account.host, account.proxy or "", os.environ)
            # No limit: each watch holds a connection, and all other calls come from the reconciler's few workers.
            connections = connector.Connector(ssl=self._tls, limit=0, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(
                f"{account.host}/",
                connector=connections,
                proxy=by,
                headers=headers,
                ws_response_class=websocket.WebSocket,
            )
        except Exception as error:
            # The library raises exceptions of many kinds for an unusable file.
            raise ValueError(f"kubeconfig: {error}: give one, or run inside a cluster") from None

    async def _renew(self, account: Configuration) -> None:
        """Reads the token and the certificate of the kubeconfig's file, plugin or provider again, because most expire."""
        now = time.monotonic()
        if now - self._renewed < self._pace.credentials_every:
            return
        # Calls that begin meanwhile use the old token.
        self._renewed = now
        try:
            await self._loader.load_and_set(account)  # type: ignore[no-untyped-call]
            self._take_certificate()
        except Exception as error:
            self._renewed = now - self._pace.credentials_every + self._pace.credentials_again
            # As in `open`.
            raise kubernetes_config.ConfigException(f"kubeconfig: {str(error) or type(error).__name__}") from None

    def _take_certificate(self) -> None:
        """Makes new connections use the present client certificate: a plugin's may expire within the hour."""
        if self._account.cert_file:
            self._tls.load_cert_chain(self._account.cert_file, self._account.key_file, files.no_passphrase)

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    @contextlib.asynccontextmanager
    async def call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: Any = None,
        accept: str = JSON,
        content: str = JSON,
        watch: bool = False,
        fence: Fence | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Makes one call and yields its answer, which may pause for longer if it is a watch.

        `content` is the type of the body. `fence` is that of a write. Raises what it raises and what `failure` returns, `engines.Unreachable` if there is no
        answer in time, `Away` if there is not even a connection, and `Silent` if an answer stops.
        """
        right = rights.right(method, path, watch)
        data = None if body is None else _ENCODER.encode(body)
        limits = aiohttp.ClientTimeout(
            sock_read=self._settings.cluster_silence if watch else self._settings.cluster_timeout
        )
        headers = {"Accept": accept, "Content-Type": content}
        try:
            async with asyncio.timeout(self._settings.cluster_timeout):
                headers |= await self._credentials()
                if fence is not None:
                    fence.check()
                    failpoints.hit("kubernetes_before_write")
                response = await self._session.request(
                    method,
                    path,
                    params=parameters,
                    data=data,
                    headers=headers,
                    timeout=limits,
                    server_hostname=self._account.tls_server_name or None,
                )
            if fence is not None:
                failpoints.hit("kubernetes_after_write")
            async with response:
                if response.status >= 400:
                    retry_after = response.headers.get("Retry-After", "")
                    error = failure(f"{method} {path}", await response.read(), response.status, retry_after)
                    raise await self._withdrawn(error, right) or error
                self._rights.allowed(right)
                yield response
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"{method} {path}: no word for {limits.sock_read:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise Away(f"{method} {path}: {error}") from error
        except TimeoutError as error:
            raise engines.Unreachable(f"{method} {path}: {self._late()}") from error
        except (aiohttp.ClientError, kubernetes_config.ConfigException, OSError, msgspec.DecodeError) as error:
            raise engines.Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error

    @contextlib.asynccontextmanager
    async def upgraded(
        self, path: str, parameters: Sequence[tuple[str, str]], protocols: Sequence[str], *, beats: bool = True
    ) -> "AsyncIterator[aiohttp.ClientWebSocketResponse[Any]]":
        """Opens a WebSocket and yields it. Raises as `call`; a 403 is always CLUSTER_FORBIDDEN.

        `beats`: whether it breaks when the other side gives no sign of life.
        """
        right = rights.right("UPGRADE", path, False)
        try:
            async with asyncio.timeout(self._settings.cluster_timeout):
                socket = await self._session.ws_connect(
                    path,
                    params=parameters,
                    protocols=protocols,
                    headers=await self._credentials(),
                    server_hostname=self._account.tls_server_name or None,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._pace.farewell_within),
                    # A connection that is silent for long may be cut by what is between, or may be dead. The other end has
                    # half of this time to answer.
                    heartbeat=2 * self._pace.access_within if beats else None,
                )
            self._rights.allowed(right)
        except aiohttp.WSServerHandshakeError as error:
            # The connection is closed before the body of the answer was read, which says why.
            words = f"GET {path}: {error.status}"
            if error.status == 403:
                forbidden = engines.Refused(Fault(Reason.CLUSTER_FORBIDDEN, words))
                raise await self._withdrawn(forbidden, right) or forbidden from None
            raise failure(words, b"{}", error.status) from None
        except aiohttp.ClientConnectorError as error:
            raise Away(f"GET {path}: {error}") from error
        except TimeoutError as error:
            raise engines.Unreachable(f"GET {path}: {self._late()}") from error
        except (aiohttp.ClientError, kubernetes_config.ConfigException, OSError) as error:
            raise engines.Unreachable(f"GET {path}: {str(error) or type(error).__name__}") from error
        async with socket:
            yield socket

    def _late(self) -> str:
        return f"no answer within {self._settings.cluster_timeout:g} s"

    async def _credentials(self) -> dict[str, str]:
        """Returns the header with the token, if there is one. It reads the token again from time to time."""
        token = await self._account.get_api_key_with_prefix("BearerToken", "authorization")
        # A token from a file ends with a line break.
        return {"Authorization": token.strip()} if token else {}

    async def _withdrawn(self, error: Exception, right: str) -> rights.Withdrawn | None:
        """What a refusal means where the right may return by itself: it was allowed before, or the API server has just started."""
        forbidden = isinstance(error, engines.Refused) and error.fault.reason is Reason.CLUSTER_FORBIDDEN
        if not forbidden or not self._rights.may_return(right):
            return None
        return rights.Withdrawn(str(error)) if self._rights.used(right) or not await self._ready() else None

    async def _ready(self) -> bool:
        """Whether the API server says that it is ready. One that does not know its roles yet refuses this call as well."""
        try:
            limits = aiohttp.ClientTimeout(self._settings.cluster_timeout)
            headers = await self._credentials()
            name = self._account.tls_server_name or None
            async with self._session.get("readyz", headers=headers, timeout=limits, server_hostname=name) as response:
                return response.status != 403 and response.status < 500
        except (aiohttp.ClientError, kubernetes_config.ConfigException, OSError):
            return False

    async def find(self, reference: Reference, *, whole: bool = False) -> Object | None:
        """Returns the metadata of the object, or the whole object; None if there is none."""
        with contextlib.suppress(Missing):
            async with self.call("GET", path(*reference), accept=JSON if whole else METADATA) as response:
                return OBJECT.decode(await response.read())
        return None

    async def labelled(self, kind: Kind, namespace: str, label: str, value: str) -> list[Object]:
        """Returns the metadata of the objects of a kind that have that label."""
        parameters = {"labelSelector": f"{label}={value}"}
        async with self.call("GET", path(kind, namespace), parameters=parameters, accept=METADATA_LIST) as response:
            return PAGE.decode(await response.read()).objects

    async def apply(self, resource: Resource, known: Known | None, fence: Fence) -> Object:
        """Applies to the object that is known or, if `known` is None, makes one. Returns the object as it then is.

        Raises `Conflict` if the object is gone or is not as it is known or, if `known` is None, if there is one.
        """
        parameters = {"fieldManager": manifests.FIELD_MANAGER, "force": "true"}
        precondition = {"uid": known.uid, "resourceVersion": known.version} if known else {"resourceVersion": NEVER}
        body = resource.manifest | {"metadata": resource.manifest["metadata"] | precondition}
        where = path(*resource.reference)
        async with self.call("PATCH", where, parameters=parameters, body=body, content=APPLY, fence=fence) as response:
            return OBJECT.decode(await response.read())

    async def merge(self, reference: Reference, known: Known, fields: Manifest, fence: Fence, part: str = "") -> Object:
        """Changes some fields of the object that is known, and returns it as it then is. All others stay as they are.

        `part` is the subresource that takes the change. Raises `Missing` if the object is gone, or has no such part, and
        `Conflict` if it is not as it is known.
        """
        precondition = {"uid": known.uid, "resourceVersion": known.version}
        body = fields | {"metadata": fields.get("metadata", {}) | precondition}
        parameters = {"fieldManager": manifests.FIELD_MANAGER}
        async with self.call(
            "PATCH",
            f"{path(*reference)}/{part}".rstrip("/"),
            parameters=parameters,
            body=body,
            content=STRATEGIC if part else MERGE,
            fence=fence,
        ) as response:
            return OBJECT.decode(await response.read())

    async def delete(self, reference: Reference, known: Known, fence: Fence, *, foreground: bool = False) -> None:
        """Asks for the removal of the object that is known; one that is gone is no error.

        Raises `engines.Outdated` if it is not as it is known. `foreground`: what it owns goes before it.
        """
        preconditions = {"uid": known.uid, "resourceVersion": known.version}
        body = {"propagationPolicy": "Foreground" if foreground else "Background", "preconditions": preconditions}
        try:
            async with self.call("DELETE", path(*reference), body=body, fence=fence):
                pass
        except Missing:
            pass
        except Conflict as conflict:
            raise engines.Outdated(str(conflict)) from None
