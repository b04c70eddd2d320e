"""The programs of execs in each shell that may be /bin/sh of an image: dash, bash and busybox, where they are installed."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_server.access import scripts
from sandbox_server.domain.execs import Start

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


class Shell:
    """Runs the programs with the directory of execs in a folder of the test."""

    def __init__(self, name: str, folder: Path) -> None:
        program, *words = SHELLS[name]
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"{name} is not installed")
        self._words = [found, *words, *scripts.BOOTSTRAP[1:]]
        self._path = "/usr/bin:/bin"
        if name == "busybox":
            # Its own tools, as in an image that has no others.
            self._path = str(folder / "tools")
            (folder / "tools").mkdir()
            for tool in subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split():
                (folder / "tools" / tool).symlink_to(found)
        self.folder = folder / "execs"
        self.env: dict[str, str] = {}

    def _open(self) -> "subprocess.Popen[bytes]":
        env = {"PATH": self._path, "SANDBOX_ACCESS": str(self.folder), **self.env}
        pipe = subprocess.PIPE
        return subprocess.Popen(self._words, stdin=pipe, stdout=pipe, env=env, start_new_session=True)

    def start(self, exec_id: str, *command: str, stdin: bool = False, timeout: int = 0) -> bytes:
        """What the start answers. The program is then killed, as by a connection that closes."""
        with self._open() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(scripts.start(exec_id, "payload", Start(command, stdin=stdin, timeout_seconds=timeout)))
            process.stdin.flush()
            answer = process.stdout.readline()
            process.kill()
        return answer

    def talk(self, exec_id: str, *questions: bytes) -> list[bytes]:
        """The lines that answer questions."""
        with self._open() as process:
            answer, _ = process.communicate(scripts.talk(exec_id) + b"".join(questions), timeout=30)
        return answer.splitlines()

    def ended(self, exec_id: str) -> list[bytes]:
        """The words of its state once it has ended."""
        until = time.monotonic() + 60
        while True:
            words = self.talk(exec_id, b"state\n")[1].split()
            if words[-1] != b"-":
                return words
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(request.param, tmp_path)
    yield made
    for pid in made.folder.glob("*/pid"):
        if not pid.with_name("exit").exists():
            subprocess.run(["/bin/kill", "-KILL", "--", f"-{pid.read_text().strip()}"], check=False)


def test_command_prints_and_exits_and_starts_once(shell: Shell) -> None:
    assert shell.start("a", "sh", "-c", "echo out; echo err >&2; exit 3") == b"started\n"
    assert shell.start("a", "false") == b"known payload\n"
    assert shell.ended("a") == b"state 0 4 0 4 0 3 exit".split()
    assert shell.talk("a", b"read o 1 9\n", b"read e 0 2\n") == [b"here", b"data 3", b"ut", b"data 2", b"er"]
    assert shell.talk("b") == [b"unknown"]


def test_variables_of_the_sandbox_with_the_names_of_the_programs_own_reach_the_command(shell: Shell) -> None:
    names = ("exported", "n", "s", "l", "d", "f", "p", "at", "id", "base", "here", "code", "group", "stdin", "payload")
    shell.env = {name: f'it\'s "{name}"\nand $more \\' for name in names}
    shell.start("a", "sh", "-c", "; ".join(f'printf "%s|" "${name}"' for name in names))
    printed = int(shell.ended("a")[2])
    lines = shell.talk("a", b"read o 0 %d\n" % printed)
    assert b"\n".join(lines[2:]).decode() == "".join(f"{one}|" for one in shell.env.values())


def test_input_is_taken_by_offset_and_reaches_the_command(shell: Shell) -> None:
    shell.start("a", "cat", stdin=True)
    questions = (b"write 0 6\none\n\0\xff", b"write 0 6\none\n\0\xff", b"write 9 1\nx", b"write 6 1\n.", b"end 7\n")
    assert shell.talk("a", *questions) == [b"here", b"at 6", b"at 6", b"at 6", b"at 7", b"at 7"]
    assert shell.ended("a") == b"state 0 7 0 0 7 0 exit".split()
    assert shell.talk("a", b"read o 0 9\n") == [b"here", b"data 7", b"one", b"\0\xff."]
    assert shell.talk("a", b"write 7 1\nx") == [b"here", b"ended 7"]


@pytest.mark.parametrize(("name", "code"), [("TERM", b"143"), ("INT", b"130"), ("KILL", b"137")])
def test_signal_reaches_the_command(shell: Shell, name: str, code: bytes) -> None:
    shell.start("a", "sleep", "100")
    while shell.talk("a", f"signal {name}\n".encode()) == [b"here", b"starting"]:
        time.sleep(0.01)
    assert shell.ended("a")[-2:] == [code, b"exit"]


def test_command_whose_time_is_over_is_ended(shell: Shell) -> None:
    shell.start("a", "sleep", "100", timeout=1)
    assert shell.ended("a")[-2:] == [b"143", b"timeout"]


def test_no_more_output_is_kept_than_the_ring_has(shell: Shell) -> None:
    size = 14_000_000
    shell.start("a", "sh", "-c", f"head -c {size} /dev/zero")
    _, kept, printed, *_ = shell.ended("a")
    assert int(printed) == size
    assert scripts.KEPT <= size - int(kept) <= scripts.KEPT + 3 * scripts.SEGMENT
    assert sum(one.stat().st_size for one in (shell.folder / "a").glob("o.*")) == size - int(kept)


def test_ended_execs_make_room_for_new_ones(shell: Shell) -> None:
    shell.folder.mkdir()
    for number in range(scripts.EXECS_MOST):
        (shell.folder / f"old-{number}").mkdir()
        (shell.folder / f"old-{number}" / "payload").touch()
    assert shell.start("a", "true") == b"full\n"
    (shell.folder / "old-7" / "exit").write_text("0 exit\n")
    assert shell.start("a", "true") == b"started\n"
    assert not (shell.folder / "old-7").exists()
    assert len(list(shell.folder.iterdir())) == scripts.EXECS_MOST
