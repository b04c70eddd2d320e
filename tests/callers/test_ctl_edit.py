"""`sandboxctl edit env`: what the editor gets, what comes of it, and what is left behind."""

import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client
from sandboxctl import envfile

from tests.support import samples
from tests.support.ctl import Run
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

Editor = Callable[..., None]


@pytest.fixture
def made(client: Client) -> Iterator[pb.Sandbox]:
    made = client.create("demo", command=["sleep", "1000"], env={"KEPT": "k", "GONE": "g", "SET": "s"})
    yield made
    client.delete(made)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of an editor are."""
    made = tmp_path / "runtime"
    made.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made))
    return made


@pytest.fixture
def editor(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    """Makes shell commands the editor: each for one time that it is called. $1 is the file, $SEEN a file to keep."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))

    def make(*commands: str) -> None:
        steps = tmp_path / "steps"
        steps.mkdir(exist_ok=True)
        for number, one in enumerate(commands):
            (steps / str(number)).write_text(one)
        program = tmp_path / "editor"
        program.write_text(
            f"#!/bin/sh\nset -e\nstep=$(ls {steps} | head -1)\n"
            f'mv {steps}/$step {tmp_path}/step\ncp "$1" $SEEN\n. {tmp_path}/step\n'
        )
        program.chmod(0o755)
        # With a word of its own, as `code --wait`.
        monkeypatch.setenv("EDITOR", f"sh {shlex.quote(str(program))}")

    return make


@pytest.mark.slow
def test_editor_gets_names_and_only_what_was_edited_changes(
    run: Run, client: Client, made: pb.Sandbox, editor: Editor, folder: Path, tmp_path: Path
) -> None:
    editor(
        f'stat -c \'%a\' "$1" "$(dirname "$1")" > {tmp_path}/modes\n'
        f'printf "KEPT\\nSET={samples.CANARY}\\nNEW=\\"two\\nlines\\"\\n" > "$1"\n'
        'cp "$1" "$1~"'
    )
    done = run("edit", "env", made.sandbox_id, "--wait")
    assert done.code == 0, done.err
    seen = (tmp_path / "seen").read_text()
    assert [line for line in seen.splitlines() if not line.startswith("#")] == ["GONE", "KEPT", "SET"]
    assert f"default/{made.sandbox_id}" in seen
    assert (tmp_path / "modes").read_text().split() == ["600", "700"]
    assert list(client.get(made).env_names) == ["KEPT", "NEW", "SET"]
    assert client.status(made).generation == 2
    assert samples.CANARY not in done.out + done.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "edit", ["true", ": > /dev/null; touch $1", "echo >> $1", 'printf "GONE\\nKEPT\\nSET\\n" > "$1"']
)
def test_nothing_is_done_without_a_change(
    run: Run, client: Client, made: pb.Sandbox, editor: Editor, folder: Path, edit: str
) -> None:
    editor(edit)
    done = run("edit", "env", made.sandbox_id)
    assert (done.code, done.out, done.err) == (0, "", "nothing was changed\n")
    assert client.status(made).generation == 1
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_file_that_cannot_be_read_is_edited_again(
    run: Run, client: Client, made: pb.Sandbox, editor: Editor, folder: Path, tmp_path: Path
) -> None:
    editor(f'echo "NEW=\'{samples.CANARY}" > "$1"', 'printf "KEPT\\nGONE\\nSET\\nNEW=1\\n" > "$1"')
    done = run("edit", "env", made.sandbox_id)
    assert (done.code, "line 1 has a quote that is not closed" in done.err) == (0, True)
    # The person has what was typed again.
    assert samples.CANARY in (tmp_path / "seen").read_text()
    assert list(client.get(made).env_names) == ["GONE", "KEPT", "NEW", "SET"]
    assert samples.CANARY not in done.out + done.err
    editor(f'echo "{samples.CANARY}" > "$1"', "true")
    left = run("edit", "env", made.sandbox_id)
    assert (left.code, left.err.count("line 1 must be NAME=value")) == (1, 2)
    assert samples.CANARY not in left.out + left.err
    assert client.status(made).generation == 2
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["EDITOR", "VISUAL"])
@pytest.mark.slow
def test_editor_that_fails_changes_nothing(
    run: Run, client: Client, made: pb.Sandbox, editor: Editor, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    editor('echo "NEW=1" > "$1"; exit 3')
    done = run("edit", "env", made.sandbox_id)
    assert (done.code, "exit code 3: nothing was changed" in done.err) == (1, True)
    monkeypatch.setenv(name, "/no/such/editor")
    done = run("edit", "env", made.sandbox_id)
    assert (done.code, "'/no/such/editor' cannot be started" in done.err) == (1, True)
    assert client.status(made).generation == 1
    assert list(folder.iterdir()) == []
    assert run("edit", "env", "never-was").code == 3


@pytest.mark.slow
def test_variable_that_somebody_sets_meanwhile_stays(
    run: Run, client: Client, made: pb.Sandbox, editor: Editor, service: Service
) -> None:
    command = shlex.join([sys.executable, "-m", "sandboxctl", "env", "set", made.sandbox_id, "MEANWHILE=1"])
    editor(f'{command} >/dev/null\nprintf "KEPT\\nSET\\n" > "$1"')
    assert run("edit", "env", made.sandbox_id).code == 0
    assert list(client.get(made).env_names) == ["KEPT", "MEANWHILE", "SET"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.slow
def test_file_is_removed_when_the_command_is_ended(
    run: Run, made: pb.Sandbox, editor: Editor, folder: Path, number: signal.Signals
) -> None:
    editor("exec sleep 2")
    words = [sys.executable, "-m", "sandboxctl", "edit", "env", made.sandbox_id]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, heard)
    with process:
        eventually(lambda: any(folder.glob("*/variables.env")))
        (file,) = folder.glob("*/variables.env")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        process.send_signal(number)
        assert process.wait(timeout=30 * PATIENCE) == 128 + number
    assert list(folder.iterdir()) == []


def test_only_known_names_have_lines_of_their_own() -> None:
    data = b"A\n  B  # no\n"
    with pytest.raises(ValueError, match="line 2"):
        envfile.read(data, ["A", "B"])
    found = envfile.read(b"A\nB=1\nC='\nA\n'\n", ["A"])
    assert (found.values, found.bare) == ({"B": "1", "C": "\nA\n"}, {"A"})
    with pytest.raises(ValueError, match="line 1"):
        envfile.parse(b"A\n")
