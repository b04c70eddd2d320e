"""The contract of an engine in its roles: `Names`, `Cluster`, `Access` and `Abilities`. It obeys and reports, and never decides.

Both engines keep it and pass one suite, `tests/contract/suite.py`.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sandbox_server.domain import logs
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Addresses, Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Scratch, Snapshot, Taken


class Refused(Exception):
    """The engine did not do what it was asked. Nothing is half done that doing it again would not complete.

    `fault` goes into the sandbox's status.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Unreachable(Exception):
    """The engine cannot be asked now. It says nothing about the sandbox, whose status stays as it was.

    `retry_after`, in seconds, is how long the engine asks to be left alone at least.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(Unreachable):
    """The engine answers that it cannot do this now. An answer like that which lasts goes into the sandbox's status."""

    def passing_for(self, lasted: float, busy_after: float) -> float:
        """Seconds for which the cause may still pass, after it has `lasted` so many, until it has lasted `busy_after`;
        none where the engine says that it lasts."""
        return 0.0 if self.retry_after >= busy_after else max(0.0, busy_after - lasted)

    @property
    def fault(self) -> Fault:
        """What the status says of it."""
        return Fault(Reason.CLUSTER_BUSY, str(self))


class Awaited(Unreachable):
    """The engine has begun what it was asked, and has to be asked again after `retry_after` seconds to go on with it.

    The text says what it waits for.
    """


class NotHeld(Exception):
    """This replica does not hold the namespace, or no longer under the epoch in which the act began. Nothing was written
    since."""


class Outdated(Exception):
    """What the act was decided on has changed since. It has to be observed and decided again."""


class Names(Protocol):
    """Names of what a sandbox will have. Every replica may ask, from any thread, before the cluster is opened."""

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Returns where a sandbox that is being created will be reached. `sandbox.addresses` is not read.

        The answer is stored with the sandbox. The store's thread calls this inside the transaction of the create.
        """


class Cluster(Protocol):
    """Observes and changes what runs. It states facts and carries out acts; it judges nothing.

    All calls come from one event loop. `observe`, `apply`, `touch` and `delete` are for sandboxes of a namespace that is
    synced. They raise `Unreachable` for a namespace that is not followed or not listed yet. Those that act ask `held`
    immediately before each write, and raise `NotHeld` in place of the write unless the epoch is the one in which they began.
    They raise `Outdated` if what runs has changed since it was observed.
    """

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None], held: Callable[[str], int]) -> None:
        """Begins to observe. Returns when `synced` can be asked.

        `live` are all sandboxes that are not TERMINATED. `changed` is called on the loop whenever what `observe`
        returns for a key may have changed. `held` returns the epoch under which this replica holds a namespace now, 0
        while it does not. Epochs of one namespace only grow.
        """

    def follow(self, namespaces: Iterable[str]) -> None:
        """Observes exactly these namespaces from now on: those that are new, and no longer those that are left out.

        What runs in a namespace that is left out goes on running. Only while open.
        """

    async def close(self) -> None:
        """Stops observing. What runs goes on running."""

    @property
    def any_synced(self) -> bool:
        """Whether one namespace at least is synced."""

    async def reachable(self) -> bool:
        """Asks whatever it observes for a sign of life. Needs no right, and no namespace that is followed."""

    def synced(self, namespace: str) -> bool:
        """Whether `observe` shows the present of a namespace. False until everything in it has been listed once, and while
        the namespace is out of reach or the service may not look."""

    def unobservable(self, namespace: str) -> Fault | None:
        """Returns why a namespace is not synced, where that is known and will not pass by itself: a right that is missing,
        or that the namespace is not followed."""

    async def examine(self, namespace: str) -> None:
        """Looks at the namespace itself, whose end explains that what is in it goes. What is found shows in `observe`,
        `synced` and `unobservable`. A look that fails changes nothing."""

    def readable(self, namespace: str) -> bool | None:
        """Whether the service may get the namespace itself; None before the first `examine` that was answered. Without that
        right the end of a namespace shows only in what is in it."""

    def observe(self, sandbox: Sandbox) -> Observed:
        """Returns what there is of this sandbox, from memory. `fault` says that what the engine writes is undone each time.

        Never waits.
        """

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Makes the objects of `sandbox.generation`, the workload last, and returns the workload's revision: the one
        that `observe` goes on showing until somebody else removes or changes anything of what was made.

        Doing it twice changes nothing the second time. A foreign object is left alone: `Refused` with NAME_CONFLICT. What
        somebody undoes each time is done again after longer and longer delays: in between, `Refused` with FIELD_CONFLICT.
        Raises `Awaited` while the disk is yet to be copied from another, and `Refused` with RESTORE_FAILED if it cannot be.
        `observe` shows the effect no earlier than it is true.
        """

    async def touch(self, sandbox: Sandbox) -> int:
        """Has the controller of the workload try now to make the pod, and returns the workload's revision.

        Nothing that the pod is made of changes.
        """

    async def remove_superseded(self, sandbox: Sandbox) -> None:
        """Asks for the removal of what was made for former generations of a sandbox, or to make its disk, once nothing can use
        it any more.

        Nothing is asked while the namespace is not synced. Nothing that is left costs no call.
        """

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Asks for the removal of the workload, and of its pod before it, where the workload's controller does not act.

        The volume stays. What is already gone or going is no error.
        """

    async def delete(self, sandbox: Sandbox) -> None:
        """Asks for the removal of every object of the sandbox, the volume too unless it keeps that; returns when asked.

        It is asked again, whenever what `observe` shows has changed, until nothing is left that is not going.
        What is already gone is no error. A foreign object is left alone.
        """

    def leftovers(self, key: Key, living: Sandbox | None) -> set[str]:
        """Returns the uids of the sandboxes other than `living` for which something was made that has a name of `key`, from
        memory.

        A write that was sent before a sandbox ended may arrive afterwards. `living` is the live sandbox that has the key.
        """

    async def remove_leftovers(self, former: Sandbox) -> None:
        """Asks for the removal of what was made for a sandbox that is TERMINATED, but for a volume that it keeps."""


LOG_PART = 64 * 1024
"""Bytes of output in one part."""

PORT_PART = 64 * 1024
"""Bytes that a connection returns at once."""


class Unsupported(Exception):
    """The engine cannot enter this sandbox, now or later. The text says why."""


class NotGranted(Exception):
    """The service lacks the right to enter sandboxes of this namespace. The text says which one."""


class NoOutput(Exception):
    """The engine keeps no output of that process. The text says why."""


class BadPosition(Exception):
    """The text is no position in the output of a sandbox."""


class PortRefused(Exception):
    """Nothing listens on a port of a sandbox, or the engine may not connect to it. The text says which."""


class Connection(Protocol):
    """A TCP connection to a port of a sandbox. Every method raises `Unreachable` if it is broken, and `PortRefused`."""

    async def opened(self) -> None:
        """Returns when the connection is open, as far as the engine can tell."""

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the other side takes no more."""

    async def end(self) -> None:
        """Tells the other side that nothing more is sent."""

    async def read(self) -> bytes:
        """Returns what has arrived, at most `PORT_PART` bytes; empty when the other side has ended. Waits until either."""


Buffer = bytes | bytearray | memoryview


class Entered(Protocol):
    """A program that runs in the namespaces of a sandbox, with a stream of bytes in and one out."""

    async def write(self, data: Buffer) -> None:
        """Writes to the program's input. Raises `Unreachable` if the program has ended, or its connection is cut."""

    async def read(self, most: int) -> bytes:
        """Returns what the program has printed, up to `most` bytes; empty if it has ended, or its connection is cut."""


class Access(Protocol):
    """Enters what runs. Every replica may ask, for sandboxes of every namespace."""

    async def granted(self, namespace: str) -> bool | None:
        """Whether the service may enter the sandboxes of a namespace; None if that cannot be asked now."""

    async def incarnation(self, sandbox: Sandbox) -> str:
        """Returns the incarnation of the sandbox that runs now: one start of its process. Empty if none runs.

        Raises `NotGranted`, and `Unreachable` if the engine cannot be asked now.
        """

    async def ended_by(self, sandbox: Sandbox, incarnation: str) -> Reason | None:
        """Returns OUT_OF_MEMORY or NODE_LOST if that ended an incarnation, as far as the engine still knows. Raises as
        `incarnation`."""

    def enter(self, sandbox: Sandbox, incarnation: str, program: Sequence[str]) -> AbstractAsyncContextManager[Entered]:
        """Runs a fixed small program in the sandbox until the context ends; what the program has started goes on.

        It has the environment and the working directory of the sandbox's process, and its user. The arguments may be
        recorded by others: what is secret is for its input. `SANDBOX_ACCESS` in its environment, if that is set, is the
        directory for what it keeps. Raises `Unreachable` if that incarnation does not run, or cannot be reached; nothing
        was written to the program then. Raises `Unsupported` and `NotGranted`.
        """

    def logs(self, sandbox: Sandbox, asked: logs.Asked) -> AsyncGenerator[logs.Part, None]:
        """Yields what the process of the sandbox has printed, as far as the engine keeps it, in parts of at most `LOG_PART`.

        With `follow` it ends with `logs.Ended`. It reads no further than it is asked to, so that a slow reader costs no
        memory. Raises `NoOutput`, `BadPosition`, `NotGranted`, and `Unreachable` if the engine cannot be asked now or the output
        was cut.
        """

    def connect(self, sandbox: Sandbox, incarnation: str, port: int) -> AbstractAsyncContextManager[Connection]:
        """Connects to a port of the sandbox until the context ends, in that incarnation and in no other.

        Raises `PortRefused`, `Unsupported`, `NotGranted`, and `Unreachable` if that incarnation does not run.
        """


class Abilities(Protocol):
    """Tells what can be changed of sandboxes where they run. Every replica may ask, for sandboxes of every namespace."""

    async def growth_obstacle(self, sandbox: Sandbox) -> str:
        """Returns why the disk of a sandbox cannot grow, in words that follow "its disk cannot grow:"; empty if it can, or
        if that cannot be asked now. Takes some seconds at most."""

    async def restore_obstacle(self, origin: Origin, storage_class: str) -> str:
        """Returns why a disk of a storage class cannot be made from an origin, in words that follow "it cannot be made:"; empty if
        it can, or if that cannot be asked now. Takes some seconds at most."""

    async def resizes_in_place(self, namespace: str) -> bool:
        """Whether pods of a namespace can be given other CPU and memory where they run; False if that cannot be asked now.
        Takes some seconds at most."""


class Snapshots(Protocol):
    """Takes, verifies and removes snapshots of disks. It obeys and reports, as `Cluster`, and asks `held` before each write as it does.

    Every call may be repeated, and one that was cut off is completed by its repeat. All raise `Unreachable`.
    """

    async def snapshots_missing(self, namespace: str) -> str:
        """Returns why no snapshot can be taken of disks of a namespace, with the next step; empty if they can."""

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        """Has the storage begin to take a snapshot of the disk of `sandbox`, unless it was taken or begun before.

        Returns when that is asked; `taken` shows the rest. Raises `NotHeld`.
        """

    async def taken(self, snapshot: Snapshot) -> Taken:
        """Returns how far a snapshot is. DELETED if there is nothing of it."""

    async def discard(self, snapshot: Snapshot) -> None:
        """Asks for the removal of what a snapshot consists of; `taken` shows the rest. Raises `NotHeld`."""

    async def verify(self, snapshot: Snapshot) -> None:
        """Begins to restore a snapshot into its scratch, and to count and hash what is in that, unless that was begun before.

        The disk is made as that of a sandbox is. On it runs a program of the service and nothing else. A snapshot has one
        scratch at most, which belongs to no sandbox. Returns when that is asked; `scratch` shows the rest. Raises `NotHeld`.
        """

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        """Returns how far the verification of a snapshot is. The same files are counted alike by every engine."""

    async def clear(self, snapshot: Snapshot) -> None:
        """Asks for the removal of the scratch of a snapshot; `scratch` shows the rest. Raises `NotHeld`."""


class Engine(Names, Cluster, Access, Abilities, Snapshots, Protocol):
    """What runs sandboxes, in all roles. Whoever uses an engine takes the role that it needs."""
