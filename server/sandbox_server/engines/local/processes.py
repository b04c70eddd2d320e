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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.domain.sandbox import Exit
from sandbox_server.engines.local import isolation

_IDENTIFY = 'read -r s </proc/self/stat; printf "%s\\n" "$s" >"$0.process"; '
_ISOLATED = _IDENTIFY + 'exec "$@" 3>"$0.exit"'
_PLAIN = _IDENTIFY + 'trap : TERM INT; cd "$HOME" && "$@"; printf \'{"exit-code": %d}\' $? >"$0.exit"'

_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""What the interpreter or the service's loop changed and a child would inherit."""

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
    def inner(self) -> int:
        """The pid of the first process inside bubblewrap, whose end is the end of all in there; 0 for none."""
        return int(self._report().get("child-pid", 0))

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

    async def ended(self) -> None:
        """Returns when it has ended; the last of its group is killed then."""
        while self.alive:
            with contextlib.suppress(ProcessLookupError):
                await _hear(self.pid)
        self.kill()
        _reap(self.pid)

    def terminate(self) -> None:
        """Asks it to end: SIGTERM to what the caller started, not to what wraps it."""
        inner = self.inner
        if inner and self._is_inner(inner):
            with contextlib.suppress(OSError, ValueError):
                for child in Path(f"/proc/{inner}/task/{inner}/children").read_text().split():
                    os.kill(int(child), signal.SIGTERM)
        elif self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends all of it at once."""
        inner = self.inner
        if inner and self._is_inner(inner):
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _is_inner(self, pid: int) -> bool:
        """Whether `pid` is still ours: it started right after its leader, and is the first of its own namespace."""
        found = _stat(f"/proc/{pid}/stat")
        try:
            namespaces = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()
        except (OSError, IndexError):
            return False
        return found is not None and found[1] >= self.start and namespaces[-1] == "1" and len(namespaces) > 1


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


async def start(files: Path, home: Path, command: Sequence[str], env: Mapping[str, str], isolated: bool) -> Process:
    """Starts `command` in a session of its own. Raises OSError."""
    pid = _spawn(files, home, command, env, isolated)
    pause = 0.002
    while (found := _stat(f"{files}.process")) is None:
        if (now := _stat(f"/proc/{pid}/stat")) is None or now[2] in "ZX":
            _reap(pid)
            raise OSError("the process ended before it began")
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.1)
    return Process(pid, found[1], files)


def _spawn(files: Path, home: Path, command: Sequence[str], env: Mapping[str, str], isolated: bool) -> int:
    for suffix in (".process", ".exit"):
        Path(f"{files}{suffix}").unlink(missing_ok=True)
    script = _ISOLATED if isolated else _PLAIN
    words = ["/bin/sh", "-c", script, str(files), *(isolation.wrap(home, command) if isolated else command)]
    output = os.open(f"{files}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        return os.posix_spawn(
            words[0], words, dict(env), file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
        )
    finally:
        os.close(output)


async def _hear(pid: int) -> None:
    """Returns when the process ends. Raises ProcessLookupError if there is none."""
    handle = os.pidfd_open(pid)
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, heard.set)
        await heard.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _reap(pid: int) -> None:
    """Takes the exit of our own child, so that it is no zombie; one that was adopted has another parent."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
