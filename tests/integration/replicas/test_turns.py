"""The statements of a turn, without a service around them: what they lock, and what they take."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sandbox_server import store
from sandbox_server.domain.lease import Replica, Sight
from sandbox_server.store import connection, leases

LASTING = 4.0


class Party:
    """One replica's connections, and its turns."""

    def __init__(self, url: str, name: str, engine: str, namespaces: frozenset[str]) -> None:
        self.me = Replica(name, engine, namespaces)
        self.leasing = connection.Database(url, writes=True, busy_timeout=1)
        self.writing = connection.Database(url, writes=True, busy_timeout=1)
        self.clock = store.Clock(LASTING)

    def join(self) -> None:
        with self.leasing.engine.begin() as opened:
            leases.join(opened, self.me, LASTING)

    def turn(self, **sights: Sight) -> leases.Standing:
        with self.leasing.engine.begin() as opened:
            # A turn that waits for a lock is an error.
            opened.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
            return leases.turn(opened, self.clock, self.me, LASTING, sights, ())

    def held(self, standing: leases.Standing) -> dict[str, int]:
        return {name: one.epoch for name, one in standing.leases.items() if one.holder == self.me.id}

    @contextlib.contextmanager
    def writes(self, **epochs: int) -> Iterator[bool]:
        """Yields whether a write that names these epochs may be committed, before it is."""
        with self.writing.begin() as cursor:
            yield leases.hold(cursor, self.me.id, set(epochs.items()))

    def close(self) -> None:
        self.leasing.close()
        self.writing.close()


@pytest.fixture
def party(postgres: Callable[[str], str], migrated: str) -> Iterator[Callable[..., Party]]:
    url = postgres(migrated)
    with contextlib.ExitStack() as opened:

        def make(name: str, engine: str = "kubernetes", namespaces: frozenset[str] = frozenset({"a", "b"})) -> Party:
            made = Party(url, name, engine, namespaces)
            opened.callback(made.close)
            return made

        yield make


def ran_out(opened: Party, replica: str = "") -> None:
    """Ends all leases, and a replica, as time does."""
    with opened.leasing.engine.begin() as connected:
        connected.execute(sa.text("UPDATE lease SET expires_at = expires_at - 5"))
        if replica:
            connected.execute(
                sa.text("UPDATE replica SET alive_until = alive_until - 5 WHERE id = :id"), {"id": replica}
            )


def test_renewing_waits_for_no_write_and_taking_is_put_off_until_it_is_committed(party: Callable[..., Party]) -> None:
    one, two = party("one"), party("two")
    one.join()
    assert one.held(one.turn()) == {"a": 1, "b": 1}
    with one.writes(a=1) as allowed:
        assert allowed
        assert one.held(one.turn()) == {"a": 1, "b": 1}
        ran_out(one, "one")
        two.join()
        assert two.held(two.turn()) == {"b": 2}
    assert two.held(two.turn()) == {"a": 2, "b": 2}
    with one.writes(a=1) as allowed:
        assert not allowed


@pytest.mark.slow
def test_write_waits_for_a_turn_that_takes_its_namespace(party: Callable[..., Party]) -> None:
    one, two = party("one"), party("two")
    one.join()
    one.turn()
    ran_out(one, "one")
    two.join()
    with two.leasing.engine.begin() as opened:
        leases.turn(opened, two.clock, two.me, LASTING, {}, ())
        with one.writing.begin() as cursor:
            cursor.rows(sa.text("SELECT set_config('lock_timeout', '100ms', true)"))
            with pytest.raises(one.writing.Error, match="lock timeout"):
                leases.hold(cursor, "one", {("a", 1)})


def test_write_of_another_holder_is_refused_even_if_its_epoch_is_the_same(party: Callable[..., Party]) -> None:
    """A standby that took over can have lost the last seconds: epochs are then given a second time."""
    one, two = party("one"), party("two")
    one.join()
    one.turn()
    ran_out(one, "one")
    two.join()
    assert two.held(two.turn())["a"] == 2
    with one.writes(a=2) as allowed:
        assert not allowed
    with two.writes(a=2) as allowed:
        assert allowed


def test_number_of_statements_of_a_turn_does_not_grow_with_the_namespaces(party: Callable[..., Party]) -> None:
    one = party("one", namespaces=frozenset(f"tenant-{number}" for number in range(500)))
    one.join()
    statements: list[str] = []
    sa.event.listen(one.leasing.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    assert len(one.held(one.turn())) == 500
    assert len(statements) < 15
    statements.clear()
    assert len(one.held(one.turn())) == 500
    assert len(statements) < 12


def test_local_service_that_was_stopped_for_long_finds_that_another_has_come(party: Callable[..., Party]) -> None:
    one, two = party("one", engine="local"), party("two", engine="local")
    one.join()
    one.turn()
    with pytest.raises(leases.Rivals):
        two.join()
    ran_out(one, "one")
    two.join()
    with pytest.raises(leases.Rivals):
        one.turn()
    assert two.held(two.turn()) == {"a": 2, "b": 2}
