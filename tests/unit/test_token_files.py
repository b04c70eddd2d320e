"""Token files of every odd form: refused where a token could never match, and never more than refused."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
from sandbox_server.domain import operator
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import auth
from structlog.testing import capture_logs

pytestmark = pytest.mark.find(41)
TOKEN = "canary-token-of-tenant-a"
DIGEST = f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}"


class Caller:
    """A call with a token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)


def document(*tokens: str) -> str:
    return json.dumps({"tenants": [{"name": "a", "namespaces": ["a-ns"], "tokens": tokens}]})


def tenant(authenticator: auth.TokenFile, token: str = TOKEN) -> str:
    return authenticator.tenant(cast(Any, Caller(token))).name


@pytest.mark.parametrize(
    "token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}\t", f"{TOKEN}\u00e9", f"{TOKEN}\n{TOKEN}", " " * 20]
)
def test_a_token_that_no_call_can_carry_is_refused_without_being_shown(token: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(document(token))
    with pytest.raises(ValueError, match="token file") as refused:
        auth.TokenFile(path, Pace())
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("token", [TOKEN, "sixteen letters.", '~!@#$%^&*()_+{}|"', "sha256" * 3])
def test_every_token_that_a_call_can_carry_is_taken(token: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(document(token))
    assert tenant(auth.TokenFile(path, Pace()), token) == "a"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 9,
        b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "tenants": []}',
        document(TOKEN)[:-9].encode(),
        document(TOKEN).encode("utf-16"),
        document(TOKEN).encode().replace(b"a-ns", b"\xff"),
        b'{"tenants": null}',
        b'{"tenants": [{"name": "a", "namespaces": ["a"], "tokens": [1e999]}]}',
    ],
    ids=["empty", "zeros", "deep", "deep beside it", "half", "UTF-16", "no text", "null", "number"],
)
def test_what_is_no_token_file_changes_nothing_and_is_logged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(document(TOKEN))
    authenticator = auth.TokenFile(path, Pace())
    path.write_bytes(content)
    with capture_logs() as logged:
        assert tenant(authenticator) == "a"
    assert [one["event"] for one in logged] == ["files_not_reloaded"]
    assert "canary" not in str(logged)
    with pytest.raises(ValueError, match="token file"):
        auth.TokenFile(path, Pace())


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"name": "a", "namespaces": ["b-ns"], "tokens": []}, "tenant 'a' is there twice"),
        ({"name": "b", "namespaces": ["a-ns"], "tokens": []}, "namespace 'a-ns' belongs to two tenants"),
        ({"name": "b", "namespaces": ["b-ns"], "tokens": [TOKEN]}, "tenant 'b' shares a token with another"),
        ({"name": "b", "namespaces": ["b-ns"], "tokens": [DIGEST]}, "tenant 'b' shares a token with another"),
    ],
    ids=["name", "namespace", "token", "digest of a token"],
)
def test_two_tenants_share_no_name_no_namespace_and_no_token(
    second: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tenants": [*json.loads(document(TOKEN))["tenants"], second]}))
    with pytest.raises(ValueError, match=words) as refused:
        auth.TokenFile(path, Pace())
    assert "canary" not in str(refused.value)


@pytest.mark.find(42)
def test_a_setting_in_json_that_is_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="must be JSON"):
        operator.parsed("[" * 100_000)
