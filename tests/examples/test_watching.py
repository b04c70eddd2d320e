"""The programs of docs/watching.md, run as the page says, over connections that break and a service that is killed."""

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client

from tests.support import examples, relay
from tests.support.service import Service
from tests.support.waiting import PATIENCE

PAGE = (examples.ROOT / "docs" / "watching.md").read_text()
PROGRAMS = {
    "python": "A billing job, in Python",
    "typescript": "A console, in TypeScript",
    "go": "A status relay, in Go",
}
LONG = 60 * PATIENCE
"""Seconds that a program may take to have heard of everything."""


class Program:
    """A program of the page, with what it has printed so far."""

    def __init__(self, language: str, cwd: Path, address: str, folder: Path, **environment: str) -> None:
        self.printed = folder / f"{language}-{time.monotonic_ns()}.out"
        *build, run = examples.block(PROGRAMS[language], PAGE)[0].split(" && ")
        for command in build:
            subprocess.run(["bash", "-ec", command], cwd=cwd, env=examples.ENVIRONMENT, check=True)
        with self.printed.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-ec", f"exec {run}"],
                cwd=cwd,
                env={**examples.ENVIRONMENT, "SANDBOX_SERVER": address, **environment},
                stdout=output,
            )

    def lines(self) -> list[str]:
        # The last line may not be complete yet.
        return self.printed.read_text().split("\n")[:-1]

    def until(self, heard: Callable[[list[str]], bool]) -> None:
        end = time.monotonic() + LONG
        while not heard(self.lines()):
            assert self.process.poll() is None
            assert time.monotonic() < end, self.lines()[-20:]
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Run = Callable[..., Program]


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service(env={"SANDBOX_HEARTBEAT": "1"}).start()


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


@pytest.fixture
def run(between: relay.Relay, build: Callable[[str], Path], tmp_path: Path) -> Iterator[Run]:
    with contextlib.ExitStack() as running:

        def started(language: str, **environment: str) -> Program:
            made = Program(language, build(language), between.address, tmp_path, **environment)
            running.callback(made.kill)
            return made

        yield started


def changes(client: Client) -> list[pb.Sandbox]:
    """Two sandboxes that run, one of them with another environment, and one that is stopped."""
    made = [client.create("demo", sandbox_id=name, command=["sleep", "1000000"]) for name in ("a", "b")]
    for one in made:
        client.wait_until(one, "RUNNING")
    client.wait_until(client.stop(made[0]), "STOPPED")
    client.wait_until(client.update_env(made[1], set={"A": "1"}), "RUNNING")
    return made


def history(client: Client) -> list[pb.Event]:
    return list(client.events(oldest_first=True))


def expected(events: list[pb.Event]) -> list[tuple[str, str, int, int | None]]:
    """Returns the uid of each sandbox, what it used, since when, and until when, by the history of the service."""
    open_since: dict[tuple[str, str], int] = {}
    found: list[tuple[str, str, int, int | None]] = []
    for event in events:
        status = event.status
        at = status.transition_time.ToMicroseconds()
        uses = {
            "disk": status.phase != pb.PHASE_TERMINATED,
            "compute": status.desired_state == pb.DESIRED_STATE_RUNNING
            and status.phase in (pb.PHASE_RUNNING, pb.PHASE_UPDATING),
        }
        for what, used in uses.items():
            name = status.uid, what
            if used and name not in open_since:
                open_since[name] = status.create_time.ToMicroseconds() if what == "disk" else at
            elif not used and name in open_since:
                found.append((*name, open_since.pop(name), at))
    return sorted(found + [(*name, since, None) for name, since in open_since.items()], key=str)


def test_the_billing_job_charges_what_the_history_says_though_it_is_killed_and_cut_off(
    service: Service, between: relay.Relay, run: Run, tmp_path: Path
) -> None:
    database = tmp_path / "billing.db"

    def charged() -> tuple[int, list[tuple[str, str, int, int | None]]]:
        with contextlib.closing(sqlite3.connect(database, timeout=30 * PATIENCE)) as db:
            ((sequence,),) = db.execute("SELECT sequence FROM place").fetchall()
            return sequence, sorted(db.execute("SELECT uid, what, since, until FROM usage").fetchall(), key=str)

    def complete(last: int) -> None:
        end = time.monotonic() + LONG
        while charged()[0] < last:
            assert time.monotonic() < end
            time.sleep(0.05)

    with service.client() as client:
        before = client.create("demo", sandbox_id="before", command=["sleep", "1000000"])
        client.wait_until(before, "RUNNING")
        job = run("python", BILLING_DATABASE=str(database))
        job.until(lambda lines: len(lines) >= 1)
        one, other = changes(client)
        between.cut()
        client.wait_until(client.delete(one), "TERMINATED")
        complete(history(client)[-1].sequence)
        assert charged()[1] == expected(history(client))
        # What happens while the job is away.
        job.kill()
        client.wait_until(client.stop(other), "STOPPED")
        client.wait_until(client.start(other), "RUNNING")
        service.kill()
        service.start()
        again = run("python", BILLING_DATABASE=str(database))
        client.wait_until(client.stop(before), "STOPPED")
        complete(history(client)[-1].sequence)
        assert charged()[1] == expected(history(client))
        assert [re.sub(r"\d+", "N", line) for line in again.lines()[:1]] == ["charging from sequence N on"]


def test_the_billing_job_with_the_token_of_an_operator_charges_all_tenants(
    make_service: Callable[..., Service], build: Callable[[str], Path], tmp_path: Path
) -> None:
    tokens = {name: f"token-of-{name}-0123456789" for name in ("red", "blue", "billing")}
    tenants = [{"name": one, "namespaces": [one], "tokens": [tokens[one]]} for one in ("red", "blue")]
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tenants": tenants, "operators": [{"name": "billing", "tokens": [tokens["billing"]]}]}))
    service = make_service("--token-file", str(file)).start(wait=False)
    database = tmp_path / "billing.db"
    environment = {"BILLING_DATABASE": str(database), "SANDBOX_TOKEN": tokens["billing"]}

    def charged() -> list[tuple[str, str, str, str]]:
        with contextlib.closing(sqlite3.connect(database, timeout=30 * PATIENCE)) as db:
            return db.execute("SELECT tenant, sandbox, uid, what FROM usage ORDER BY tenant, what").fetchall()

    def run(tenant: str) -> pb.Sandbox:
        with service.client(token=tokens[tenant]) as client:
            made = client.create("demo", sandbox_id="a", command=["sleep", "1000000"])
            client.wait_until(made, "RUNNING")
            return made

    # One sandbox before the job begins, of which its list tells, and one that its watch tells of.
    made = [run("red")]
    job = Program("python", build("python"), service.address, tmp_path, **environment)
    with contextlib.ExitStack() as running:
        running.callback(job.kill)
        job.until(lambda lines: len(lines) >= 1)
        made.insert(0, run("blue"))
        job.until(lambda _lines: len(charged()) >= 4)
    names = [(one.status.tenant, f"{one.namespace}/a", one.uid) for one in made]
    assert charged() == [(*name, what) for name in names for what in ("compute", "disk")]


def test_the_console_draws_the_cells_that_change_and_no_others(
    service: Service, between: relay.Relay, run: Run
) -> None:
    with service.client() as client:
        first = client.create("demo", sandbox_id="first", command=["sleep", "1000000"])
        client.wait_until(first, "RUNNING")
        console = run("typescript")
        console.until(lambda lines: "console state: live, 1 sandboxes" in lines)
        connections = between.connections
        # A connection that has died without a sign: nothing arrives any more, not even a heartbeat.
        between.hold_answers()
        one, _ = changes(client)
        console.until(lambda lines: "console state: connecting again" in lines)
        between.cut()
        client.wait_until(client.delete(one), "TERMINATED")
        client.wait_until(client.stop(first), "STOPPED")
        statuses = {f"{row.namespace}/{row.sandbox_id}": row.status for row in client.list()}
        wanted = {
            name: {
                "phase": pb.Phase.Name(status.phase),
                "reason": pb.Reason.Name(status.reason),
                "message": status.message,
                "restart_count": str(status.restart_count),
                "desired_state": pb.DesiredState.Name(status.desired_state),
            }
            for name, status in statuses.items()
        }
        console.until(lambda lines: drawn(lines) == wanted)
    assert between.connections > connections


def drawn(lines: list[str]) -> dict[str, dict[str, str]]:
    """Returns the cells of each row that these lines leave. Fails if a cell is drawn again with what it has."""
    cells: dict[str, dict[str, str]] = {}
    for line in lines:
        found = re.fullmatch(r"(\S+) (\w+): (.*)", line)
        assert found is not None
        name, column, value = found.groups()
        if (column, value) == ("row", "removed"):
            del cells[name]
        elif name != "console":
            # A row is drawn again as a whole if its sandbox is another.
            assert cells.setdefault(name, {}).get(column) != value
            cells[name][column] = value
    return cells


def test_the_relay_passes_on_every_event_once_and_lists_again_where_the_history_is_another(
    service: Service, between: relay.Relay, run: Run
) -> None:
    with service.client() as client:
        client.wait_until(client.create("demo", sandbox_id="first", command=["sleep", "1000000"]), "RUNNING")
        passing = run("go")
        passing.until(lambda lines: len(lines) >= 2)
        _, other = changes(client)
        between.cut()
        client.wait_until(client.stop(other), "STOPPED")
        service.kill()
        service.start()
        client.wait_until(client.delete(other), "TERMINATED")
        events = history(client)
        passing.until(lambda lines: json.loads(lines[-1])["sequence"] >= events[-1].sequence)
        begin, listed, *passed = [json.loads(line) for line in passing.lines()]
        assert (begin["kind"], listed["kind"], listed["sandbox"]) == ("list", "listed", "default/first")
        assert {one["kind"] for one in passed} == {"event"}
        assert [one["sequence"] for one in passed] == [
            one.sequence for one in events if one.sequence > begin["sequence"]
        ]
        assert passed[-1]["phase"] == "PHASE_TERMINATED"
    service.end()
    shutil.rmtree(service.folder / "data")
    service.start()
    # The log begins anew, so that the relay's sequence lies ahead of it.
    passing.until(lambda lines: json.loads(lines[-1]) == {"kind": "list", "sequence": 0})
