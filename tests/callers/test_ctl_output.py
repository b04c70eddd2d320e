"""What `sandboxctl` prints, and when it stops, against the live service."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
from rich import cells
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import DisruptionStatus
from sandbox_server.rpc import render
from sandboxctl import answers, details, options, show
from sandboxctl import env as variables

from tests.support import programs, samples
from tests.support.ports import free_port
from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE

CTL = str(programs.BIN / "sandboxctl")
SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])
LONG = "a-project-with-a-long-name-agentruntime-abc123"
Ctl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctl(service: Service) -> Ctl:
    def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        whole = {**os.environ, "SANDBOX_SERVER": service.address, "COLUMNS": "80", **(env or {})}
        return programs.run("sandboxctl", *words, env=whole)

    return run


@pytest.fixture
def long(client: Client) -> Iterator[pb.Sandbox]:
    made = client.create("a-project-with-a-long-name", sandbox_id=LONG, spec=SLEEP)
    client.wait_until(LONG, "RUNNING", timeout=20 * PATIENCE)
    yield client.get(LONG)
    client.delete(LONG)
    client.wait_until(LONG, "TERMINATED", timeout=20 * PATIENCE)
    assert made.sandbox_id == LONG


@pytest.mark.slow
def test_status_shows_how_full_the_disk_is_or_why_that_is_not_known(ctl: Ctl, long: pb.Sandbox, client: Client) -> None:
    assert "used" not in ctl("status", LONG).stdout
    # A busy machine may not measure in the time that a status waits.
    tries = (ctl("status", LONG, "--usage") for _ in range(10))
    shown = next(one for one in tries if "DEADLINE_EXCEEDED" not in one.stderr)
    used = [one.rstrip() for one in shown.stdout.splitlines() if one.startswith("used ")]
    assert " GiB (" in used[0]
    assert all(one.endswith(" %)") for one in used)
    assert shown.stderr == ""
    client.stop(LONG)
    client.wait_until(LONG, "STOPPED", timeout=20 * PATIENCE)
    stopped = ctl("status", LONG, "--usage")
    assert (stopped.returncode, "used" in stopped.stdout) == (0, False)
    assert "the disk was not measured: SANDBOX_NOT_RUNNING: " in stopped.stderr


@pytest.mark.slow
def test_no_id_or_url_is_cut_on_a_narrow_terminal(ctl: Ctl, long: pb.Sandbox) -> None:
    (line,) = [one for one in ctl("list").stdout.splitlines() if LONG in one]
    assert line.split()[:4] == [LONG, "a-project-with-a-long-name", "RUNNING", "READY"]
    assert line.split()[-1] == long.public_url
    shown = ctl("status", LONG).stdout
    assert any(one.split() == ["application", long.public_url] for one in shown.splitlines())


@pytest.mark.slow
def test_json_is_whole_for_programs(ctl: Ctl, long: pb.Sandbox) -> None:
    # Nothing that was not asked for: a sequence of 0 would be one to resume a watch at.
    assert json.loads(ctl("-o", "json", "list", "--project", "nobody").stdout) == {"sandboxes": []}
    (one,) = json.loads(ctl("-o", "json", "list", "--project", long.spec.project).stdout)["sandboxes"]
    assert (one["sandbox_id"], one["status"]["restart_count"]) == (LONG, 0)
    assert ctl("-o", "json", "status", LONG).stderr == ""
    assert json.loads(ctl("-o", "json", "env", "list", LONG).stdout) == []
    assert json.loads(ctl("-o", "json", "version").stdout) == {"version": metadata.version("sandbox-service")}


@pytest.mark.slow
def test_what_every_command_has_is_taken_before_and_after_it_and_the_later_counts(
    ctl: Ctl, service: Service, long: pb.Sandbox
) -> None:
    elsewhere = f"127.0.0.1:{free_port()}"
    whole = json.loads(ctl("-o", "json", "status", LONG).stdout)
    for words in (
        ("status", LONG, "--output", "json"),
        ("-o", "table", "status", "-o", "json", LONG),
        ("--server", elsewhere, "status", LONG, "-o", "json", "--server", service.address),
    ):
        assert json.loads(ctl(*words).stdout) == whole
    assert json.loads(ctl("env", "list", LONG, "-o", "json").stdout) == []
    assert json.loads(ctl("env", "-o", "json", "list", LONG).stdout) == []
    assert ctl("-n", "default", "status", LONG, "-n", "nowhere").returncode == 3


@pytest.mark.slow
def test_env_values_are_nowhere(ctl: Ctl, long: pb.Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(f"# words\n\nIN_FILE={samples.CANARY}=with=equals\n")
    broken = tmp_path / "broken"
    broken.write_text(f"no equals {samples.CANARY}\n")
    not_text = tmp_path / "bytes"
    not_text.write_bytes(b"A=" + samples.CANARY.encode() + b"\xff\n")
    shell = {"OF_SHELL": samples.CANARY}
    done = [
        ctl("env", "set", LONG, "--env-file", str(file), "--wait"),
        ctl("env", "set", LONG, "OF_SHELL", "--wait", env=shell),
        ctl("env", "list", LONG),
        ctl("get", LONG),
        ctl("-o", "json", "status", LONG),
        ctl("env", "set", LONG, f"NOT A NAME={samples.CANARY}"),
        ctl("env", "set", LONG, "--env-file", str(broken)),
        ctl("env", "set", LONG, "--env-file", str(not_text)),
        ctl("env", "set", LONG, "OF_SHELL", env={"OF_SHELL": samples.CANARY + "x" * 33_000}),
        ctl("env", "set", "never-was", "OF_SHELL", env=shell),
        ctl("env", "set", LONG, "--replace"),
        ctl("env", "list", LONG),
    ]
    assert [one.returncode for one in done] == [0, 0, 0, 0, 0, 2, 2, 2, 2, 3, 0, 0], [one.stderr for one in done]
    assert done[2].stdout.split() == ["IN_FILE", "OF_SHELL"]
    assert done[-1].stdout == ""
    assert "must be NAME=value" in done[6].stderr
    for one in done:
        assert samples.CANARY not in one.stdout + one.stderr


def test_a_line_of_an_env_file_ends_where_the_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes("\ufeffA=a\u2028B=b\x0cC=c\x85 \r\n# words\nD=\u00e9\r\n\n".encode())
    assert variables.read([], file) == {"A": "a\u2028B=b\x0cC=c\x85 ", "D": "\u00e9"}


@pytest.mark.find(43)
@pytest.mark.slow
def test_an_env_file_is_read_from_standard_input(service: Service, long: pb.Sandbox) -> None:
    def run(text: bytes) -> subprocess.CompletedProcess[bytes]:
        words = ("--server", service.address, "env", "set", LONG, "--env-file", "-")
        return programs.run("sandboxctl", *words, input=text, text=False)

    assert run(b"export FIRST='a b'\rSECOND=\"c\nd\"\r\n").returncode == 0
    with Client(service.address) as client:
        assert list(client.get(LONG).env_names) == ["FIRST", "SECOND"]
    wrong = run(b"FIRST=1\n" + samples.CANARY.encode())
    assert (wrong.returncode, b"line 2 must be NAME=value" in wrong.stderr) == (2, True)
    assert samples.CANARY.encode() not in wrong.stderr


@pytest.mark.slow
def test_what_the_output_cannot_encode_is_escaped(service: Service, client: Client) -> None:
    spec = pb.SandboxSpec(command=["/bin/sh", "-c", "exec sleep 1000", "\u00e9"])
    client.create("demo", sandbox_id="encoded", spec=spec)
    for encoding in ("ascii", "utf-8"):
        env = {**os.environ, "SANDBOX_SERVER": service.address, "PYTHONIOENCODING": encoding}
        done = subprocess.run([CTL, "get", "encoded"], env=env, capture_output=True, text=True, timeout=60 * PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["spec"]["command"][-1] == "\u00e9"
    client.delete("encoded")


@pytest.mark.slow
def test_output_that_cannot_be_written_is_a_failure_and_no_bad_argument(service: Service) -> None:
    with Path("/dev/full").open("w") as full:
        words = [CTL, "--server", service.address, "list"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.slow
def test_setting_no_variable_is_a_usage_error(ctl: Ctl, long: pb.Sandbox) -> None:
    done = ctl("env", "set", LONG)
    assert (done.returncode, done.stdout, "give NAME=value" in done.stderr) == (2, "", True)
    assert ctl("status", LONG).stdout.split("generation")[1].split()[0] == "1"


@pytest.mark.slow
def test_what_is_gone_has_no_url(ctl: Ctl, client: Client) -> None:
    url = client.create("demo", sandbox_id="gone", spec=SLEEP).public_url
    deleted = ctl("delete", "gone", "--wait")
    assert deleted.returncode == 0
    assert "TERMINATED" in deleted.stdout
    listed = ctl("list", "--phase", "terminated").stdout
    assert [one.split()[-1] for one in listed.splitlines() if one.split()[0] == "gone"] == ["-"]
    assert url.startswith("http://127.0.0.1:")
    for shown in (deleted.stdout, ctl("status", "gone").stdout, listed):
        assert url not in shown


@pytest.mark.slow
def test_a_token_is_never_shown(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{samples.CANARY} two\n")
    done = [
        ctl("list", env={"SANDBOX_TOKEN": f"{samples.CANARY}\ntwo"}),
        ctl("--token-file", str(file), "list"),
        ctl("--server", "127.evil.example:443", "list", env={"SANDBOX_TOKEN": samples.CANARY}),
        ctl("--help", env={"SANDBOX_TOKEN": samples.CANARY}),
    ]
    assert [one.returncode for one in done] == [2, 2, 2, 0]
    for one in done:
        assert samples.CANARY not in one.stdout + one.stderr


@pytest.mark.slow
def test_wait_prints_progress_and_a_timeout_names_the_last_status(ctl: Ctl) -> None:
    words = ("--ready-path", "/", "--wait", "--timeout", "6", "--", "/bin/sleep", "1000")
    done = ctl("create", "-p", "demo", "--id", "slow", *words)
    assert done.returncode == 4
    assert done.stdout == ""
    *steps, last = done.stderr.splitlines()
    # The watch begins after the answer to the create: CREATING may be over by then.
    phases = [step.split()[0] for step in steps]
    assert (phases[-1], set(phases) <= {"CREATING", "STARTING"}) == ("STARTING", True)
    assert phases == sorted(phases)
    assert "slow is STARTING: NOT_READY" in last
    # Nothing that redraws: this is no terminal.
    assert "\x1b" not in done.stderr
    steps = ctl("delete", "slow", "--wait").stderr.splitlines()
    # What differs in a condition alone is no step.
    assert [step for step in steps if "POD_TERMINATING" in step] == [
        "TERMINATING POD_TERMINATING      the pod is being removed: waits for the process to end, at most 10 s"
    ]
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize("command", ["list", "watch"])
@pytest.mark.slow
def test_missing_listener_is_reported_soon(ctl: Ctl, command: str) -> None:
    began = time.monotonic()
    done = ctl("--server", f"127.0.0.1:{free_port()}", "--request-timeout", "1", command)
    assert (done.returncode, "make run" in done.stderr) == (5, True)
    assert time.monotonic() - began < options.REQUEST_TIMEOUT


def following(service: Service, *words: str) -> Program:
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    return Program("sandboxctl", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.slow
def test_a_watch_prints_each_change_at_once_and_ends_on_ctrl_c(service: Service, long: pb.Sandbox) -> None:
    with following(service, "-o", "json", "watch", long.spec.project) as process:
        assert process.stdout is not None
        try:
            # Through a pipe, while the command goes on.
            assert json.loads(process.stdout.readline())["sandbox_id"] == LONG
            assert process.stderr is not None
            assert f"the id {long.spec.project}: watching the project" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, words = process.communicate(timeout=30 * PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in words


@pytest.mark.slow
def test_a_watch_whose_reader_left_ends_quietly(service: Service, client: Client, long: pb.Sandbox) -> None:
    with following(service, "watch", LONG) as process:
        assert process.stdout is not None
        try:
            assert LONG in process.stdout.readline()
            process.stdout.close()
            client.update_env(LONG, set={"CHANGED": "1"})
            process.wait(timeout=30 * PATIENCE)
            words = process.stderr.read() if process.stderr else ""
        finally:
            process.kill()
    assert "Traceback" not in words
    assert "BrokenPipe" not in words


@pytest.mark.slow
def test_a_watch_takes_an_id_before_a_project_and_goes_by_label(ctl: Ctl, client: Client) -> None:
    labelled = pb.SandboxSpec(command=["/bin/sleep", "1000"], labels={"tier": "web"})
    client.create("same", sandbox_id="same", spec=labelled)
    client.create("same", sandbox_id="same-2", spec=SLEEP)
    for name in ("same", "same-2"):
        client.delete(name)
        client.wait_until(name, "TERMINATED", timeout=20 * PATIENCE)
    by_id = ctl("-o", "json", "watch", "same", "--after", "0")
    assert {json.loads(one)["sandbox_id"] for one in by_id.stdout.splitlines()} == {"same"}
    assert ctl("watch", "--selector", "a=b=c").returncode == 2


@pytest.mark.find(44)
@pytest.mark.slow
def test_empty_list_is_a_message_for_people_and_a_list_for_programs(ctl: Ctl, long: pb.Sandbox) -> None:
    for words in (("list", "-p", "nobody"), ("list", "-l", "none=such"), ("list", "-n", "elsewhere")):
        done = ctl(*words)
        assert (done.returncode, done.stderr) == (0, "no sandbox matches\n")
        assert [one.split()[0] for one in done.stdout.splitlines()] == ["ID"]
        done = ctl("-o", "json", *words)
        assert (json.loads(done.stdout), done.stderr) == ({"sandboxes": []}, "")
    done = ctl("env", "list", LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "it has no variables\n")


@pytest.mark.find(44)
@pytest.mark.parametrize("message", ["", "the pod is ready", "0/3 nodes are available: " * 20, "\u4e2d" * 100])
def test_a_change_is_one_line_of_a_terminal_with_namespace_and_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    status = pb.SandboxStatus(
        sandbox_id=LONG, namespace="default", phase=pb.PHASE_RUNNING, reason=pb.REASON_READY, message=message
    )
    monkeypatch.setenv("COLUMNS", "80")
    show.change(status, 41)
    (line,) = capsys.readouterr().out.splitlines()
    assert cells.cell_len(line) <= 80
    assert line.split()[0] == "41"
    assert f"RUNNING     default/{LONG}" in line
    # A program has the whole line.
    monkeypatch.delenv("COLUMNS")
    show.change(status, 41)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"default/{LONG} READY: {message}")


@pytest.mark.slow
def test_version_and_completion(ctl: Ctl) -> None:
    assert ctl("version").stdout.strip() == metadata.version("sandbox-service")
    typed = {"_SANDBOXCTL_COMPLETE": "complete_bash", "COMP_WORDS": "sandboxctl st", "COMP_CWORD": "1"}
    assert {"start", "status", "stop"} <= set(ctl(env=typed).stdout.split())


@pytest.mark.parametrize("command", ["", "create", "start", "stop", "delete", "status", "list", "get", "watch", "env"])
@pytest.mark.slow
def test_every_command_has_help(ctl: Ctl, command: str) -> None:
    done = ctl(*command.split(), "--help")
    assert (done.returncode, "Usage:" in done.stdout) == (0, True)


def test_the_clusters_words_are_shown_as_they_are_and_move_no_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = 'Pod "p" is invalid: [spec.a: Required, spec.b[0]: bad] [/b] :key: é'
    status = pb.SandboxStatus(sandbox_id="demo", message=f"{words}\n\x1b[31m\x9b2J")
    show.out.print(details.status(status))
    show.change(status, 1)
    show.failure("failed", status.message)
    said = capsys.readouterr()
    shown = [one for one in (said.out + said.err).splitlines() if words in one]
    assert len(shown) == 3
    assert all(one.isprintable() for one in shown)


@pytest.mark.fault(62)
@pytest.mark.find(10)
def test_last_disruption_is_a_row_of_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    seen = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ended = DisruptionStatus(Reason.EVICTED, "Evicted: low on memory\n; the disk is kept", seen, 2)
    disrupted = samples.sandbox(status=samples.status(last_disruption=ended))
    message = pb.SandboxStatus(**render.status(samples.event(disrupted)))
    assert answers.plain(message)["last_disruption"] == {
        "reason": "REASON_EVICTED",
        "message": ended.message,
        "time": "2026-01-02T03:04:05Z",
        "count": 2,
    }
    assert not pb.SandboxStatus(**render.status(samples.event(samples.sandbox()))).HasField("last_disruption")
    show.out.print(details.status(message))
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("last disruption")]
    assert "EVICTED at 2026-01-02T03:04:05+00:00, 2 in a row: Evicted: low on memory ; the disk is kept" in line


@pytest.mark.fault(61)
@pytest.mark.find(9)
@pytest.mark.slow
def test_create_that_waits_for_a_process_that_ends_fails(tmp_path: Path) -> None:
    service = Service(tmp_path, "--ready-for", "1").start()
    try:
        words = ["--server", service.address, "create", "-p", "demo", "--wait", "--", "sh", "-c", "sleep 0.3; exit 7"]
        done = programs.run("sandboxctl", *words)
        assert done.returncode != 0
        assert "CRASH_LOOP" in done.stderr
        assert "RUNNING" not in done.stderr
    finally:
        service.end()


def test_describe_has_every_field_of_the_spec() -> None:
    spec: dict[str, object] = {
        "project": "the-project",
        "image": "the-image",
        "command": ["the-command"],
        "args": ["the-args"],
        "ports": [{"name": "the-port", "number": 7}],
        "resources": {"cpu_request": "111m", "cpu_limit": "222m", "memory_request": "333Mi", "memory_limit": "444Mi"},
        "storage": {"size": "55Gi", "storage_class": "the-class", "access_mode": "ReadWriteMany"},
        "labels": {"the-label": "a"},
        "annotations": {"the-annotation": "a"},
        "runtime_class": "the-runtime",
        "readiness": {"http_path": "/the-path"},
        "grace_period_seconds": 66,
        "copy_image_home": True,
    }
    assert set(spec) == set(pb.SandboxSpec.DESCRIPTOR.fields_by_name)
    status = pb.SandboxStatus(sandbox_id="a", namespace="default", project="the-project", tenant="the-tenant")
    with show.out.capture() as captured:
        show.out.print(details.described(pb.Sandbox(spec=spec, env_names=["THE_VARIABLE"], status=status), ""))  # type: ignore[arg-type]
    said = captured.get()
    words = ["project", "image", "command", "args", "port", "class", "label", "annotation", "runtime", "path", "tenant"]
    for word in (*(f"the-{one}" for one in words), "111m", "222m", "333Mi", "444Mi", "55Gi", "66 s", "copied", "7"):
        assert word in said, word
    assert "THE_VARIABLE" in said
