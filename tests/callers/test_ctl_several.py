"""Commands of `sandboxctl` on several sandboxes, its formats, and what reads a sandbox."""

import uuid
import webbrowser
from collections.abc import Iterator

import pytest
import yaml
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client
from sandboxctl import advice

from tests.support.ctl import Run
from tests.support.waiting import PATIENCE

SLEEP = ("sleep", "1000")


@pytest.fixture
def group() -> str:
    return f"g-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def pair(client: Client, group: str) -> Iterator[list[str]]:
    """Two running sandboxes with the label group."""
    made = [
        client.create("several", sandbox_id=f"{group}-{number}", command=SLEEP, labels={"group": group})
        for number in (1, 2)
    ]
    for one in made:
        client.wait_until(one, "RUNNING", timeout=30 * PATIENCE)
    yield [one.sandbox_id for one in made]
    for one in made:
        client.delete(one)


@pytest.mark.slow
def test_verbs_take_several_ids_and_selectors(run: Run, client: Client, pair: list[str], group: str) -> None:
    by_label = ("-l", f"group={group}")
    stopped = run("stop", *pair, pair[0], "--wait")
    assert (stopped.code, stopped.column(0)) == (0, pair), stopped.err
    assert [client.status(one).phase for one in pair] == [pb.PHASE_STOPPED] * 2
    started = run("start", *by_label, "--wait", "-o", "json")
    assert [one["status"]["phase"] for one in started.json["sandboxes"]] == ["PHASE_RUNNING"] * 2
    assert run("env", "set", ",".join(pair), "A=1").code == 0
    assert run("env", "set", *by_label, "B=1").code == 0
    listed = run("env", "list", *by_label)
    assert listed.out.splitlines() == [f"default/{one} {name}" for one in pair for name in ("A", "B")]
    assert run("env", "unset", *by_label, "A", "B", "--wait").code == 0
    assert run("env", "list", *pair, "-o", "json").json == {f"default/{one}": [] for one in pair}
    assert run("status", *pair, "-o", "json").json["statuses"][1]["sandbox_id"] == pair[1]
    assert [one["sandbox_id"] for one in run("get", *by_label).json["sandboxes"]] == pair
    assert run("describe", *by_label).out.count("What to do") == 2
    waited = run("wait", *by_label)
    assert (waited.code, waited.column(2)) == (0, ["RUNNING"] * 2)


@pytest.mark.slow
def test_failures_of_some_keep_no_other_from_its_turn(run: Run, client: Client, pair: list[str]) -> None:
    done = run("stop", "never-was", *pair)
    assert (done.code, done.column(0)) == (3, pair)
    assert "never-was" in done.err
    shown = run("status", pair[0], "never-was", "-o", "json")
    assert (shown.code, [one["sandbox_id"] for one in shown.json["statuses"]]) == (3, pair[:1])


@pytest.mark.parametrize(
    "verb", ["start", "stop", "status", "get", "describe", "wait", "env list", "env set", "env unset"]
)
@pytest.mark.slow
def test_verbs_take_ids_or_a_selector_and_not_both(run: Run, verb: str) -> None:
    assert run(*verb.split()).code == 2
    values = ("A=1",) if verb.startswith("env") and not verb.endswith("list") else ("id", "id-2")
    nothing = run(*verb.split(), "-l", "none=such", *values)
    assert nothing.code == (0 if values == ("A=1",) else 2), nothing.err


@pytest.mark.slow
def test_formats_are_for_people_and_programs(run: Run, pair: list[str], group: str) -> None:
    listing = ("list", "-l", f"group={group}")
    assert run(*listing, "-o", "name").out.split() == [f"default/{one}" for one in pair]
    wide = run(*listing, "-o", "wide").out.splitlines()
    assert wide[0].split() == [
        *("TENANT", "NAMESPACE", "ID", "PROJECT", "PHASE", "REASON", "REMEDY", "GENERATION"),
        *("RESTARTS", "AGE", "DISK", "URL", "TERMINAL", "MESSAGE"),
    ]
    assert wide[1].split()[:8] == ["default", "default", pair[0], "several", "RUNNING", "READY", "-", "1/1"]
    assert yaml.safe_load(run(*listing, "-o", "yaml").out) == run(*listing, "-o", "json").json
    assert yaml.safe_load(run("get", pair[0], "-o", "yaml").out)["spec"]["command"] == list(SLEEP)
    assert run("status", f"default/{pair[0]}", "-o", "name").out == f"default/{pair[0]}\n"
    assert run("status", f"nowhere/{pair[0]}").code == 3


@pytest.mark.slow
def test_wait_is_for_a_phase_or_what_was_asked_for(run: Run, client: Client, pair: list[str]) -> None:
    client.stop(pair[0])
    stopped = run("wait", pair[0])
    assert (stopped.code, "STOPPED" in stopped.out) == (0, True)
    late = run("wait", pair[0], "--for", "running", "--timeout", "0.3")
    assert (late.code, "not RUNNING within the time" in late.err) == (4, True)
    assert run("wait", pair[0], "--for", "nonsense").code == 2


@pytest.mark.slow
def test_describe_says_all_and_what_to_do(run: Run, client: Client) -> None:
    made = client.create("said", command=["sh", "-c", "echo last words; exit 4"], env={"NAMED": "v"}, ports=[8080])
    client.wait_until(made, "ERROR", timeout=60 * PATIENCE)
    said = run("describe", made.sandbox_id).out
    for words in ("CRASH_LOOP", "CALLER", "last exit", "4 (", "last words", "VOLUME_BOUND", "NAMED", "port-8080 8080"):
        assert words in said, words
    assert "correct the command" in said
    past = said.partition("History")[2]
    assert "CreateSandbox" in past
    assert "observed" in past
    client.delete(made)


def test_disk_that_is_nearly_full_is_a_next_step() -> None:
    full = pb.Condition(type=pb.CONDITION_TYPE_DISK_NEARLY_FULL, status=pb.CONDITION_STATUS_TRUE)
    step = "the disk is nearly full: remove files, or give it a larger size"
    assert advice.next_step(pb.SandboxStatus(reason=pb.REASON_READY, conditions=[full])) == step
    failing = pb.SandboxStatus(reason=pb.REASON_IMAGE_INVALID, remedy=pb.REMEDY_CALLER, conditions=[full])
    assert advice.next_step(failing) == f"correct the image's name; {step}"
    full.status = pb.CONDITION_STATUS_FALSE
    assert advice.next_step(pb.SandboxStatus(reason=pb.REASON_READY, conditions=[full])) == "nothing"


def test_every_remedy_and_reason_has_a_next_step() -> None:
    for reason in pb.Reason.values():
        for remedy in pb.Remedy.values():
            step = advice.next_step(pb.SandboxStatus(sandbox_id="an-id", reason=reason, remedy=remedy))
            assert step
            assert "{" not in step


@pytest.mark.slow
def test_open_prints_the_url_and_opens_it_on_a_terminal(
    run: Run, client: Client, pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    url = client.get(pair[0]).public_url
    assert (run("open", pair[0]).out, opened) == (f"{url}\n", [])
    monkeypatch.setattr("sandboxctl.reading.on_terminal", lambda: True)
    assert run("open", pair[0], "--print").out == f"{url}\n"
    assert run("open", pair[0], "-o", "json").json == {"url": url}
    assert opened == [url]
    none = run("open", pair[0], "--terminal")
    assert (none.code, "no web terminal" in none.err) == (1, True)
    client.stop(pair[0])
    client.wait_until(pair[0], "STOPPED", timeout=30 * PATIENCE)
    assert "may not answer" in run("open", pair[0], "--print").err
