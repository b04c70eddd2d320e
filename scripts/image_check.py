"""Carries out the Dockerfile in a clean directory, without Docker: `image_check.py`.

Every COPY and RUN happens as written, except that absolute paths of the image lie below a temporary folder, and
that the interpreter is this machine's. The installed service is then started as the image's user with the files of a
Secret volume, probed and stopped.
"""

import base64
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts import image_run

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60.0  # seconds until the service must be healthy
FOLDERS = "app|build|data|uv"  # what the Dockerfile makes at the image's root


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction of a Dockerfile with its continuation lines joined. `stage` counts from 0."""

    stage: int
    word: str
    rest: str

    def arguments(self) -> list[str]:
        """Returns the words that are not options, or those of the exec form."""
        if self.rest.startswith("["):
            return [str(word) for word in json.loads(self.rest)]
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]


def read(text: str) -> list[Instruction]:
    """Returns the instructions of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stage = -1
    found = []
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage += 1
        found.append(Instruction(stage, word, " ".join(rest.split())))
    return found


class Image:
    """The file system of the stage that is being built, at `root`. Earlier stages are kept under their names."""

    def __init__(self, ground: Path) -> None:
        self.root = ground / "root"
        self._stages = ground / "stages"
        self._home = ground / "home"
        self._tools = ground / "tools"
        for folder in (self._stages, self._home, self._tools):
            folder.mkdir()
        # The base image has `python` on its PATH, and no package of this environment.
        interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        python = self._tools / "python"
        python.write_text(f'#!/bin/sh\nexec "{interpreter}" "$@"\n')
        python.chmod(0o755)
        self._name = ""
        self._begin("")

    def _begin(self, name: str) -> None:
        if self.root.exists():
            # Every stage is built at the same path, because a virtual environment contains its own path.
            self.root.rename(self._stages / self._name)
        self.root.mkdir()
        self._name = name
        self.folder = self.root
        inherited = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}}
        path = f"{self._tools}:/usr/local/bin:/usr/bin:/bin"
        self.environment = {**inherited, "PATH": path, "HOME": str(self._home), "UV_PYTHON_DOWNLOADS": "never"}

    def place(self, path: str) -> Path:
        """Returns the path on this machine of a path of the image."""
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def _mapped(self, text: str) -> str:
        return re.sub(rf"(?<![\w./*-])/({FOLDERS})\b", lambda found: f"{self.root}/{found[1]}", text)

    def perform(self, instruction: Instruction) -> None:
        """Carries out an instruction. Raises CalledProcessError or OSError if that fails."""
        match instruction.word:
            case "FROM":
                self._begin(instruction.rest.partition(" AS ")[2] or "last")
            case "WORKDIR":
                self.folder = self.place(instruction.rest)
                self.folder.mkdir(parents=True, exist_ok=True)
            case "ENV":
                for word in shlex.split(instruction.rest):
                    name, _, value = word.partition("=")
                    value = self._mapped(value).replace("$PATH", self.environment["PATH"])
                    self.environment[name] = value
            case "COPY":
                self._copy(instruction)
            case "RUN":
                self._run(instruction.rest)

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.arguments()
        stage = re.search(r"--from=(\S+)", instruction.rest)
        for name in sources:
            source = self._stages / stage[1] / name.lstrip("/") if stage else ROOT / name
            place = self.place(target)
            if source.is_dir():
                ignore = None if stage else shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, place, symlinks=True, ignore=ignore, dirs_exist_ok=True)
            else:
                shutil.copy2(source, place / source.name if target.endswith("/") else place)

    def _run(self, script: str) -> None:
        if os.geteuid() != 0:
            # Only root may change the owner of a folder.
            script = script.replace("-o 1001 -g 1001", "")
        started = time.monotonic()
        subprocess.run(["/bin/sh", "-ec", self._mapped(script)], cwd=self.folder, env=self.environment, check=True)
        print(f"{time.monotonic() - started:6.1f} s  {script}")


def lacks_build_tools(image: Image) -> None:
    """Raises RuntimeError if the last stage contains packages that only a build or a developer needs."""
    listing = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    python = image.place("/app/bin/python")
    names = set(subprocess.run([python, "-c", listing], check=True, capture_output=True, text=True).stdout.split())
    surplus = names & {"pip", "uv", "hatchling", "setuptools", "pytest", "grpcio-tools", "mypy", "ruff"}
    if surplus or "sandbox-service" not in names:
        raise RuntimeError(f"the image's environment holds {sorted(surplus)} besides {len(names)} packages")


def free_port() -> int:
    """Returns a free port of the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def serves(image: Image, entrypoint: list[str], probe: list[str], user: str, mode: int) -> None:
    """Starts the service as `user` with keys and tokens of `mode`, waits until the probe says healthy, and ends it.

    Raises RuntimeError if one of these fails.
    """
    tenants = {"tenants": [{"name": "a", "namespaces": ["a"], "tokens": [f"sha256:{'0' * 64}"]}]}
    content = {"keys": base64.b64encode(secrets.token_bytes(32)), "tenants.json": json.dumps(tenants).encode()}
    volume = image_run.secret_volume(image.root.parent / f"secret-{mode:o}", content, mode, user)
    environment = {
        **image.environment,
        "SANDBOX_LISTEN": f"127.0.0.1:{free_port()}",
        "SANDBOX_ENCRYPTION_KEY_FILE": str(volume / "keys"),
        "SANDBOX_TOKEN_FILE": str(volume / "tenants.json"),
    }
    entry, health = (str(image.place(f"/app/bin/{words[0]}")) for words in (entrypoint, probe))
    begin = image_run.command(user)
    with subprocess.Popen([*begin, entry, *entrypoint[1:]], cwd=image.folder, env=environment) as service:
        try:
            if not any(_healthy([*begin, health, *probe[1:]], environment, service)):
                left = service.poll()
                end = "still runs" if left is None else f"left with {left}"
                raise RuntimeError(f"the service was not healthy within {START_TIMEOUT:.0f} s: it {end}")
            service.send_signal(signal.SIGTERM)
            if service.wait(30) != 0:
                raise RuntimeError(f"the service left with {service.returncode} when asked to end")
        finally:
            service.kill()


def _healthy(probe: list[str], environment: dict[str, str], service: subprocess.Popen[bytes]) -> Iterator[bool]:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and service.poll() is None:
        yield (subprocess.run(probe, env=environment, capture_output=True, check=False, timeout=10).returncode == 0)
        time.sleep(0.2)


def main() -> None:
    """Builds the image and tries it. Raises the exception of the step that fails."""
    instructions = read((ROOT / "Dockerfile").read_text())
    with tempfile.TemporaryDirectory(prefix="image-") as ground:
        Path(ground).chmod(0o755)
        image = Image(Path(ground))
        for instruction in instructions:
            image.perform(instruction)
        lacks_build_tools(image)
        entrypoint = next(one for one in instructions if one.word == "ENTRYPOINT").arguments()
        health = next(one for one in instructions if one.word == "HEALTHCHECK").rest.partition("CMD ")[2]
        user = next(one.rest for one in instructions if one.word == "USER")
        for mode in image_run.MODES:
            serves(image, entrypoint, json.loads(health), user, mode)
    print("the image's steps hold")


if __name__ == "__main__":
    main()
