"""`sandboxctl top`: what the screen shows of a watch, at two sizes, and across a lost connection."""

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, Event, Kind, errors
from sandboxctl import screen
from sandboxctl.fleet import Fleet, Order
from textual import pilot, widgets

from tests.support import relay
from tests.support.ctl import Run
from tests.support.service import Service

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG = "a-project-with-a-long-name-agentruntime-0"
GONE = errors.Unavailable("words", grpc.StatusCode.UNAVAILABLE)


def status(
    name: str, phase: int = pb.PHASE_RUNNING, *, namespace: str = "default", restarts: int = 0, since: float = 5
) -> pb.SandboxStatus:
    reason = pb.REASON_CRASH_LOOP if phase == pb.PHASE_ERROR else pb.REASON_READY
    made = pb.SandboxStatus(
        sandbox_id=name,
        namespace=namespace,
        phase=phase,  # type: ignore[arg-type]
        reason=reason,
        remedy=pb.REMEDY_CALLER if phase == pb.PHASE_ERROR else pb.REMEDY_UNSPECIFIED,
        message=f"words of {name}",
        restart_count=restarts,
    )
    made.create_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=2 * since))
    made.transition_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=since))
    return made


def change(one: pb.SandboxStatus) -> Event:
    return Event(Kind.CHANGE, 9, one)


FLEET = [
    Event(Kind.SNAPSHOT, 1, status(f"{LONG}{number}", pb.PHASE_ERROR if number == 7 else pb.PHASE_RUNNING))
    for number in range(60)
] + [Event(Kind.SYNCED, 2)]


class Scripted:
    """A watch that yields what a test puts into it."""

    def __init__(self, begin: list[Event]) -> None:
        self.events: asyncio.Queue[Event | errors.ServiceError] = asyncio.Queue()
        for one in begin:
            self.events.put_nowait(one)
        self.lost: Callable[[errors.ServiceError], None]
        self.back: Callable[[], None]

    async def watch(
        self, lost: Callable[[errors.ServiceError], None], back: Callable[[], None]
    ) -> AsyncGenerator[Event, None]:
        self.lost, self.back = lost, back
        while True:
            one = await self.events.get()
            if isinstance(one, errors.ServiceError):
                raise one
            yield one


def words(view: screen.Top, name: str) -> str:
    return str(view.query_one(name, widgets.Static).render())


def column(view: screen.Top, number: int) -> list[str]:
    table = view.query_one(widgets.DataTable)
    return [str(table.get_row_at(row)[number]) for row in range(table.row_count)]


async def drawn(view: screen.Top, at: pilot.Pilot[None], script: Scripted | None = None) -> None:
    """Draws what the watch has told so far."""
    await at.pause(0.02)
    while script is not None and not script.events.empty():
        await at.pause(0.02)
    view.draw()
    await at.pause()


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (60, 12)])
@pytest.mark.slow
async def test_screen_fits_its_size_with_long_ids_and_details_of_the_chosen_row(size: tuple[int, int]) -> None:
    script = Scripted(FLEET)
    view = screen.Top(script.watch)
    async with view.run_test(size=size) as at:
        await drawn(view, at, script)
        table = view.query_one(widgets.DataTable)
        assert sum(one.get_render_width(table) for one in table.ordered_columns) <= size[0]
        names = column(view, 0)
        assert (len(names), names[0].endswith("7")) == (60, True)
        assert names[0] == f"{LONG}7" if size[0] == 200 else "\u2026" in names[0]
        assert f"default/{LONG}7: words of" in words(view, "#detail")
        assert "what to do: read the last exit" in words(view, "#detail")
        assert "live" in words(view, "#state")
        assert "60 of 60" in words(view, "#state")


@pytest.mark.parametrize("part", ["#state", "DataTable", "#detail"])
@pytest.mark.slow
async def test_events_that_arrive_while_the_screen_is_removed_are_ignored(part: str) -> None:
    script = Scripted(FLEET)
    view = screen.Top(script.watch)
    async with view.run_test() as at:
        await drawn(view, at, script)
        table = view.query_one(widgets.DataTable)
        highlighted = widgets.DataTable.RowHighlighted(table, 0, next(iter(table.rows)))
        await view.query_one(part).remove()
        view.on_data_table_row_highlighted(highlighted)
        view.draw()


@pytest.mark.slow
async def test_rows_are_filtered_and_sorted_and_the_chosen_one_stays() -> None:
    begin = [
        change(status("quiet", since=500)),
        change(status("loud", restarts=9)),
        change(status("bad", pb.PHASE_ERROR)),
    ]
    script = Scripted([Event(Kind.SYNCED, 1), *begin])
    view = screen.Top(script.watch)
    async with view.run_test(size=(80, 24)) as at:
        await drawn(view, at, script)
        assert column(view, 0) == ["bad", "loud", "quiet"]
        await at.press("down", "down")
        by_phase, by_restarts = ["bad", "loud", "quiet"], ["loud", "bad", "quiet"]
        for expected in (by_phase, by_phase, by_phase, by_phase, by_restarts):
            await at.press("s")
            assert column(view, 0) == expected
            assert "default/quiet" in words(view, "#detail")
        await at.press("r")
        assert column(view, 0) == ["quiet", "bad", "loud"]
        await at.press("slash", *"loud")
        assert column(view, 0) == ["loud"]
        assert "1 of 3" in words(view, "#state")
        script.events.put_nowait(change(status("loud-too")))
        await drawn(view, at, script)
        assert column(view, 0) == ["loud-too", "loud"]
        await at.press("escape")
        assert len(column(view, 0)) == 4
        await at.press("q")


@pytest.mark.slow
async def test_screen_shows_that_it_is_stale_and_takes_the_new_snapshot() -> None:
    script = Scripted(FLEET)
    view = screen.Top(script.watch)
    async with view.run_test(size=(80, 24)) as at:
        await drawn(view, at, script)
        script.lost(GONE)
        await drawn(view, at, script)
        assert "STALE: the service is not reached" in words(view, "#state")
        assert len(column(view, 0)) == 60
        script.back()
        for one in (Event(Kind.RESYNC, 0), Event(Kind.SNAPSHOT, 3, status("alone"))):
            script.events.put_nowait(one)
        await drawn(view, at, script)
        assert len(column(view, 0)) == 60
        script.events.put_nowait(Event(Kind.SYNCED, 3))
        await drawn(view, at, script)
        assert column(view, 0) == ["alone"]
        assert "live" in words(view, "#state")


@pytest.mark.slow
async def test_watch_that_cannot_go_on_ends_the_screen_with_its_error() -> None:
    script = Scripted(FLEET)
    view = screen.Top(script.watch)
    async with view.run_test(size=(80, 24)) as at:
        await drawn(view, at, script)
        refused = errors.Unauthenticated("no", grpc.StatusCode.UNAUTHENTICATED)
        script.events.put_nowait(refused)
        await at.pause(0.1)
    assert view.failure is refused


@pytest.mark.slow
async def test_view_of_the_service_survives_a_cut_connection(service: Service, client: Client) -> None:
    made = client.create("top", sandbox_id="seen", command=["sleep", "1000"])
    with relay.to(service.port) as between:
        async with AsyncClient(between.address) as far:
            view = screen.Top(lambda lost, back: far.watch(lost=lost, back=back))
            async with view.run_test(size=(80, 24)) as at:

                async def until(phase: str) -> None:
                    for _ in range(300):
                        await drawn(view, at)
                        if phase in column(view, 1):
                            return
                    raise AssertionError(column(view, 1))

                await until("RUNNING")
                between.cut()
                client.stop(made)
                await until("STOPPED")
    assert between.connections >= 2
    client.delete(made)


def test_fleet_forgets_what_ended_a_while_ago_and_names_namespaces_apart() -> None:
    fleet = Fleet()
    fleet.take(Event(Kind.SYNCED, 1))
    fleet.take(change(status("old", pb.PHASE_TERMINATED, since=90)))
    fleet.take(change(status("new", pb.PHASE_TERMINATED, since=5)))
    fleet.take(change(status("new", namespace="other")))
    fleet.take(change(status("newer", 99)))
    rows = fleet.rows("", Order.PHASE, False, datetime.now(UTC))
    assert [(one.namespace, one.sandbox_id) for one in rows] == [
        ("other", "new"),
        ("default", "new"),
        ("default", "newer"),
    ]
    assert list(fleet.counts()) == ["RUNNING", "TERMINATED", "99"]
    assert fleet.namespaces == 2
    assert fleet.rows("other running", Order.ID, False, NOW)[0].namespace == "other"


@pytest.mark.slow
def test_top_needs_a_terminal_and_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("top")
    assert (done.code, "needs a terminal" in done.err) == (2, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    done = run("top")
    assert (done.code, "sandbox-service[top]" in done.err) == (1, True)
