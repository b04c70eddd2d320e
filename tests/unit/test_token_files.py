"""Token files of every odd form: refused where a token could never match, and never more than refused."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
from sandbox_server.domain import errors, operator, principal
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
    return authenticator.principal(cast(Any, Caller(token))).name


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


def operators(*entries: dict[str, Any]) -> str:
    return json.dumps({**json.loads(document(TOKEN)), "operators": entries})


@pytest.mark.parametrize(("access", "writes"), [({}, False), ({"access": "read"}, False), ({"access": "write"}, True)])
def test_an_operator_has_the_namespaces_of_all_tenants_and_writes_only_if_it_says_so(
    access: dict[str, str], writes: bool, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(operators({"name": "billing", "tokens": ["canary-token-of-billing"], **access}))
    authenticator = auth.TokenFile(path, Pace())
    found = authenticator.principal(cast(Any, Caller("canary-token-of-billing")))
    assert found == principal.Operator("billing", ("a-ns",), writes)
    followed: list[tuple[str, ...]] = []
    authenticator.follow(followed.append)
    assert followed == [("a-ns",)]
    assert tenant(authenticator) == "a"
    path.write_text(document(TOKEN))
    with pytest.raises(errors.Unauthenticated):
        authenticator.principal(cast(Any, Caller("canary-token-of-billing")))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "b", "tokens": [], "namespaces": ["b-ns"]}, r"unknown field `namespaces` - at `\$.operators\[0\]`"),
        ({"name": "b", "tokens": [], "access": "admin"}, r"'admin' - at `\$.operators\[0\].access`"),
        ({"name": "", "tokens": []}, r"at `\$.operators\[0\].name`"),
        ({"name": "b", "tokens": ["short"]}, r"at `\$.operators\[0\].tokens\[0\]`"),
        ({"name": "b"}, "missing required field `tokens`"),
        ({"name": "a", "tokens": []}, "operator 'a' has the name of a tenant"),
        ({"name": "b", "tokens": [TOKEN]}, "operator 'b' shares a token with another"),
    ],
)
def test_a_bad_operator_is_refused_with_its_place_and_the_form(
    entry: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(operators(entry))
    with pytest.raises(ValueError, match=words) as refused:
        auth.TokenFile(path, Pace())
    assert 'may have "operators": [{' in str(refused.value)
    assert "canary" not in str(refused.value)


def test_two_operators_have_two_names(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(operators({"name": "b", "tokens": []}, {"name": "b", "tokens": []}))
    with pytest.raises(ValueError, match="operator 'b' is there twice"):
        auth.TokenFile(path, Pace())


@pytest.mark.find(42)
def test_a_setting_in_json_that_is_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="must be JSON"):
        operator.parsed("[" * 100_000)
