"""`sandboxctl delete`: what it asks, which sandboxes it deletes, and what it prints."""

import json
import os
import pty
import subprocess
import uuid
from collections.abc import Callable

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client, NotFound, Unavailable
from sandboxctl import deletion

from tests.support import programs
from tests.support.service import Service
from tests.support.waiting import PATIENCE

Done = subprocess.CompletedProcess[str]
Ctl = Callable[..., Done]
pytestmark = pytest.mark.find(44)


@pytest.fixture
def ctl(service: Service) -> Ctl:
    """Runs the command without a terminal or, with `answer`, with one on standard input."""

    def run(*words: str, answer: str | None = None) -> Done:
        env = {**os.environ, "SANDBOX_SERVER": service.address}
        if answer is None:
            return programs.run("sandboxctl", *words, stdin=subprocess.DEVNULL, env=env)
        master, terminal = pty.openpty()
        try:
            os.write(master, answer.encode())
            return programs.run("sandboxctl", *words, stdin=terminal, env=env)
        finally:
            os.close(master)
            os.close(terminal)

    return run


def made(client: Client, *, label: str = "") -> str:
    labels = {"group": label} if label else {}
    spec = pb.SandboxSpec(command=["/bin/sleep", "1000"], labels=labels)
    return client.create("gone", sandbox_id=f"d-{uuid.uuid4().hex[:8]}", spec=spec).sandbox_id


def desired(client: Client, sandbox_id: str) -> "pb.DesiredState.ValueType":
    return client.get(sandbox_id).desired_state


@pytest.mark.parametrize("answer", ["n\n", "\n", "no\n", "yesterday\n", "\x04"])
@pytest.mark.slow
def test_on_a_terminal_nothing_is_deleted_without_a_yes(ctl: Ctl, client: Client, answer: str) -> None:
    name = made(client)
    done = ctl("delete", name, answer=answer)
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr
    assert "disk goes too" in done.stderr
    assert "nothing was deleted" in done.stderr
    assert desired(client, name) == pb.DESIRED_STATE_RUNNING
    client.delete(name)


@pytest.mark.parametrize(
    ("words", "answer"),
    [((), "y\n"), ((), "YES\n"), (("--yes",), ""), (("-y",), ""), ((), None), (("--keep-volume",), "y\n")],
)
@pytest.mark.slow
def test_delete_goes_on_at_a_yes_and_without_a_terminal(
    ctl: Ctl, client: Client, words: tuple[str, ...], answer: str | None
) -> None:
    name = made(client)
    done = ctl("-o", "json", "delete", name, *words, answer=answer)
    assert (done.returncode, json.loads(done.stdout)["sandbox_id"]) == (0, name), done.stderr
    assert ("[y/N]" in done.stderr) == (answer not in ("", None))
    assert desired(client, name) == pb.DESIRED_STATE_DELETED


@pytest.mark.slow
def test_several_ids_are_deleted_and_waited_for(ctl: Ctl, client: Client) -> None:
    names = [made(client), made(client)]
    done = ctl("delete", *names, names[0], "--wait", answer="y\n")
    assert done.returncode == 0, done.stderr
    assert "these 2 sandboxes" in done.stderr
    assert [one.split()[0] for one in done.stdout.splitlines()[1:]] == names
    assert [client.status(one).phase for one in names] == [pb.PHASE_TERMINATED] * 2


@pytest.mark.slow
def test_ids_that_are_not_there_keep_no_other_from_going(ctl: Ctl, client: Client) -> None:
    name = made(client)
    done = ctl("-o", "json", "delete", "never-was", name, "never-was-2", "--wait")
    assert done.returncode == 3
    assert "never-was" in done.stderr
    assert "never-was-2" in done.stderr
    assert [one["sandbox_id"] for one in json.loads(done.stdout)["sandboxes"]] == [name]
    assert client.status(name).phase == pb.PHASE_TERMINATED


@pytest.mark.slow
def test_a_selector_deletes_what_matches_alone(ctl: Ctl, client: Client) -> None:
    group = uuid.uuid4().hex[:8]
    names, other = sorted(made(client, label=group) for _ in range(2)), made(client)
    refused = ctl("delete", "-l", f"group={group}", answer="n\n")
    assert refused.returncode == 1
    assert all(f"default/{one}" in refused.stderr for one in names)
    done = ctl("-o", "json", "delete", "--selector", f"group={group}", "--wait")
    assert [one["sandbox_id"] for one in json.loads(done.stdout)["sandboxes"]] == names
    assert desired(client, other) == pb.DESIRED_STATE_RUNNING
    client.delete(other)
    again = ctl("delete", "-l", f"group={group}", answer="")
    assert (again.returncode, again.stderr) == (0, "no sandbox matches\n")
    assert json.loads(ctl("-o", "json", "delete", "-l", f"group={group}").stdout) == {"sandboxes": []}


@pytest.mark.parametrize("words", [(), ("-l", ""), ("-l", "  "), ("some-id", "-l", "a=b")])
def test_delete_takes_ids_or_a_selector(ctl: Ctl, words: tuple[str, ...]) -> None:
    done = ctl("delete", *words)
    assert (done.returncode, "one of the two" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_service_that_is_away_ends_the_command_at_once(ctl: Ctl) -> None:
    done = ctl("--server", "127.0.0.1:1", "--request-timeout", "0.5", "delete", "a", "b")
    # For both sandboxes once.
    assert (done.returncode, [one[:6] for one in done.stderr.splitlines()].count("error:")) == (5, 1)


@pytest.mark.slow
def test_a_kept_disk_is_removed_by_another_delete(ctl: Ctl, client: Client) -> None:
    name = made(client)
    client.wait_until(name, "RUNNING", timeout=20 * PATIENCE)
    assert ctl("delete", name, "--keep-volume", "--wait").returncode == 0
    assert name in ctl("list", "--kept-volumes").stdout
    assert ctl("delete", name, "--wait").returncode == 0
    assert name not in ctl("list", "--kept-volumes").stdout
    assert client.status(name).reason == pb.REASON_DELETED


@pytest.mark.slow
def test_kept_disks_are_listed_and_deleted(ctl: Ctl, client: Client) -> None:
    name = made(client)
    uid = client.wait_until(name, "RUNNING", timeout=20 * PATIENCE).uid
    assert ctl("delete", name, "--keep-volume", "--wait").returncode == 0
    table = [line.split() for line in ctl("volumes", "-p", "gone").stdout.splitlines()]
    assert table[0] == ["ID", "PROJECT", "SIZE", "CLASS", "KEPT", "VOLUME"]
    assert [name, "gone", "5Gi", "-"] in [one[:4] for one in table]
    wide = [line.split() for line in ctl("-o", "wide", "volumes").stdout.splitlines()]
    assert wide[0][:4] == ["TENANT", "NAMESPACE", "ID", "PROJECT"]
    assert uid in [one[9] for one in wide]
    assert f"default/{name}" in ctl("-o", "name", "volumes").stdout.split()
    assert name in [one["sandbox_id"] for one in json.loads(ctl("-o", "json", "volumes").stdout)["volumes"]]
    refused = ctl("delete-volume", name, answer="n\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "all that is on it goes" in refused.stderr
    done = ctl("-o", "json", "delete-volume", name, "--wait", answer="y\n")
    assert (done.returncode, json.loads(done.stdout)["status"]["reason"]) == (0, "REASON_DELETED"), done.stderr
    assert ctl("delete-volume", name).returncode == 0
    assert name not in ctl("volumes").stdout
    assert "no kept disk matches" in ctl("volumes", "-p", "none").stderr


@pytest.mark.slow
def test_kept_disks_are_deleted_by_label(ctl: Ctl, client: Client) -> None:
    labels = {"one": "selected", "other": "selected", "third": "left"}
    for name, value in labels.items():
        client.create("gone", sandbox_id=f"disk-{name}", labels={"disk": value}, command=["sleep", "1000"])
        # A sandbox that is deleted before it has a disk keeps none.
        client.wait_until(f"disk-{name}", "RUNNING", timeout=20 * PATIENCE)
        client.delete(f"disk-{name}", keep_volume=True)
    for name in labels:
        client.wait_until(f"disk-{name}", "TERMINATED", timeout=20 * PATIENCE)
    refused = ctl("delete-volume", "-l", "disk=selected", answer="n\n")
    assert (refused.returncode, "disks of these 2 deleted sandboxes" in refused.stderr) == (1, True)
    done = ctl("-o", "name", "delete-volume", "-l", "disk=selected", "--wait", "--yes")
    assert (done.returncode, done.stdout.split()) == (0, ["default/disk-one", "default/disk-other"])
    assert ctl("-o", "name", "volumes", "-l", "disk").stdout.split() == ["default/disk-third"]
    assert "no kept disk matches" in ctl("delete-volume", "-l", "disk=selected").stderr
    assert ctl("delete-volume").returncode == ctl("delete-volume", "a", "-l", "disk").returncode == 2
    client.delete_volume("disk-third")


@pytest.mark.slow
def test_the_disk_of_a_sandbox_that_was_not_deleted_stays(ctl: Ctl, client: Client) -> None:
    name = made(client)
    done = ctl("delete-volume", name, "never-was")
    assert (done.returncode, "was not deleted" in done.stderr) == (3, True)
    assert desired(client, name) == pb.DESIRED_STATE_RUNNING
    client.delete(name)


def test_an_unknown_sandbox_has_the_exit_code_of_one_that_is_not_found(ctl: Ctl, client: Client) -> None:
    with pytest.raises(NotFound):
        client.get("never-was")
    assert ctl("delete", "never-was").returncode == 3


@pytest.mark.parametrize("ended", [Unavailable("gone", grpc.StatusCode.UNAVAILABLE), KeyboardInterrupt()])
def test_what_was_deleted_is_printed_though_the_command_ends_before_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: BaseException
) -> None:
    def delete(_namespace: str, sandbox_id: str, _keep_volume: bool) -> pb.Sandbox:
        if sandbox_id == "third":
            raise ended
        if sandbox_id == "second":
            raise NotFound("there is no sandbox 'second'", grpc.StatusCode.NOT_FOUND, "SANDBOX_NOT_FOUND")
        return pb.Sandbox(sandbox_id=sandbox_id)

    monkeypatch.setattr(deletion, "_deleted", delete)
    with pytest.raises(type(ended)):
        deletion.delete(["first", "second", "third", "fourth"], "", yes=True, wait=False, patience=1, timeout=1)
    said = capsys.readouterr()
    assert [one.split()[0] for one in said.out.splitlines()] == ["ID", "first"]
    assert "error: there is no sandbox 'second'" in said.err
