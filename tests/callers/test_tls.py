"""Both clients against a service with TLS and tokens."""

import contextlib
import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_client import AsyncClient, Client, errors
from sandboxctl.options import Chosen, Given

from tests.support.certificates import certificate
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE

TOKEN = "token-of-the-first-tenant"


@pytest.mark.slow
async def test_only_clients_with_tls_and_a_token_are_served(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path, "live")
    tokens = tmp_path / "tokens.json"
    tenant = {"name": "first", "namespaces": ["first"], "tokens": [TOKEN]}
    tokens.write_text(json.dumps({"tenants": [tenant]}))
    tokens.chmod(0o600)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", str(tokens))
    service = make_service(*flags).start(wait=False)
    with Client(service.address, token=TOKEN, ca_file=chain, contact_timeout=30 * PATIENCE) as client:
        made = client.create("demo", spec=SLEEP)
        assert made.namespace == "first"
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
        client.delete(made.sandbox_id)
        client.wait_until(made.sandbox_id, "TERMINATED", timeout=20 * PATIENCE)
    async with AsyncClient(service.address, token=TOKEN, ca_file=chain) as client_too:
        assert not [one async for one in client_too.list()]
    for wrong in ("", "token-of-nobody-at-all"):
        with Client(service.address, token=wrong, ca_file=chain) as client:
            with pytest.raises(errors.Unauthenticated) as caught:
                client.page()
            assert not wrong or wrong not in str(caught.value)
            with pytest.raises(errors.Unauthenticated), contextlib.closing(client.watch()) as events:
                next(events)
    # In plaintext, and without the authority that signed: no way in, and no hanging either.
    for options in ({}, {"tls": True}):
        with Client(service.address, token=TOKEN, timeout=1.5, **options) as client:  # type: ignore[arg-type]
            with pytest.raises((errors.Unavailable, errors.TimedOut)) as refused:
                client.page()
            assert TOKEN not in str(refused.value)


@pytest.mark.find(42)
@pytest.mark.parametrize("content", [b"", b"\n", b"words", b"-----BEGIN CERTIFICATE-----\nMIIB\n", "key", "der"])
def test_a_file_without_a_certificate_is_no_authority(content: bytes | str, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "live")
    if isinstance(content, str):
        content = {"key": key.read_bytes(), "der": ssl.PEM_cert_to_DER_cert(chain.read_text())}[content]
    (tmp_path / "ca").write_bytes(content)
    # For an empty one gRPC takes the authorities of the system.
    with pytest.raises(ValueError, match="has no certificate in PEM"):
        Client("localhost:1", ca_file=tmp_path / "ca")


@pytest.mark.find(42)
@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"canary\xff", "is not text"),
        (b"canary-two words", "visible ASCII"),
        (f"\ufeff{TOKEN}\r\n".encode(), TOKEN),
    ],
)
def test_a_token_file_has_a_token_or_is_refused(content: bytes, token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    chosen = Chosen()
    chosen.begin(Given(server="localhost:1", token_file=file))
    if token == TOKEN:
        with chosen.client as client:
            assert client._metadata == (("authorization", f"Bearer {TOKEN}"),)
        return
    with pytest.raises(ValueError, match=token) as refused:
        chosen.client.close()
    assert "canary" not in str(refused.value)
