"""The contexts of `sandboxctl`, what wins over them, and what shells complete."""

import os
import subprocess
from pathlib import Path

import pytest
import sandboxctl.__main__ as command
from sandbox_client import Client

from tests.support import samples
from tests.support.ctl import Run
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE


@pytest.fixture
def config(service: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file with the service of the module and one that is not there."""
    monkeypatch.delenv("SANDBOX_SERVER")
    (tmp_path / "token").write_text("token-of-here")
    file = tmp_path / "config.yaml"
    file.write_text(
        f"# kept as it is\ncurrent: here\ncontexts:\n"
        f"  here: {{server: '{service.address}', token_file: token}}\n"
        f"  away: {{server: '127.0.0.1:{free_port()}', namespace: far, tls: true, ca_file: ~/ca.pem}}\n"
    )
    file.chmod(0o640)
    return file


@pytest.mark.slow
def test_current_context_is_used_and_changed_without_other_changes(run: Run, config: Path) -> None:
    assert run("list").code == 0
    assert run("context", "show", "-o", "json").json["name"] == "here"
    before = config.read_text()
    assert run("context", "use", "away").out == "the current context is away\n"
    assert config.read_text() == before.replace("current: here", "current: away")
    assert config.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in config.parent.iterdir()].count("config.yaml") == 1
    shown = run("context", "show", "-o", "json").json
    assert (shown["name"], shown["namespace"], shown["tls"]) == ("away", "far", True)
    assert shown["ca_file"] == str(Path.home() / "ca.pem")
    assert run("context", "show", "here", "-o", "json").json["token_file"] == str(config.parent / "token")
    listed = run("context", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "here", "*"]
    assert run("list", "--context", "here").code == 0
    assert run("--context", "here", "list").code == 0


@pytest.mark.slow
def test_file_without_a_current_context_gets_one(run: Run, config: Path) -> None:
    config.write_text(config.read_text().replace("current: here\n", ""))
    assert run("context", "use", "here").code == 0
    assert config.read_text().startswith("current: here\n# kept")
    assert run("list").code == 0


@pytest.mark.slow
def test_flags_and_variables_win_and_a_server_replaces_the_context(
    run: Run, config: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.parent / "token").unlink()
    assert (run("list").code, run("list", "--token", "mine").code) == (2, 0)
    monkeypatch.setenv("SANDBOX_TOKEN", "mine")
    assert run("list").code == 0
    monkeypatch.delenv("SANDBOX_TOKEN")
    # The token of a context, here a file that is not there, is not read for another server.
    assert run("list", "--server", service.address).code == 0
    monkeypatch.setenv("SANDBOX_CONTEXT", "nonsense")
    assert "no context" in run("list").err
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    both = run("list")
    assert (both.code, "leave one out" in both.err) == (2, True)
    monkeypatch.delenv("SANDBOX_CONTEXT")
    assert run("list").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("current: [", "is not YAML"),
        ("contexts: {a: {server: 'h:1', token: CANARY}}", "has no field 'token'"),
        ("contexts: {a: CANARY}", "must have fields"),
        ("contexts: [CANARY]", "must have a name"),
        ("kontexts: {}", "other keys"),
        ("contexts: {a: {tls: 'CANARY'}}", "tls of context 'a'"),
        ("contexts: {a: {server: 5}}", "must be text"),
        ("current: b\ncontexts: {a: {}}", "there is no context 'b'"),
    ],
)
def test_config_file_that_cannot_be_used_is_refused_without_its_values(
    run: Run, config: Path, text: str, said: str
) -> None:
    config.write_text(text.replace("CANARY", samples.CANARY))
    done = run("list")
    assert (done.code, said in done.err) == (2, True), done.err
    assert samples.CANARY not in done.err


def test_missing_config_file_has_no_contexts(run: Run, tmp_path: Path) -> None:
    done = run("context", "list")
    assert (done.code, str(tmp_path / "config.yaml") in done.err) == (0, True)
    assert run("context", "list", "-o", "json").json == {"contexts": []}
    assert run("context", "use", "any").code == 2
    assert run("list").code == 0


SHELLS = ("bash", "zsh", "fish")


def completed(shell: str, line: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the script of a shell gets for a line that a person has typed."""
    words = line.split(" ")
    variables = {
        "_SANDBOXCTL_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run()
    for name in variables:
        monkeypatch.delenv(name)
    assert (done.code, done.err) == (0, "")
    return done.out


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.slow
def test_shells_complete_ids_phases_and_contexts(
    shell: str, run: Run, client: Client, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client.create("a-project", sandbox_id=f"complete-{shell}", command=["sleep", "100"])
    ends = {
        f"sandboxctl stop {made.sandbox_id} com": made.sandbox_id,
        f"sandboxctl stop default/{made.sandbox_id[:-1]}": f"default/{made.sandbox_id}",
        "sandboxctl env set comp": made.sandbox_id,
        "sandboxctl watch a-pro": "a-project",
        "sandboxctl open comp": made.sandbox_id,
        "sandboxctl wait --for run": "running",
        "sandboxctl list --phase E": "ERROR",
        "sandboxctl context use a": "away",
        "sandboxctl list --context h": "here",
        "sandboxctl desc": "describe",
        "sandboxctl vol": "volumes",
        "sandboxctl delete-": "delete-volume",
        "sandboxctl list --ten": "--tenant",
        "sandboxctl --req": "--request-timeout",
        "sandboxctl list --req": "--request-timeout",
    }
    for line, found in ends.items():
        assert found in completed(shell, line, run, monkeypatch), line
    for line in (
        f"sandboxctl env set {made.sandbox_id} com",
        "sandboxctl --context away stop com",
        "sandboxctl stop none",
    ):
        assert made.sandbox_id not in completed(shell, line, run, monkeypatch), line
    # Options behind the command count too.
    assert made.sandbox_id in completed(shell, "sandboxctl --context away stop --context here com", run, monkeypatch)
    assert made.sandbox_id not in completed(shell, "sandboxctl delete-volume comp", run, monkeypatch)
    client.wait_until(client.delete(made, keep_volume=True), "TERMINATED")
    assert made.sandbox_id in completed(shell, "sandboxctl delete-volume comp", run, monkeypatch)
    client.delete_volume(made)


@pytest.mark.slow
def test_bash_itself_completes(service: Service, client: Client, tmp_path: Path) -> None:
    client.create("a-project", sandbox_id="in-bash", command=["sleep", "100"])
    program = Path(command.__file__).parents[2] / ".venv" / "bin"
    script = (
        'eval "$(sandboxctl --show-completion)"\n'
        "COMP_WORDS=(sandboxctl stop in-b); COMP_CWORD=2; COMPREPLY=()\n"
        "_sandboxctl_completion sandboxctl; echo ${COMPREPLY[@]}\n"
    )
    env = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "SANDBOX_SERVER": service.address}
    env["SANDBOX_CONFIG"] = str(tmp_path / "none")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60 * PATIENCE)
    assert done.stdout.split() == ["in-bash"], done.stderr
    client.delete("in-bash")
