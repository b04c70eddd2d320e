"""The control plane under these tests: built or refused with clear words, and gone when it is no longer needed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.kubernetes import cluster as clusters

ROOT = Path(__file__).parents[2]
FAILING = """
import time

from tests.kubernetes.conftest import cluster

def test_fails(cluster):
    print("\\nfolder", cluster.folder, flush=True)
    assert not "this"
"""


def components(folder: Path) -> list[int]:
    """Pids of processes that say this folder among their arguments."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process.pid)
    return found


@pytest.fixture
def no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with all that a shell script needs but Go."""
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_go")
def test_a_missing_toolchain_is_said_clearly() -> None:
    with pytest.raises(RuntimeError, match=r"is built with Go 1\.26 or newer: install it and put it on the PATH"):
        clusters.build()


@pytest.mark.usefixtures("no_go")
def test_a_missing_toolchain_fails_the_tests_and_skips_none(tmp_path: Path) -> None:
    told, _ = begin(tmp_path, FAILING).communicate(timeout=60)
    assert "RuntimeError: the control plane cannot be built: the control plane is built with Go" in told
    assert "1 error in" in told


def test_a_release_that_is_not_here_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEASE", "1.2")
    with pytest.raises(
        RuntimeError,
        match=r"no control plane of the release 1\.2 here, only: go-1\.34\.mod go-1\.35\.mod go-1\.37\.mod go\.mod",
    ):
        clusters.build()


def begin(folder: Path, text: str) -> subprocess.Popen[str]:
    """A test file of its own, in a pytest of its own."""
    (folder / "test_apart.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-qs", "-p", "no:cacheprovider", "-rA"]
    command.append(str(folder / "test_apart.py"))
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)


def heed_interrupts() -> None:
    """A run in the background of a shell ignores Ctrl-C, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("end", ["a failure", "SIGTERM", "SIGINT"])
def test_everything_is_stopped_whatever_ends_the_tests(tmp_path: Path, end: str) -> None:
    tests = begin(tmp_path, FAILING if end == "a failure" else FAILING.replace("assert not", "time.sleep(60) or"))
    assert tests.stdout is not None
    folder = next(Path(line.split()[-1]) for line in tests.stdout if line.startswith("folder "))
    if end != "a failure":
        assert len(components(folder)) == 4
        tests.send_signal(signal.Signals[end])
    tests.communicate(timeout=60)
    assert tests.returncode == (1 if end == "a failure" else 2)
    assert components(folder) == []
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kept_cluster_says_how_to_use_it_and_ends_with_its_keeper(tmp_path: Path, number: signal.Signals) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    command = [sys.executable, "-m", "tests.kubernetes", str(kubeconfig)]
    keeper = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    try:
        exported, kubectl, service = (keeper.stdout.readline().strip() for _ in range(3))
        assert exported == f"export KUBECONFIG={kubeconfig}"
        assert service == f"service: make run ENGINE=kubernetes FLAGS='--kubeconfig {kubeconfig}'"
        nodes = [*kubectl.removeprefix("kubectl: ").split()[:2], "get", "nodes", "-o", "name"]
        asked = subprocess.run(nodes, env={**os.environ, "KUBECONFIG": str(kubeconfig)}, capture_output=True, text=True)
        assert asked.stdout == "node/simulated\n", asked.stderr
        (etcd,) = [one for one in psutil.Process(keeper.pid).children() if "etcd" in one.cmdline()]
        folder = Path(etcd.cmdline()[2]).parent
        assert len(components(folder)) == 4
    finally:
        keeper.send_signal(number)
        keeper.communicate(timeout=30)
    assert keeper.returncode == 0
    assert components(folder) == []
    assert not folder.exists()
