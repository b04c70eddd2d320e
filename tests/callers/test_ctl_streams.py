"""`sandboxctl` with standard streams that are closed, arguments that are no text, and Ctrl-C in each command."""

import os
import pty
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client

from tests.support import programs
from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE

CTL = str(programs.BIN / "sandboxctl")
SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])
NAME = "streams"


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[str]:
    with service.client() as client:
        yield client.create("streams", sandbox_id=NAME, spec=SLEEP).sandbox_id
        client.delete(NAME)


def shell(service: Service, line: str) -> "subprocess.CompletedProcess[bytes]":
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.quote(CTL)} {line}"], capture_output=True, env=env, timeout=60 * PATIENCE
    )


@pytest.mark.find(44)
@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param("delete never-was <&-", 3, marks=pytest.mark.slow),
        ("delete never-was 0<&- 1>&- 2>&-", 3),
        pytest.param(f"status {NAME} >&-", 0, marks=pytest.mark.slow),
        pytest.param(f"-o json get {NAME} 1>&- 2>&-", 0, marks=pytest.mark.slow),
        pytest.param("list -p nobody 2>&-", 0, marks=pytest.mark.slow),
        (f"env set {NAME} --env-file - <&-", 1),
    ],
)
@pytest.mark.slow
def test_a_closed_stream_ends_no_command(service: Service, sandbox: str, line: str, code: int) -> None:
    done = shell(service, line)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.find(44)
@pytest.mark.slow
def test_a_watch_without_an_output_goes_on(service: Service, sandbox: str) -> None:
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    words = ["/bin/sh", "-c", f"exec {shlex.quote(CTL)} watch {NAME} >&-"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=env) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=4)
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.find(43)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("status $(printf '\\377')", b"an argument is not UTF-8 text"),
        pytest.param("create -p demo -- $(printf 'a\\377')", b"an argument is not UTF-8 text", marks=pytest.mark.slow),
        (f"env set {NAME} A=$(printf 'canary\\377')", b"A is not UTF-8 text"),
        pytest.param(f"env set {NAME} OF_SHELL", b"OF_SHELL is not UTF-8 text", marks=pytest.mark.slow),
        pytest.param(f"env set {NAME} ''", b"'' is not in this shell's environment", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_what_is_no_text_is_refused_by_name(
    service: Service, sandbox: str, line: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"OF_SHELL", b"canary\xff")
    done = shell(service, line)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert b"canary" not in done.stdout + done.stderr


@pytest.mark.find(44)
@pytest.mark.slow
def test_an_id_that_would_move_the_cursor_is_shown_without_that(service: Service) -> None:
    done = shell(service, "watch $(printf 'a\\033[31mb\\001')")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr


@pytest.mark.find(44)
@pytest.mark.slow
def test_each_failure_of_several_names_its_sandbox(service: Service) -> None:
    done = shell(service, "delete never-was 'BAD ID' ''")
    said = done.stderr.decode().splitlines()
    assert (done.returncode, said[0]) == (2, "nothing was deleted")
    errors = [one for one in said if one.startswith("error: ")]
    assert errors == [
        "error: there is no sandbox 'never-was': check its id and namespace",
        "error: 'BAD ID': these fields are wrong",
        "error: '': these fields are wrong",
    ]


@pytest.mark.find(44)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("delete", NAME), "[y/N] "),
        pytest.param(("env", "set", NAME, "--env-file", "-"), "", marks=pytest.mark.slow),
        (("watch",), NAME),
        (("create", "-p", "c", "--id", "c-waits", "--ready-path", "/", "--wait", "--", "/bin/sleep", "9"), "STARTING"),
        pytest.param(("--server", "127.0.0.1:1", "list"), "nothing answers", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_each_command_in_its_words(
    service: Service, sandbox: str, words: tuple[str, ...], told: str, client: Client
) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    try:
        process = Program("sandboxctl", *words, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    finally:
        os.close(theirs)
    said = b""

    def read() -> None:
        nonlocal said
        try:
            while more := os.read(ours, 4096):
                said += more
        except OSError:
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        end = time.monotonic() + 30
        while told.encode() not in said or not told:
            assert time.monotonic() < end, said
            time.sleep(0.05)
            if not told and time.monotonic() > end - 26:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30 * PATIENCE) == 130
        reader.join(timeout=30 * PATIENCE)
        assert b"Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
