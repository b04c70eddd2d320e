"""Process groups that outlive the service: started, found again, heard dying, ended.

A process begins only when its identity, pid and start time, is on disk, so that a service that is killed at any moment
finds it again or it never was. Nobody who adopts a process is told its exit code, so that is on disk too: written by
bubblewrap, or by the shell around a plain process. What a process prints goes through a pump, a process in a session of its
own, which bounds the log and ends when nobody can print any more.
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

from sandbox_server.engines.local import folder, launch, output

DRAINED_WITHIN = 2.0
"""Seconds after its end in which what a process printed has to be in its log; what left its group may print for ever."""

_TICKS = os.sysconf("SC_CLK_TCK")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
"""Pids and start times count from a boot: after another one they say nothing."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process group, before it is started, while it runs and when it has ended.

    `files`: where the names of its files begin. It runs a `generation` of the sandbox `owner`, after as many
    `restarts`; the last `quick` of those came too soon, the last of all with the exit code `code` and, if it
    failed, `words` at the end of its log. `pid`: its leader's, which began `began` clock ticks after the boot; both
    are 0 before the start. `pump` and `pump_began`: those of the pump of its output.
    """

    files: Path
    owner: str
    generation: int
    restarts: int = 0
    quick: int = 0
    code: int | None = None
    words: str = ""
    pid: int = 0
    began: int = 0
    pump: int = 0
    pump_began: int = 0

    @property
    def _log(self) -> Path:
        return Path(f"{self.files}.log")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return 0 != self.began == _began(self.pid)

    def start(self, launched: launch.Launch) -> "Process":
        """Starts it, in a session of its own. Raises OSError."""
        self.forget()
        with contextlib.ExitStack() as held:

            def keep(handle: int) -> int:
                held.callback(os.close, handle)
                return handle

            told = keep(os.memfd_create("told"))
            os.pwrite(told, launched.told, 0)
            gate, opener = map(keep, os.pipe())
            printed, printing = map(keep, os.pipe())
            words = ["/bin/sh", "-c", launched.script, str(self.files), *launched.words]
            begun: list[int] = []
            try:
                begun.append(output.pump(self._log, printed))
                begun.append(launch.spawn(words, launched.env, (printing, 1), (1, 2), (gate, 0), (told, 4)))
                pump_pid, pid = begun
                started = dataclasses.replace(
                    self, pid=pid, began=_began(pid), pump=pump_pid, pump_began=_began(pump_pid)
                )
                identity = dataclasses.asdict(started) | {"boot": BOOT}
                del identity["files"]
                Path(f"{self.files}.process").write_text(json.dumps(identity))
                os.write(opener, b"\n")
            except OSError:
                for one in begun:
                    os.killpg(one, signal.SIGKILL)
                    os.waitpid(one, 0)
                raise
        return started

    def after(self, steady: float) -> "Process":
        """The one that follows when it has ended by itself: too soon, unless it began `steady` seconds ago."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - self.began / _TICKS
        # What left no code was killed together with what would have written it.
        code = self._report().get("exit-code", 128 + signal.SIGKILL)
        quick = self.quick + 1 if age < steady else 1
        words = output.last(self._log) if code else ""
        return Process(self.files, self.owner, self.generation, self.restarts + 1, quick, code, words)

    def _report(self) -> dict[str, int]:
        """What bubblewrap says: the first process inside, at the end `exit-code`."""
        return folder.read(Path(f"{self.files}.exit"))

    @property
    def _inner(self) -> int:
        """The pid of the first process inside bubblewrap, whose end is the end of all in there; 0 if it is gone.

        Its pid may be another's by now, but hardly in a pid namespace of the same number.
        """
        told = self._report()
        pid = told.get("child-pid", 0)
        with contextlib.suppress(OSError):
            if _began(pid) and Path(f"/proc/{pid}/ns/pid").stat().st_ino == told["pid-namespace"]:
                return pid
        return 0

    async def ended(self) -> None:
        """Returns once it has ended; the last of what it started is killed then."""
        await _gone(lambda: self.pid if self.alive else 0)
        self.kill()
        # The first process inside ends after all others in there.
        await _gone(lambda: self._inner)
        _reap(self.pid)

    async def drained(self) -> None:
        """Returns once the log has all that it printed before its end, which has come."""
        try:
            async with asyncio.timeout(DRAINED_WITHIN):
                await _gone(self._pumping)
        except TimeoutError:
            if found := self._pumping():
                _signal(os.killpg, found, signal.SIGKILL)
            await _gone(self._pumping)
        _reap(self.pump)

    def _pumping(self) -> int:
        """The pid of its pump, if that runs."""
        return self.pump if 0 != self.pump_began == _began(self.pump) else 0

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
        if self.pid and _began(self.pid) in (0, self.began):
            _signal(os.killpg, self.pid, signal.SIGKILL)
        # After its group: before bubblewrap has told of it, it is still in there.
        if inner := self._inner:
            _signal(os.kill, inner, signal.SIGKILL)

    def forget(self) -> None:
        """Removes what `find` goes by."""
        for suffix in (".process", ".exit"):
            Path(f"{self.files}{suffix}").unlink(missing_ok=True)


def find(files: Path, owner: str) -> Process:
    """What was last started with these files for `owner` since the boot, alive or not; else one that never was."""
    told = {} if files.parent.is_symlink() else folder.read(Path(f"{files}.process"))
    if (told.pop("boot", ""), told.get("owner")) != (BOOT, owner):
        return Process(files, owner, 0)
    return Process(files, **told)


def _reap(pid: int) -> None:
    """Has an own child that ended be no zombie; one that was adopted has another parent."""
    if pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, number)


def _began(pid: int) -> int:
    """When a process started; 0 if it does not run. A zombie does not."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


async def _gone(there: Callable[[], int]) -> None:
    """Returns when no process is `there` any more, whose pid is asked for again once a descriptor holds it."""
    while pid := there():
        heard = asyncio.Event()
        with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as held:
            handle = os.pidfd_open(pid)
            held.callback(os.close, handle)
            if there():
                asyncio.get_running_loop().add_reader(handle, heard.set)
                held.callback(asyncio.get_running_loop().remove_reader, handle)
                await heard.wait()
