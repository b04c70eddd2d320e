"""What the command says before there is a service: its version, what is not installed, what cannot be meant."""

import fcntl
import importlib.metadata
import json
import os
import pty
import shlex
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from sandbox_client import Client

from tests.support import programs
from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

VERSION = importlib.metadata.version("sandbox-service")
WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = ["sandbox-server", *sys.argv[2:]]
runpy.run_module("sandbox_server", run_name="__main__")
"""


def server(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return programs.run("sandbox-server", *words, env={**os.environ, **env})


def healthy(service: Service, **env: str) -> "subprocess.CompletedProcess[str]":
    """What the health check says once the service serves, which it may not at its first answer."""
    answers: list[subprocess.CompletedProcess[str]] = []

    def serves() -> bool:
        answers.append(server("health", "--listen", service.address, **env))
        return answers[-1].returncode == 0

    eventually(serves)
    return answers[-1]


@pytest.mark.find(42)
@pytest.mark.parametrize(
    "package",
    [
        "pydantic",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("pydantic_settings", "structlog", "uvloop", "cryptography", "grpc_health", "kubernetes")
        ),
    ],
)
def test_an_install_without_the_server_says_what_to_install(package: str, tmp_path: Path) -> None:
    words = ["--engine", "kubernetes", "--kubeconfig", "none", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    command = [sys.executable, "-c", WITHOUT, package, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    install = "the server needs the extra `server`: pip install 'sandbox-service[server]'"
    assert done.stderr == f"sandbox-server: {package} is not installed: {install}\n"


@pytest.mark.slow
def test_a_full_collection_leaves_out_what_was_imported() -> None:
    program = (
        "import gc; from sandbox_server import app; app.tune(); print(len(gc.get_objects()), gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60 * PATIENCE)
    examined, left_out = map(int, done.stdout.split())
    assert examined < 1_000 < 100_000 < left_out


@pytest.mark.find(42)
@pytest.mark.slow
def test_the_version_is_printed(tmp_path: Path) -> None:
    for flag in ("--version", "-V"):
        done = server(flag)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"sandbox-server {VERSION}\n", "")
    assert json.loads(server("config", "--data-dir", str(tmp_path)).stdout)["version"] == VERSION


@pytest.mark.find(42)
@pytest.mark.slow
def test_operators_find_the_version_in_the_health_the_metrics_and_the_log(make_service: Callable[..., Service]) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    service = make_service("--metrics-listen", metrics, "--log-format", "json").start()
    done = healthy(service)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"SERVING {VERSION}\n", "")
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10 * PATIENCE) as answer:
        assert f'sandbox_build_info{{version="{VERSION}"}} 1.0' in answer.read().decode()
    eventually(lambda: '"serving"' in service.log.read_text())
    (serving,) = [one for one in service.log.read_text().splitlines() if '"serving"' in one]
    assert json.loads(serving)["version"] == VERSION


@pytest.mark.find(42)
@pytest.mark.slow
def test_a_mistyped_variable_is_warned_of_without_its_value(make_service: Callable[..., Service]) -> None:
    env = {"SANDBOX_HEARTBEET": "canary", "SANDBOX_TOKEN": "canary", "SANDBOX_X_PORT": "tcp://canary"}
    service = make_service("--log-format", "json", env={**env, "SANDBOX_X_SERVICE_HOST": "canary"}).start()
    events = [json.loads(one) for one in service.log.read_text().splitlines()]
    (warning,) = [one for one in events if one["event"] == "unknown_variable"]
    assert (warning["name"], warning["did_you_mean"]) == ("SANDBOX_HEARTBEET", "SANDBOX_HEARTBEAT")
    assert "canary" not in service.log.read_text()
    # A probe that runs every few seconds has nothing to add to that.
    assert healthy(service, **env).stderr == ""


@pytest.mark.find(42)
@pytest.mark.slow
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_with_a_passphrase_is_refused_on_a_terminal(form: str, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path / "tls", "closed")
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    kind, closed = getattr(serialization.PrivateFormat, form), serialization.BestAvailableEncryption(b"canary")
    key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, kind, closed))
    flags = ["--tls-cert", str(chain), "--tls-key", str(key), "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sandbox_server", *flags],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=30 * PATIENCE,
            start_new_session=True,
            # OpenSSL asks on the terminal of the session.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sandbox-server: tls-cert, tls-key: {chain}, {key}: the key has a passphrase")
    assert done.stderr.count("\n") == 1


@pytest.mark.find(42)
@pytest.mark.slow
def test_a_key_with_a_passphrase_in_the_place_of_another_changes_nothing(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path / "tls", "served")
    service = make_service("--tls-cert", str(chain), "--tls-key", str(key), "--log-format", "json").start(wait=False)
    with Client(service.address, ca_file=chain, timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    closed = serialization.BestAvailableEncryption(b"canary")
    key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed))
    for _ in range(2):
        with Client(service.address, ca_file=chain, timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
            client.page()
    said = [json.loads(one) for one in service.log.read_text().splitlines() if "files_not_reloaded" in one]
    assert ["passphrase" in one["error"] for one in said] == [True]


@pytest.mark.slow
@pytest.mark.find(46)
def test_no_command_needs_its_standard_streams(make_service: Callable[..., Service], tmp_path: Path) -> None:
    service = make_service().start()
    healthy(service)
    program = f"{shlex.quote(sys.executable)} -m sandbox_server"
    for words, code in (
        (f"health --listen {service.address} >&-", 0),
        (f"health --listen {service.address} <&- >&- 2>&-", 0),
        ("health --listen 127.0.0.1:1 2>&-", 1),
        ("config >&-", 0),
        ("--version >&-", 0),
        ("render <&-", 1),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{program} {words}"], capture_output=True, text=True, timeout=60 * PATIENCE
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
