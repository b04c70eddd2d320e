"""What each mutation changes of a sandbox. A mutation that asks for what is asked for already changes nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sandbox_server.domain import check, errors, findings
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import HOME_FOLDER, Addresses, Key, ObjectNames, Sandbox, Status, Template
from sandbox_server.domain.spec import SandboxSpec, Storage


def new(
    key: Key, tenant: str, uid: str, host: str, spec: SandboxSpec, env_names: Iterable[str], now: datetime
) -> Sandbox:
    """Returns a sandbox that was just asked for. Its addresses are empty: the engine knows them."""
    return Sandbox(
        id=key.id,
        namespace=key.namespace,
        tenant=tenant,
        uid=uid,
        host=host,
        spec=spec,
        env_names=tuple(sorted(env_names)),
        desired=DesiredState.RUNNING,
        generation=1,
        start_generation=1,
        create_time=now,
        attempt_at=now,
        objects=ObjectNames.of(key.id),
        addresses=Addresses(),
        home_folder=HOME_FOLDER,
        status=Status(phase=Phase.CREATING, reason=Reason.ACCEPTED, message=findings.ACCEPTED, transition_time=now),
    )


def claimed(former: Sandbox | None, wanted: Sandbox, adopt: bool, unset: Collection[str] = ()) -> Sandbox:
    """Returns the new sandbox `wanted` with the volume that it adopts, if any, and with the storage of that volume.

    `former` had its id before; `unset` names the fields of the storage that the caller left to the service. Raises
    `errors.AlreadyExists` and `errors.FailedPrecondition`.
    """
    volume_uid = kept_volume(former, wanted, adopt)
    if former is None or not volume_uid:
        return wanted
    given = {name: getattr(wanted.spec.storage, name) for name in ("size", "storage_class", "access_mode")}
    given = {name: value for name, value in given.items() if name not in unset}
    kept = former.spec.storage
    volume = former.status.volume
    if volume is not None and not _same(volume.size, kept.size) and _same(volume.size, given.get("size", "")):
        # The disk has another size than it was asked to have, and that one is asked for now.
        kept = replace(kept, size=volume.size)
    _check_storage(replace(kept, **given), kept)
    # A size can be written in many ways: the spec says it as the volume was made with it.
    spec = replace(wanted.spec, storage=kept)
    return replace(wanted, volume_uid=volume_uid, home_folder=former.home_folder, spec=spec)


def kept_volume(former: Sandbox | None, wanted: Sandbox, adopt: bool) -> str:
    """The uid of the volume that a new sandbox takes up; empty for a fresh one.

    `former`: who had its id. Raises `errors.AlreadyExists` and `errors.FailedPrecondition`.
    """
    kept = former.volume_uid if former and former.status.reason is Reason.VOLUME_KEPT else ""
    # A namespace may have had another tenant: what he kept is still his.
    if former and (former.status.phase is not Phase.TERMINATED or (kept and former.tenant != wanted.tenant)):
        raise errors.AlreadyExists(
            "SANDBOX_EXISTS", f"the id {wanted.id!r} is taken: choose another, or delete it and wait for TERMINATED"
        )
    if kept and not adopt:
        raise errors.FailedPrecondition(
            "VOLUME_KEPT",
            f"a deleted sandbox {wanted.id!r} left its volume: set adopt_volume to use it, or choose another id",
        )
    if adopt and not kept:
        raise errors.FailedPrecondition(
            "NO_VOLUME_TO_ADOPT", f"no deleted sandbox {wanted.id!r} left a volume: leave adopt_volume unset"
        )
    return kept


def _same(size: str, other: str) -> bool:
    """Whether two quantities are the same size."""
    return check.amount(size) == check.amount(other)


def _check_storage(wanted: Storage, kept: Storage) -> None:
    """Raises `errors.FailedPrecondition` where `wanted` is not the storage that a kept volume was made with."""
    differing = [
        f"its {name} is {getattr(kept, name) or 'the default of the cluster'}"
        for name, same in (
            ("size", _same(wanted.size, kept.size)),
            ("storage_class", wanted.storage_class == kept.storage_class),
            ("access_mode", wanted.access_mode == kept.access_mode),
        )
        if not same
    ]
    if differing:
        raise errors.FailedPrecondition(
            "VOLUME_DIFFERS",
            f"the kept volume is not what spec.storage asks for: {', '.join(differing)}. Leave that empty to adopt the "
            "volume as it is, or choose another id",
            size=kept.size,
            storage_class=kept.storage_class,
            access_mode=kept.access_mode,
        )


def start(before: Sandbox, accept_data_loss: bool) -> Sandbox:
    """The desired state is RUNNING; with `accept_data_loss` a lost volume is given up for a fresh one."""
    fresh = accept_data_loss and before.status.reason is Reason.VOLUME_LOST
    if before.desired is DesiredState.RUNNING and not fresh:
        return before
    wanted = replace(before, desired=DesiredState.RUNNING, start_generation=before.generation + 1)
    if not fresh:
        return wanted
    return replace(wanted, volume_uid="", home_folder=HOME_FOLDER, filled_generation=0, origin=None)


def stop(before: Sandbox) -> Sandbox:
    """The desired state is STOPPED."""
    return replace(before, desired=DesiredState.STOPPED)


def delete(before: Sandbox, keep_volume: bool) -> Sandbox:
    """The desired state is DELETED. A repeat without `keep_volume` gives up a volume that was kept; none brings one back.

    Raises `errors.FailedPrecondition` for a volume that is to be kept and has not all files yet.
    """
    if before.desired is not DesiredState.DELETED:
        if keep_volume and before.moves:
            raise errors.FailedPrecondition(
                "FILES_MOVING",
                f"the files of the sandbox {before.id!r} are still being moved to its disk, which has a part of them at most: wait "
                "for PHASE_RUNNING or PHASE_STOPPED, or delete it without keep_volume",
            )
        return replace(before, desired=DesiredState.DELETED, keep_volume=keep_volume)
    ended = before.status.phase is Phase.TERMINATED
    kept = before.keep_volume and not (ended and before.status.reason is not Reason.VOLUME_KEPT)
    if keep_volume or not kept:
        return before
    # A sandbox that has ended has given its ports back: another can have them.
    ports = () if ended else before.addresses.ports
    return replace(before, keep_volume=False, addresses=replace(before.addresses, ports=ports))


def delete_volume(before: Sandbox, uid: str) -> Sandbox:
    """A deleted sandbox no longer keeps its volume. An empty `uid` stands for that of any sandbox.

    Raises `errors.Aborted` for a sandbox with another uid, and `errors.FailedPrecondition` for one that was not deleted.
    """
    if uid not in ("", before.uid):
        raise errors.Aborted(
            "UID_MISMATCH",
            f"the sandbox {before.id!r} has another uid, since it was created later: list the volumes and decide again",
            uid=before.uid,
        )
    if before.desired is not DesiredState.DELETED:
        raise errors.FailedPrecondition(
            "SANDBOX_NOT_DELETED",
            f"the sandbox {before.id!r} was not deleted, and its volume is in use: delete the sandbox to remove both",
        )
    return delete(before, keep_volume=False)


def update(before: Sandbox, spec: SandboxSpec, in_place: bool = False) -> Sandbox:
    """The spec is `spec`. Raises `errors.Invalid` for a size that is less than the disk has.

    For other labels the pod stays: it has them after the next mutation that replaces it. It stays for another size, too, and,
    if it is ready, for other resources that it can be given `in_place`.
    """
    _check_shrinking(before, spec.storage.size)
    wanted = replace(before, spec=spec)
    resized = spec.resources != before.spec.resources and in_place and _takes_resources(before)
    resources = spec.resources if resized else before.spec.resources
    if replace(before.spec, labels=spec.labels, storage=spec.storage, resources=resources) != spec:
        return wanted
    made_from = Template(
        before.pod_generation,
        before.pod_labels,
        until=before.generation + 1,
        resources=before.pod_resources if resized else before.resized_from,
    )
    return before if spec == before.spec else replace(wanted, template=made_from)


def _takes_resources(sandbox: Sandbox) -> bool:
    """Whether the pod is ready, and was made by the service."""
    ready = any(one.type is ConditionType.READY and one.status is True for one in sandbox.status.conditions)
    return ready and not sandbox.awaits_takeover


def grows(before: Sandbox, after: SandboxSpec) -> bool:
    """Whether a larger disk is asked for than was before, and than there is: a disk can have more than its spec."""
    volume = before.status.volume
    has = check.amount(volume.size) if volume is not None else 0
    return check.amount(after.storage.size) > max(has, check.amount(before.spec.storage.size))


def not_expandable(before: Sandbox, obstacle: str) -> errors.FailedPrecondition:
    """Returns the error of an update that makes a disk larger which cannot grow. `obstacle` says why."""
    return errors.FailedPrecondition(
        "CLASS_NOT_EXPANDABLE",
        f"the sandbox {before.id!r} keeps its size, since its disk cannot grow: {obstacle}. Create a sandbox with a larger "
        "disk, or ask the operators of the cluster for a class with allowVolumeExpansion",
    )


def _check_shrinking(before: Sandbox, size: str) -> None:
    """Raises `errors.Invalid` where a disk would shrink. What it was to grow to and has not reached can be taken back."""
    volume = before.status.volume
    least = before.spec.storage.size
    if volume is not None and check.amount(volume.size) < check.amount(least):
        least = volume.size
    if check.amount(size) < check.amount(least):
        raise errors.Invalid(
            (errors.Violation("spec.storage.size", f"must be at least {least}: a disk does not shrink"),)
        )


def environment(
    present: Mapping[str, str], values: Mapping[str, str], unset: Sequence[str], replaces: bool
) -> dict[str, str]:
    """The environment with `values` set; `replaces`: and nothing else. Raises `errors.Invalid` if it is over a limit."""
    gone = present.keys() if replaces else frozenset(unset)
    kept = {name: value for name, value in present.items() if name not in gone}
    wanted = {**kept, **values}
    if found := tuple(check.env("set", wanted)):
        raise errors.Invalid(found)
    return wanted
