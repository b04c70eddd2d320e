"""The client for code without asyncio."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import schedule_pb2, snapshot_pb2

from sandbox_client import (
    access,
    batches,
    calls,
    errors,
    execs,
    queries,
    retry,
    schedules,
    snapshots,
    updates,
    volumes,
    watch,
)
from sandbox_client.snapshots import NamedSnapshot
from sandbox_client.watch import Cursor, SnapshotEvent

P = ParamSpec("P")
T = TypeVar("T")
Page = TypeVar(
    "Page",
    pb.ListSandboxesResponse,
    pb.ListEventsResponse,
    pb.ListVolumesResponse,
    snapshot_pb2.ListSnapshotsResponse,
    schedule_pb2.ListSchedulesResponse,
)


def _method(make: Callable[P, calls.Call[T]]) -> Callable[Concatenate["Client", P], T]:
    @functools.wraps(make)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(make(*args, **kwargs))

    method.__signature__ = calls.signature(make)  # type: ignore[attr-defined]
    return method


def _pages(read: Callable[..., Page]) -> Iterator[Page]:
    """Yields all pages of a list, of which `read` returns one."""
    token = ""
    while True:
        page = read(page_size=calls.PAGE, page_token=token)
        yield page
        token = page.next_page_token
        if not token:
            return


class Client(access.Access):
    """Calls the service and repeats calls that were not carried out. Safe for several threads. Methods raise `ServiceError`.

    >>> with Client("127.0.0.1:50051") as client:
    ...     sandbox = client.create("demo", command=["sleep", "1000"], env={"GREETING": "hello"})
    ...     status = client.wait_until(sandbox, "RUNNING", fail_on_error=True, timeout=60)
    ...     stopped = client.wait_until(client.stop(sandbox), "STOPPED")
    ...     deleted = client.wait_until(client.delete(sandbox), "TERMINATED")
    >>> print(Status.of(status).phase, Status.of(stopped).phase, Status.of(deleted).reason)
    RUNNING STOPPED DELETED
    """

    create = _method(calls.create)
    start = _method(calls.start)
    stop = _method(calls.stop)
    delete = _method(calls.delete)
    update_env = _method(calls.update_env)
    update = _method(updates.update)
    batch_start = _method(batches.batch_start)
    batch_stop = _method(batches.batch_stop)
    batch_delete = _method(batches.batch_delete)
    status = _method(calls.status)
    get = _method(calls.get)
    page = _method(calls.page)
    wait_for_phase = _method(queries.wait_for_phase)
    events_page = _method(queries.events_page)
    volumes_page = _method(volumes.volumes_page)
    delete_volume = _method(volumes.delete_volume)
    volume_usage = _method(volumes.volume_usage)
    create_snapshot = _method(snapshots.create_snapshot)
    get_snapshot = _method(snapshots.get_snapshot)
    verify_snapshot = _method(snapshots.verify_snapshot)
    delete_snapshot = _method(snapshots.delete_snapshot)
    snapshots_page = _method(snapshots.snapshots_page)
    clone = _method(snapshots.clone)
    create_schedule = _method(schedules.create_schedule)
    get_schedule = _method(schedules.get_schedule)
    update_schedule = _method(schedules.update_schedule)
    delete_schedule = _method(schedules.delete_schedule)
    schedules_page = _method(schedules.schedules_page)
    capabilities = _method(queries.capabilities)

    execs = _method(execs.execs)

    def list(
        self,
        *,
        namespace: str = "",
        project: str = "",
        label_selector: str = "",
        phases: Iterable[str | int] = (),
        tenant: str = "",
        volume_kept: bool = False,
        basic: bool = False,
    ) -> Iterator[pb.Sandbox]:
        """Yields all sandboxes that match, and reads them page by page.

        `volume_kept`: only deleted sandboxes whose disk was kept. `basic`: without specs and the names of variables.
        `tenant` is for operators, who see the sandboxes of all tenants.
        """
        read = functools.partial(
            self.page,
            namespace=namespace,
            project=project,
            label_selector=label_selector,
            phases=tuple(phases),
            tenant=tenant,
            volume_kept=volume_kept,
            basic=basic,
        )
        for page in _pages(read):
            yield from page.sandboxes

    def events(
        self,
        sandbox: calls.Named = "",
        *,
        namespace: str = "",
        project: str = "",
        tenant: str = "",
        after_sequence: int = 0,
        oldest_first: bool = False,
    ) -> Iterator[pb.Event]:
        """Yields the history of a sandbox, of a project or of everything, the newest events first; reads it page by page.

        >>> made = client.create("demo", command=["sleep", "1000"])
        >>> stopped = client.stop(made)
        >>> [event.cause.method for event in client.events(made, oldest_first=True) if event.cause.actor]
        ['CreateSandbox', 'Stop']
        """
        read = functools.partial(
            self.events_page,
            sandbox,
            namespace=namespace,
            project=project,
            tenant=tenant,
            after_sequence=after_sequence,
            oldest_first=oldest_first,
        )
        for page in _pages(read):
            yield from page.events

    def volumes(
        self, *, namespace: str = "", project: str = "", label_selector: str = "", tenant: str = ""
    ) -> Iterator[pb.KeptVolume]:
        """Yields the disks that deleted sandboxes left, and reads them page by page."""
        read = functools.partial(
            self.volumes_page, namespace=namespace, project=project, label_selector=label_selector, tenant=tenant
        )
        for page in _pages(read):
            yield from page.volumes

    def snapshots(
        self,
        sandbox_id: str = "",
        *,
        namespace: str = "",
        project: str = "",
        label_selector: str = "",
        states: Iterable[str | int] = (),
        schedule_id: str = "",
        tenant: str = "",
    ) -> Iterator[snapshot_pb2.Snapshot]:
        """Yields the snapshots that match, and reads them page by page. `tenant` is for operators."""
        read = functools.partial(
            self.snapshots_page,
            sandbox_id,
            namespace=namespace,
            project=project,
            label_selector=label_selector,
            states=tuple(states),
            schedule_id=schedule_id,
            tenant=tenant,
        )
        for page in _pages(read):
            yield from page.snapshots

    def schedules(self, *, namespace: str = "", tenant: str = "") -> Iterator[schedule_pb2.SnapshotSchedule]:
        """Yields the schedules of snapshots, and reads them page by page. `tenant` is for operators."""
        for page in _pages(functools.partial(self.schedules_page, namespace=namespace, tenant=tenant)):
            yield from page.schedules

    def wait_for_snapshot(
        self, snapshot: NamedSnapshot, state: str | int = "READY", *, namespace: str = "", timeout: float | None = None
    ) -> snapshot_pb2.Snapshot:
        """Waits until a snapshot has a state, and returns it. It asks again and again.

        Raises `SnapshotFailed` if the snapshot can no longer reach that state, and `TimedOut` after `timeout` seconds.
        """
        wait = snapshots.Wait(state, timeout)
        while True:
            found = self.get_snapshot(snapshot, namespace=namespace)
            if wait.over(found):
                return found
            time.sleep(wait.pause())

    def wait_for_verification(
        self, snapshot: NamedSnapshot, *, namespace: str = "", timeout: float | None = None
    ) -> snapshot_pb2.Snapshot:
        """Waits until the verification of a snapshot has passed, and returns the snapshot. It asks again and again.

        Raises `VerificationFailed` if it has not passed, and `TimedOut` after `timeout` seconds.
        """
        wait = snapshots.Verified(timeout)
        while True:
            found = self.get_snapshot(snapshot, namespace=namespace)
            if wait.over(found):
                return found
            time.sleep(wait.pause())

    def watch(
        self,
        sandbox_ids: Iterable[str] = (),
        *,
        namespace: str = "",
        project: str = "",
        label_selector: str = "",
        after_sequence: int | None = None,
        include_terminated: bool = False,
        tenant: str = "",
        timeout: float | None = None,
        lost: Callable[[errors.ServiceError], None] = lambda _error: None,
        back: Callable[[], None] = lambda: None,
    ) -> Generator[watch.Event, None, None]:
        """Yields events without a gap, even across disconnects. A watch of one sandbox ends after TERMINATED.

        >>> made = client.create("demo", command=["sleep", "1000"])
        >>> for event in client.watch([made.sandbox_id]):
        ...     if event.status is not None and Status.of(event.status).phase is Phase.RUNNING:
        ...         break

        After `timeout` seconds it raises `TimedOut`, or `Unavailable` if the service is not reached then. `lost` is called
        once in an outage, when the service has not been reached for `outage.SILENCE` seconds, and `back` when it is
        reached again.
        """
        request = watch.request(
            sandbox_ids, namespace, project, label_selector, after_sequence, include_terminated, tenant
        )
        return self._watch(watch.StatusCursor(request, timeout, lost, back))

    def watch_snapshots(
        self,
        snapshot: NamedSnapshot = "",
        *,
        namespace: str = "",
        sandbox_id: str = "",
        project: str = "",
        label_selector: str = "",
        after_sequence: int | None = None,
        tenant: str = "",
        timeout: float | None = None,
        lost: Callable[[errors.ServiceError], None] = lambda _error: None,
        back: Callable[[], None] = lambda: None,
    ) -> Generator[SnapshotEvent, None, None]:
        """Yields events of snapshots as `watch` does of sandboxes. A watch of one snapshot ends after SNAPSHOT_STATE_DELETED.

        >>> made = client.create("demo", command=["sleep", "1000"])
        >>> running = client.wait_until(made, "RUNNING")
        >>> taken = client.create_snapshot(made)
        >>> for event in client.watch_snapshots(taken):
        ...     if event.snapshot is not None and event.snapshot.HasField("ready_time"):
        ...         break
        """
        request = snapshots.watch_request(
            snapshot, namespace, sandbox_id, project, label_selector, after_sequence, tenant
        )
        return self._watch(watch.SnapshotCursor(request, timeout, lost, back))

    def _watch(self, cursor: Cursor[T]) -> Generator[T, None, None]:
        """Yields the events of a watch, which is opened again where it broke off."""
        while True:
            stream = self.stream(cursor.method, cursor.request(), cursor.schedule.left())
            try:
                for message in stream:
                    event = cursor.take(message)
                    if event is not None:
                        yield event
                return
            except grpc.RpcError as error:
                delay, event = cursor.failed(errors.from_rpc(error))
                if event is not None:
                    yield event
                time.sleep(delay)
            finally:
                stream.cancel()

    def wait_until(
        self,
        sandbox: calls.Named,
        phase: str | int,
        *,
        namespace: str = "",
        generation: int = 0,
        timeout: float | None = None,
        fail_on_error: bool = False,
        patience: float = retry.PATIENCE,
        progress: Callable[[pb.SandboxStatus], None] = lambda _status: None,
        lost: Callable[[errors.ServiceError], None] = lambda _error: None,
        back: Callable[[], None] = lambda: None,
    ) -> pb.SandboxStatus:
        """Waits until a sandbox has a phase at `generation` or later, and returns that status.

        After a mutation, give its answer as `sandbox`: the wait is then for the generation that the mutation made.

        >>> made = client.create("demo", command=["sleep", "1000"])
        >>> status = client.wait_until(made, "RUNNING", timeout=60)

        With `fail_on_error` a sandbox in PHASE_ERROR raises `SandboxFailed`: at once if the caller has to act, else after
        `patience` seconds, since it may recover by itself (see `remedy` in the contract). A sandbox that has ended raises
        it too. `TimedOut` is raised after `timeout` seconds. `progress` is called with every status; for `lost` and
        `back` see `watch`.
        """
        sandbox_id, namespace = calls.target(sandbox, namespace)
        generation = generation or calls.generation(sandbox)
        wait = watch.Wait(calls.phase(phase), generation, fail_on_error, progress, patience, timeout)
        while True:
            events = self.watch(
                [sandbox_id],
                namespace=namespace,
                after_sequence=wait.sequence,
                timeout=wait.left(),
                lost=lost,
                back=back,
            )
            # Closed here: an error that the caller keeps would keep the stream open.
            with contextlib.closing(events):
                try:
                    for event in events:
                        found = wait.take(event)
                        if found is not None:
                            return found
                        if wait.turned:
                            break
                    else:
                        raise errors.ServiceError("the watch ended before the phase came")
                except (errors.TimedOut, errors.Unavailable) as error:
                    raise wait.ended(error) from None
