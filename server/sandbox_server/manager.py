"""What a caller can ask for. Each mutation is one transaction; the log then wakes the reconciler."""

import dataclasses
import random
import string
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from sandbox_server import engines, feed, store
from sandbox_server.domain import errors, lifecycle, wishes
from sandbox_server.domain.event import Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.spec import SandboxSpec, made_id
from sandbox_server.domain.tenant import Tenant, not_found

PAGE_DEFAULT = 100
PAGE_MOST = 1000
T = TypeVar("T")
_ALPHABET = string.ascii_lowercase + string.digits
_CHANCE = random.SystemRandom()
"""Nobody may guess a host: it leads to a terminal."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What every mutation carries. `key.id` is empty for a new sandbox whose id is left to chance.

    `request` is what the store knows it by, if the caller gave it an id.
    """

    tenant: str
    key: Key
    request: store.Request | None
    expected_generation: int | None

    @property
    def cause(self) -> Cause:
        """The cause of the event that it makes."""
        return Cause(Kind.MUTATION, self.tenant, self.request.id if self.request else "")


Changed = tuple[Sandbox, Mapping[str, str] | None]
"""A sandbox as a mutation leaves it, and its environment if that changes."""


class StatefulSetManager:
    """Creates, starts, stops, deletes, updates and reads sandboxes on behalf of tenants."""

    def __init__(self, store: store.Store, feed: feed.Feed, engine: engines.Engine) -> None:
        self._store = store
        self._feed = feed
        self._engine = engine

    def stale(self, namespace: str) -> bool:
        """Whether statuses of a namespace may be out of date, because the engine is not in contact with it."""
        return not self._engine.synced(namespace)

    @property
    def sequence(self) -> int:
        """Where the log stands on this replica."""
        return self._feed.sequence

    async def create(
        self, wish: Wish, spec: SandboxSpec, env: Mapping[str, str], adopt_volume: bool, unset: Collection[str] = ()
    ) -> Event:
        """A new sandbox. Raises `errors.AlreadyExists` and `errors.FailedPrecondition` as the contract says.

        `unset` names the fields of `spec.storage` that the caller left empty: an adopted volume decides them.
        """
        key = Key(wish.key.namespace, wish.key.id or made_id(spec.project, _random(6)))
        uid, host = str(uuid.uuid4()), _CHANCE.choice(string.ascii_lowercase) + _random(11)
        sandbox = wishes.new(key, wish.tenant, uid, host, spec, env, datetime.now(UTC))

        def mutation(reader: store.Reader) -> store.Write:
            former = reader.last(key)
            made = wishes.claimed(former.sandbox if former else None, sandbox, adopt_volume, unset)
            # Not before: what is refused has no use for an address, and those of this machine are few.
            made = dataclasses.replace(made, addresses=self._engine.addresses(made))
            return store.Write(made, 0, wish.cause, env)

        try:
            return await self._store.write(mutation, wish.request)
        except (store.Stale, errors.AlreadyExists) as error:
            if wish.key.id and isinstance(error, errors.AlreadyExists):
                raise
            # Chance made a name that is taken: of two billion it is unlikely to do so again.
            return await self.create(wish, spec, env, adopt_volume, unset)

    async def start(self, wish: Wish, accept_data_loss: bool) -> Event:
        """Wishes RUNNING; with `accept_data_loss` a lost volume is given up for a fresh one."""
        return await self._change(wish, lambda _, before: (wishes.start(before, accept_data_loss), None))

    async def stop(self, wish: Wish) -> Event:
        """Wishes STOPPED."""
        return await self._change(wish, lambda _, before: (wishes.stop(before), None))

    async def delete(self, wish: Wish, keep_volume: bool) -> Event:
        """Wishes DELETED; a repeat without `keep_volume` removes a volume that was kept, and else changes nothing."""
        return await self._change(wish, lambda _, before: (wishes.delete(before, keep_volume), None), deleted=True)

    async def update_env(self, wish: Wish, values: Mapping[str, str], unset: Sequence[str], replace: bool) -> Event:
        """Changes the environment. Raises `errors.Invalid` if the result is over a limit."""

        def wished(reader: store.Reader, before: Sandbox) -> Changed:
            present = reader.env(before.key)
            env = wishes.environment(present, values, unset, replace)
            if env == present:
                return before, None
            return dataclasses.replace(before, env_names=tuple(sorted(env))), env

        return await self._change(wish, wished)

    async def _change(
        self, wish: Wish, wished: Callable[[store.Reader, Sandbox], Changed], *, deleted: bool = False
    ) -> Event:
        """A wish for a sandbox that exists, is the tenant's and has the expected generation.

        One that wants nothing else than what is wished already changes nothing. `deleted`: whether it may be one that
        was deleted.
        """

        def mutation(reader: store.Reader) -> store.Write:
            last = reader.last(wish.key)
            if last is None or last.sandbox.tenant != wish.tenant:
                raise not_found(wish.key.id)
            before = last.sandbox
            if wish.expected_generation not in (None, before.generation):
                raise errors.Aborted(
                    "GENERATION_MISMATCH",
                    f"the sandbox is at generation {before.generation}, not {wish.expected_generation}: "
                    "read it and decide again",
                    generation=str(before.generation),
                )
            if before.desired is DesiredState.DELETED and not deleted:
                raise errors.FailedPrecondition(
                    "SANDBOX_DELETED", f"the sandbox {before.id!r} was deleted: create another"
                )
            changed, env = wished(reader, before)
            if changed != before or env is not None:
                changed = dataclasses.replace(changed, generation=before.generation + 1)
                changed = lifecycle.on_wish(changed, datetime.now(UTC))
            return store.Write(changed, last.sequence, wish.cause, env)

        return await self._store.write(mutation, wish.request)

    def find(self, tenant: Tenant, key: Key, min_sequence: int) -> feed.Encoded | None:
        """The last event of a live sandbox, without waiting; None if `get` has to be asked."""
        found = self._feed.catalogue.get(key) if key.namespace in tenant.namespaces else None
        if found is None or found.event.sandbox.tenant != tenant.name or not 0 <= min_sequence <= self._feed.sequence:
            return None
        return found

    async def get(self, tenant: Tenant, key: Key, min_sequence: int = 0) -> feed.Encoded:
        """The last event of a sandbox, of a TERMINATED one too, once this replica has seen `min_sequence`.

        Raises `errors.NotFound`.
        """
        await self._feed.arrived(min_sequence)
        found = self._feed.catalogue.get(key)
        if found is None:
            last = await self._store.read(lambda reader: reader.last(key))
            if last is None:
                raise not_found(key.id)
            found = self._feed.catalogue.get(key) or self._feed.encoded(last)
        if found.event.sandbox.tenant != tenant.name:
            raise not_found(key.id)
        return found

    async def list(
        self,
        selection: feed.Filter,
        phases: frozenset[Phase],
        after: Key | None,
        page: Callable[[int, Iterator[Event]], T],
        volume_kept: bool = False,
    ) -> T:
        """Returns what `page` makes of the log's sequence and the last events of the matching sandboxes after `after`, in
        the order of their keys.

        With TERMINATED among the phases the sandboxes are read from the store alone, on a thread of the store: memory
        and the store show different moments, and a sandbox that ended between the two would be in neither.
        `volume_kept`: of these only the sandboxes whose volume was kept.
        """
        if Phase.TERMINATED not in phases:
            live = (one.event for one in self._feed.catalogue.matching(selection, after))
            found = (one for one in live if not phases or one.sandbox.status.phase in phases)
            return page(self._feed.sequence, found)
        namespaces = frozenset(one for one in selection.tenant.namespaces if selection.namespace in ("", one))
        search = store.Search(
            selection.tenant.name, namespaces, phases, selection.project, selection.labels, volume_kept
        )
        return await self._store.read(
            lambda reader: page(reader.sequence(), reader.search(search, after)), store.Lane.LISTS
        )

    async def watch(self, selection: feed.Filter, after: int | None, send: feed.Send) -> None:
        """Sends the snapshot, unless resuming, and the events. Raises as `feed.Feed.watch`."""
        await self._feed.watch(selection, after, send)


def _random(length: int) -> str:
    return "".join(_CHANCE.choices(_ALPHABET, k=length))
