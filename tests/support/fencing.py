"""A replica that stands still in the middle of a write while another one holds its namespace and goes on.

The write is held where it is sent: the process is stopped there, or the connection swallows it. It is done when the other
replica has settled, whatever became of its sender meanwhile.
"""

import asyncio
import contextlib
import dataclasses
import enum
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox_server import engines
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import ObjectNames, Sandbox
from sandbox_server.engines.kubernetes import KubernetesEngine, client, resources
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resources

from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

WITHIN = 90.0
Objects = dict[str, dict[str, Any]]
"""What there is, by its path."""


class Act(enum.Enum):
    """What the former holder is about when it is stopped."""

    CREATE = "create"
    UPDATE = "update"
    STOP = "stop"
    TOUCH = "touch"
    REMOVE_SUPERSEDED = "remove-superseded"
    REMOVE_WORKLOAD = "remove-workload"
    DELETE = "delete"


class Then(enum.Enum):
    """What is asked for when the next holder has taken over."""

    UPDATED = "updated"
    STOPPED = "stopped"
    DELETED = "deleted"
    DELETED_AT_ONCE = "deleted-at-once"
    """Before the next holder has done anything for the sandbox."""
    KEPT = "kept"
    MADE_AGAIN = "made-again"


@dataclass(eq=False)
class Case:
    """One write of one act. `object` is a field of `Resources`."""

    number: int
    act: Act
    method: str
    object: str
    then: Then
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return f"case-{self.number}"

    @property
    def created_by_former(self) -> bool:
        return self.act is Act.CREATE

    def __str__(self) -> str:
        return f"{self.act.value}: {self.method} {self.object}, then {self.then.value}"


def cases() -> list[Case]:
    """Every write of every act, with what may come then."""
    written = ("service", "secret", "app_ingress", "ttyd_ingress", "stateful_set")
    # Nothing reads a Secret of a sandbox that is stopped: none is made.
    without_secret = ("service", "stateful_set")
    every = [one for one in Then if one is not Then.DELETED_AT_ONCE]
    wanted: list[tuple[Act, str, str, Iterable[Then]]] = [
        *((Act.CREATE, "PATCH", one, Then) for one in ("claim", *written)),
        *((Act.UPDATE, "PATCH", one, every) for one in written),
        *((Act.STOP, "PATCH", one, (Then.UPDATED, Then.MADE_AGAIN)) for one in without_secret),
        (Act.TOUCH, "PATCH", "stateful_set", every),
        (Act.REMOVE_SUPERSEDED, "DELETE", "secret", every),
        (Act.REMOVE_WORKLOAD, "DELETE", "stateful_set", every),
        (Act.DELETE, "PATCH", "stateful_set", (Then.DELETED, Then.MADE_AGAIN)),
        *((Act.DELETE, "DELETE", one, (Then.DELETED, Then.MADE_AGAIN)) for one in ("claim", *written)),
    ]
    numbers = itertools.count()
    return [Case(next(numbers), act, method, name, then) for act, method, name, thens in wanted for then in thens]


class Gate:
    """Stands between an engine and its connections. A write that a case waits for is held until `opened`, and then done,
    although its sender has been told by then that there is no answer."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._held: dict[tuple[str, str], Case] = {}
        self._late: dict[Case, asyncio.Task[Any]] = {}
        self.opened = asyncio.Event()

    def hold(self, case: Case, reference: Reference) -> None:
        self._held[case.method, client.path(*reference)] = case

    async def request(self, method: str, path: str, **rest: Any) -> Any:
        case = self._held.pop((method, path), None)
        if case is None:
            return await self._session.request(method, path, **rest)
        late = asyncio.create_task(self._later(method, path, rest))
        self._late[case] = late
        case.reached.set()
        return await asyncio.shield(late)

    async def _later(self, method: str, path: str, rest: dict[str, Any]) -> Any:
        await self.opened.wait()
        return await self._session.request(method, path, **rest)

    async def done(self) -> dict[Case, int]:
        """The status of the answer to the write of each case."""
        return {case: (await late).status for case, late in self._late.items()}

    async def close(self) -> None:
        await self._session.close()


class Former:
    """The engine of the former holder."""

    def __init__(self, rig: Rig) -> None:
        settings = rig.ground.settings.model_copy(update=rig.settings)
        self.engine = KubernetesEngine(settings.kubernetes, settings.pace, settings.default_image)
        self.epoch = 1
        self._namespace = rig.ground.namespace

    async def start(self) -> None:
        await self.engine.open([], lambda _: None, lambda _: self.epoch)
        self.gate = Gate(self.engine._api._session)
        gate: Any = self.gate
        self.engine._api._session = gate
        self.engine.follow([self._namespace])
        await until(lambda: self.engine.synced(self._namespace))

    def begin(self, case: Case, sandbox: Sandbox) -> None:
        """Begins the act of a case, which will be held at its write."""
        names: Resources[Reference] = resources.names(sandbox)
        if case.method == "DELETE":
            # The Secret that is there is of the generation before.
            former = names.secret._replace(name=f"{sandbox.objects.secret}-{sandbox.generation - 1}")
            names = dataclasses.replace(names, secret=former)
        self.gate.hold(case, getattr(names, case.object))
        case.task = asyncio.create_task(self._act(case, sandbox))

    async def _act(self, case: Case, sandbox: Sandbox) -> None:
        while not case.reached.is_set():
            # A sender that waits for long is told that there is no answer; one that resumes finds that it holds nothing.
            # Before the write is reached, what has changed meanwhile is decided on again.
            with contextlib.suppress(engines.NotHeld, engines.Outdated, engines.Unreachable, engines.Refused):
                match case.act:
                    case Act.CREATE | Act.UPDATE:
                        await self.engine.apply(sandbox, {"A": "former"}, 1)
                    case Act.STOP:
                        await self.engine.apply(sandbox, {"A": "former"}, 0)
                    case Act.TOUCH:
                        await self.engine.touch(sandbox)
                    case Act.REMOVE_SUPERSEDED:
                        workload = self.engine.observe(sandbox).workload
                        if workload is None or workload.generation != sandbox.generation:
                            await self.engine.apply(sandbox, {"A": "former"}, 1)
                        await self.engine.remove_superseded(sandbox)
                    case Act.REMOVE_WORKLOAD:
                        await self.engine.remove_workload(sandbox)
                    case Act.DELETE:
                        await self.engine.delete(sandbox)
            await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN * PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


class Handover:
    """Some cases in one namespace, all at once. `look` returns every object in it that a sandbox may have."""

    def __init__(self, rig: Rig, former: Former, look: Callable[[], Coroutine[Any, Any, Objects]]) -> None:
        self.rig, self.former, self.look = rig, former, look
        self.holds = True
        engine: Any = rig.engine
        engine._held = lambda _namespace: 2 if self.holds else 0

    async def run(self, some: list[Case], quiet: float) -> dict[Case, int]:
        """Returns the status of the answer to the write of each case.

        `quiet`: seconds without a change after which nothing more will change.
        """
        self.quiet = quiet
        await self._each(some, self._prepare)
        self.holds = False
        await self._each(some, self._stop_former)
        self.former.epoch, self.holds = 0, True
        await self._each(some, self._go_on)
        before = await self._still()
        self.former.gate.opened.set()
        answers = await self.former.gate.done()
        await asyncio.gather(*(case.task for case in some if case.task))
        await self._take_again()
        await self._until_as(before)
        after = await self._still()
        assert difference(before, after) == {}
        assert after.keys() == set(self._expected(some))
        return answers

    def _expected(self, some: list[Case]) -> Iterator[str]:
        """The paths of what there has to be: every object of each live sandbox, and the disks that were kept."""
        for sandbox in self.rig.feed.catalogue.sandboxes():
            runs = sandbox.desired is DesiredState.RUNNING
            for reference in resources.names(sandbox):
                if runs or reference.kind is not Kind.SECRET:
                    yield client.path(*reference)
        for case in some:
            if case.then is Then.KEPT:
                names = resources.named(self.rig.ground.namespace, ObjectNames.of(case.id))
                yield client.path(*names.claim)

    async def _take_again(self) -> None:
        """Lets the namespace go, and takes it, as happens where a former holder gets its share again.

        A Secret that was made late shows to nobody: the next holder looks for it.
        """
        engine, namespace = self.rig.engine, self.rig.ground.namespace
        engine.follow([])
        engine.follow([namespace])
        await until(lambda: engine.synced(namespace))
        for sandbox in self.rig.feed.catalogue.sandboxes():
            self.rig.reconciler.wake(sandbox.key)

    async def _each(self, some: list[Case], step: Callable[[Case], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for case in some:
                tasks.create_task(step(case))

    async def _prepare(self, case: Case) -> None:
        if not case.created_by_former:
            await self.rig.create(case.id, {"A": "first"})
            await self.rig.settled(case.id, Phase.RUNNING, WITHIN)

    async def _stop_former(self, case: Case) -> None:
        rig = self.rig
        match case.act:
            case Act.CREATE:
                await rig.create(case.id, {"A": "first"})
            case Act.UPDATE | Act.REMOVE_SUPERSEDED:
                await rig.env(case.id, A="former")
            case Act.STOP:
                await rig.begin(case.id, Phase.STOPPED)
            case Act.DELETE:
                await rig.delete(case.id)
        sandbox = await rig.get(case.id)
        await until(lambda: self._shown(case, sandbox))
        self.former.begin(case, sandbox)
        async with asyncio.timeout(WITHIN * PATIENCE):
            await case.reached.wait()

    def _shown(self, case: Case, sandbox: Sandbox) -> bool:
        """Whether the former holder's informers show what the next one's do."""
        return case.created_by_former or self.former.engine.observe(sandbox).workload is not None

    async def _go_on(self, case: Case) -> None:
        rig = self.rig
        if case.then is Then.DELETED_AT_ONCE:
            await rig.delete(case.id)
            await rig.settled(case.id, Phase.TERMINATED, WITHIN)
            return
        rig.reconciler.wake(rig.key(case.id))
        sandbox = await rig.get(case.id)
        if sandbox.desired is DesiredState.DELETED:
            await rig.settled(case.id, Phase.TERMINATED, WITHIN)
        else:
            wanted = Phase.RUNNING if sandbox.desired is DesiredState.RUNNING else Phase.STOPPED
            await rig.settled(case.id, wanted, WITHIN)
        match case.then:
            case Then.UPDATED:
                # What the former holder was about to write is taken back, so that the objects are as they were before.
                await rig.env(case.id, A="first" if case.act is Act.UPDATE else "next")
                await rig.settled(case.id, wanted, WITHIN)
            case Then.STOPPED:
                await rig.begin(case.id, Phase.STOPPED)
                await rig.settled(case.id, Phase.STOPPED, WITHIN)
            case Then.DELETED | Then.KEPT | Then.MADE_AGAIN:
                if sandbox.desired is not DesiredState.DELETED:
                    await rig.delete(case.id, keep=case.then is Then.KEPT)
                await rig.settled(case.id, Phase.TERMINATED, WITHIN)
        if case.then is Then.MADE_AGAIN:
            await rig.create(case.id, {"A": "again"})
            await rig.settled(case.id, Phase.RUNNING, WITHIN)

    async def _still(self) -> Objects:
        """What there is when nothing changes any more."""
        async with asyncio.timeout(WITHIN * PATIENCE):
            before = await self.look()
            while True:
                await asyncio.sleep(self.quiet)
                after = await self.look()
                if before == after:
                    return after
                before = after

    async def _until_as(self, before: Objects) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20 * PATIENCE):
                while await self.look() != before:
                    await asyncio.sleep(0.2)


def difference(before: Objects, after: Objects) -> dict[str, tuple[Any, Any]]:
    """What was removed, changed or added, by its path."""
    return {
        path: (before.get(path), after.get(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }


@contextlib.asynccontextmanager
async def handover(rig: Rig, look: Callable[[], Coroutine[Any, Any, Objects]]) -> AsyncIterator[Handover]:
    former = Former(rig)
    await former.start()
    try:
        yield Handover(rig, former, look)
    finally:
        former.gate.opened.set()
        await former.engine.close()


def of_interest(found: dict[str, Any]) -> dict[str, Any]:
    """All of an object that a write can change."""
    return {name: value for name, value in found.items() if name != "status"}
