"""The image's command, user and health check with the files that a Secret volume has, as docs/kubernetes.md configures them."""

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts import image_check, image_run
from tests.support import programs
from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.service import Service, without_coverage
from tests.support.variants import some
from tests.support.waiting import PATIENCE, eventually

STEPS = image_check.read((image_run.ROOT / "Dockerfile").read_text())
USER = next(one.rest for one in STEPS if one.word == "USER")
ENTRYPOINT = next(one for one in STEPS if one.word == "ENTRYPOINT").arguments()
HEALTH = json.loads(next(one for one in STEPS if one.word == "HEALTHCHECK").rest.partition("CMD ")[2])
BIN = Path(sys.executable).parent


@pytest.fixture
def ground() -> Iterator[Path]:
    """Outside pytest's own folder, which another user cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="image-user"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def environment(ground: Path, mode: int) -> dict[str, str]:
    chain, key = certificate(ground / "made", "served")
    tenants = {"tenants": [{"name": "a", "namespaces": ["a-ns"], "tokens": [f"sha256:{'0' * 64}"]}]}
    content = {
        "env.keys": base64.b64encode(b"k" * 32),
        "tenants.json": json.dumps(tenants).encode(),
        "tls.crt": chain.read_bytes(),
        "tls.key": key.read_bytes(),
    }
    volume = image_run.secret_volume(ground / "secret", content, mode, USER)
    data = ground / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, *map(int, USER.split(":")))
    return {
        **without_coverage(),
        "HOME": str(data),
        "SANDBOX_DATA_DIR": str(data),
        "SANDBOX_LISTEN": f"0.0.0.0:{free_port()}",
        "SANDBOX_ENCRYPTION_KEY_FILE": str(volume / "env.keys"),
        "SANDBOX_TOKEN_FILE": str(volume / "tenants.json"),
        "SANDBOX_TLS_CERT": str(volume / "tls.crt"),
        "SANDBOX_TLS_KEY": str(volume / "tls.key"),
    }


@pytest.mark.fault(71)
@pytest.mark.find(24)
@pytest.mark.find(46)
@pytest.mark.parametrize(
    "mode", [mode if mode == 0o440 else pytest.param(mode, marks=pytest.mark.slow) for mode in image_run.MODES], ids=oct
)
@pytest.mark.slow
def test_the_image_serves_with_the_files_of_a_secret_volume_and_its_probe_says_so(ground: Path, mode: int) -> None:
    env, begin = environment(ground, mode), image_run.command(USER)
    serve, probe = ([*begin, str(BIN / words[0]), *words[1:]] for words in (ENTRYPOINT, HEALTH))
    with subprocess.Popen(serve, cwd=ground, env=env, stderr=subprocess.PIPE, text=True) as service:
        try:
            eventually(lambda: listens(env["SANDBOX_LISTEN"]) or service.poll() is not None, within=30)
            assert service.poll() is None, service.stderr and service.stderr.read()
            eventually(
                lambda: subprocess.run(probe, env=env, cwd=ground, capture_output=True).returncode == 0, within=30
            )
        finally:
            service.terminate()
            service.wait(30 * PATIENCE)
    assert subprocess.run(probe, env=env, cwd=ground, capture_output=True).returncode == 1


def listens(address: str) -> bool:
    """Returns whether a probe, which takes half a second, can be answered yet."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()
        return True
    return False


def asked_as_by_the_kubelet(address: str) -> str:
    """What the kubelet's gRPC probe finds: it speaks plaintext and sends no token (pkg/probe/grpc/grpc.go)."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3 * PATIENCE)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.find(46)
@pytest.mark.parametrize("tls", some([True, False], 1))
def test_the_grpc_probe_of_the_kubelet_works_in_plaintext_alone_and_the_others_always(
    make_service: Callable[..., Service], tmp_path: Path, tls: bool
) -> None:
    chain, key = certificate(tmp_path, "served")
    tokens = tmp_path / "tenants.json"
    tokens.write_text(json.dumps({"tenants": [{"name": "a", "namespaces": ["a"], "tokens": ["a-token-that-is-long"]}]}))
    pages = f"127.0.0.1:{free_port()}"
    env = {"SANDBOX_TOKEN_FILE": str(tokens), "SANDBOX_METRICS_LISTEN": pages}
    env |= {"SANDBOX_TLS_CERT": str(chain), "SANDBOX_TLS_KEY": str(key)} if tls else {}
    service = make_service(env=env).start(wait=False)
    asked = {**os.environ, **env, "SANDBOX_LISTEN": service.address}
    eventually(lambda: programs.run(*HEALTH, env=asked).returncode == 0, within=30)
    assert asked_as_by_the_kubelet(service.address) == ("UNAVAILABLE" if tls else "SERVING")
    for path, told in (("healthz", "ok\n"), ("readyz", "SERVING\n")):
        with urllib.request.urlopen(f"http://{pages}/{path}", timeout=5 * PATIENCE) as answer:
            assert (answer.status, answer.read().decode()) == (200, told)


@pytest.mark.fault(71)
@pytest.mark.find(24)
@pytest.mark.parametrize(
    "name", ["tls.key", *(pytest.param(one, marks=pytest.mark.slow) for one in ("env.keys", "tenants.json", "tls.crt"))]
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that another user may not read")
@pytest.mark.slow
def test_a_file_that_the_service_may_not_read_is_named_with_what_to_do(ground: Path, name: str) -> None:
    env = environment(ground, 0o444)
    (ground / "secret" / name).chmod(0o400)
    command = [*image_run.command(USER), str(BIN / "sandbox-server")]
    done = subprocess.run(command, env=env, cwd=ground, capture_output=True, text=True, timeout=30 * PATIENCE)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert re.search(rf"{name}: Permission denied: the service runs as user 1001, group 1001; .*mode 0400", said)
    assert "fsGroup" in said
