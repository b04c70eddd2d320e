"""Process groups that outlive the service: how they are started, found again, waited for and ended.

A process runs only after its pid and start time are on disk. A service that is killed at any moment therefore either
finds the process again, or the process has never run. The kernel gives the exit code only to the parent, so that
bubblewrap, or the shell around a plain process, writes it to disk for a service that has adopted the process. See
`output` for the pump that writes the log.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox_server import failpoints
from sandbox_server.engines.local import disk, entered, launch, output

_TICKS = os.sysconf("SC_CLK_TCK")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
"""Identifies the boot. Pids and start times of another boot are meaningless."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process group before it is started, while it runs, and after it has ended.

    All fields but `files` are stored under these names, and releases read what others have stored.

    - `files`: how the names of its files begin.
    - `owner`, `generation`: the uid of the sandbox, and the generation that the process runs.
    - `restarts`: how many processes of this generation have ended by themselves before this one.
    - `quick`: how many of those, the last ones, ended too soon after their start.
    - `code`, `words`: the exit code of the last of those, and the end of its log if it failed.
    - `pid`, `began`: the leader of the group and its start in clock ticks after the boot; 0 before the start.
    - `pump`, `pump_began`: the same of the pump of its output.
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
    def log(self) -> Path:
        """Its log, until the next process is started."""
        return Path(f"{self.files}.log")

    @property
    def _ready_mark(self) -> Path:
        return Path(f"{self.files}.ready")

    @property
    def ready(self) -> bool:
        """Whether the process was ready when that was last noted."""
        with contextlib.suppress(OSError):
            return self._ready_mark.read_text() == self._identity
        return False

    def note(self, ready: bool) -> None:
        """Notes whether the process is ready, for a service that adopts it."""
        # In a file of its own, since an earlier release takes no further field of a process. Without the file, the
        # adopted process is ready after its first probe.
        with contextlib.suppress(OSError):
            if ready:
                self._ready_mark.write_text(self._identity)
            else:
                self._ready_mark.unlink(missing_ok=True)

    @property
    def _identity(self) -> str:
        return f"{self.pid} {self.began}\n"

    @property
    def alive(self) -> bool:
        """Whether the leader of the group runs."""
        return _runs(self.pid, self.began)

    @property
    def incarnation(self) -> str:
        """Identifies this start of the process. Empty before the start."""
        return f"{self.pid}.{self.began}" if self.pid != 0 else ""

    @property
    def access(self) -> Path:
        """The directory for what is entered into the process, if it is not isolated."""
        return self._accesses / self.incarnation

    @property
    def _accesses(self) -> Path:
        return Path(f"{self.files}.access")

    def start(self, launched: launch.Launch) -> "Process":
        """Starts the process in a session of its own and returns it with its pids. Raises OSError."""
        self.forget()
        with contextlib.ExitStack() as opened:

            def close_later(descriptor: int) -> int:
                opened.callback(os.close, descriptor)
                return descriptor

            options = close_later(os.memfd_create("options"))
            os.pwrite(options, launched.options, 0)
            gate, opener = map(close_later, os.pipe())
            printed, printing = map(close_later, os.pipe())
            words = ["/bin/sh", "-c", launched.script, str(self.files), *launched.words]
            spawned: list[int] = []
            try:
                pump_pid = output.pump(self.log, printed)
                spawned.append(pump_pid)
                pid = launch.spawn(words, launched.env, (printing, 1), (1, 2), (gate, 0), (options, 4))
                spawned.append(pid)
                failpoints.hit("local_process_spawned")
                started = dataclasses.replace(
                    self, pid=pid, began=_began(pid), pump=pump_pid, pump_began=_began(pump_pid)
                )
                identity = dataclasses.asdict(started) | {"boot": BOOT}
                del identity["files"]
                Path(f"{self.files}.process").write_text(json.dumps(identity))
                failpoints.hit("local_process_recorded")
                # The process has waited for this line.
                os.write(opener, b"\n")
                failpoints.hit("local_process_started")
            except OSError:
                for child in spawned:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                raise
        return started

    def after(self, steady: float) -> "Process":
        """Returns the process that follows this one, which has ended by itself.

        It has ended too soon if it began less than `steady` seconds ago.
        """
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - self.began / _TICKS
        # Without an exit code the process was killed together with the wrapper that writes the code.
        code = self._report().get("exit-code", 128 + signal.SIGKILL)
        quick = self.quick + 1 if age < steady else 1
        words = output.last(self.log) if code != 0 else ""
        return Process(self.files, self.owner, self.generation, self.restarts + 1, quick, code, words)

    def _report(self) -> dict[str, int]:
        """Returns what bubblewrap, or the shell, has written: `child-pid`, `pid-namespace`, in the end `exit-code`."""
        return disk.read(Path(f"{self.files}.exit"))

    @property
    def inner(self) -> int:
        """The pid of the first process inside bubblewrap, 0 if it is gone. All processes inside end with it.

        Another process may have the pid by now, but hardly in a pid namespace with the same number.
        """
        report = self._report()
        pid = report.get("child-pid", 0)
        with contextlib.suppress(OSError):
            if _began(pid) != 0 and Path(f"/proc/{pid}/ns/pid").stat().st_ino == report["pid-namespace"]:
                return pid
        return 0

    async def ended(self) -> None:
        """Returns when the leader has ended, and what it had started has been killed."""
        await _gone(lambda: self.pid if self.alive else 0)
        self.kill()
        # The first process inside bubblewrap ends after all others inside.
        await _gone(lambda: self.inner)
        _reap(self.pid)

    async def drained(self, within: float) -> None:
        """Returns when the log has all output, and kills the pump that has more to write after `within` seconds.

        Assumes that the process has ended.
        """
        try:
            async with asyncio.timeout(within):
                await _gone(self._running_pump)
        except TimeoutError:
            pump = self._running_pump()
            if pump != 0:
                _signal(os.killpg, pump, signal.SIGKILL)
            await _gone(self._running_pump)
        _reap(self.pump)

    @property
    def prints(self) -> bool:
        """Whether anything may still be written to its log."""
        return self._running_pump() != 0

    def _running_pump(self) -> int:
        """Returns the pid of the pump, 0 if it does not run."""
        return self.pump if _runs(self.pump, self.pump_began) else 0

    def terminate(self) -> None:
        """Sends SIGTERM to what the caller's command has started, and not to the wrapper around it."""
        wrapper = self.inner or self.pid
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()
            for pid in children:
                _signal(os.kill, int(pid), signal.SIGTERM)
            if not children:
                self.kill()

    def kill(self) -> None:
        """Sends SIGKILL to the whole group, even if its leader has ended, and to all processes inside bubblewrap."""
        # With the leader gone, its pid is still the id of the group, unless another process has it by now.
        if self.pid != 0 and _began(self.pid) in (0, self.began):
            _signal(os.killpg, self.pid, signal.SIGKILL)
        # After the group: the inner process is in the group until bubblewrap has reported it.
        inner = self.inner
        if inner != 0:
            _signal(os.kill, inner, signal.SIGKILL)
        if self.pid != 0 and self.access.is_dir():
            entered.kill(self.access)

    def forget(self) -> None:
        """Removes the files by which `find` finds the process."""
        for suffix in (".process", ".exit", ".ready"):
            Path(f"{self.files}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(self._accesses, ignore_errors=True)


def find(files: Path, owner: str) -> Process:
    """Returns the process that was last started with these files for `owner` since the boot, even if it has ended.

    Returns a process that was never started, of generation 0, if there is none.
    """
    stored = {} if files.parent.is_symlink() else disk.read(Path(f"{files}.process"))
    boot = stored.pop("boot", "")
    if boot != BOOT or stored.get("owner") != owner:
        return Process(files, owner, 0)
    return Process(files, **stored)


def _reap(pid: int) -> None:
    """Removes the zombie of an ended child. An adopted process has another parent, which does so."""
    if pid != 0:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _runs(pid: int, began: int) -> bool:
    """Whether the process that began at `began` runs. Another process may have its pid by now."""
    return began != 0 and _began(pid) == began


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, number)


def _began(pid: int) -> int:
    """Returns when a process started, in clock ticks after the boot; 0 if it does not run. A zombie does not run."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


async def _gone(running: Callable[[], int]) -> None:
    """Returns when `running`, which gives the pid of a process, gives 0."""
    while (pid := running()) != 0:
        ended = asyncio.Event()
        with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as opened:
            descriptor = os.pidfd_open(pid)
            opened.callback(os.close, descriptor)
            # Asked again: before the descriptor was open, another process could get the pid.
            if running() != 0:
                asyncio.get_running_loop().add_reader(descriptor, ended.set)
                opened.callback(asyncio.get_running_loop().remove_reader, descriptor)
                await ended.wait()
