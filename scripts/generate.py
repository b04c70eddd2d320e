"""Writes the stubs of the contract, with their types and its service config, into a folder: `generate.py FOLDER`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def generate(folder: Path) -> None:
    """Runs protoc. Raises CalledProcessError if the contract does not compile."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    command += [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
    command += [
        f"--mypy_out={folder}",
        f"--mypy_grpc_out={folder}",
        "sandbox/v1/sandbox.proto",
        "sandbox/v1/access.proto",
        "sandbox/v1/snapshot.proto",
        "sandbox/v1/schedule.proto",
        "sandbox/v1/adoption.proto",
    ]
    # protoc finds its plugins on the PATH; they are installed beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    for package in (folder / "sandbox", folder / "sandbox" / "v1"):
        (package / "__init__.py").touch()
        (package / "py.typed").touch()
    shutil.copyfile(ROOT / "protos" / "service_config.json", folder / "sandbox" / "v1" / "service_config.json")


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
