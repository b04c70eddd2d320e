"""`sandboxctl snapshot` and `clone`."""

import json

import pytest
from sandbox_client import Client

from tests.support.ctl import Run
from tests.support.waiting import PATIENCE


@pytest.fixture
def source(client: Client) -> str:
    """A sandbox that runs."""
    if not list(client.list(project="taken")):
        client.create("taken", sandbox_id="taken", command=["sleep", "1000"])
        client.wait_until("taken", "RUNNING", timeout=30 * PATIENCE)
    return "taken"


@pytest.mark.slow
def test_life_of_a_snapshot_is_shown(run: Run, source: str) -> None:
    made = run("snapshot", "create", source, "--id", "first", "--label", "kind=hand", "--wait")
    assert made.code == 0, made.err
    assert "READY" in made.out
    listed = run("snapshot", "list", "--sandbox", source, "--selector", "kind=hand")
    assert (listed.column(0), listed.column(2)) == (["first"], ["READY"])
    assert run("snapshot", "get", "first", "-o", "json").json["snapshot_id"] == "first"
    verified = run("snapshot", "verify", "first", "--wait", "-o", "json").json
    assert verified["verification"]["state"] == "VERIFICATION_STATE_PASSED"
    gone = run("snapshot", "delete", "first", "--yes", "--wait")
    assert (gone.code, "DELETED" in gone.out) == (0, True)
    after = run("snapshot", "list", "--selector", "kind=hand")
    assert (after.column(0), after.err) == ([], "no snapshot matches\n")


@pytest.mark.slow
def test_watch_of_a_snapshot_shows_each_change_once_and_ends_with_it(run: Run, source: str) -> None:
    begun = run("snapshot", "create", source, "--id", "watched", "--wait", "-o", "json").json
    run("snapshot", "delete", "watched", "--yes", "--wait")
    before = str(int(begun["sequence"]) - 1)
    lines = run("snapshot", "watch", "watched", "--after", before).out.splitlines()
    assert list(dict.fromkeys(line.split()[2] for line in lines)) == ["READY", "DELETING", "DELETED"]
    assert {line.split()[3] for line in lines} == {"default/watched"}
    sequences = [int(line.split()[0]) for line in lines]
    assert sequences == sorted(set(sequences))
    of_sandbox = run("snapshot", "watch", "watched", "--sandbox", source, "--after", before, "-o", "json").out
    assert [int(json.loads(line)["sequence"]) for line in of_sandbox.splitlines()] == sequences


def test_watch_of_a_snapshot_that_is_not_there_says_so(run: Run) -> None:
    said = run("snapshot", "watch", "never-was")
    assert said.code == 3
    assert "never-was" in said.err or "no such snapshot" in said.err


@pytest.mark.slow
def test_clone_has_the_files_of_its_source(run: Run, client: Client, source: str) -> None:
    client.run(source, ["sh", "-c", "echo kept > /home/agent/file"])
    made = run("clone", source, "--id", "twin", "--env", "A=1", "--wait")
    assert made.code == 0, made.err
    assert client.run("twin", ["sh", "-c", "cat /home/agent/file; echo $A"]).stdout == b"kept\n1\n"
    client.delete("twin")


@pytest.mark.slow
def test_life_of_a_schedule_is_shown(run: Run, source: str) -> None:
    made = run("schedule", "create", "nightly", "daily 02:00 keep 3", "--sandbox", source)
    assert made.code == 0, made.err
    assert "daily 02:00" in made.out
    assert run("schedule", "list").column(0) == ["nightly"]
    changed = run("schedule", "update", "nightly", "--keep", "5", "-o", "json").json
    assert (changed["keep"], changed["when"]) == (5, "daily 02:00")
    wrong = run("schedule", "update", "nightly", "daily 25:00")
    assert wrong.code == 2
    assert "when must be `daily HH:MM`" in wrong.err
    assert run("schedule", "delete", "nightly", "--yes").code == 0
    assert run("schedule", "get", "nightly").code == 3
