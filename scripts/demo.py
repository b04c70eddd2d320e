"""Shows the life of a sandbox, unattended, on a temporary data directory. Exits 0 only if every step succeeded."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent


class Failed(Exception):
    """A step failed."""


class Demo:
    """A service on a free port, and the commands that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{trial.getsockname()[1]}"
        self.env = {**os.environ, "SANDBOX_SERVER": self.address, "NO_COLOR": "1", "COLUMNS": "120"}
        self.log = folder / "service.log"

    def serve(self) -> subprocess.Popen[bytes]:
        """Starts the service and waits until it is healthy."""
        command = [str(BIN / "sandbox-server"), "--listen", self.address, "--data-dir", str(self.folder / "data")]
        self.say("sandbox-server (local engine, SQLite)")
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.until("the service is healthy", lambda: self.run("list", quiet=True).returncode == 0)
        return process

    def say(self, text: str) -> None:
        """Prints a step."""
        print(f"\n\033[1m$ {text}\033[0m" if sys.stdout.isatty() else f"\n$ {text}", flush=True)

    def hold(self, what: str, held: bool) -> None:
        """Prints what was checked. Raises Failed if it did not hold."""
        print(f"  {'held' if held else 'FAILED'}: {what}", flush=True)
        if not held:
            raise Failed(what)

    def run(self, *words: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs sandboxctl."""
        if not quiet:
            self.say(f"sandboxctl {shlex.join(words)}")
        done = subprocess.run([BIN / "sandboxctl", *words], env=self.env, capture_output=True, text=True)
        if not quiet:
            print("".join(f"  {line}\n" for line in (done.stderr + done.stdout).splitlines()), end="", flush=True)
        return done

    def must(self, *words: str) -> None:
        """Runs sandboxctl and expects success."""
        self.hold("exit code 0", self.run(*words).returncode == 0)

    def status(self, sandbox_id: str) -> dict[str, object]:
        """Returns the status of a sandbox as JSON values."""
        found: dict[str, object] = json.loads(self.run("--output", "json", "status", sandbox_id, quiet=True).stdout)
        return found

    def until(self, what: str, check: Callable[[], bool]) -> None:
        """Waits until `check` returns true. Raises Failed after 30 seconds."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if check():
                    self.hold(what, True)
                    return
            time.sleep(0.1)
        self.hold(what, False)

    def story(self) -> None:
        """Runs every step. Raises Failed."""
        service = self.serve()
        watched: list[str] = []
        watcher = subprocess.Popen(
            [BIN / "sandboxctl", "watch", "demo"], env=self.env, stdout=subprocess.PIPE, text=True
        )
        reading = threading.Thread(target=lambda: watched.extend(watcher.stdout or ()))
        reading.start()
        try:
            self.must("create", "--project", "demo", "--id", "demo-1", "--env", "GREETING=hello", "--wait")
            url = str(self.status("demo-1")["public_url"])
            home = self.folder / "data" / "sandboxes" / "default" / "demo-1" / "volume" / "home"
            self.say("write a file to /home/agent and fetch it from the application")
            (home / "work.txt").write_text("my work\n")
            self.until("the application serves it", lambda: _get(f"{url}/work.txt") == "my work\n")
            self.must("stop", "demo-1", "--wait")
            self.must("start", "demo-1", "--wait")
            self.hold("the file is still there", (home / "work.txt").read_text() == "my work\n")
            self.must("env", "set", "demo-1", "COLOUR=blue", "--wait")
            self.must("env", "unset", "demo-1", "GREETING", "--wait")
            self.hold("only COLOUR is left", self.run("env", "list", "demo-1").stdout.split() == ["COLOUR"])
            before = (home.parents[1] / "main.process").read_text()
            self.say("kill -9 the service, and start it again")
            service.kill()
            service.wait()
            service = self.serve()
            self.until("the sandbox runs", lambda: self.status("demo-1")["phase"] == "PHASE_RUNNING")
            self.hold("it is the same process", (home.parents[1] / "main.process").read_text() == before)
            self.must("status", "demo-1")
            self.must("list")
            self.disks(home)
            self.must("delete", "demo-1", "--yes", "--wait")
            self.hold("its directory is gone", not home.exists())
            snapshots = self.folder / "data" / "snapshots" / "default"
            self.until("its snapshot goes with it", lambda: not any(snapshots.iterdir()))
            refused = self.run("create", "--project", "Not_A_Label")
            self.hold(
                "a bad name is refused with its field", "spec.project" in refused.stderr and refused.returncode == 2
            )
        finally:
            watcher.terminate()
            watcher.wait()
            reading.join()
            service.terminate()
            code = service.wait(timeout=30)
        self.say("what `sandboxctl watch demo` saw meanwhile, across the kill")
        print("".join(f"  {line}" for line in watched), end="")
        numbers = [int(line.split()[0]) for line in watched]
        self.hold("every change, in order", numbers == list(range(numbers[0], numbers[0] + len(numbers))))
        self.hold("the service ended with exit code 0", code == 0)

    def disks(self, home: Path) -> None:
        """Takes a snapshot of the disk of demo-1, whose home is given, verifies and restores it, and clones the sandbox."""

        def work(sandbox_id: str) -> str:
            return (home.parents[2] / sandbox_id / "volume" / "home" / "work.txt").read_text()

        self.must("snapshot", "create", "demo-1", "--id", "before", "--wait")
        self.must("snapshot", "verify", "before", "--wait")
        self.say("change the file")
        (home / "work.txt").write_text("my later work\n")
        self.must("create", "--project", "demo", "--id", "demo-2", "--snapshot", "before", "--wait")
        self.hold("the restored file is as it was", work("demo-2") == "my work\n")
        self.must("clone", "demo-1", "--id", "demo-3", "--wait")
        self.hold("the clone has the file as it is", work("demo-3") == "my later work\n")
        self.must("snapshot", "list")
        self.must("delete", "demo-2", "--yes", "--wait")
        self.must("delete", "demo-3", "--yes", "--wait")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def main() -> int:
    """Tells the story."""
    with tempfile.TemporaryDirectory(prefix="sandbox-demo-") as folder:
        demo = Demo(Path(folder))
        try:
            demo.story()
        except Failed as failed:
            print(f"\nthe story did not hold: {failed}\n{demo.log.read_text()[-3000:]}")
            return 1
    print("\nthe story held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
