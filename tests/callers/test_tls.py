"""Both clients against a service with TLS and tokens."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_client import AsyncClient, Client, errors

from tests.support.certificates import certificate
from tests.support.service import Service
from tests.support.specs import SLEEP

TOKEN = "token-of-the-first-tenant"


async def test_tls_and_tokens_let_in_who_has_them_and_nobody_else(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path, "live")
    tokens = tmp_path / "tokens.json"
    tenant = {"name": "first", "namespaces": ["first"], "tokens": [TOKEN]}
    tokens.write_text(json.dumps({"tenants": [tenant]}))
    tokens.chmod(0o600)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", str(tokens))
    service = make_service(*flags).start(wait=False)
    with Client(service.address, token=TOKEN, ca_file=chain) as client:
        made = client.create("demo", spec=SLEEP)
        assert made.namespace == "first"
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20)
        client.delete(made.sandbox_id)
        client.wait_until(made.sandbox_id, "TERMINATED", timeout=20)
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
