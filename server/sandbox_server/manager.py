"""Carries out what callers ask for. Each mutation is one transaction; its event then wakes the reconciler."""

import dataclasses
import random
import string
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from sandbox_server import engines, feed, store
from sandbox_server.domain import batch, errors, last_snapshots, lifecycle, mutations, origins, snapshot_mutations
from sandbox_server.domain.event import Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Origin, Sandbox
from sandbox_server.domain.spec import SandboxSpec, made_id
from sandbox_server.domain.tenant import not_found
from sandbox_server.domain.wait import Outcome, Wait
from sandbox_server.leases import Leases

PAGE_DEFAULT = 100
PAGE_MOST = 1000
T = TypeVar("T")
_ALPHABET = string.ascii_lowercase + string.digits
_RANDOM = random.SystemRandom()
"""Cryptographically secure: a host leads to a terminal and must not be guessed."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """What all mutations have in common.

    `key.id` is empty for a new sandbox whose id the service chooses. `request` identifies the mutation to the store if
    the caller gave a request id. With `expected_generation` a sandbox of another generation is not changed. `method` is the
    RPC that was called.
    """

    principal: Principal
    key: Key
    request: store.Request | None
    expected_generation: int | None
    method: str = ""

    @property
    def cause(self) -> Cause:
        """The cause of the event that the mutation makes."""
        # Each sandbox of a batch has a request of its own, whose id begins with that of the call.
        request_id, _, _ = (self.request.id if self.request else "").partition("/")
        return Cause(Kind.MUTATION, self.principal.name, request_id, self.method)


Changed = tuple[Sandbox, Mapping[str, str] | None]
"""A sandbox after a mutation, and its environment or None if that stays the same."""


class StatefulSetManager:
    """Creates, starts, stops, deletes, updates and reads sandboxes on behalf of principals."""

    def __init__(
        self, store: store.Store, feed: feed.Feed, names: engines.Names, abilities: engines.Abilities, leases: Leases
    ) -> None:
        self._store = store
        self._feed = feed
        self._names = names
        self._abilities = abilities
        self._leases = leases

    def stale(self, namespace: str) -> bool:
        """Whether statuses of a namespace may be out of date, because no engine is in contact with it."""
        return not self._leases.synced(namespace)

    async def readable(self, namespace: str) -> bool | None:
        """Whether the service may get a namespace itself; None if that is not known now."""
        return await self._leases.readable(namespace)

    @property
    def sequence(self) -> int:
        """The sequence of the last event that this replica has read."""
        return self._feed.sequence

    async def create(
        self,
        mutation: Mutation,
        spec: SandboxSpec,
        env: Mapping[str, str],
        adopt_volume: bool,
        unset: Collection[str] = (),
        snapshot_id: str = "",
    ) -> Event:
        """Creates a sandbox, with `snapshot_id` from a snapshot. Raises `errors.AlreadyExists`, `errors.FailedPrecondition`,
        `errors.NotFound` and `errors.Invalid` as the contract says.

        `unset` names the fields of `spec.storage` that the caller left empty: an adopted volume or the snapshot decides them.
        """

        obstacle = await self._restore_obstacle(mutation, snapshot_id, spec, unset) if snapshot_id else ""

        def make(reader: store.Reader) -> Changed:
            sandbox = _new(mutation, spec, env)
            former = reader.last(sandbox.key)
            made = mutations.claimed(former.sandbox if former else None, sandbox, adopt_volume, unset)
            if snapshot_id:
                self._check_understood()
                snapshot = reader.snapshots.last(Key(sandbox.namespace, snapshot_id))
                if snapshot is None or not mutation.principal.sees(snapshot.snapshot):
                    raise snapshot_mutations.not_found(snapshot_id)
                made = origins.restored(made, snapshot.snapshot, unset)
                if obstacle:
                    raise origins.of_another_driver(obstacle)
            return made, env

        return await self._add(mutation, make)

    def _check_understood(self) -> None:
        """Raises `errors.Unavailable` while a replica is alive that would misread what is stored, to the loss of files: it would make
        an empty disk in place of a copy, or remove a disk before its last snapshot."""
        if not self._leases.understood:
            raise errors.Unavailable(
                "UPGRADE_UNDER_WAY",
                "a replica of another release is running, which does not know what disks are made from, nor last snapshots: repeat "
                "the call when all replicas are of this release",
            )

    async def _restore_obstacle(
        self, mutation: Mutation, snapshot_id: str, spec: SandboxSpec, unset: Collection[str]
    ) -> str:
        """Returns why no disk of the storage class of `spec` can be made from a snapshot; empty if nothing is known against it."""
        key = Key(mutation.key.namespace, snapshot_id)
        last = await self._store.read(lambda reader: reader.snapshots.last(key))
        if last is None or not mutation.principal.sees(last.snapshot):
            return ""
        of = last.snapshot
        storage_class = of.storage_class if "storage_class" in unset else spec.storage.storage_class
        origin = Origin(of.uid, Key(of.namespace, of.sandbox_id), of.volume_uid)
        return await self._abilities.restore_obstacle(origin, storage_class)

    async def clone(self, mutation: Mutation, clone: origins.Clone, missing: str) -> Event:
        """Creates a sandbox with a copy of the disk of another. Raises as the contract says.

        `missing` is why no disk can be copied; empty if one can.
        """
        known = self._feed.catalogue.get(clone.source)
        obstacle = ""
        if known is not None and mutation.principal.sees(known.event.sandbox) and not missing:
            source = known.event.sandbox
            origin = Origin("", source.key, source.volume_uid)
            obstacle = await self._abilities.restore_obstacle(origin, source.spec.storage.storage_class)

        def make(reader: store.Reader) -> Changed:
            last = reader.last(clone.source)
            if last is None or not mutation.principal.sees(last.sandbox):
                raise not_found(clone.source.id)
            self._check_understood()
            source = last.sandbox
            env = clone.env(reader.env(source.key))
            sandbox = _new(mutation, clone.spec(source), env)
            if missing:
                raise errors.FailedPrecondition("SNAPSHOTS_UNSUPPORTED", missing)
            if obstacle:
                raise origins.of_another_driver(obstacle)
            former = reader.last(sandbox.key)
            made = mutations.claimed(former.sandbox if former else None, sandbox, adopt=False)
            return clone.made(made, source), env

        return await self._add(mutation, make)

    async def _add(self, mutation: Mutation, make: Callable[[store.Reader], Changed]) -> Event:
        """Stores the new sandbox that `make` returns, with its environment. Raises what `make` raises."""

        def write(reader: store.Reader) -> store.Write:
            made, env = make(reader)
            # Not before: a refused sandbox must not use up an address, and a local engine has few.
            made = dataclasses.replace(made, addresses=self._names.addresses(made))
            return store.Write(made, 0, mutation.cause, env)

        try:
            return await self._store.write(write, mutation.request)
        except (store.Stale, errors.AlreadyExists) as error:
            if mutation.key.id and isinstance(error, errors.AlreadyExists):
                raise
            # The random id was taken. There are two billion: the next one is very likely free.
            return await self._add(mutation, make)

    async def start(self, mutation: Mutation, accept_data_loss: bool) -> Event:
        """Sets the desired state to RUNNING; with `accept_data_loss` an empty volume replaces a lost one."""
        return await self._change(mutation, lambda _, before: (mutations.start(before, accept_data_loss), None))

    async def stop(self, mutation: Mutation) -> Event:
        """Sets the desired state to STOPPED."""
        return await self._change(mutation, lambda _, before: (mutations.stop(before), None))

    async def delete(self, mutation: Mutation, keep_volume: bool) -> Event:
        """Sets the desired state to DELETED. A repeat without `keep_volume` also removes a volume that was kept.

        The disk goes once its last snapshot is taken, if a schedule says so. Raises as `last_snapshots.awaited`.
        """

        def change(reader: store.Reader, before: Sandbox) -> Changed:
            after = mutations.delete(before, keep_volume)
            if before.desired is not DesiredState.DELETED:
                after = last_snapshots.awaited(after, reader.schedules.of([before.namespace]))
                if after.last_snapshot is not None:
                    self._check_understood()
            return after, None

        return await self._change(mutation, change, deleted=True)

    async def delete_volume(self, mutation: Mutation, uid: str) -> Event:
        """Removes the volume that a deleted sandbox left. Raises `errors.Aborted` and `errors.FailedPrecondition`."""
        return await self._change(
            mutation, lambda _, before: (mutations.delete_volume(before, uid), None), deleted=True
        )

    async def update_env(
        self, mutation: Mutation, values: Mapping[str, str], unset: Sequence[str], replace: bool
    ) -> Event:
        """Changes the environment. Raises `errors.Invalid` if the result exceeds a limit."""

        def change(reader: store.Reader, before: Sandbox) -> Changed:
            present = reader.env(before.key)
            env = mutations.environment(present, values, unset, replace)
            if env == present:
                return before, None
            return dataclasses.replace(before, env_names=tuple(sorted(env))), env

        return await self._change(mutation, change)

    async def update(self, mutation: Mutation, change: Callable[[SandboxSpec], SandboxSpec]) -> Event:
        """Changes the spec to what `change` makes of it. Raises what `change` raises, `errors.Invalid` for a disk that would
        shrink, and `errors.FailedPrecondition` for one that is known to be unable to grow."""
        obstacle, in_place = await self._possible(mutation, change)

        def changed(_: store.Reader, before: Sandbox) -> Changed:
            after = mutations.update(before, change(before.spec), in_place)
            if obstacle and mutations.grows(before, after.spec):
                raise mutations.not_expandable(before, obstacle)
            return after, None

        return await self._change(mutation, changed)

    async def _possible(self, mutation: Mutation, change: Callable[[SandboxSpec], SandboxSpec]) -> tuple[str, bool]:
        """Returns why a disk that an update makes larger cannot grow, empty if nothing is known against it, and whether other
        resources can be given to the pod that runs. The sandbox is as this replica last read it."""
        known = self._feed.catalogue.get(mutation.key)
        if known is None or not mutation.principal.sees(known.event.sandbox):
            return "", False
        before = known.event.sandbox
        try:
            after = change(before.spec)
        except errors.Invalid:
            return "", False
        grows = mutations.grows(before, after)
        resizes = after.resources != before.spec.resources
        obstacle = await self._abilities.growth_obstacle(before) if grows else ""
        return obstacle, resizes and await self._abilities.resizes_in_place(before.namespace)

    async def batch(
        self, request: store.Request | None, selection: feed.Filter, sandbox_ids: Sequence[str]
    ) -> tuple[str, ...]:
        """Returns the ids that a batch is about: `sandbox_ids`, or if there are none, those that `selection` matches.

        Sandboxes that were deleted do not match. A repeated request is about the same sandboxes as before. Raises
        `errors.FailedPrecondition` if too many match, and `errors.Invalid` for a request id with another payload.
        """
        if not sandbox_ids:
            matching = (one.event.sandbox for one in self._feed.catalogue.matching(selection))
            sandbox_ids = [one.id for one in matching if one.desired is not DesiredState.DELETED]
        if request is None:
            return batch.checked(sandbox_ids)
        return await self._store.decided(request, selection.namespace, sandbox_ids)

    async def _change(
        self, mutation: Mutation, change: Callable[[store.Reader, Sandbox], Changed], *, deleted: bool = False
    ) -> Event:
        """Stores what `change` makes of an existing sandbox and returns its event.

        A change that makes no difference is not a new generation. Raises `errors.NotFound`; `errors.Aborted` for
        another generation than the expected one; `errors.FailedPrecondition` for a deleted sandbox unless `deleted`.
        """

        def write(reader: store.Reader) -> store.Write:
            last = reader.last(mutation.key)
            if last is None or not mutation.principal.sees(last.sandbox):
                raise not_found(mutation.key.id)
            before = last.sandbox
            if mutation.expected_generation not in (None, before.generation):
                raise errors.Aborted(
                    "GENERATION_MISMATCH",
                    f"the sandbox is at generation {before.generation}, not {mutation.expected_generation}: "
                    "read it and decide again",
                    generation=str(before.generation),
                )
            if before.desired is DesiredState.DELETED and not deleted:
                raise errors.FailedPrecondition(
                    "SANDBOX_DELETED", f"the sandbox {before.id!r} was deleted: create another"
                )
            changed, env = change(reader, before)
            if changed != before or env is not None:
                changed = dataclasses.replace(changed, generation=before.generation + 1)
                changed = lifecycle.on_mutation(changed, datetime.now(UTC))
            return store.Write(changed, last.sequence, mutation.cause, env)

        return await self._store.write(write, mutation.request)

    def find(self, principal: Principal, key: Key, min_sequence: int) -> feed.Encoded | None:
        """Returns the last event of a live sandbox without waiting. None if the answer needs `get`."""
        if min_sequence < 0 or min_sequence > self._feed.sequence:
            return None
        found = self._feed.catalogue.get(key)
        if found is None or not principal.sees(found.event.sandbox):
            return None
        return found

    async def get(self, principal: Principal, key: Key, min_sequence: int = 0) -> feed.Encoded:
        """Waits until this replica has read `min_sequence`, and returns the last event of a sandbox, even a TERMINATED one.

        Raises `errors.NotFound`.
        """
        await self._feed.arrived(min_sequence)
        found = self._feed.catalogue.get(key)
        if found is None:
            last = await self._store.read(lambda reader: reader.last(key))
            if last is None:
                raise not_found(key.id)
            # A new sandbox with this id may have been created during the read.
            found = self._feed.catalogue.get(key) or self._feed.encoded(last)
        if not principal.sees(found.event.sandbox):
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
        """Calls `page` with the log's sequence and the last events of matching sandboxes, and returns its result.

        The sandboxes come in the order of their keys and begin after `after`. With TERMINATED among `phases` all of them
        are read from the store, and `page` is called on a thread of the store. The feed and the store are of different
        moments: a sandbox that ended between the two would be in neither. `volume_kept`: only sandboxes that have ended
        and whose volume was kept.
        """
        if Phase.TERMINATED not in phases:
            live = (one.event for one in self._feed.catalogue.matching(selection, after))
            found = (one for one in live if not phases or one.sandbox.status.phase in phases)
            return page(self._feed.sequence, found)
        search = selection.search(phases, volume_kept)
        return await self._store.read(
            lambda reader: page(reader.sequence(), reader.search(search, after)), store.Lane.LISTS
        )

    async def events(
        self,
        principal: Principal,
        selection: store.Selection,
        cursor: int | None,
        page: Callable[[store.Extent, Iterator[store.Recorded]], T],
    ) -> T:
        """Calls `page` with the events that match beyond the sequence `cursor`, and returns its result.

        `page` is called on a thread of the store. Raises `errors.NotFound` if a sandbox is selected that the principal
        does not see.
        """

        def query(reader: store.Reader) -> T:
            if selection.key is not None:
                last = reader.last(selection.key)
                if last is None or not principal.sees(last.sandbox):
                    raise not_found(selection.key.id)
            return page(*reader.recorded(selection, cursor))

        return await self._store.read(query, store.Lane.LISTS)

    async def watch(self, selection: feed.Filter, after: int | None, send: feed.Send, ended: bool = False) -> None:
        """Sends a snapshot and events, with `after` only the events after it. Raises as `feed.Watch.run`.

        `ended`: the snapshot has sandboxes that have ended, too.
        """
        await feed.Watch(self._feed, selection, send).run(after, ended)

    async def wait(self, principal: Principal, key: Key, awaited: Wait, seconds: float) -> tuple[feed.Encoded, Outcome]:
        """Waits until `awaited` has an outcome, for `seconds` at most. Returns the event that decided it, or the last one.

        A service that stops ends the wait, with PENDING. Raises `errors.NotFound`.
        """
        end = time.monotonic() + seconds

        def remaining(event: Event) -> float:
            now = datetime.now(UTC)
            if awaited.outcome(event.sandbox, now) is not Outcome.PENDING:
                return 0.0
            left = end - time.monotonic()
            patience_end = awaited.patience_end(event.sandbox)
            return left if patience_end is None else min(left, (patience_end - now).total_seconds())

        last = await feed.until(self._feed, feed.Filter(principal, frozenset({key})), remaining)
        return last, awaited.outcome(last.event.sandbox, datetime.now(UTC))


def made_host() -> str:
    """Returns a name for the URLs of a sandbox that nobody can guess."""
    return _RANDOM.choice(string.ascii_lowercase) + random_suffix(11)


def _new(mutation: Mutation, spec: SandboxSpec, env: Mapping[str, str]) -> Sandbox:
    """Returns a sandbox that was just asked for, with an id that the caller or chance has chosen."""
    key = Key(mutation.key.namespace, mutation.key.id or made_id(spec.project, random_suffix(6)))
    return mutations.new(key, mutation.principal.tenant, str(uuid.uuid4()), made_host(), spec, env, datetime.now(UTC))


def random_suffix(length: int) -> str:
    """Returns letters and digits that nobody can guess."""
    return "".join(_RANDOM.choices(_ALPHABET, k=length))
