"""`sandboxctl events`: the history with its causes."""

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client
from sandboxctl import history

from tests.support.ctl import Run
from tests.support.waiting import PATIENCE


@pytest.fixture
def pair(client: Client) -> list[str]:
    """Two sandboxes that ran and were deleted, one after the other."""
    names = ["past-1", "past-2"]
    if not list(client.list(phases=["TERMINATED"], project="past")):
        for name in names:
            made = client.create("past", sandbox_id=name, command=["sleep", "1000"], labels={"name": name})
            client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
            client.wait_until(client.delete(made), "TERMINATED", timeout=30 * PATIENCE)
    return names


@pytest.mark.slow
def test_history_ends_with_the_newest_event_and_says_what_caused_it(run: Run, client: Client, pair: list[str]) -> None:
    said = run("events", pair[0])
    assert said.code == 0, said.err
    heading, *lines = said.out.splitlines()
    assert heading.split() == ["SEQUENCE", "TIME", "PHASE", "REASON", "CAUSE", "MESSAGE"]
    assert [line.split()[2] for line in lines][:1] + [line.split()[2] for line in lines][-1:] == [
        "CREATING",
        "TERMINATED",
    ]
    assert "CreateSandbox" in lines[0]
    assert "observed" in lines[-1]
    sequences = [int(line.split()[0]) for line in lines]
    assert sequences == sorted(sequences)
    found = run("events", pair[0], "-o", "json").json["events"]
    assert [int(one["sequence"]) for one in found] == sequences
    assert found[0]["cause"]["method"] == "CreateSandbox"


@pytest.mark.slow
def test_several_sandboxes_have_one_history(run: Run, client: Client, pair: list[str]) -> None:
    whole = run("events", "-p", "past", "-o", "json").json["events"]
    assert run("events", *reversed(pair), "-o", "json").json["events"] == whole
    assert {one["status"]["sandbox_id"] for one in whole} == set(pair)
    assert run("events", *pair, "--limit", "3", "-o", "json").json["events"] == whole[-3:]
    middle = int(whole[4]["sequence"])
    assert run("events", "--after", str(middle), "-p", "past", "-o", "json").json["events"] == whole[5:]
    assert "default/past-2" in run("events", *pair).out
    some = run("events", "never-was", *pair, "-o", "json")
    assert (some.code, some.json["events"]) == (3, whole)
    assert run("events", "never-was").code == 3


@pytest.mark.slow
def test_history_is_read_over_pages(run: Run, pair: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("events", "-p", "past", "-o", "json").json
    monkeypatch.setattr(history, "_PAGE", 2)
    assert run("events", "-p", "past", "-o", "json").json == whole
    assert run("events", "-p", "past", "--limit", "5", "-o", "json").json["events"] == whole["events"][-5:]


@pytest.mark.slow
def test_no_event_is_a_message_for_people_and_a_list_for_programs(run: Run) -> None:
    none = run("events", "-p", "nobody")
    assert (none.code, "no event matches" in none.err) == (0, True)
    assert run("events", "-p", "nobody", "-o", "json").json == {"events": []}
    assert run("events", "-l", "none=such", "-o", "json").json == {"events": []}
    assert run("events", "an-id", "-l", "a=b").code == 2
    assert run("events", "--limit", "0").code == 2


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (pb.Cause(kind=pb.CAUSE_KIND_MUTATION, actor="team", method="Stop"), "Stop by team"),
        (pb.Cause(kind=pb.CAUSE_KIND_MUTATION, method="Stop"), "Stop"),
        (pb.Cause(kind=pb.CAUSE_KIND_MUTATION, actor="team"), "a call by team"),
        (pb.Cause(kind=pb.CAUSE_KIND_POLICY), "policy"),
        (pb.Cause(), "-"),
    ],
)
def test_causes_are_words(cause: pb.Cause, said: str) -> None:
    assert history._cause(cause) == said
