"""`sandboxctl exec` and its like, on pipes and on a terminal, against the live service."""

import contextlib
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sandbox_client import Client

from tests.support import ctl, programs
from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

NAME = "e-1"
Done = subprocess.CompletedProcess[bytes]
Execute = Callable[..., Done]


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[str]:
    with service.client() as client:
        made = client.create("exec", sandbox_id=NAME, command=["sleep", "1000"])
        client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
        yield NAME
        client.delete(NAME)


@pytest.fixture
def env(service: Service) -> dict[str, str]:
    return {**os.environ, "SANDBOX_SERVER": service.address, "COLUMNS": "200"}


@pytest.fixture
def execute(sandbox: str, env: dict[str, str]) -> Execute:
    def execute(*words: str, **options: Any) -> Done:
        return programs.run("sandboxctl", *words, env=env, text=False, **{"input": b"", **options})

    return execute


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("printf out; printf err >&2; exit 7", 7, b"out", b"err"),
        ("kill -KILL $$", 137, b"", b""),
        (r"printf '\000\377\r\n\033[0m'", 0, b"\0\xff\r\n\x1b[0m", b""),
        ("exit 3", 3, b"", b""),
    ],
)
@pytest.mark.slow
def test_output_and_exit_code_are_passed_on(execute: Execute, script: str, code: int, out: bytes, err: bytes) -> None:
    done = execute("exec", NAME, "--", "/bin/sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.slow
def test_input_is_passed_on_byte_by_byte(execute: Execute) -> None:
    data = bytes(range(256)) * 9000
    done = execute("exec", NAME, "--", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True)


@pytest.mark.slow
def test_output_that_is_missing_in_a_pipe_is_a_failure(execute: Execute, client: Client) -> None:
    started = client.exec(NAME, ["head", "-c", "30000000", "/dev/zero"])
    assert started.wait().code == 0
    done = execute("attach", NAME, started.id)
    assert (done.returncode, b"bytes of stdout are missing here" in done.stderr) == (1, True)
    assert len(done.stdout) < 30_000_000


@pytest.mark.slow
def test_pipes_work_both_ways(service: Service, sandbox: str, env: dict[str, str]) -> None:
    line = f"seq 20000 | {programs.BIN}/sandboxctl exec {NAME} -- sort -n -r | head -2"
    done = subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, timeout=60 * PATIENCE)
    assert (done.stdout, done.stderr) == (b"20000\n19999\n", b"")


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command(
    sandbox: str, env: dict[str, str], client: Client, execute: Execute
) -> None:
    script = "while :; do echo y; sleep 0.05; done"
    line = f"{{ {programs.BIN}/sandboxctl exec {NAME} -- sh -c '{script}'; echo $? >&2; }} | head -1"
    done = subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, timeout=60 * PATIENCE)
    assert (done.stdout, done.stderr) == (b"y\n", b"141\n")
    eventually(lambda: all(one.HasField("exited") for one in client.execs(NAME)))


@pytest.mark.slow
def test_variables_directory_and_time_limit(execute: Execute) -> None:
    words = ("--env", "COLOUR=blue", "--cwd", "/usr", "--time-limit", "1")
    done = execute("exec", NAME, *words, "--", "/bin/sh", "-c", "echo $COLOUR; pwd; exec sleep 60")
    assert (done.returncode, done.stdout) == (143, b"blue\n/usr\n")
    assert b"TIMEOUT" in done.stderr


@pytest.mark.slow
def test_a_detached_command_is_listed_attached_to_and_signalled(execute: Execute) -> None:
    started = execute("exec", "-d", NAME, "--", "/bin/sh", "-c", "echo hello; exec sleep 100").stdout.decode().strip()
    rows = {line.split()[0]: line.split()[1:] for line in execute("execs", NAME).stdout.decode().splitlines()}
    assert rows[started] == ["RUNNING", "-", "-"]
    assert started in execute("execs", NAME, "-o", "name").stdout.decode().split()
    assert execute("signal", NAME, started, "SIGTERM").returncode == 0
    attached = execute("attach", NAME, started)
    assert (attached.returncode, attached.stdout) == (143, b"hello\n")
    rows = {line.split()[0]: line.split()[1:] for line in execute("execs", NAME).stdout.decode().splitlines()}
    assert rows[started] == ["EXITED", "143", "SIGNAL"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("exec", "never-was", "--", "true"), 3, b"sandboxctl list"),
        (("exec", NAME), 2, b"COMMAND"),
        (("exec", NAME, "--", "no-such-program"), 127, b""),
        (("attach", NAME, "x1"), 3, b"sandboxctl execs"),
        (("signal", NAME, "x1"), 3, b"sandboxctl execs"),
    ],
)
def test_failures_say_what_to_do(execute: Execute, words: tuple[str, ...], code: int, said: bytes) -> None:
    done = execute(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_a_sandbox_that_does_not_run_is_said(execute: Execute, client: Client) -> None:
    client.create("exec", sandbox_id="e-2", command=["sleep", "1000"])
    client.wait_until(client.stop("e-2"), "STOPPED", timeout=30 * PATIENCE)
    done = execute("exec", "e-2", "--", "true")
    assert (done.returncode, b"sandboxctl start" in done.stderr) == (1, True)
    client.delete("e-2")


@pytest.mark.slow
def test_the_end_of_the_sandbox_ends_the_command(execute: Execute, client: Client, env: dict[str, str]) -> None:
    client.create("exec", sandbox_id="e-3", command=["sleep", "1000"])
    client.wait_until("e-3", "RUNNING", timeout=30 * PATIENCE)
    words = ("exec", "e-3", "--", "/bin/sh", "-c", "echo up; exec sleep 100")
    with Program("sandboxctl", *words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        client.stop("e-3")
        assert process.wait(timeout=30 * PATIENCE) == 1
        assert b"SANDBOX_STOPPED" in process.stderr.read()
    client.delete("e-3")


@pytest.mark.slow
def test_the_first_ctrl_c_is_for_the_command_and_the_second_leaves_it(
    execute: Execute, env: dict[str, str], client: Client
) -> None:
    script = "trap 'echo caught' INT; echo up; while :; do sleep 0.1; done"
    words = ("exec", NAME, "--", "/bin/sh", "-c", script)
    with Program("sandboxctl", *words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"caught\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30 * PATIENCE) == 130
        said = process.stderr.read().decode()
    assert f"`sandboxctl attach {NAME} " in said
    left = said.split()[said.split().index(NAME) + 1].strip("`")
    assert client.attach(NAME, left).get().HasField("exited") is False
    client.attach(NAME, left).signal("KILL")


@pytest.mark.slow
def test_ctrl_c_ends_a_command_that_does_not_catch_it(execute: Execute, env: dict[str, str]) -> None:
    words = ("exec", NAME, "--", "/bin/sh", "-c", "echo up; exec sleep 100")
    with Program("sandboxctl", *words, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30 * PATIENCE) == 130


@pytest.mark.parametrize(("option", "answer"), [((), b"0"), (("-i",), b"typed")])
@pytest.mark.slow
def test_a_terminal_is_passed_on_if_asked_to(
    execute: Execute, env: dict[str, str], option: tuple[str, ...], answer: bytes
) -> None:
    ours, theirs = pty.openpty()
    script = "read line && echo $line || echo 0"
    words = ("exec", *option, NAME, "--", "/bin/sh", "-c", script)
    try:
        with Program("sandboxctl", *words, env=env, stdin=theirs, stdout=subprocess.PIPE) as process:
            os.write(ours, b"typed\n")
            assert process.wait(timeout=30 * PATIENCE) == 0
            assert process.stdout.read().strip() == answer
    finally:
        os.close(theirs)
        os.close(ours)


class Person:
    """Somebody at a terminal."""

    def __init__(self, *words: str, env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (30, 90))
        self.process = Program("sandboxctl", *words, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        self._theirs = theirs
        self.seen = b""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while more := os.read(self._ours, 4096):
                self.seen += more

    def type(self, keys: bytes, answer: bytes) -> None:
        os.write(self._ours, keys)
        self.sees(answer)

    def sees(self, answer: bytes) -> None:
        try:
            eventually(lambda: answer in self.seen, within=20)
        except AssertionError:
            raise AssertionError(self.seen) from None
        self.seen = self.seen.partition(answer)[2]

    def resize(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self._theirs, (rows, cols))
        # The kernel tells only a process whose controlling terminal it is.
        self.process.send_signal(signal.SIGWINCH)

    def leave(self) -> int:
        try:
            return self.process.wait(timeout=30 * PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._theirs)
            self._reading.join(5)
            os.close(self._ours)


@pytest.mark.slow
def test_shell_is_a_terminal_with_resize_and_ctrl_c(execute: Execute, env: dict[str, str]) -> None:
    person = Person("shell", NAME, env=env)
    before = termios.tcgetattr(person._theirs)
    person.type(b"echo $((6*7)) $TERM\r", b"42 " + os.environb.get(b"TERM", b"xterm"))
    person.type(b"stty size\r", b"30 90")
    person.resize(40, 100)
    person.type(b"until stty size | grep '^40 100'; do sleep 0.1; done\r", b"40 100\r\n")
    person.type(b"sh -c \"echo be''gun; exec sleep 100\"\r", b"begun")
    person.type(b"\x03", b"^C")
    person.type(b"echo a~.b | tr a-z A-Z\r", b"A~.B")
    os.write(person._ours, b"exit 5\r")
    eventually(lambda: person.process.poll() is not None)
    assert termios.tcgetattr(person._theirs) == before
    assert person.leave() == 5


@pytest.mark.slow
def test_the_escape_leaves_a_terminal(execute: Execute, env: dict[str, str], client: Client) -> None:
    person = Person("exec", "-it", NAME, "--", "sh", "-c", "echo up; exec cat", env=env)
    person.sees(b"up")
    person.type(b"one\r~", b"one")
    person.type(b".", b"sandboxctl attach")
    assert person.leave() == 130
    for one in client.execs(NAME):
        client.attach(NAME, one.exec_id).signal("KILL")


@pytest.mark.slow
def test_a_terminal_needs_a_terminal(execute: Execute) -> None:
    done = execute("shell", NAME)
    assert (done.returncode, b"terminal" in done.stderr) == (2, True)


@pytest.mark.slow
def test_it_outlives_a_kill_of_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with service.client() as client:
        client.create("exec", sandbox_id="e-4", command=["sleep", "1000"])
        client.wait_until("e-4", "RUNNING", timeout=30 * PATIENCE)
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done; read line; echo $line"
    words = ("exec", "e-4", "--", "/bin/sh", "-c", script)
    pipe = subprocess.PIPE
    with Program("sandboxctl", *words, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"1\n"
        service.kill()
        threading.Timer(1, service.start).start()
        process.stdin.write(b"after\n")
        process.stdin.close()
        assert process.wait(timeout=60 * PATIENCE) == 0
        assert process.stdout.read() == b"2\n3\n4\n5\n6\n7\n8\nafter\n"
        assert b"Traceback" not in process.stderr.read()


def test_exec_ids_are_completed(run: ctl.Run, sandbox: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    started = client.exec(NAME, ["true"])
    monkeypatch.setenv("_SANDBOXCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"sandboxctl attach {NAME} x")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert started.id in run().out.split()
    monkeypatch.setenv("COMP_WORDS", "sandboxctl exec e")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert NAME in run().out.split()
