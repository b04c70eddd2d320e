"""Raw calls to the API server, and what its refusals mean.

The `kubernetes` package knows where the server is and who we are; the calls themselves go out without its typed models,
which cost 80 times as much and refuse incomplete answers after the write took effect.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from sandbox_server import engines
from sandbox_server.domain.sandbox import Fault, Reason
from sandbox_server.engines.kubernetes import manifests

PATHS = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
CONNECTIONS = 64
TLS_ENDS = 0.25


class Meta(msgspec.Struct):
    """What every object has, of which only this is read."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletionTimestamp: str | None = None


class Partial(msgspec.Struct):
    """An object of which only the metadata matters."""

    metadata: Meta


class Failure(msgspec.Struct):
    """A Status answer."""

    message: str = ""
    reason: str = ""
    code: int = 0


_PARTIAL = msgspec.json.Decoder(Partial)
_FAILURE = msgspec.json.Decoder(Failure)
_ENCODER = msgspec.json.Encoder()
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([^"]+)"')


class Client:
    """A connection pool to one API server."""

    def __init__(self, config: manifests.Config) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Reads the kubeconfig or the pod's service account. Raises ValueError if there is none that works."""
        self._account = Configuration()
        try:
            if self._config.kubeconfig is not None:
                await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=str(self._config.kubeconfig), client_configuration=self._account
                )
            else:
                kubernetes_config.load_incluster_config(client_configuration=self._account)  # type: ignore[no-untyped-call]
        except (kubernetes_config.ConfigException, OSError, yaml.YAMLError) as error:
            raise ValueError(f"kubeconfig: {error}: give one, or run inside a cluster") from None
        context: ssl.SSLContext = RESTClientObject(self._account).ssl_context
        self._session = aiohttp.ClientSession(
            base_url=self._account.host,
            connector=aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS, keepalive_timeout=60),
            auto_decompress=True,
        )

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            # As aiohttp advises: TLS connections end a moment after their session.
            await asyncio.sleep(TLS_ENDS)

    async def request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, bytes]:
        """One call and its whole answer, within the time-out.

        Raises `engines.Unreachable` when there is no answer, or one that says to come again: 429 and 5xx.
        """
        headers = {"Accept": accept, "Content-Type": content_type} | await self._authorization()
        data = None if body is None else _ENCODER.encode(body)
        assert self._session is not None  # noqa: S101 - open() came first
        try:
            async with self._session.request(
                method,
                path,
                params=parameters,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(self._config.timeout),
            ) as response:
                answer = await response.read()
                retry_after = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise engines.Unreachable(f"{method} {path}: {type(error).__name__}") from error
        if response.status == 429 or response.status >= 500:
            wait = float(retry_after) if retry_after.isdigit() else None
            raise engines.Unreachable(f"{method} {path}: {response.status}", wait)
        return response.status, answer

    async def stream(self, path: str, parameters: Mapping[str, str], seconds: float) -> aiohttp.ClientResponse:
        """Opens a watch that ends after `seconds`, or earlier if it is silent for longer than is believable."""
        timeout = aiohttp.ClientTimeout(
            total=seconds, sock_read=self._config.silence, sock_connect=self._config.timeout
        )
        headers = {"Accept": "application/json"} | await self._authorization()
        assert self._session is not None  # noqa: S101 - open() came first
        return await self._session.get(path, params=parameters, headers=headers, timeout=timeout)

    async def _authorization(self) -> dict[str, str]:
        token = await self._account.get_api_key_with_prefix("BearerToken", "authorization")
        return {"Authorization": token} if token else {}

    async def metadata(self, kind: str, namespace: str, name: str) -> Meta | None:
        """The metadata of an object; None if there is none."""
        path = f"{PATHS[kind].format(namespace)}/{name}"
        status, answer = await self.request("GET", path, accept=METADATA_ONLY)
        if status == 404:
            return None
        if status >= 400:
            raise refusal(status, answer)
        return _PARTIAL.decode(answer).metadata

    async def apply(self, manifest: manifests.Manifest) -> bytes:
        """Server-side apply of one object; returns it as it then is. Raises `engines.Refused`."""
        metadata = manifest["metadata"]
        path = f"{PATHS[manifest['kind']].format(metadata['namespace'])}/{metadata['name']}"
        status, answer = await self.request(
            "PATCH",
            path,
            parameters={"fieldManager": self._config.field_manager, "force": "true"},
            body=manifest,
            content_type="application/apply-patch+yaml",
        )
        if status >= 400:
            raise refusal(status, answer)
        return answer

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Asks for the removal of that very object; one that is gone or was replaced is no error."""
        path = f"{PATHS[kind].format(namespace)}/{name}"
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        status, answer = await self.request("DELETE", path, body=body)
        if status >= 400 and status not in (404, 409):
            raise refusal(status, answer)


def refusal(status: int, answer: bytes) -> engines.Refused:
    """What a 4xx means for a sandbox."""
    try:
        failure = _FAILURE.decode(answer)
    except msgspec.DecodeError:
        failure = Failure(message=answer.decode(errors="replace")[:500])
    return engines.Refused(Fault(reason(status, failure.message), failure.message or f"the API server said {status}"))


def reason(status: int, message: str) -> Reason:
    """The word for a refusal, from its status and the server's words; 403 for the words of an event."""
    if "exceeded quota" in message or "must specify" in message:
        return Reason.QUOTA_EXCEEDED
    if "is being terminated" in message:
        return Reason.NAMESPACE_TERMINATING
    if status == 404 and "namespaces" in message:
        return Reason.NAMESPACE_MISSING
    if _FORBIDDEN.search(message) or status == 401:
        return Reason.CLUSTER_FORBIDDEN
    if status == 403 or "denied the request" in message or "violates PodSecurity" in message:
        return Reason.ADMISSION_DENIED
    return Reason.ENGINE_REFUSED
