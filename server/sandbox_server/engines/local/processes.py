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

from sandbox_server.engines.local import folder
from sandbox_server.engines.local.launch import Launch

_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""What the interpreter or the service's loop changed and a child would inherit."""

WORDS_MOST = 4096
"""Bytes of a log that are kept of a process that failed, as many as a kubelet keeps."""

_TICKS = os.sysconf("SC_CLK_TCK")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
"""Pids and start times count from a boot: after another one they say nothing."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process group, before it is started, while it runs and when it has ended.

    `files`: where the names of its files begin. It runs a `generation` of the sandbox `owner`, after as many
    `restarts`; the last `quick` of those came too soon, the last of all with the exit code `code` and, if it
    failed, `words` at the end of its log. `pid`: its leader's,
    which began `began` clock ticks after the boot; both are 0 before the start.
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

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return 0 != self.began == _began(self.pid)

    def start(self, launch: Launch) -> "Process":
        """Starts it, in a session of its own. Raises OSError."""
        self.forget()
        with contextlib.ExitStack() as held:

            def keep(handle: int) -> int:
                held.callback(os.close, handle)
                return handle

            told = keep(os.memfd_create("told"))
            os.pwrite(told, launch.told, 0)
            gate, opener = map(keep, os.pipe())
            log = (f"{self.files}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            places = [(os.POSIX_SPAWN_DUP2, one, at) for one, at in ((1, 2), (gate, 0), (told, 4))]
            actions = [(os.POSIX_SPAWN_OPEN, 1, *log), *places]
            words = ["/bin/sh", "-c", launch.script, str(self.files), *launch.words]
            pid = os.posix_spawn(
                words[0], words, launch.env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS
            )
            started = dataclasses.replace(self, pid=pid, began=_began(pid))
            identity = dataclasses.asdict(started) | {"boot": BOOT}
            del identity["files"]
            try:
                Path(f"{self.files}.process").write_text(json.dumps(identity))
                os.write(opener, b"\n")
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        return started

    def after(self, steady: float) -> "Process":
        """The one that follows when it has ended by itself: too soon, unless it began `steady` seconds ago."""
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - self.began / _TICKS
        # What left no code was killed together with what would have written it.
        code = self._report().get("exit-code", 128 + signal.SIGKILL)
        quick = self.quick + 1 if age < steady else 1
        words = self._words() if code else ""
        return Process(self.files, self.owner, self.generation, self.restarts + 1, quick, code, words)

    def _words(self) -> str:
        """The end of the log, which the next start empties."""
        with contextlib.suppress(OSError), Path(f"{self.files}.log").open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - WORDS_MOST))
            return log.read(WORDS_MOST).decode(errors="replace")
        return ""

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
