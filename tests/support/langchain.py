"""LangChain's standard tests for sandboxes, run against a service through the adapter of the Python client."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.support.examples import BUILT, ROOT

SUITE = ROOT / "tests" / "examples" / "langchain" / "suite.py"


def python() -> Path:
    """A Python with the suite and what the adapter needs. Apart from this one: Deep Agents bring fifty packages."""
    folder = BUILT / "langchain"
    uv = Path(sys.executable).parent / "uv"
    found = folder / "bin" / "python"
    if not found.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    requirements = ROOT / "requirements-langchain.txt"
    install = [uv, "pip", "sync", "--quiet", "--python", found, "--require-hashes", requirements]
    subprocess.run(install, check=True)
    return found


def passes(address: str, folder: Path) -> None:
    """Fails unless every test of the suite passes on a sandbox of the service at `address`. `folder` is for its report."""
    report = folder / "report.xml"
    # None of the settings and fixtures of this suite: their packages are not there.
    alone = ["-c", "/dev/null", f"--rootdir={SUITE.parent}", f"--confcutdir={SUITE.parent}", "-p", "no:cacheprovider"]
    words = [python(), "-m", "pytest", "-q", *alone, "-o", "asyncio_mode=auto", f"--junitxml={report}", SUITE]
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'client'}{os.pathsep}{ROOT / 'generated'}",
        "SANDBOX_SERVER": address,
        "SANDBOX_PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",
    }
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    # 85 of a sandbox, and one that says that none of them was replaced.
    assert int(suite.attrib["tests"]) == 86
    assert {suite.attrib[name] for name in ("errors", "failures", "skipped")} == {"0"}
