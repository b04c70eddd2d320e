"""`sandboxctl` as a person meets it, against the live service."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import programs, samples
from tests.support.service import Service


@pytest.fixture
def ctl(service: Service):  # type: ignore[no-untyped-def]
    env = {**os.environ, "SANDBOX_SERVER": service.address, "COLUMNS": "200", "FROM_SHELL": samples.CANARY}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return programs.run("sandboxctl", *words, env=env)

    return run


@pytest.mark.slow
def test_the_first_minute(ctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = ctl("create", "--project", "demo", "--id", "c-1", "-e", "FROM_SHELL", "--wait", "--", "/bin/sleep", "100")
    assert made.returncode == 0, made.stderr
    assert "RUNNING" in made.stderr
    assert "http://127.0.0.1:" in made.stdout
    file = tmp_path / "env"
    file.write_text("# words\nIN_FILE=1\n\n")
    assert ctl("env", "set", "c-1", "A=1", "--env-file", str(file), "--wait").returncode == 0
    assert ctl("env", "list", "c-1").stdout.split() == ["A", "FROM_SHELL", "IN_FILE"]
    assert ctl("env", "unset", "c-1", "FROM_SHELL").returncode == 0
    stopped = ctl("stop", "c-1", "--wait")
    assert "STOPPED" in stopped.stdout
    assert "c-1" in ctl("list", "--phase", "stopped").stdout
    whole = json.loads(ctl("get", "c-1").stdout)
    assert whole["stateful_set_name"] == "c-1"
    status = json.loads(ctl("--output", "json", "status", "c-1").stdout)
    assert status["phase"] == "PHASE_STOPPED"
    assert ctl("start", "c-1", "--wait").returncode == 0
    watched = ctl("delete", "c-1", "--wait")
    assert watched.returncode == 0
    history = ctl("--output", "json", "watch", "c-1")
    assert json.loads(history.stdout.splitlines()[-1])["phase"] == "PHASE_TERMINATED"
    for done in (made, stopped, watched, history):
        assert samples.CANARY not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_snapshot_is_verified_and_what_has_changed_since_is_a_failure(ctl, service: Service) -> None:  # type: ignore[no-untyped-def]
    assert ctl("create", "--project", "demo", "--id", "v-1", "--wait", "--", "/bin/sleep", "100").returncode == 0
    assert ctl("snapshot", "create", "v-1", "--id", "nap", "--wait").returncode == 0
    verified = ctl("snapshot", "verify", "nap", "--wait")
    assert verified.returncode == 0, verified.stderr
    shown = dict(line.split(maxsplit=1) for line in verified.stdout.splitlines() if len(line.split()) > 1)
    assert shown["verified"].strip() == "passed"
    assert shown["contents"].strip() == "0 files, 0 folders, 0 links, 0 bytes"
    data = service.sandboxes()[0].parents[2]
    (home,) = data.glob("snapshots/*/*/volume/home")
    (home / "foreign").touch()
    failed = ctl("snapshot", "verify", "nap", "--wait")
    assert failed.returncode != 0
    assert "nap: MISMATCH: its files are not those that were counted first" in failed.stderr
    assert "MISMATCH" in ctl("snapshot", "get", "nap").stdout
    assert list(data.glob("verifications/*/*")) == []
    assert ctl("delete", "v-1", "--yes", "--wait").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status", "never-was"), 3, "check its id"),
        (("create", "-p", "Bad"), 2, "spec.project"),
        (("create", "-p", "demo", "-e", "NOT_THERE"), 2, "NOT_THERE"),
        (("list", "--phase", "nonsense"), 2, "phase"),
        (("list", "--selector", "a=b=c"), 2, "label_selector"),
        (("nonsense",), 2, "nonsense"),
        (("--server", "127.0.0.1:1", "--request-timeout", "0.5", "list"), 5, "make run"),
        (("--server", "example.com:1", "--token", "t", "list"), 2, "TLS"),
        (("--token-file", "/nowhere", "list"), 2, "/nowhere"),
    ],
)
def test_errors_say_what_to_do_and_have_codes(ctl, words: tuple[str, ...], code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    done = ctl(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_waiting_for_what_fails_says_why(ctl) -> None:  # type: ignore[no-untyped-def]
    done = ctl(
        "create",
        "-p",
        "demo",
        "--id",
        "c-2",
        "--ready-path",
        "/",
        "--wait",
        "--timeout",
        "20",
        "--",
        "/bin/sh",
        "-c",
        "exit 4",
    )
    assert done.returncode == 1
    assert "CRASH_LOOP" in done.stderr
    assert "exit code 4" in done.stderr
    assert ctl("delete", "c-2", "--wait").returncode == 0
