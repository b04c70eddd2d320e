"""What a kubeconfig can say of the way to the API server, and of who we are."""

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from sandbox_server.engines.kubernetes import client
from sandbox_server.settings import Settings

from tests.integration.kubernetes_scripted.api import ScriptedApi
from tests.integration.test_security import certificate

PODS = "/api/v1/namespaces/default/pods"


@contextlib.asynccontextmanager
async def asking(
    api: ScriptedApi, folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]
) -> AsyncIterator[Callable[[], Awaitable[web.Request]]]:
    """What the API server hears from a client with that kubeconfig, each time that it is had to ask."""
    named = {"clusters": [{"name": "t", "cluster": cluster}], "users": [{"name": "t", "user": user}]}
    contexts = [{"name": "t", "context": {"cluster": "t", "user": "t"}}]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(named | {"contexts": contexts, "current-context": "t"}))
    heard: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        heard.append(request)
        return web.json_response({})

    async def ask() -> web.Request:
        async with made.call("GET", client.path("Pod", "default")):
            return heard.pop()

    api.lasting.append((lambda _: True, answer))
    made = client.Client(Settings(kubeconfig=path, cluster_timeout=5))
    await made.open()
    try:
        yield ask
    finally:
        await made.close()


async def test_a_server_below_a_path_of_its_host(api: ScriptedApi, tmp_path: Path) -> None:
    # Tools write what they do not use as empty.
    unused = {"proxy-url": "", "tls-server-name": ""}
    cluster = {"server": f"http://127.0.0.1:{api.port}/k8s/clusters/c/"} | unused
    async with asking(api, tmp_path, cluster, {}) as ask:
        assert (await ask()).path == f"/k8s/clusters/c{PODS}"


async def test_a_server_behind_a_proxy(api: ScriptedApi, tmp_path: Path) -> None:
    cluster = {"server": "http://kubernetes.invalid", "proxy-url": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {}) as ask:
        asked = await ask()
        assert (asked.host, asked.path) == ("kubernetes.invalid", PODS)


async def test_a_server_with_the_certificate_of_another_name(api: ScriptedApi, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "named", served=x509.DNSName("kubernetes.internal"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    port = await api.listen(context)
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(chain),
        "tls-server-name": "kubernetes.internal",
    }
    async with asking(api, tmp_path, cluster, {}) as ask:
        assert (await ask()).path == PODS


async def test_a_token_from_a_file_is_read_again(
    api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"tokenFile": str(token)}) as ask:
        token.write_text("second")
        assert (await ask()).headers["Authorization"] == "Bearer first"
        monkeypatch.setattr(client, "RENEW_EVERY", 0.0)
        assert (await ask()).headers["Authorization"] == "Bearer second"


@pytest.mark.parametrize("expires", ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
async def test_a_token_from_a_plugin_is_replaced_when_it_expires(
    api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expires: str
) -> None:
    runs, version = tmp_path / "runs", "client.authentication.k8s.io/v1"
    status = {"token": "'$(wc -l < " + str(runs) + ")'", "expirationTimestamp": expires}
    told = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    script = f"echo >> {runs}; echo '{told}'"
    plugin = {"apiVersion": version, "command": "/bin/sh", "args": ["-c", script]}
    monkeypatch.setattr(client, "RENEW_EVERY", 0.0)
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"exec": plugin}) as ask:
        said = [(await ask()).headers["Authorization"] for _ in range(2)]
    assert said == (["Bearer 2", "Bearer 3"] if expires < "2026" else ["Bearer 1"] * 2)


@pytest.mark.parametrize(
    "cluster",
    [
        {"server": "https://127.0.0.1:1", "certificate-authority-data": "aGVsbG8="},
        {"server": "127.0.0.1:1"},
        {"server": 1},
        {"name": "none"},
    ],
)
async def test_a_kubeconfig_of_no_use_is_said_to_be(
    api: ScriptedApi, tmp_path: Path, cluster: Mapping[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"^kubeconfig: "):
        await asking(api, tmp_path, cluster, {}).__aenter__()


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\0"])
async def test_a_file_that_is_no_kubeconfig_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^kubeconfig: "):
        await client.Client(Settings(kubeconfig=path)).open()
