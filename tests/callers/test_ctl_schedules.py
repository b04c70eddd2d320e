"""`sandboxctl schedule`, and the schedules of the client, against a real service."""

from collections.abc import Iterator

import pytest
from sandbox_client import Client

from tests.support.ctl import Run


@pytest.fixture
def sandbox(client: Client) -> Iterator[str]:
    made = client.create("demo", command=["sleep", "1000"])
    yield made.sandbox_id
    client.delete(made)


@pytest.mark.slow
def test_schedule_is_made_shown_changed_and_deleted(run: Run, client: Client, sandbox: str) -> None:
    name = f"of-{sandbox}"
    made = run("schedule", "create", name, "daily 02:00 keep 3", "--sandbox", sandbox, "-o", "json").json
    assert (made["when"], made["keep"], made["sandbox_id"]) == ("daily 02:00", 3, sandbox)
    changed = run("schedule", "update", name, "weekly sun 04:30", "--before-delete", "-o", "json").json
    assert (changed["when"], changed["keep"], changed["before_delete"]) == ("weekly sun 04:30", 3, True)
    assert run("schedule", "update", name, "--keep", "5", "--selector", "tier=web", "-o", "json").json["keep"] == 5
    shown = run("schedule", "get", name).out
    assert "weekly sun 04:30" in shown
    assert "tier=web" in shown
    assert name in run("schedule", "list").column(0)
    assert any(one.endswith(f"/{name}") for one in run("schedule", "list", "-o", "name").out.split())
    assert run("schedule", "delete", name, "--yes").code == 0
    assert run("schedule", "get", name).code == 3
    assert name not in [one.schedule_id for one in client.schedules()]


@pytest.mark.parametrize("words", [(), ("--sandbox", "a", "--selector", "b=c")])
def test_schedule_needs_one_target(run: Run, words: tuple[str, ...]) -> None:
    done = run("schedule", "create", "wrong", "daily 02:00", *words)
    assert done.code == 2
    assert "one of the two" in done.err


def test_a_wrong_time_is_refused_with_examples(run: Run, sandbox: str) -> None:
    done = run("schedule", "create", "wrong", "every day keep 7", "--sandbox", sandbox)
    assert done.code == 2
    assert "daily 02:00" in done.err
