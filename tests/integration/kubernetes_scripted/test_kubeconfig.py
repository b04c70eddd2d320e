"""How a kubeconfig leads to the API server, and which identity it gives the service."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.settings import Kubernetes

from tests.support.certificates import certificate
from tests.support.rig import FAST
from tests.support.scripted import ANSWERED_WITHIN
from tests.support.scripted_api import ScriptedApi

PODS = "/api/v1/namespaces/default/pods"


AT_ONCE = Pace(credentials_every=0, credentials_again=0)
"""Credentials are read again for each call."""


@contextlib.asynccontextmanager
async def asking(
    api: ScriptedApi, folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any], pace: Pace = FAST
) -> AsyncIterator[Callable[[], Awaitable[web.Request]]]:
    """Returns what the API server receives from a client with that kubeconfig, for each call."""
    named = {"clusters": [{"name": "t", "cluster": cluster}], "users": [{"name": "t", "user": user}]}
    contexts = [{"name": "t", "context": {"cluster": "t", "user": "t"}}]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(named | {"contexts": contexts, "current-context": "t"}))
    heard: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        heard.append(request)
        # Each call has a connection of its own.
        response = web.json_response({})
        response.force_close()
        return response

    async def ask() -> web.Request:
        async with made.call("GET", client.path(Kind.POD, "default")):
            return heard.pop()

    api.lasting.append((lambda _: True, answer))
    made = client.Client(Kubernetes(kubeconfig=path, cluster_timeout=ANSWERED_WITHIN), pace)
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


@pytest.mark.parametrize(("pace", "read"), [(Pace(), "first"), (AT_ONCE, "second")])
async def test_a_token_from_a_file_is_read_again(api: ScriptedApi, tmp_path: Path, pace: Pace, read: str) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"tokenFile": str(token)}, pace) as ask:
        token.write_text("second")
        assert (await ask()).headers["Authorization"] == f"Bearer {read}"


@pytest.mark.parametrize("expires", ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
async def test_a_token_from_a_plugin_is_replaced_when_it_expires(
    api: ScriptedApi, tmp_path: Path, expires: str
) -> None:
    runs, version = tmp_path / "runs", "client.authentication.k8s.io/v1"
    status = {"token": "'$(wc -l < " + str(runs) + ")'", "expirationTimestamp": expires}
    told = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    script = f"echo >> {runs}; echo '{told}'"
    plugin = {"apiVersion": version, "command": "/bin/sh", "args": ["-c", script]}
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"exec": plugin}, AT_ONCE) as ask:
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
async def test_unusable_kubeconfig_is_refused_with_its_fault(
    api: ScriptedApi, tmp_path: Path, cluster: Mapping[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"^kubeconfig: "):
        await asking(api, tmp_path, cluster, {}).__aenter__()


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\0"])
async def test_file_that_is_no_kubeconfig_is_refused_with_its_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^kubeconfig: "):
        await client.Client(Kubernetes(kubeconfig=path), Pace()).open()


@pytest.mark.find(27)
async def test_the_user_acts_for_another_one(api: ScriptedApi, tmp_path: Path) -> None:
    acts: dict[str, Any] = {"as": "somebody", "as-uid": "u-1", "as-groups": ["one", "two"]}
    acts["as-user-extra"] = {"acme.com/Project": ["a", "b"], "scopes": ["view"]}
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"token": "t", **acts}) as ask:
        asked = await ask()
    said = sorted((name.lower(), value) for name, value in asked.headers.items() if name.startswith("Impersonate"))
    assert said == [
        ("impersonate-extra-acme.com%2fproject", "a"),
        ("impersonate-extra-acme.com%2fproject", "b"),
        ("impersonate-extra-scopes", "view"),
        ("impersonate-group", "one"),
        ("impersonate-group", "two"),
        ("impersonate-uid", "u-1"),
        ("impersonate-user", "somebody"),
    ]
    assert asked.headers["Authorization"] == "Bearer t"


@pytest.mark.find(27)
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"as-groups": ["canary"]}, "need an `as`"),
        ({"as-uid": "canary"}, "need an `as`"),
        ({"as-user-extra": {"a": ["canary"]}}, "need an `as`"),
        ({"as": "canary\r\nX: y"}, "printable"),
        ({"as": "a", "as-groups": [1]}, "printable"),
        ({"auth-provider": {"name": "azure", "config": {}}}, "auth-provider 'azure' is not supported"),
        ({"tokenFile": "/no/such/file"}, "/no/such/file"),
        ({"client-certificate": "/no/such/file"}, "/no/such/file"),
    ],
)
async def test_a_user_that_cannot_be_followed_is_refused(
    api: ScriptedApi, tmp_path: Path, user: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=r"^kubeconfig: ") as refused:
        await asking(api, tmp_path, {"server": f"https://127.0.0.1:{api.port}"}, user).__aenter__()
    assert said in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.find(27)
@pytest.mark.parametrize(
    ("context", "users", "said"),
    [
        ({"user": "missing"}, [{"name": "t", "user": {}}], "there is no user 'missing'"),
        ({"user": "missing"}, [], "there is no user 'missing'"),
        ({"user": "missing"}, None, "there is no user 'missing'"),
        ({}, [{"name": "t", "user": {}}], "names no user"),
        ({"user": ""}, [{"name": "t", "user": {}}], "names no user"),
    ],
)
async def test_a_context_without_its_user_is_refused(tmp_path: Path, context: Any, users: Any, said: str) -> None:
    path = tmp_path / "kubeconfig"
    clusters = [{"name": "t", "cluster": {"server": "http://127.0.0.1:1"}}]
    contexts = [{"name": "t", "context": {"cluster": "t", **context}}]
    config = {"clusters": clusters, "users": users, "contexts": contexts, "current-context": "t"}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^kubeconfig: ") as refused:
        await client.Client(Kubernetes(kubeconfig=path), Pace()).open()
    assert said in str(refused.value)


V1 = "client.authentication.k8s.io/v1"
GOOD = {"apiVersion": V1, "kind": "ExecCredential", "status": {"token": "canary"}}


def plugin(script: str, **more: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": V1, "command": "/bin/sh", "args": ["-c", script], **more}}


@pytest.mark.find(27)
@pytest.mark.parametrize(
    ("user", "said"),
    [
        (plugin("echo log in first >&2; exit 3"), "/bin/sh ended with 3: log in first"),
        (plugin("exit 1"), "ended with 1: it says nothing"),
        (plugin("kill -9 $$"), "ended with -9"),
        (plugin("echo canary"), "is no ExecCredential"),
        (plugin(""), "is no ExecCredential"),
        (plugin("echo '[]'"), "is no ExecCredential"),
        (plugin(f"echo '{json.dumps(GOOD | {'status': None})}'"), "is no ExecCredential"),
        (plugin(f"echo '{json.dumps(GOOD | {'status': {}})}'"), "neither a token nor a certificate"),
        (plugin(f"echo '{json.dumps(GOOD | {'status': {'clientCertificateData': 'x'}})}'"), "neither a token"),
        (plugin(f"echo '{json.dumps(GOOD | {'apiVersion': V1 + 'beta1'})}'"), "is no ExecCredential of"),
        (plugin(f"echo '{json.dumps(GOOD)}'", apiVersion="client.authentication.k8s.io/v1alpha1"), "an apiVersion"),
        (
            plugin("", command="no-such-plugin", installHint="Install\nit."),
            "no-such-plugin: No such file or directory. Install it.",
        ),
        (plugin("", command="./none"), "./none: No such file"),
        (plugin("", command=""), "needs a command"),
        (plugin("", interactiveMode="Always"), "needs somebody at a terminal"),
        (plugin("sleep 60"), "did not end within"),
    ],
)
async def test_failed_credential_plugin_is_refused_instead_of_going_on_without_credentials(
    api: ScriptedApi, tmp_path: Path, user: Mapping[str, Any], said: str
) -> None:
    pace = Pace(plugin_within=2 if said == "did not end within" else Pace.plugin_within)
    with pytest.raises(ValueError, match=r"^kubeconfig: exec: ") as refused:
        await asking(api, tmp_path, {"server": f"http://127.0.0.1:{api.port}"}, user, pace).__aenter__()
    assert said in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.find(27)
async def test_a_plugin_that_fails_later_is_no_answer_and_is_asked_again(api: ScriptedApi, tmp_path: Path) -> None:
    (tmp_path / "plugin").write_text(
        f"#!/bin/sh\ntest -e {tmp_path}/bad && exit 1\ncat >/dev/null\necho '{json.dumps(GOOD)}'\n"
    )
    (tmp_path / "plugin").chmod(0o755)
    # As kubectl finds it: from the folder of the kubeconfig. Its standard input is empty.
    user = {"exec": {"apiVersion": V1, "command": "./plugin"}}
    async with asking(api, tmp_path, {"server": f"http://127.0.0.1:{api.port}"}, user, AT_ONCE) as ask:
        assert (await ask()).headers["Authorization"] == "Bearer canary"
        (tmp_path / "bad").touch()
        with pytest.raises(engines.Unreachable, match=r"exec: \./plugin ended with 1"):
            await ask()
        (tmp_path / "bad").unlink()
        assert (await ask()).headers["Authorization"] == "Bearer canary"


@pytest.mark.find(27)
@pytest.mark.parametrize("proxy_url", ["socks5://127.0.0.1:1080", "http://", "127.0.0.1:3128", "http://h:canary"])
async def test_a_proxy_that_cannot_be_used_is_refused(api: ScriptedApi, tmp_path: Path, proxy_url: str) -> None:
    cluster = {"server": f"http://127.0.0.1:{api.port}", "proxy-url": proxy_url}
    with pytest.raises(ValueError, match=r"^kubeconfig: proxy-url: ") as refused:
        await asking(api, tmp_path, cluster, {}).__aenter__()
    assert "canary" not in str(refused.value)


@pytest.mark.find(27)
async def test_the_proxy_of_the_environment_leads_to_the_server(
    api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{api.port}")
    async with asking(api, tmp_path, {"server": "http://kubernetes.invalid"}, {}) as ask:
        assert (await ask()).host == "kubernetes.invalid"
    monkeypatch.setenv("NO_PROXY", "invalid")
    async with asking(api, tmp_path, {"server": "http://kubernetes.invalid"}, {}) as ask:
        with pytest.raises(engines.Unreachable):
            await ask()


@pytest.mark.find(27)
async def test_tls_goes_through_the_proxy_of_the_environment(
    api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificate(tmp_path, "named", served=x509.DNSName("kubernetes.invalid"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    port = await api.listen(context)
    asked: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        far, near = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, near), pipe(far, writer))

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        cluster = {"server": "https://kubernetes.invalid:6443", "certificate-authority": str(chain)}
        async with asking(api, tmp_path, cluster, {}) as ask:
            assert (await ask()).path == PODS
        assert asked[0].startswith(b"CONNECT kubernetes.invalid:6443 ")


@pytest.mark.find(42)
@pytest.mark.find(27)
async def test_a_client_key_with_a_passphrase_is_refused(api: ScriptedApi, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "closed")
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    closed = serialization.BestAvailableEncryption(b"canary")
    key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed))
    user = {"client-certificate": str(chain), "client-key": str(key)}
    with pytest.raises(ValueError, match=r"^kubeconfig: the key has a passphrase"):
        await asking(api, tmp_path, {"server": "https://127.0.0.1:1"}, user).__aenter__()


@pytest.mark.find(27)
async def test_the_line_break_after_a_token_is_no_part_of_it(api: ScriptedApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    cluster = {"server": f"http://127.0.0.1:{api.port}"}
    async with asking(api, tmp_path, cluster, {"tokenFile": str(tmp_path / "token")}) as ask:
        assert (await ask()).headers["Authorization"] == "Bearer first"


@pytest.mark.find(27)
async def test_a_certificate_from_a_plugin_is_shown_and_replaced(api: ScriptedApi, tmp_path: Path) -> None:
    served, key = certificate(tmp_path, "served")
    ours = [certificate(tmp_path, name) for name in ("first", "second")]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(served, key)
    context.verify_mode = ssl.CERT_REQUIRED
    for chain, _ in ours:
        context.load_verify_locations(chain)
    port = await api.listen(context)

    def given(number: int) -> None:
        chain, its_key = ours[number]
        status = {"clientCertificateData": chain.read_text(), "clientKeyData": its_key.read_text()}
        (tmp_path / "answer").write_text(json.dumps(GOOD | {"status": status}))

    given(0)
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(served)}

    def shown(request: web.Request) -> str:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        return str(dict(one[0] for one in subject)["commonName"])

    async with asking(api, tmp_path, cluster, plugin(f"cat {tmp_path}/answer"), AT_ONCE) as ask:
        assert shown(await ask()) == "first"
        given(1)
        assert shown(await ask()) == "second"
