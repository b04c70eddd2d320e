"""Process groups that outlive the service: started, found again, heard dying, ended.

A process writes its own identity, pid and start time, before it becomes anything else, so that a service that is killed
right after the start finds it again. Nobody who adopts a process is told its exit code, so that is on disk too:
written by bubblewrap, or by the shell around a plain process.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.domain.sandbox import Exit
from sandbox_server.engines.local import isolation

_IDENTIFY = 'read -r s </proc/self/stat && printf "%s\\n" "$s" >"$0.process" || exit 125; '
_ISOLATED = _IDENTIFY + 'exec "$@" 3>"$0.exit"'
_PLAIN = _IDENTIFY + 'trap : TERM INT; cd "$HOME" && "$@"; printf \'{"exit-code": %d}\' $? >"$0.exit"'

_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""What the interpreter or the service's loop changed and a child would inherit."""

ASK_EVERY = 0.5
"""Seconds between two looks at a process whose end cannot be heard."""

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Process:
    """A process group: its leader's pid and start time in clock ticks since boot, and where its files begin."""

    pid: int
    start: int
    files: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        found = _stat(f"/proc/{self.pid}/stat")
        return found is not None and found[1] == self.start and found[2] not in "ZX"

    @property
    def _inner(self) -> int:
        """The pid of the first process inside bubblewrap, whose end is the end of all in there; 0 if it is gone.

        Its pid alone may be another's by now; that together with its pid namespace may not.
        """
        told = self._report()
        pid = told.get("child-pid", 0)
        found = _stat(f"/proc/{pid}/stat")
        try:
            ours = Path(f"/proc/{pid}/ns/pid").stat().st_ino == told.get("pid-namespace")
            return pid if ours and found is not None and found[2] not in "ZX" else 0
        except OSError:
            return 0

    def _report(self) -> dict[str, int]:
        told: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for line in Path(f"{self.files}.exit").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    told |= json.loads(line)
        return told

    def exit(self) -> Exit:
        """How it ended. What left no code was killed together with what would have written it."""
        code = int(self._report().get("exit-code", 128 + signal.SIGKILL))
        if code == 0:
            return Exit(0, "Completed")
        return Exit(code, f"Signal {code - 128}" if code > 128 else "Error")

    @property
    def ran(self) -> float:
        """Seconds between its start and its exit code; 0.0 if it left none."""
        if "exit-code" not in self._report():
            return 0.0
        return Path(f"{self.files}.exit").stat().st_mtime - Path(f"{self.files}.process").stat().st_mtime

    async def ended(self) -> None:
        """Returns when it has ended; the last of its group is killed then."""
        await _hear(self.pid, lambda: self.alive)
        self.kill()
        # The first process inside ends after all others in there.
        inner = self._inner
        await _hear(inner, lambda: self._inner == inner != 0)
        _reap(self.pid)

    def terminate(self) -> None:
        """Asks it to end: SIGTERM to what the caller started, not to what wraps it."""
        if inner := self._inner:
            started = Path(f"/proc/{inner}/task/{inner}/children")
            with contextlib.suppress(OSError):
                pids = [int(pid) for pid in started.read_text().split()]
                for pid in pids:
                    os.kill(pid, signal.SIGTERM)
                if not pids:
                    self.kill()
        elif self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends all of it at once, also what its leader left behind."""
        leader = _stat(f"/proc/{self.pid}/stat")
        if leader is None or leader[1] == self.start:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        # After its group: before bubblewrap has told of it, it is still in there.
        if inner := self._inner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)


def _stat(path: str) -> tuple[int, int, str] | None:
    """pid, start time and state of a process; None if there is none."""
    try:
        text = Path(path).read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return int(text.split(" ", 1)[0]), int(fields[19]), fields[0]
    except (OSError, ValueError, IndexError):
        return None


def find(files: Path) -> Process | None:
    """The process that was last started with these files, alive or not; None if there was none."""
    found = _stat(f"{files}.process")
    return Process(found[0], found[1], files) if found else None


def forget(files: Path) -> None:
    """Removes what `find` goes by."""
    for suffix in (".process", ".exit"):
        Path(f"{files}{suffix}").unlink(missing_ok=True)


async def start(files: Path, home: Path, command: Sequence[str], env: Mapping[str, str], hide: Path | None) -> Process:
    """Starts `command` in a session of its own, isolated, with `hide` out of its sight; None isolates nothing.

    Raises OSError.
    """
    pid = _spawn(files, home, command, env, hide)
    while (found := _stat(f"{files}.process")) is None:
        if (now := _stat(f"/proc/{pid}/stat")) is None or now[2] in "ZX":
            _reap(pid)
            raise OSError("the process ended before it began")
        await asyncio.sleep(0.002)
    return Process(pid, found[1], files)


def _spawn(files: Path, home: Path, command: Sequence[str], env: Mapping[str, str], hide: Path | None) -> int:
    forget(files)
    with contextlib.ExitStack() as held:
        output = os.open(f"{files}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        held.callback(os.close, output)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        if hide is None:
            script, words, outer = _PLAIN, list(command), dict(env)
        else:
            script, words, outer = _ISOLATED, isolation.wrap(home, command, hide), {}
            told = held.enter_context(os.fdopen(os.memfd_create("environment"), "wb"))
            told.write(isolation.environment(env))
            told.flush()
            told.seek(0)
            actions.append((os.POSIX_SPAWN_DUP2, told.fileno(), 4))
        words = ["/bin/sh", "-c", script, str(files), *words]
        return os.posix_spawn(
            words[0], words, outer, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
        )


async def _hear(pid: int, there: Callable[[], bool]) -> None:
    """Returns when the process is not `there` any more, which it must be told again once a descriptor holds the pid."""
    loop = asyncio.get_running_loop()
    while there():
        heard = asyncio.Event()
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            # No descriptor is left to hear it with.
            await asyncio.sleep(ASK_EVERY)
            continue
        try:
            if there():
                loop.add_reader(handle, heard.set)
                await heard.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)


def _reap(pid: int) -> None:
    """Takes the exit of our own child, so that it is no zombie; one that was adopted has another parent."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
