"""What a caller can ask for. Each mutation is one transaction; the log then wakes the reconciler."""

import dataclasses
import secrets
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox_server import engines, feed, store
from sandbox_server.domain import check, errors, lifecycle
from sandbox_server.domain.sandbox import Addresses, DesiredState, Key, Phase, Reason, Sandbox, SandboxSpec, Status
from sandbox_server.domain.tenant import Tenant, not_found

PAGE_DEFAULT = 100
PAGE_MOST = 1000
_LETTERS = string.ascii_lowercase
_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Wish:
    """What every mutation carries. `payload` stands for the whole request but its id; `timeout` is in seconds."""

    request_id: str
    payload: bytes
    expected_generation: int | None
    timeout: float


class StatefulSetManager:
    """Creates, starts, stops, deletes, updates and reads sandboxes on behalf of tenants."""

    def __init__(
        self,
        database: store.Store,
        memory: feed.Feed,
        engine: engines.Engine,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = database
        self._feed = memory
        self._engine = engine
        self._now = now

    @property
    def stale(self) -> bool:
        """Whether statuses may be out of date, because the engine is out of sight."""
        return not self._engine.in_sight

    @property
    def sequence(self) -> int:
        """Where the log stands on this replica."""
        return self._feed.sequence

    async def create(
        self,
        tenant: Tenant,
        wish: Wish,
        namespace: str,
        sandbox_id: str,
        spec: SandboxSpec,
        env: Mapping[str, str],
        adopt_volume: bool,
    ) -> Sandbox:
        """A new sandbox. Raises `errors.AlreadyExists` and `errors.FailedPrecondition` as the contract says."""
        key = tenant.key(namespace, sandbox_id)

        def change(tx: store.Transaction) -> Sandbox:
            made = key if key.id else Key(key.namespace, _free_id(tx, key.namespace, spec.project))
            volume_uid = _kept_volume(tx.former(made), adopt_volume, made.id)
            return tx.insert(self._new(tenant, made, spec, env, volume_uid), env)

        return await self._once(tenant, wish, change)

    def _new(self, tenant: Tenant, key: Key, spec: SandboxSpec, env: Mapping[str, str], volume_uid: str) -> Sandbox:
        now = self._now()
        sandbox = Sandbox(
            id=key.id,
            namespace=key.namespace,
            tenant=tenant.name,
            uid=str(uuid.uuid4()),
            host=secrets.choice(_LETTERS) + _random(11),
            spec=spec,
            env_names=tuple(sorted(env)),
            desired=DesiredState.RUNNING,
            generation=1,
            start_generation=1,
            created_at=now,
            addresses=Addresses(dns_name="", public_url="", ttyd_url=""),
            status=Status(
                phase=Phase.CREATING, reason=Reason.ACCEPTED, message="", transitioned_at=now, attempt_at=now
            ),
            volume_uid=volume_uid,
        )
        addresses = self._engine.addresses(sandbox)
        return lifecycle.on_wish(dataclasses.replace(sandbox, addresses=addresses), now)

    async def start(self, tenant: Tenant, wish: Wish, key: Key, accept_data_loss: bool) -> Sandbox:
        """Wishes RUNNING; with `accept_data_loss` a lost volume is given up for a fresh one."""

        def change(tx: store.Transaction, before: Sandbox) -> Sandbox:
            fresh = accept_data_loss and before.status.reason is Reason.VOLUME_LOST
            if before.desired is DesiredState.RUNNING and not fresh:
                return before
            wished = dataclasses.replace(
                before,
                desired=DesiredState.RUNNING,
                generation=before.generation + 1,
                start_generation=before.generation + 1,
                volume_uid="" if fresh else before.volume_uid,
            )
            return tx.update(before, lifecycle.on_wish(wished, self._now()))

        return await self._once(tenant, wish, self._on(tenant, key, wish, change))

    async def stop(self, tenant: Tenant, wish: Wish, key: Key) -> Sandbox:
        """Wishes STOPPED."""

        def change(tx: store.Transaction, before: Sandbox) -> Sandbox:
            if before.desired is DesiredState.STOPPED:
                return before
            wished = dataclasses.replace(before, desired=DesiredState.STOPPED, generation=before.generation + 1)
            return tx.update(before, lifecycle.on_wish(wished, self._now()))

        return await self._once(tenant, wish, self._on(tenant, key, wish, change))

    async def delete(self, tenant: Tenant, wish: Wish, key: Key, keep_volume: bool) -> Sandbox:
        """Wishes DELETED; a repeat changes nothing."""

        def change(tx: store.Transaction, before: Sandbox) -> Sandbox:
            if before.desired is DesiredState.DELETED:
                return before
            wished = dataclasses.replace(
                before, desired=DesiredState.DELETED, generation=before.generation + 1, keep_volume=keep_volume
            )
            return tx.update(before, lifecycle.on_wish(wished, self._now()))

        return await self._once(tenant, wish, self._on(tenant, key, wish, change, deleted=True))

    async def update_env(
        self, tenant: Tenant, wish: Wish, key: Key, values: Mapping[str, str], unset: Sequence[str], replace: bool
    ) -> Sandbox:
        """Changes the environment. Raises `errors.Invalid` if the result is over a limit."""

        def change(tx: store.Transaction, before: Sandbox) -> Sandbox:
            present = tx.env(key)
            kept = {} if replace else {name: present[name] for name in present if name not in unset}
            wanted = {**kept, **values}
            if wanted == present:
                return before
            if found := tuple(check.env("set", wanted)):
                raise errors.Invalid(found)
            wished = dataclasses.replace(before, env_names=tuple(sorted(wanted)), generation=before.generation + 1)
            return tx.update(before, lifecycle.on_wish(wished, self._now()), wanted)

        return await self._once(tenant, wish, self._on(tenant, key, wish, change))

    def _on(
        self,
        tenant: Tenant,
        key: Key,
        wish: Wish,
        change: Callable[[store.Transaction, Sandbox], Sandbox],
        deleted: bool = False,
    ) -> Callable[[store.Transaction], Sandbox]:
        """`change` on a sandbox that exists, is the tenant's and has the expected generation."""

        def found(tx: store.Transaction) -> Sandbox:
            before = tx.sandbox(key)
            if before is None or before.tenant != tenant.name:
                raise not_found(key.id)
            if wish.expected_generation is not None and wish.expected_generation != before.generation:
                raise errors.Aborted(
                    "GENERATION_MISMATCH",
                    f"the sandbox is at generation {before.generation}, not {wish.expected_generation}: "
                    "read it and decide again",
                )
            if before.desired is DesiredState.DELETED and not deleted:
                raise errors.FailedPrecondition(
                    "SANDBOX_DELETED", f"the sandbox {key.id!r} was deleted: create another"
                )
            return change(tx, before)

        return found

    async def _once(self, tenant: Tenant, wish: Wish, change: Callable[[store.Transaction], Sandbox]) -> Sandbox:
        """`change` in a transaction, once for each request id."""

        def act(tx: store.Transaction) -> Sandbox:
            if not wish.request_id:
                return change(tx)
            fingerprint = self._store.fingerprint(wish.payload)
            known = tx.request(tenant.name, wish.request_id)
            if known is not None:
                if not self._store.same(known.fingerprint, wish.payload):
                    raise errors.Invalid(
                        (errors.Violation("request_id", "was used with another payload: make a new one"),),
                        "REQUEST_ID_REUSED",
                    )
                return known.answer
            sandbox = change(tx)
            tx.remember(tenant.name, wish.request_id, fingerprint, sandbox, self._now())
            return sandbox

        while True:
            try:
                return await self._store.write(act, timeout=wish.timeout)
            except (store.Stale, store.HostTaken):
                continue

    async def get(self, tenant: Tenant, key: Key) -> feed.Change:
        """The sandbox, TERMINATED ones too. Raises `errors.NotFound`."""
        change = self._feed.get(key)
        if change is None:
            sandbox = await self._store.read(lambda reader: reader.sandbox(key))
            if sandbox is None:
                raise not_found(key.id)
            change = self._feed.get(key) or self._feed.entry(sandbox)
        if change.sandbox.tenant != tenant.name:
            raise not_found(key.id)
        return change

    async def arrived(self, sequence: int) -> None:
        """Returns when this replica has seen `sequence`."""
        await self._feed.arrived(sequence)

    def find(self, tenant: Tenant, key: Key) -> feed.Change | None:
        """The live sandbox of that key, without waiting; None if `get` has to be asked."""
        change = self._feed.get(key)
        return change if change is not None and change.sandbox.tenant == tenant.name else None

    async def list(
        self, wanted: feed.Filter, phases: frozenset[Phase], size: int, after: Key | None
    ) -> tuple[list[Sandbox], Key | None]:
        """A page in the order of the keys, and the key to go on after, if there is more."""
        found: list[Sandbox] = []
        if Phase.TERMINATED in phases:
            rows = await self._store.read(lambda reader: reader.terminated(wanted.tenant))
            live = {sandbox.key: sandbox for sandbox in rows}
            live |= {sandbox.key: sandbox for sandbox in self._feed.live()}
            everything = iter(sorted(live.values(), key=lambda one: one.key))
        else:
            everything = self._feed.live(after)
        for sandbox in everything:
            past = after is None or sandbox.key > after
            if past and wanted.matches(sandbox) and (not phases or sandbox.status.phase in phases):
                found.append(sandbox)
                if len(found) > size:
                    return found[:size], found[size - 1].key
        return found, None

    async def watch(self, tenant: Tenant, wanted: feed.Filter, after: int | None, send: feed.Send) -> None:
        """Sends the snapshot (unless resuming) and the changes. Raises as `feed.Feed.watch`, and `errors.NotFound`."""
        named: dict[Key, feed.Change] = {}
        while any(key not in named or self._ended(named[key]) for key in wanted.keys):
            named = {key: await self.get(tenant, key) for key in wanted.keys}
        if after is not None:
            ended = [one for one in named.values() if one.terminated and one.sandbox.sequence <= after]
            if ended and len(named) == 1:
                return
            await self._feed.watch(wanted, None, after, send)
            return
        present = [self._feed.get(key) or change for key, change in named.items()] or self._feed.changes()
        snapshot = [one for one in present if wanted.matches(one.sandbox)]
        await self._feed.watch(wanted, snapshot, self._feed.sequence, send)

    def _ended(self, change: feed.Change) -> bool:
        """Whether a sandbox that was live when it was read is so no more."""
        return not change.terminated and self._feed.get(change.sandbox.key) is None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _free_id(tx: store.Transaction, namespace: str, project: str) -> str:
    """`<project>-agentruntime-<6 random>`, the project cut so that the whole is a valid id."""
    while True:
        made = f"{project[: check.ID_MOST - 20].rstrip('-')}-agentruntime-{_random(6)}"
        if tx.former(Key(namespace, made)) is None:
            return made


def _kept_volume(former: Sandbox | None, adopt: bool, sandbox_id: str) -> str:
    """The uid of the volume to take up; empty for a fresh one."""
    if former is not None and former.status.phase is not Phase.TERMINATED:
        raise errors.AlreadyExists(
            "SANDBOX_EXISTS", f"the id {sandbox_id!r} is taken: choose another, or delete it and wait for TERMINATED"
        )
    kept = former is not None and former.status.reason is Reason.VOLUME_KEPT
    if kept and not adopt:
        raise errors.FailedPrecondition(
            "VOLUME_KEPT",
            f"a deleted sandbox {sandbox_id!r} left its volume: set adopt_volume to use it, or choose another id",
        )
    if adopt and not kept:
        raise errors.FailedPrecondition(
            "NO_VOLUME_TO_ADOPT", f"no deleted sandbox {sandbox_id!r} left a volume: leave adopt_volume unset"
        )
    return former.volume_uid if former is not None and kept else ""
