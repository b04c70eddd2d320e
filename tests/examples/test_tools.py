"""The tools that people call a gRPC service with: grpcurl, buf curl and grpc-health-probe, as they are published."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sandbox_client import Client

from tests.support.certificates import certificate
from tests.support.examples import BUILT, MARKS, ROOT
from tests.support.once import once
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE

BIN = BUILT / "bin"
MODULES = ("github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3", "github.com/grpc-ecosystem/grpc-health-probe@v0.4.62")
TOKEN = "token-of-the-first-tenant"
SERVICE = "sandbox.v1.SandboxService"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a tool, installed by Go or beside this Python."""

    def install() -> None:
        for module in MODULES:
            subprocess.run(["go", "install", module], env={**os.environ, "GOBIN": str(BIN)}, check=True)

    once(MARKS / "tools", install)
    path = os.pathsep.join([str(BIN), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/bin/env", *words],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
        )

    return run


@dataclass
class Secured:
    address: str
    authority: str
    """The file of the authority that signed its certificate."""


@pytest.fixture
def secured(make_service: Callable[..., Service], tmp_path: Path) -> Secured:
    """A service with TLS and tokens."""
    chain, key = certificate(tmp_path, "live")
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tenants": [{"name": "first", "namespaces": ["first"], "tokens": [TOKEN]}]}))
    tokens.chmod(0o600)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", str(tokens))
    service = make_service(*flags).start(wait=False)
    with Client(service.address, token=TOKEN, ca_file=chain, contact_timeout=30 * PATIENCE) as client:
        client.page()
    return Secured(service.address, str(chain))


def test_grpcurl_lists_and_describes_the_services(run: Run, service: Service) -> None:
    listed = run("grpcurl", "-plaintext", service.address, "list").stdout.split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed)
    described = run("grpcurl", "-plaintext", service.address, "describe", f"{SERVICE}.Stop").stdout
    assert "rpc Stop ( .sandbox.v1.StopRequest ) returns ( .sandbox.v1.StopResponse );" in described
    described = run("grpcurl", "-plaintext", service.address, "describe", "sandbox.v1.StopRequest").stdout
    assert "optional int64 expected_generation = 4;" in described


def test_the_lines_of_the_readme_work_with_grpcurl(run: Run, service: Service, client: Client) -> None:
    text = (ROOT / "README.md").read_text().replace("localhost:50051", service.address)
    lines = [shlex.split(line) for line in re.findall(r"^grpcurl .*$", text, re.MULTILINE)]
    assert len(lines) == 2
    for words in lines:
        done = run(*words)
        assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)["sandbox"]
    assert made["spec"]["project"] == "demo"
    client.delete(made["sandbox_id"])


def test_grpcurl_shows_the_details_of_an_error(run: Run, service: Service) -> None:
    words = ("-plaintext", "-format-error", "-d", '{"spec": {"project": "No_Label"}}', service.address)
    error = json.loads(run("grpcurl", *words, f"{SERVICE}/CreateSandbox").stderr)
    found = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    assert found["ErrorInfo"]["reason"] == "INVALID_FIELDS"
    assert [bad["field"] for bad in found["BadRequest"]["field_violations"]] == ["spec.project"]


def test_grpcurl_needs_tls_and_a_token_where_the_service_does(run: Run, secured: Secured) -> None:
    tls = ("-cacert", secured.authority)
    token = ("-H", f"authorization: Bearer {TOKEN}")
    for words in (("list",), (f"{SERVICE}/ListSandboxes",)):
        done = run("grpcurl", *tls, *token, secured.address, *words)
        assert done.returncode == 0, done.stderr
        done = run("grpcurl", *tls, secured.address, *words)
        assert done.returncode != 0
        assert "Unauthenticated" in done.stderr
        for wrong in ((), ("-plaintext",)):
            done = run("grpcurl", "-connect-timeout", "2", *wrong, *token, secured.address, *words)
            assert done.returncode != 0
            assert TOKEN not in done.stderr


def test_buf_needs_tls_and_a_token_where_the_service_does(run: Run, secured: Secured) -> None:
    words = ("buf", "curl", "--protocol", "grpc", "--cacert", secured.authority)
    token = ("--header", f"authorization: Bearer {TOKEN}")
    reflect = ("--reflect-header", f"authorization: Bearer {TOKEN}")
    url = f"https://{secured.address}/{SERVICE}/ListSandboxes"
    done = run(*words, *token, *reflect, url)
    assert done.returncode == 0, done.stderr
    done = run(*words, *reflect, url)
    assert json.loads(done.stderr)["code"] == "unauthenticated"
    done = run(*words, *token, url)
    assert "failed to find service" in done.stderr


def test_buf_calls_with_the_contract_instead_of_reflection(run: Run, service: Service) -> None:
    words = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--schema", str(ROOT / "protos"))
    done = run(*words, "-d", '{"sandboxId": "no-such"}', f"http://{service.address}/{SERVICE}/GetStatus")
    assert json.loads(done.stderr)["code"] == "not_found"


def test_the_health_probe_needs_tls_where_the_service_does_but_no_token(run: Run, secured: Secured) -> None:
    words = ("grpc-health-probe", "-addr", secured.address, "-tls", "-tls-ca-cert", secured.authority)
    for service in ((), ("-service", SERVICE)):
        done = run(*words, *service)
        assert done.returncode == 0, done.stderr
        assert "SERVING" in done.stderr
    assert run("grpc-health-probe", "-addr", secured.address, "-rpc-timeout", "1s").returncode != 0


def test_the_health_probe_tells_a_service_that_is_away_from_one_that_is_not_known(run: Run, service: Service) -> None:
    assert run("grpc-health-probe", "-addr", service.address).returncode == 0
    unknown = run("grpc-health-probe", "-addr", service.address, "-service", "nobody")
    away = run("grpc-health-probe", "-addr", f"127.0.0.1:{free_port()}")
    assert [unknown.returncode, away.returncode] == [3, 2]
