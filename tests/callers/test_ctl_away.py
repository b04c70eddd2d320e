"""What `sandboxctl` prints when the service cannot be reached, refuses the call, or expects TLS."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, errors, outage, watch
from sandbox_client.channel import OPTIONS
from sandboxctl import hints, options, reach

from tests.support.certificates import certificate
from tests.support.programs import Program
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE, eventually

TOKEN = "token-of-the-tenant-one"
BRIEF = ("--request-timeout", "2")
"""For a command that fails whatever it waits for."""
GONE = errors.Unavailable("words", grpc.StatusCode.UNAVAILABLE)


def begun(*words: str, **env: str) -> Program:
    pipe = subprocess.PIPE
    return Program("sandboxctl", *words, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env})


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


@pytest.mark.slow
@pytest.mark.parametrize("words", [("watch",), ("create", "-p", "lost", "--ready-path", "/never", "--wait")])
def test_lost_service_is_reported_once_and_the_command_goes_on(
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
                # A snapshot that breaks off is sent again, without the sandboxes that have ended since. This follows it.
                client.stop("before")
                while "STOPPED" not in (line := process.stdout.readline()):
                    assert line
            else:
                assert "ING" in process.stderr.readline()
            service.kill()
            while "not reached" not in (line := process.stderr.readline()):
                assert line
            service.start()
            client.create("lost", sandbox_id="after", spec=SLEEP)
            (made,) = (one for one in client.list() if one.sandbox_id != "after")
            client.delete(made.sandbox_id)
            output, lines = process.stdout if words == ("watch",) else process.stderr, list[str]()
            while "TERMINATED" not in (line := output.readline()):
                assert line
                assert "not reached" not in line
                lines.append(line)
            while words == ("watch",) and "back" not in "".join(lines):
                lines.append(process.stderr.readline())
                assert lines[-1]
            assert [line for line in lines if "back" in line] == ["the service is back\n"]
        finally:
            process.kill()


def test_outage_is_reported_once_and_a_restart_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(outage.time, "monotonic", lambda: now)
    lost: list[float] = []
    back: list[float] = []
    cursor = watch.StatusCursor(
        pb.WatchStatusRequest(), None, lambda _error: lost.append(now), lambda: back.append(now)
    )
    for failures in ((100.0, 101.0, 102.9), (103.5, 105.0, 106.5, 107.0, 200.0), (300.0, 301.0, 304.0)):
        for at in failures:
            now = at
            cursor.failed(GONE)
        cursor.take(pb.WatchStatusResponse())
    assert lost == [106.5, 304.0]
    assert back == [200.0, 304.0]


@pytest.mark.slow
def test_each_refusal_has_a_hint_that_fits_and_grpc_says_nothing_itself(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path, "ctl")
    tls = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", tenant(tmp_path, "first"))
    secure = make_service(*tls).start(wait=False)
    plain = make_service().start()
    eventually(lambda: listens(secure.port), within=60)
    # All at once, since each tries for the whole time.
    asked = {
        "--ca-file": begun("--server", secure.address, "--tls", "list", *BRIEF),
        "leave --tls out": begun("--server", plain.address, "--ca-file", str(chain), "list", *BRIEF),
        "if it speaks TLS": begun("--server", secure.address, "list", *BRIEF),
        "--token-file, or": begun("--server", secure.address, "--ca-file", str(chain), "list"),
    }
    for hint, process in asked.items():
        out, said = process.communicate(timeout=60 * PATIENCE)
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


@pytest.mark.slow
def test_the_library_leaves_grpc_as_it_is() -> None:
    code = "import os, sandbox_client; print(os.environ.get('GRPC_VERBOSITY'))"
    env = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


@pytest.mark.slow
def test_a_list_over_several_namespaces_says_which(make_service: Callable[..., Service], tmp_path: Path) -> None:
    service = make_service("--token-file", tenant(tmp_path, "first", "second")).start(wait=False)
    with service.client(token=TOKEN) as client:
        client.create("demo", sandbox_id="same", namespace="first", spec=SLEEP)

        (tmp_path / "token").write_text(TOKEN)

        def rows() -> list[list[str]]:
            # The file that is named comes before a token that is in the environment for another service.
            words = ("--server", service.address, "--token-file", str(tmp_path / "token"), "list")
            out, said = begun(*words, SANDBOX_TOKEN="another").communicate(timeout=60 * PATIENCE)
            assert said == ""
            return [one.split()[:2] for one in out.splitlines()]

        assert rows() == [["ID", "PROJECT"], ["same", "demo"]]
        client.create("demo", sandbox_id="same", namespace="second", spec=SLEEP)
        assert rows() == [["NAMESPACE", "ID"], ["first", "same"], ["second", "same"]]


@pytest.mark.find(42)
@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("http://127.0.0.1:1", "leave http:// out"),
        ("https://canary@h:1/", "leave https:// out; TLS is an option of its own"),
        ("grpc://127.0.0.1:1", "leave grpc:// out"),
        ("127.0.0.1:1/", "leave out the /"),
        ("canary.example:1/path", "leave out the /"),
        ("127.0.0.1", "no port"),
        ("canary.example", "no port"),
        ("[::1]", "no port"),
        ("::1:50051", "in brackets"),
        (":50051", "its host"),
        ("127.0.0.1:", "its port"),
        ("127.0.0.1:0", "its port"),
        ("127.0.0.1:65536", "its port"),
        ("127.0.0.1:grpc", "its port"),
        ("canary@127.0.0.1:1", "no user"),
        ("127.0.0.1:1 ", "white space"),
        ("", "empty"),
        ("HTTP://127.0.0.1:1", "leave HTTP:// out"),
        ("a..b:1", "its host"),
        (f"{'a' * 64}.example:1", "its host"),
        (f"{'a.' * 127}example:1", "its host"),
        ("h\u00f6st.example:1", "its host"),
        ("*:1", "its host"),
        ("[canary]:1", "its host"),
        ("[127.0.0.1]:1", "its host"),
        ("127.0.0.1:\uff11", "its port"),
        ("unix:", "nothing follows unix:"),
        ("dns:///", "nothing follows dns:"),
        ("xds: ", "nothing follows xds:"),
    ],
)
def test_what_is_no_address_is_refused_at_once(server: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape("the server's address must be HOST:PORT")) as refused:
        Client(server)
    assert said in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.find(42)
@pytest.mark.parametrize(
    "server",
    [
        *("127.0.0.1:1", "h-1.example:65535", "h.example.:1", "a_b:1", f"{'a' * 63}:1", "LOCALHOST:1", "[::1]:50051"),
        *("[fe80::1%eth0]:1", "[::ffff:127.0.0.1]:1", "unix:/a/b", "unix:a", "unix-abstract:a"),
        *("dns:///h:1", "dns:h:1", "dns://127.0.0.1/h:1", "ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:1"),
    ],
)
def test_every_form_of_an_address_is_taken(server: str) -> None:
    Client(server).close()


@pytest.mark.find(42)
@pytest.mark.slow
async def test_both_clients_and_the_command_refuse_what_is_no_address() -> None:
    with pytest.raises(ValueError, match="leave http:// out"):
        AsyncClient("http://127.0.0.1:1")
    began = time.monotonic()
    out, said = begun("--server", "http://127.0.0.1:1", "list").communicate(timeout=60 * PATIENCE)
    # The start of the interpreter, on a machine that has other things to do.
    assert time.monotonic() - began < options.REQUEST_TIMEOUT
    assert (out, said.startswith("error: the server's address must be")) == ("", True)


@pytest.mark.find(42)
@pytest.mark.slow
def test_a_name_with_several_addresses_gets_the_hint_of_what_is_there(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path, "ctl")
    secure = make_service("--tls-cert", str(chain), "--tls-key", str(key)).start(wait=False)
    eventually(lambda: listens(secure.port), within=60)
    error = errors.Unavailable("last error: ipv6:[::1]:1: Connection refused", grpc.StatusCode.UNAVAILABLE)
    found = reach.look(f"localhost:{secure.port}")
    assert found is reach.Found.TLS
    assert "give --tls" in hints.hint(error, found)
    assert "--ca-file" in hints.hint(error, found, secure=True)
    with begun("--server", f"localhost:{secure.port}", "list", *BRIEF) as process:
        _, said = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 5
    assert "give --tls" in said
    assert "make run" not in said

    plain = make_service().start()
    found = reach.look(f"localhost:{plain.port}")
    assert found is reach.Found.PLAIN
    assert "leave --tls out" in hints.hint(error, found, secure=True)
    assert hints.hint(error, found) == hints.NOT_REACHED


@pytest.mark.find(42)
@pytest.mark.parametrize("form", ["ipv4:127.0.0.1:{}", "dns:///localhost:{}", "dns:127.0.0.1:{}", "LOCALHOST:{}"])
def test_every_form_of_an_address_is_looked_at(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        assert reach.look(address) is reach.Found.SILENT
    assert reach.look(address) is reach.Found.NOTHING


@pytest.mark.find(42)
@pytest.mark.parametrize("form", ["unix:{}", "unix://{}", "unix-abstract:{}"])
def test_a_socket_is_looked_at(form: str, tmp_path: Path) -> None:
    address = form.format(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{tmp_path}/s" if form.startswith("unix-abstract") else str(tmp_path / "s"))
        server.listen()
        assert reach.look(address) is reach.Found.SILENT
    assert reach.look(address) is reach.Found.NOTHING


@pytest.mark.find(42)
def test_address_that_only_grpc_can_resolve_is_reported_as_not_answering() -> None:
    assert reach.look("xds:///h") is reach.Found.UNKNOWN
    said = threading.Event()
    with reach.patiently("xds:///h", said.set):
        assert said.wait(timeout=reach.LONG + 10)


def full(server: socket.socket) -> list[socket.socket]:
    """Fills a server's queue: later connections get no answer, as if a firewall dropped them."""
    waiting = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(server.getsockname())
        waiting.append(one)
    return waiting


@pytest.mark.slow
@pytest.mark.find(42)
@pytest.mark.parametrize(
    ("there", "words", "seconds"),
    [
        ("refuses", (), options.REQUEST_TIMEOUT),
        ("drops", ("--request-timeout", "9.5"), 9.5),
        ("silent", ("--request-timeout", "9.5"), 9.5),
    ],
)
def test_unreachable_address_is_reported_soon_and_while_trying(
    there: str, words: tuple[str, ...], seconds: float
) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if there == "drops" else 9))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if there == "refuses":
            server.close()
        if there == "drops":
            for one in full(server):
                stack.enter_context(one)
        began = time.monotonic()
        process = stack.enter_context(begun("--server", address, "list", *words))
        assert process.stderr is not None
        assert process.stderr.readline() == (
            f"nothing answers at {address} yet: trying for {seconds:g} s in all (Ctrl-C ends this)\n"
        )
        assert time.monotonic() - began < seconds
        _, said = process.communicate(timeout=60 * PATIENCE)
        assert process.returncode == 5
        assert (hints.SILENT if there == "silent" else hints.NOT_REACHED) in said
        assert seconds < time.monotonic() - began < seconds + 20


@pytest.mark.find(42)
def test_a_library_call_to_what_answers_nothing_fails_before_its_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.getsockname()[1]}", OPTIONS)
        with channel, pytest.raises(grpc.RpcError) as failed:
            began = time.monotonic()
            channel.unary_unary("/x/y")(b"", timeout=30 * PATIENCE)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert time.monotonic() - began < 15 * PATIENCE
