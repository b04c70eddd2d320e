"""The calls about schedules of snapshots."""

import uuid

from sandbox.v1 import schedule_pb2 as pb
from sandbox.v1 import snapshot_pb2

from sandbox_client import calls

NamedSchedule = str | pb.SnapshotSchedule
"""A schedule by its id, or as an answer of the service, which has its namespace too."""


def target(schedule: NamedSchedule, namespace: str) -> tuple[str, str]:
    """Returns the id of a schedule, and `namespace` or else the namespace that the schedule comes with."""
    if isinstance(schedule, str):
        return schedule, namespace
    return schedule.schedule_id, namespace or schedule.namespace


def create_schedule(
    schedule_id: str,
    when: str = "",
    *,
    sandbox: calls.Named | None = None,
    label_selector: str | None = None,
    keep: int = 0,
    before_delete: bool = False,
    stopped: bool = False,
    outlives_sandbox: bool = False,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.SnapshotSchedule]:
    """Creates a schedule of snapshots of a sandbox, or of those with some labels. `when` is in UTC, such as `daily 02:00`.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> client.create_schedule("nightly", "daily 02:00", sandbox=made, keep=7).when
    'daily 02:00'

    `before_delete` takes a snapshot before the disk of a deleted sandbox goes. `stopped` takes them only of sandboxes that are
    stopped.
    """
    request = pb.CreateScheduleRequest(
        request_id=request_id or str(uuid.uuid4()),
        namespace=namespace,
        schedule_id=schedule_id,
        when=when,
        keep=keep,
        before_delete=before_delete,
        consistency=snapshot_pb2.CONSISTENCY_STOPPED if stopped else snapshot_pb2.CONSISTENCY_CRASH,
        outlives_sandbox=outlives_sandbox,
    )
    if sandbox is not None:
        request.sandbox_id, request.namespace = calls.target(sandbox, namespace)
    if label_selector is not None:
        request.label_selector = label_selector
    return calls.Call("CreateSchedule", request, "schedule", timeout)


def get_schedule(
    schedule: NamedSchedule, *, namespace: str = "", timeout: float | None = None
) -> calls.Call[pb.SnapshotSchedule]:
    """Returns a schedule as it is now."""
    schedule_id, namespace = target(schedule, namespace)
    return calls.Call(
        "GetSchedule", pb.GetScheduleRequest(schedule_id=schedule_id, namespace=namespace), "schedule", timeout
    )


def update_schedule(
    schedule: NamedSchedule,
    *,
    when: str | None = None,
    sandbox: calls.Named | None = None,
    label_selector: str | None = None,
    keep: int | None = None,
    before_delete: bool | None = None,
    stopped: bool | None = None,
    outlives_sandbox: bool | None = None,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.SnapshotSchedule]:
    """Changes what is given of a schedule; the rest stays as it is."""
    schedule_id, namespace = target(schedule, namespace)
    consistency = None
    if stopped is not None:
        consistency = snapshot_pb2.CONSISTENCY_STOPPED if stopped else snapshot_pb2.CONSISTENCY_CRASH
    request = pb.UpdateScheduleRequest(
        request_id=request_id or str(uuid.uuid4()),
        schedule_id=schedule_id,
        namespace=namespace,
        when=when,
        keep=keep,
        before_delete=before_delete,
        consistency=consistency,
        outlives_sandbox=outlives_sandbox,
    )
    if sandbox is not None:
        request.sandbox_id, _ = calls.target(sandbox, namespace)
    if label_selector is not None:
        request.label_selector = label_selector
    return calls.Call("UpdateSchedule", request, "schedule", timeout)


def delete_schedule(
    schedule: NamedSchedule, *, namespace: str = "", request_id: str = "", timeout: float | None = None
) -> calls.Call[pb.DeleteScheduleResponse]:
    """Removes a schedule. Its snapshots stay."""
    schedule_id, namespace = target(schedule, namespace)
    request = pb.DeleteScheduleRequest(
        request_id=request_id or str(uuid.uuid4()), schedule_id=schedule_id, namespace=namespace
    )
    return calls.Call("DeleteSchedule", request, "", timeout)


def schedules_page(
    *, namespace: str = "", tenant: str = "", page_size: int = 0, page_token: str = "", timeout: float | None = None
) -> calls.Call[pb.ListSchedulesResponse]:
    """Returns a page of schedules and the token of the next page. `tenant` is for operators."""
    request = pb.ListSchedulesRequest(namespace=namespace, tenant=tenant, page_size=page_size, page_token=page_token)
    return calls.Call("ListSchedules", request, "", timeout)
