"""Adopts the sandboxes that a former system made, and gives them back.

What is adopted is written to the store as it stands in the cluster: names, uids, and what can never change. All else is the
reconciler's, so that a crash at any moment costs nothing: what was not written is found by the next run.
"""

import dataclasses
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sandbox_server import engines, store
from sandbox_server.domain import adoption, lifecycle
from sandbox_server.domain.adoption import Entry, Former, Outcome, Unfit
from sandbox_server.domain.event import Cause
from sandbox_server.domain.legacy import Fact, Place
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.manager import made_host

_DEPLOYMENT = "Deployment"
_LEFT = (
    "its sandbox runs with its files. If it is there for longer, its pod has written files since they were copied: save what is "
    "needed of them, and delete the Deployment"
)
_ENDS_WITH_POD = (
    "its files are in its pod alone, which ends when they have been copied to a disk: adopt it with --restart now, when its user "
    "can do without it for a moment"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted with everything that was found in a namespace, on behalf of its tenant.

    `keeps_pods`: pods stay until a mutation replaces them. `dry`: nothing is written. `project`: that of all of them; empty: of
    each its own. `facts`: what an import told.
    """

    tenant: str
    namespace: str
    keeps_pods: bool
    dry: bool
    cause: Cause
    project: str = ""
    facts: Mapping[Place, Fact] = field(default_factory=dict)


class Adoption:
    """Writes to the store what is adopted and what is given back."""

    def __init__(self, store: store.Store, names: engines.Names) -> None:
        self._store = store
        self._names = names

    async def adopt(self, wanted: Wanted, found: Iterable[Former | Unfit]) -> list[Entry]:
        """Returns what becomes of each. What was adopted already stays as it is. Raises `errors.Unavailable`."""
        return [await self._adopt(wanted, one) for one in found]

    async def give_back(self, wanted: Wanted, found: Iterable[Former | Unfit]) -> list[Entry]:
        """Returns what becomes of each that was adopted. Raises `errors.Unavailable`."""
        entries = [
            await self._give_back(wanted, kind, name) for name, kind in {one.name: one.kind for one in found}.items()
        ]
        return [one for one in entries if one is not None]

    async def _adopt(self, wanted: Wanted, found: Former | Unfit) -> Entry:
        key = Key(wanted.namespace, found.name)
        last = await self._last(key)
        if last is not None and last.status.phase is not Phase.TERMINATED:
            return _known(found.kind, last)
        if isinstance(found, Unfit):
            return Entry(kind=found.kind, name=found.name, outcome=Outcome.SKIPPED, why=found.why)
        if found.adopted.pod and wanted.keeps_pods:
            return Entry(kind=found.kind, name=found.name, outcome=Outcome.SKIPPED, why=_ENDS_WITH_POD)
        try:
            adoption.check_free(last, found)
            made = self._made(wanted, found, key, found.host)
            if not wanted.dry:
                made = await self._write(wanted, found, made)
        except adoption.Refused as error:
            return _entry(found.kind, found.name, Outcome.SKIPPED, None, str(error))
        return _entry(found.kind, found.name, Outcome.ADOPTED, made, notes=found.notes)

    def _made(self, wanted: Wanted, found: Former, key: Key, host: str) -> Sandbox:
        """Returns the sandbox, with the addresses that it has, or else with those of a new one."""
        found = adoption.told(found, wanted.facts.get(Place(*key)), wanted.project)
        found = dataclasses.replace(found, adopted=dataclasses.replace(found.adopted, keeps_pod=wanted.keeps_pods))
        made = adoption.sandbox(found, key, wanted.tenant, str(uuid.uuid4()), host or made_host(), datetime.now(UTC))
        fresh = self._names.addresses(made)
        return dataclasses.replace(made, addresses=adoption.completed(made.addresses, fresh))

    async def _write(self, wanted: Wanted, found: Former, made: Sandbox) -> Sandbox:
        """Returns the sandbox as it is stored: made now, or by another run meanwhile."""

        def write(reader: store.Reader) -> store.Write:
            last = reader.last(made.key)
            if (
                last is not None
                and last.sandbox.status.phase is not Phase.TERMINATED
                and last.sandbox.adopted is not None
            ):
                return store.Write(last.sandbox, last.sequence, wanted.cause)
            adoption.check_free(None if last is None else last.sandbox, found)
            return store.Write(made, 0, wanted.cause, found.env)

        try:
            return (await self._store.write(write)).sandbox
        except store.Stale:
            # Another sandbox had the host once. The URLs are stored beside it, and stay.
            return await self._write(wanted, found, dataclasses.replace(made, host=made_host()))

    async def _give_back(self, wanted: Wanted, kind: str, name: str) -> Entry | None:
        last = await self._last(Key(wanted.namespace, name))
        if last is None or last.adopted is None or last.status.phase is Phase.TERMINATED:
            return None
        if last.adopted.given_back:
            return _entry(kind, name, Outcome.UNCHANGED, last, "it is being given back")

        def write(reader: store.Reader) -> store.Write:
            found = reader.last(last.key)
            if found is None or found.sandbox.uid != last.uid:
                raise adoption.Refused("it has ended meanwhile: adopt it again, or leave it")
            after = adoption.given_back(found.sandbox)
            after = dataclasses.replace(after, generation=after.generation + 1)
            return store.Write(lifecycle.on_mutation(after, datetime.now(UTC)), found.sequence, wanted.cause)

        try:
            if wanted.dry:
                return _entry(kind, name, Outcome.GIVEN_BACK, adoption.given_back(last))
            return _entry(kind, name, Outcome.GIVEN_BACK, (await self._store.write(write)).sandbox)
        except adoption.Refused as error:
            return _entry(kind, name, Outcome.SKIPPED, last, str(error))

    async def _last(self, key: Key) -> Sandbox | None:
        last = await self._store.read(lambda reader: reader.last(key))
        return None if last is None else last.sandbox


def _known(kind: str, last: Sandbox) -> Entry:
    """Returns the entry of a workload that is a sandbox already."""
    if last.adopted is None:
        return _entry(kind, last.id, Outcome.SKIPPED, last, "it is a sandbox of the service, which the service made")
    why = "it is being given back" if last.adopted.given_back else ""
    if kind == _DEPLOYMENT and last.adopted.moved:
        why = _LEFT
    return _entry(kind, last.id, Outcome.UNCHANGED, last, why)


def _entry(
    kind: str, name: str, outcome: Outcome, sandbox: Sandbox | None, why: str = "", notes: tuple[str, ...] = ()
) -> Entry:
    entry = Entry(kind=kind, name=name, outcome=outcome, why=why, notes=notes)
    if sandbox is None:
        return entry
    return dataclasses.replace(
        entry,
        project=sandbox.spec.project,
        desired=sandbox.desired.name,
        public_url=sandbox.addresses.public_url,
        ttyd_url=sandbox.addresses.ttyd_url,
    )
