"""What `sandboxctl` says where the service is away, refuses, or is not spoken to as it speaks."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import errors, watch
from sandboxctl import hints

from tests.callers.test_live import SLEEP
from tests.callers.test_tls import TOKEN
from tests.conftest import Service, eventually
from tests.integration.test_security import certificate

CTL = str(Path(sys.executable).parent / "sandboxctl")
GONE = errors.Unavailable("words", grpc.StatusCode.UNAVAILABLE)


def begun(*words: str, **env: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([CTL, *words], stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env})


def tenant(folder: Path, *namespaces: str) -> str:
    file = folder / "tokens.json"
    file.write_text(json.dumps({"tenants": [{"name": "one", "namespaces": namespaces, "tokens": [TOKEN]}]}))
    file.chmod(0o600)
    return str(file)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@pytest.mark.parametrize("words", [("watch",), ("create", "-p", "lost", "--ready-path", "/never", "--wait")])
def test_a_service_that_goes_away_is_told_of_once_and_the_command_goes_on(
    make_service: Callable[..., Service], words: tuple[str, ...]
) -> None:
    service = make_service().start()
    with service.client() as client, begun(*words, SANDBOX_SERVER=service.address) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if words == ("watch",):
                client.create("lost", sandbox_id="before", spec=SLEEP)
                assert "before" in process.stdout.readline()
                # A snapshot that is broken off is taken anew, without who ended meanwhile: this comes after it.
                client.stop("before")
                while "STOPPED" not in (told := process.stdout.readline()):
                    assert told
            else:
                assert "ING" in process.stderr.readline()
            service.kill()
            while "not reached" not in (told := process.stderr.readline()):
                assert told
            service.start()
            client.create("lost", sandbox_id="after", spec=SLEEP)
            (made,) = (one for one in client.list() if one.sandbox_id != "after")
            client.delete(made.sandbox_id)
            heard = process.stdout if words == ("watch",) else process.stderr
            while "TERMINATED" not in (told := heard.readline()):
                assert told
                assert "not reached" not in told
        finally:
            process.kill()


def test_an_outage_is_told_of_once_and_a_restart_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    told: list[float] = []
    cursor = watch.Cursor(pb.WatchStatusRequest(), None, lambda _error: told.append(now))
    for failures in ((100.0, 101.0, 102.9), (103.5, 105.0, 106.5, 107.0, 200.0), (300.0, 301.0, 304.0)):
        for at in failures:
            now = at
            cursor.failed(GONE)
        cursor.take(pb.WatchStatusResponse())
    assert told == [106.5, 304.0]


def test_each_refusal_has_a_hint_that_fits_and_grpc_says_nothing_itself(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path, "ctl")
    tls = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", tenant(tmp_path, "first"))
    secure = make_service(*tls).start(wait=False)
    plain = make_service().start()
    eventually(lambda: listens(secure.port), within=60)
    # All at once, since each tries for as long as a restart may take.
    asked = {
        "--ca-file": begun("--server", secure.address, "--tls", "list"),
        "leave --tls out": begun("--server", plain.address, "--ca-file", str(chain), "list"),
        "if it speaks TLS": begun("--server", secure.address, "list"),
        "--token-file, or": begun("--server", secure.address, "--ca-file", str(chain), "list"),
    }
    for hint, process in asked.items():
        out, said = process.communicate(timeout=60)
        error, last = said.splitlines()
        assert (process.returncode, out, error.startswith("error: ")) == (5, "", True)
        assert hint in last, said
        assert "make run" not in said
    assert "SANDBOX_TOKEN" in last


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE, "NO_FREE_PORT"), ""),
        (errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"), ""),
        (errors.Unavailable("Connection refused", grpc.StatusCode.UNAVAILABLE), hints.NOT_REACHED),
        (errors.FailedPrecondition("x", grpc.StatusCode.FAILED_PRECONDITION, "VOLUME_KEPT"), "--adopt-volume"),
        (errors.NotFound("x", grpc.StatusCode.NOT_FOUND, "SANDBOX_NOT_FOUND"), "sandboxctl list"),
    ],
)
def test_only_a_service_that_is_not_reached_is_asked_for(error: errors.ServiceError, said: str) -> None:
    assert said in hints.hint(error)
    assert bool(hints.hint(error)) is bool(said)


def test_the_library_leaves_grpc_as_it_is() -> None:
    code = "import os, sandbox_client; print(os.environ.get('GRPC_VERBOSITY'))"
    env = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_a_list_over_several_namespaces_says_which(make_service: Callable[..., Service], tmp_path: Path) -> None:
    service = make_service("--token-file", tenant(tmp_path, "first", "second")).start(wait=False)
    with service.client(token=TOKEN) as client:
        client.create("demo", sandbox_id="same", namespace="first", spec=SLEEP)

        (tmp_path / "token").write_text(TOKEN)

        def rows() -> list[list[str]]:
            # The file that is named comes before a token that is in the environment for another service.
            words = ("--server", service.address, "--token-file", str(tmp_path / "token"), "list")
            out, said = begun(*words, SANDBOX_TOKEN="another").communicate(timeout=60)
            assert said == ""
            return [one.split()[:2] for one in out.splitlines()]

        assert rows() == [["ID", "PROJECT"], ["same", "demo"]]
        client.create("demo", sandbox_id="same", namespace="second", spec=SLEEP)
        assert rows() == [["NAMESPACE", "ID"], ["first", "same"], ["second", "same"]]
