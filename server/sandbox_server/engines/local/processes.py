"""Process groups that outlive the service: started, found again, heard dying, ended.

A process begins only when its identity, pid and start time, is on disk, so that a service that is killed at any moment
finds it again or it never was. Nobody who adopts a process is told its exit code, so that is on disk too: written by
bubblewrap, or by the shell around a plain process.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.engines.local import folder, isolation

_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""What the interpreter or the service's loop changed and a child would inherit."""

_TICKS = os.sysconf("SC_CLK_TCK")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
"""Pids and start times count from a boot: after another one they say nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A start: whose, of which generation, how often that had ended, how often in a row too soon, the last exit code."""

    owner: str
    generation: int
    restarts: int = 0
    quick: int = 0
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process group: where its files begin, its leader's pid and start in clock ticks since boot, and which start."""

    files: Path
    pid: int
    start: int
    attempt: Attempt

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return 0 != self.start == _start(self.pid)

    def after(self, steady: float) -> Attempt:
        """The start that follows when it has ended by itself: too soon, unless it began `steady` seconds ago."""
        before, age = self.attempt, time.clock_gettime(time.CLOCK_BOOTTIME) - self.start / _TICKS
        # What left no code was killed together with what would have written it.
        code = self._report().get("exit-code", 128 + signal.SIGKILL)
        quick = before.quick + 1 if age < steady else 1
        return dataclasses.replace(before, restarts=before.restarts + 1, quick=quick, code=code)

    def _report(self) -> dict[str, int]:
        """What bubblewrap says line by line: the first process inside, at the end `exit-code`."""
        told: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"{self.files}.exit").read_text().splitlines():
                told |= json.loads(line)
        return told

    @property
    def _inner(self) -> int:
        """The pid of the first process inside bubblewrap, whose end is the end of all in there; 0 if it is gone.

        Its pid may be another's by now, but hardly in a pid namespace of the same number.
        """
        told = self._report()
        pid = told.get("child-pid", 0)
        with contextlib.suppress(OSError):
            if _start(pid) and Path(f"/proc/{pid}/ns/pid").stat().st_ino == told["pid-namespace"]:
                return pid
        return 0

    async def ended(self) -> None:
        """Returns once it has ended; the last of what it started is killed then."""
        await _gone(self.pid, lambda: self.alive)
        self.kill()
        # The first process inside ends after all others in there.
        inner = self._inner
        await _gone(inner, lambda: self._inner == inner != 0)
        with contextlib.suppress(ChildProcessError):
            # Of our own child, so that it is no zombie; one that was adopted has another parent.
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait

    def terminate(self) -> None:
        """Asks it to end: SIGTERM to what the caller started, not to what wraps it."""
        around = self._inner or self.pid
        with contextlib.suppress(FileNotFoundError):
            started = Path(f"/proc/{around}/task/{around}/children").read_text().split()
            for pid in started:
                _signal(os.kill, int(pid), signal.SIGTERM)
            if not started:
                self.kill()

    def kill(self) -> None:
        """Ends all of it at once, also what its leader left behind."""
        if _start(self.pid) in (0, self.start):
            _signal(os.killpg, self.pid, signal.SIGKILL)
        # After its group: before bubblewrap has told of it, it is still in there.
        if inner := self._inner:
            _signal(os.kill, inner, signal.SIGKILL)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, number)


def _start(pid: int) -> int:
    """When a process started; 0 if it does not run. A zombie does not."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


def find(files: Path, owner: str) -> Process | None:
    """What was last started with these files for `owner`, alive or not; None if nothing was since the boot."""
    told = {} if files.parent.is_symlink() else folder.read(Path(f"{files}.process"))
    if told.get("boot") != BOOT or told["attempt"]["owner"] != owner:
        return None
    return Process(files, told["pid"], told["start"], Attempt(**told["attempt"]))


def forget(files: Path) -> None:
    """Removes what `find` goes by."""
    for suffix in (".process", ".exit"):
        Path(f"{files}{suffix}").unlink(missing_ok=True)


def start(files: Path, launch: isolation.Launch, attempt: Attempt) -> Process:
    """Starts a process in a session of its own. Raises OSError."""
    forget(files)
    with contextlib.ExitStack() as held:

        def keep(handle: int) -> int:
            held.callback(os.close, handle)
            return handle

        log = keep(os.open(f"{files}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        told = keep(os.memfd_create("told"))
        os.pwrite(told, launch.told, 0)
        gate, opener = map(keep, os.pipe())
        actions = [(os.POSIX_SPAWN_DUP2, one, at) for one, at in ((gate, 0), (log, 1), (log, 2), (told, 4))]
        words = ["/bin/sh", "-c", launch.script, str(files), *launch.words]
        pid = os.posix_spawn(
            words[0], words, launch.env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
        )
        began = _start(pid)
        identity = {"pid": pid, "start": began, "boot": BOOT, "attempt": dataclasses.asdict(attempt)}
        try:
            Path(f"{files}.process").write_text(json.dumps(identity))
            os.write(opener, b"\n")
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    return Process(files, pid, began, attempt)


async def _gone(pid: int, there: Callable[[], bool]) -> None:
    """Returns when the process is not `there` any more, which is asked again once a descriptor holds the pid."""
    while there():
        heard = asyncio.Event()
        with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as held:
            handle = os.pidfd_open(pid)
            held.callback(os.close, handle)
            if there():
                asyncio.get_running_loop().add_reader(handle, heard.set)
                held.callback(asyncio.get_running_loop().remove_reader, handle)
                await heard.wait()
