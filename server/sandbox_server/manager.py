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


class StatefulSetManager:
    """Creates, starts, stops, deletes, updates and reads sandboxes on behalf of tenants."""

    def __init__(self, database: store.Store, memory: feed.Feed, engine: engines.Engine) -> None:
        self._store = database
        self._feed = memory
        self._engine = engine

    def stale(self, namespace: str) -> bool:
        """Whether statuses of a namespace may be out of date, because the engine does not see it."""
        return not self._engine.sees(namespace)

    @property
    def sequence(self) -> int:
        """Where the log stands on this replica."""
        return self._feed.sequence

    async def create(
        self, wish: Wish, spec: SandboxSpec, env: Mapping[str, str], adopt_volume: bool, unset: Collection[str] = ()
    ) -> Sandbox:
        """A new sandbox. Raises `errors.AlreadyExists` and `errors.FailedPrecondition` as the contract says.

        `unset` names the fields of `spec.storage` that the caller left empty: an adopted volume decides them.
        """
        key = Key(wish.key.namespace, wish.key.id or made_id(spec.project, _random(6)))
        uid, host = str(uuid.uuid4()), _CHANCE.choice(string.ascii_lowercase) + _random(11)
        sandbox = wishes.new(key, wish.tenant, uid, host, spec, env, datetime.now(UTC))

        def change(reader: store.Reader) -> store.Wanted:
            made = wishes.claimed(reader.sandbox(key), sandbox, adopt_volume, unset)
            # Not before: what is refused has no use for an address, and those of this machine are few.
            return store.Wanted(dataclasses.replace(made, addresses=self._engine.addresses(made)), env)

        try:
            return await self._store.write(change, wish.request)
        except (store.Stale, errors.AlreadyExists) as error:
            if wish.key.id and isinstance(error, errors.AlreadyExists):
                raise
            # Chance made a name that is taken: of two billion it is unlikely to do so again.
            return await self.create(wish, spec, env, adopt_volume, unset)

    async def start(self, wish: Wish, accept_data_loss: bool) -> Sandbox:
        """Wishes RUNNING; with `accept_data_loss` a lost volume is given up for a fresh one."""
        return await self._change(wish, lambda _, before: store.Wanted(wishes.start(before, accept_data_loss)))

    async def stop(self, wish: Wish) -> Sandbox:
        """Wishes STOPPED."""
        return await self._change(wish, lambda _, before: store.Wanted(wishes.stop(before)))

    async def delete(self, wish: Wish, keep_volume: bool) -> Sandbox:
        """Wishes DELETED; a repeat without `keep_volume` removes a volume that was kept, and else changes nothing."""
        return await self._change(
            wish, lambda _, before: store.Wanted(wishes.delete(before, keep_volume)), deleted=True
        )

    async def update_env(self, wish: Wish, values: Mapping[str, str], unset: Sequence[str], replace: bool) -> Sandbox:
        """Changes the environment. Raises `errors.Invalid` if the result is over a limit."""

        def wished(reader: store.Reader, before: Sandbox) -> store.Wanted:
            present = reader.env(before.key)
            env = wishes.environment(present, values, unset, replace)
            if env == present:
                return store.Wanted(before)
            return store.Wanted(dataclasses.replace(before, env_names=tuple(sorted(env))), env)

        return await self._change(wish, wished)

    async def _change(
        self, wish: Wish, wished: Callable[[store.Reader, Sandbox], store.Wanted], *, deleted: bool = False
    ) -> Sandbox:
        """A wish for a sandbox that exists, is the tenant's and has the expected generation.

        One that wants nothing else than what is wished already changes nothing. `deleted`: whether it may be one that
        was deleted.
        """

        def change(reader: store.Reader) -> store.Wanted:
            before = reader.sandbox(wish.key)
            if before is None or before.tenant != wish.tenant:
                raise not_found(wish.key.id)
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
            wanted = wished(reader, before)
            if wanted == store.Wanted(before):
                return wanted
            after = dataclasses.replace(wanted.sandbox, generation=before.generation + 1)
            return store.Wanted(lifecycle.on_wish(after, datetime.now(UTC)), wanted.env)

        return await self._store.write(change, wish.request)

    def find(self, tenant: Tenant, key: Key, min_sequence: int) -> feed.Change | None:
        """The live sandbox of that key, without waiting; None if `get` has to be asked."""
        change = self._feed.get(key) if key.namespace in tenant.namespaces else None
        if change is None or change.sandbox.tenant != tenant.name or not 0 <= min_sequence <= self._feed.sequence:
            return None
        return change

    async def get(self, tenant: Tenant, key: Key, min_sequence: int = 0) -> feed.Change:
        """The sandbox, TERMINATED ones too, once this replica has seen `min_sequence`. Raises `errors.NotFound`."""
        await self._feed.arrived(min_sequence)
        change = self._feed.get(key)
        if change is None:
            sandbox = await self._store.read(lambda reader: reader.sandbox(key))
            if sandbox is None:
                raise not_found(key.id)
            change = self._feed.get(key) or self._feed.entry(sandbox)
        if change.sandbox.tenant != tenant.name:
            raise not_found(key.id)
        return change

    async def list(
        self,
        wanted: feed.Filter,
        phases: frozenset[Phase],
        after: Key | None,
        page: Callable[[int, Iterator[Sandbox]], T],
        volume_kept: bool = False,
    ) -> T:
        """Returns what `page` makes of the log's sequence and the matching sandboxes after `after`, in key order.

        With TERMINATED among the phases the sandboxes are read from the store alone, on a thread of the store: memory
        and the store show different moments, and a sandbox that ended between the two would be in neither.
        `volume_kept`: of these only the sandboxes whose volume was kept.
        """
        if Phase.TERMINATED not in phases:
            present = (one.sandbox for one in self._feed.matching(wanted, after))
            return page(self._feed.sequence, (one for one in present if not phases or one.status.phase in phases))
        namespaces = frozenset(one for one in wanted.tenant.namespaces if wanted.namespace in ("", one))
        search = store.Search(wanted.tenant.name, namespaces, phases, wanted.project, wanted.labels, volume_kept)
        return await self._store.read(
            lambda reader: page(reader.sequence(), reader.search(search, after)), store.Lane.LISTS
        )

    async def watch(self, wanted: feed.Filter, after: int | None, send: feed.Send) -> None:
        """Sends the snapshot (unless resuming) and the changes. Raises as `feed.Feed.watch`, and `errors.NotFound`."""
        while True:
            named = await self._named(wanted)
            # What the store has said, memory may be yet to hear of: it would be told again.
            await self._feed.arrived(max((one.sandbox.sequence for one in named), default=0))
            # One that was live may have ended while others were read.
            if all(one.terminated or self._feed.get(one.sandbox.key) for one in named):
                break
        if after is None:
            if wanted.keys:
                present = (self._feed.get(one.sandbox.key) or one for one in named)
                snapshot = [one for one in present if wanted.matches(one.sandbox)]
            else:
                snapshot = list(self._feed.matching(wanted))
            await self._feed.watch(wanted, snapshot, self._feed.sequence, send)
        elif not (len(named) == 1 and named[0].terminated and named[0].sandbox.sequence <= after):
            await self._feed.watch(wanted, None, after, send)

    async def _named(self, wanted: feed.Filter) -> Sequence[feed.Change]:
        """The sandboxes that a filter names. Raises `errors.NotFound` with all that are missing."""
        found, missing = [], []
        for key in wanted.keys:
            try:
                found.append(await self.get(wanted.tenant, key))
            except errors.NotFound:
                missing.append(key.id)
        if missing:
            raise not_found(*missing)
        return found


def _random(length: int) -> str:
    return "".join(_CHANCE.choices(_ALPHABET, k=length))
