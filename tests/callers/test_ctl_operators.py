"""`sandboxctl` with the token of an operator."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_client import Kind, errors

from tests.support import ctl
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE

RED, BLUE, BILLING = "token-of-the-tenant-red", "token-of-the-tenant-blue", "token-of-the-billing-job"


def said(done: ctl.Done) -> set[str]:
    """The lines that a command has printed, without their alignment."""
    return {" ".join(line.split()) for line in done.out.splitlines()}


@pytest.mark.slow
def test_operator_lists_the_sandboxes_of_all_tenants_and_changes_none(
    make_service: Callable[..., Service],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = tmp_path / "tokens.json"
    tenants = [
        {"name": name, "namespaces": [name], "tokens": [token]} for name, token in (("red", RED), ("blue", BLUE))
    ]
    tokens.write_text(json.dumps({"tenants": tenants, "operators": [{"name": "billing", "tokens": [BILLING]}]}))
    service = make_service("--token-file", str(tokens), "--log-format", "json").start(wait=False)
    for token in (RED, BLUE):
        with service.client(token=token) as client:
            client.create("demo", sandbox_id="a", spec=SLEEP)
            client.wait_until("a", "RUNNING", timeout=30 * PATIENCE)
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    monkeypatch.setenv("SANDBOX_TOKEN", BILLING)
    run = ctl.runner(capsys)
    wide = run("list", "-o", "wide")
    assert [line.split()[:3] for line in wide.out.splitlines()] == [
        ["TENANT", "NAMESPACE", "ID"],
        ["blue", "blue", "a"],
        ["red", "red", "a"],
    ]
    assert run("list").column(0) == ["blue", "red"]
    for tenant in ("red", "blue", "nobody"):
        only = {tenant} - {"nobody"}
        assert run("list", "--tenant", tenant, "-o", "name").out.split() == [f"{one}/a" for one in only]
        assert {
            one["status"]["tenant"] for one in run("events", "--tenant", tenant, "-o", "json").json["events"]
        } == only
    assert "no kept disk matches" in run("volumes", "--tenant", "red").err
    for typed, names in (("", ["blue/a", "red/a"]), ("r", ["red/a"]), ("red/", ["red/a"])):
        with monkeypatch.context() as completing:
            completing.setenv("_SANDBOXCTL_COMPLETE", "complete_bash")
            completing.setenv("COMP_WORDS", f"sandboxctl stop {typed}")
            completing.setenv("COMP_CWORD", "2")
            assert run().out.split() == names
    assert said(run("capabilities")) >= {
        "caller operator billing, which only reads",
        "namespaces blue red",
        "part tokens works",
        "part tls does not work: the service was started without tls-cert and tls-key",
    }
    monkeypatch.setenv("SANDBOX_TOKEN", RED)
    assert said(run("capabilities", "-o", "wide")) >= {"caller tenant red", "default namespace red", "page size 1000"}
    assert run("capabilities", "-o", "json").json["tenant"] == "red"
    monkeypatch.setenv("SANDBOX_TOKEN", BILLING)
    told = run("events", "-o", "json").json["events"]
    assert {one["status"]["tenant"] for one in told} == {"red", "blue"}
    assert run("status", "red/a", "-o", "json").json["tenant"] == "red"
    unnamed = run("status", "a")
    assert (unnamed.code, "namespace is required with an operator's token" in unnamed.err) == (2, True)
    refused = run("stop", "red/a")
    assert (refused.code, "only reads" in refused.err) == (5, True)
    with service.client(token=BILLING) as client:
        assert [one.namespace for one in client.list(tenant="red")] == ["red"]
        assert {one.status.namespace for one in client.events(tenant="blue")} == {"blue"}
        events = client.watch(tenant="blue")
        first, synced = next(events), next(events)
        assert (first.status and first.status.tenant, synced.kind) == ("blue", Kind.SYNCED)
        events.close()
        with pytest.raises(errors.PermissionDenied):
            client.delete("a", namespace="red")
    service.terminate()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    calls = [(one["tenant"], one["operator"], one["code"]) for one in lines if one["event"] == "call"]
    refused_call = ("", "billing", "PERMISSION_DENIED")
    assert calls == [("red", "", "OK"), ("blue", "", "OK"), refused_call, refused_call]
