"""The programs of execs in each shell that may be /bin/sh of an image: dash, bash and busybox, where they are installed."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_server.access import follow_script, scripts, talk_script
from sandbox_server.domain.execs import Start, Terminal

from tests.support.variants import some
from tests.support.waiting import PATIENCE

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

    def only(self, *tools: Path) -> None:
        """Leaves nothing in the search path but these tools, and those that the programs need."""
        folder = self.folder.with_name("few")
        folder.mkdir()
        names = (
            "sh",
            "cat",
            "dd",
            "head",
            "ls",
            "mkdir",
            "mkfifo",
            "mv",
            "rm",
            "setsid",
            "sleep",
            "stty",
            "tail",
            "tty",
            "wc",
        )
        needed = [shutil.which(name, path=f"{self._path}:/usr/bin:/bin") for name in names]
        for tool in (*tools, *map(Path, filter(None, needed))):
            (folder / tool.name).symlink_to(tool)
        self._path = str(folder)

    def start(
        self, exec_id: str, *command: str, stdin: bool = False, timeout: int = 0, terminal: Terminal | None = None
    ) -> bytes:
        """What the start answers. The program is then killed, as by a connection that closes."""
        asked = Start(command, stdin=stdin, timeout_seconds=timeout, terminal=terminal)
        with self._open() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(scripts.start(exec_id, "payload", asked))
            process.stdin.flush()
            answer = process.stdout.readline()
            process.kill()
        return answer

    def cut(self, script: bytes, after: float) -> None:
        """Runs a script whose connection closes after so many seconds, which kills it."""
        with self._open() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(script)
            process.stdin.flush()
            time.sleep(after)
            process.stdout.close()
            process.kill()

    def talk(self, exec_id: str, *questions: bytes) -> list[bytes]:
        """The lines that answer questions."""
        return self._said(talk_script.talk(exec_id) + b"".join(questions)).splitlines()

    def _said(self, script: bytes) -> bytes:
        with self._open() as process:
            answer, _ = process.communicate(script, timeout=30 * PATIENCE)
        return answer

    def follow(
        self, exec_id: str, out: int | None = 0, err: int | None = None
    ) -> tuple[list[tuple[bytes, int]], bytes]:
        """The channels and offsets of what was printed so far, and the bytes."""
        found, data = [], b""
        here, _state, rest = self._said(follow_script.follow(exec_id, out, err)).split(b"\n", 2)
        assert here == b"here"
        while rest[:2] in (b"o ", b"e "):
            line, _, rest = rest.partition(b"\n")
            channel, offset, size = line.split()
            found.append((channel, int(offset)))
            data, rest = data + rest[: int(size)], rest[int(size) :]
        return found, data

    def ended(self, exec_id: str) -> list[bytes]:
        """The words of its state once it has ended."""
        until = time.monotonic() + 30 * PATIENCE
        while True:
            words = self.talk(exec_id, b"state\n")[1].split()
            if words[-1] != b"-":
                return words
            assert time.monotonic() < until
            time.sleep(0.05)

    def printed(self, exec_id: str) -> bytes:
        """What it has printed to stdout."""
        return self.follow(exec_id)[1]

    def prints(self, exec_id: str, text: bytes) -> None:
        """Waits until it has printed the text."""
        until = time.monotonic() + 20 * PATIENCE
        while text not in (printed := self.printed(exec_id)):
            assert time.monotonic() < until, printed
            time.sleep(0.02)


@pytest.fixture(params=some(SHELLS))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(request.param, tmp_path)
    yield made
    for pid in made.folder.glob("*/pid"):
        if not pid.with_name("exit").exists():
            subprocess.run(["/bin/kill", "-KILL", "--", f"-{pid.read_text().strip()}"], check=False)


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_command_prints_and_exits_and_starts_once(shell: Shell) -> None:
    assert shell.start("a", "sh", "-c", "echo out; echo err >&2; exit 3") == b"started\n"
    assert shell.start("a", "false") == b"known payload\n"
    assert shell.ended("a") == b"state 0 4 0 4 0 0 0 3 exit".split()
    assert shell.follow("a", 1, 0) == ([(b"o", 1), (b"e", 0)], b"ut\nerr\n")
    assert shell.follow("a", None, 2) == ([(b"e", 2)], b"r\n")
    assert shell.follow("a", 4) == ([], b"")
    assert shell.talk("b") == [b"unknown"]


@pytest.mark.slow
@pytest.mark.fault(90)
def test_start_that_is_cut_at_any_moment_has_started_the_command_or_nothing(shell: Shell, tmp_path: Path) -> None:
    times = 40
    command = ("/bin/sh", "-c", f"echo ran >>{tmp_path}/runs")
    for step in range(times):
        exec_id = f"x{step}"
        shell.cut(scripts.start(exec_id, "payload", Start(command)), step * 0.0005)
        assert shell.start(exec_id, *command) in (b"started\n", b"known payload\n")
        shell.ended(exec_id)
    assert (tmp_path / "runs").read_text() == "ran\n" * times


@pytest.mark.slow
@pytest.mark.fault(90)
@pytest.mark.parametrize("typed", [b"write 0 5\nhello", b"type 0 5 \\150\\145\\154\\154\\157\n"], ids=["write", "type"])
def test_input_whose_writing_is_cut_at_any_moment_reaches_the_command_once_it_is_written_again(
    shell: Shell, typed: bytes
) -> None:
    for step in range(30):
        exec_id = f"x{step}"
        shell.start(exec_id, "cat", stdin=True)
        shell.cut(talk_script.talk(exec_id) + typed, step * 0.0005)
        if shell.talk(exec_id, typed) == [b"here", b"at 0"]:
            # The offset was taken, and given up.
            assert shell.talk(exec_id, typed) == [b"here", b"at 5"]
        shell.prints(exec_id, b"hello")
        shell.cut(talk_script.talk(exec_id) + b"end 5\n", step * 0.0005)
        assert shell.talk(exec_id, b"end 5\n") == [b"here", b"at 5"]
        shell.ended(exec_id)
        assert shell.printed(exec_id) == b"hello"


def test_variables_of_the_sandbox_with_the_names_of_the_programs_own_reach_the_command(shell: Shell) -> None:
    names = ("exported", "n", "s", "l", "d", "f", "p", "at", "id", "base", "here", "code", "group", "stdin", "payload")
    shell.env = {name: f'it\'s "{name}"\nand $more \\' for name in names}
    shell.start("a", "sh", "-c", "; ".join(f'printf "%s|" "${name}"' for name in names))
    shell.ended("a")
    assert shell.printed("a").decode() == "".join(f"{one}|" for one in shell.env.values())


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_input_is_taken_by_offset_and_reaches_the_command(shell: Shell) -> None:
    shell.start("a", "cat", stdin=True)
    questions = (b"write 0 6\none\n\0\xff", b"write 0 6\none\n\0\xff", b"write 9 1\nx", b"write 6 1\n.", b"end 7\n")
    assert shell.talk("a", *questions) == [b"here", b"at 6", b"at 6", b"at 6", b"at 7", b"at 7"]
    assert shell.ended("a") == b"state 0 7 0 0 7 0 0 0 exit".split()
    assert shell.printed("a") == b"one\n\0\xff."
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


def test_command_that_was_killed_for_want_of_memory_is_told_from_one_that_was_killed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events"
    events.write_text("oom 1\noom_kill 1\noom_group_kill 0\n")
    monkeypatch.setattr(scripts, "MEMORY_EVENTS", str(events))
    shell.start("a", "sh", "-c", "kill -KILL $$")
    assert shell.ended("a")[-2:] == [b"137", b"exit"]
    shell.start("b", "sh", "-c", f"echo oom_kill 2 >{events}; kill -KILL $$")
    assert shell.ended("b")[-2:] == [b"137", b"memory"]


@pytest.mark.slow
def test_no_more_output_is_kept_than_the_ring_has(shell: Shell) -> None:
    size = 14_000_000
    shell.start("a", "sh", "-c", f"head -c {size} /dev/zero")
    _, kept, printed, *_ = shell.ended("a")
    assert int(printed) == size
    assert scripts.KEPT <= size - int(kept) <= scripts.KEPT + 3 * scripts.SEGMENT
    assert sum(one.stat().st_size for one in (shell.folder / "a").glob("o.*")) == size - int(kept)
    found, data = shell.follow("a")
    assert (found[0], len(data)) == ((b"o", int(kept)), size - int(kept))
    found, data = shell.follow("a", 12_345_678)
    assert (found[0], len(data)) == ((b"o", 12_345_678), size - 12_345_678)


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


def test_every_byte_that_is_typed_reaches_the_command(shell: Shell) -> None:
    data = bytes(range(256))
    shell.start("a", "od", "-An", "-v", "-tx1", stdin=True)
    assert shell.talk("a", *(typed(256 * number, data) for number in range(3)), b"end 768\n")[-1] == b"at 768"
    shell.ended("a")
    assert bytes.fromhex(shell.printed("a").decode()) == data * 3


@pytest.mark.slow
def test_input_arrives_though_only_the_first_parts_are_poked(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk_script, "POKED", 20)
    shell.start("a", "sh", "-c", "sleep 0.5; exec wc -c", stdin=True)
    parts = [typed(number, b"x") for number in range(1000)]
    assert shell.talk("a", *parts, b"end 1000\n")[-1] == b"at 1000"
    shell.ended("a")
    assert shell.printed("a").split() == [b"1000"]


def test_counters_never_change_their_length_so_that_none_is_read_as_more_than_it_is(shell: Shell) -> None:
    # A shell reads byte by byte: with 1000 written over 999 in between it would read 9990.
    folder = shell.folder / "a"
    shell.start("a", "cat", stdin=True)
    with shell._open() as follower:
        assert follower.stdin is not None
        follower.stdin.write(follow_script.follow("a", 0, None))
        follower.stdin.flush()
        for offset, size in ((0, 9), (9, 990), (999, 1), (1000, 100)):
            shell.talk("a", typed(offset, b"x" * size))
            shell.prints("a", b"x" * (offset + size))
            counters = [folder / "i.fed", folder / "printed.o", *folder.glob("w/*.o")]
            assert {len(one.read_bytes()) for one in counters} == {16}
        follower.kill()


def typed(offset: int, data: bytes) -> bytes:
    escapes = "".join(f"\\{byte:03o}" for byte in data)
    return f"type {offset} {len(data)} {escapes}\n".encode()


@pytest.fixture(params=["util-linux", "python3", "busybox"])
def terminal(shell: Shell, request: pytest.FixtureRequest) -> Iterator[Shell]:
    """A shell in which that makes the terminal, with the exec `a` that is a shell on it."""
    if request.param == "util-linux":
        shell.only(Path("/usr/bin/script"))
    elif request.param == "python3":
        shell.only(Path("/usr/bin/python3"))
    else:
        busybox = shutil.which("busybox")
        if busybox is None or "script" not in subprocess.check_output([busybox, "--list"], text=True).split():
            pytest.skip("there is no busybox with script")
        shell.only()
        (shell.folder.with_name("few") / "script").symlink_to(busybox)
    shell.env = {"SHELL": "/of/the/sandbox"}
    assert shell.start("a", "sh", "-i", terminal=Terminal(31, 97)) == b"started\n"
    shell.prints("a", b" ")
    yield shell


def test_terminal_has_its_size_and_the_variables_from_the_first_prompt_on(terminal: Shell) -> None:
    terminal.talk("a", typed(0, b"stty size; echo $TERM $SHELL-$SANDBOX_TERMINAL; exit 3\r"))
    assert terminal.ended("a")[-4:] == [b"31", b"97", b"3", b"exit"]
    assert b"exit 3\r\n31 97\r\nxterm-256color /of/the/sandbox-\r\n" in terminal.printed("a")


def test_typed_ctrl_c_interrupts_the_foreground_and_the_shell_goes_on(terminal: Shell) -> None:
    # The program says that it is up, and not the shell, which Ctrl-C would not keep from starting it.
    line = b"trap 'echo was interrupted' INT; sh -c 'echo $((1+1)) up; exec sleep 100'\r"
    terminal.talk("a", typed(0, line))
    terminal.prints("a", b"2 up")
    at = len(line)
    terminal.talk("a", typed(at, b"\x03"), typed(at + 1, b"sleep 50 &\r"), typed(at + 12, b"echo $((2+2)) next\r"))
    terminal.prints("a", b"4 next")
    terminal.talk("a", typed(at + 31, b"exit 4\r"))
    assert terminal.ended("a")[-2:] == [b"4", b"exit"]


def test_size_of_the_terminal_changes_while_a_program_runs(terminal: Shell) -> None:
    terminal.talk("a", typed(0, b"sh -c 'trap \"stty size\" WINCH; echo $((1+1)) up; while sleep 0.1; do :; done'\r"))
    terminal.prints("a", b"2 up")
    assert terminal.talk("a", b"resize 40 120\n") == [b"here", b"sized"]
    terminal.prints("a", b"40 120")
    terminal.talk("a", b"signal KILL\n")
    assert terminal.ended("a")[-4:] == [b"40", b"120", b"137", b"exit"]
    assert terminal.talk("a", b"resize 1 1\n") == [b"here", b"sized"]


def test_end_of_the_input_of_a_terminal_is_ctrl_d(terminal: Shell) -> None:
    terminal.start("b", "cat", terminal=Terminal(9, 9))
    terminal.talk("b", typed(0, b"line\r"), b"end 5\n")
    assert terminal.ended("b")[-2:] == [b"0", b"exit"]
    assert terminal.printed("b").startswith(b"line\r\n")
    assert b"line\r\nline\r\n" in terminal.printed("b")


def test_all_output_of_a_terminal_arrives_though_its_command_ends_at_once(terminal: Shell) -> None:
    terminal.start(
        "b", "sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done", terminal=Terminal(9, 9)
    )
    size = sum(len(f"line {number}\r\n") for number in range(5000))
    assert int(terminal.ended("b")[2]) == size


def test_terminal_needs_a_program_that_makes_one(shell: Shell) -> None:
    shell.only()
    assert shell.start("a", "true", terminal=Terminal(9, 9)) == b"unsupported\n"
    shell.start("b", "true")
    shell.ended("b")
    assert shell.talk("b", b"resize 9 9\n") == [b"here", b"none"]


def test_follower_that_does_not_read_holds_no_command_up(shell: Shell) -> None:
    with shell._open() as stalled:
        assert stalled.stdin is not None
        assert stalled.stdout is not None
        go = shell.folder.with_name("go")
        script = f"until test -f '{go}'; do sleep 0.05; done; head -c 3000000 /dev/zero; echo end >&2"
        shell.start("a", "sh", "-c", script)
        stalled.stdin.write(follow_script.follow("a", 0, 0))
        stalled.stdin.flush()
        assert stalled.stdout.readline() == b"here\n"
        go.touch()
        assert shell.ended("a")[-2:] == [b"0", b"exit"]
        stalled.stdin.close()
        assert stalled.stdout.read().count(b"\0") == 3_000_000


def test_followers_that_were_killed_leave_nothing_once_another_comes(shell: Shell) -> None:
    shell.start("a", "cat", stdin=True)
    for _ in range(3):
        with shell._open() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(follow_script.follow("a", 0, 0))
            process.stdin.flush()
            process.stdout.readline()
            time.sleep(0.1)
            process.kill()
    shell.follow("a")
    assert list((shell.folder / "a" / "w").iterdir()) == []
    shell.talk("a", b"end 0\n")
    assert shell.ended("a")[-2:] == [b"0", b"exit"]
