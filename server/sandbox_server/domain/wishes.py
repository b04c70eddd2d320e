"""What each wish changes of a sandbox. One that wants nothing else than what is wished already changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sandbox_server.domain import check, errors, lifecycle
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox, Status
from sandbox_server.domain.spec import SandboxSpec


def new(
    key: Key, tenant: str, uid: str, host: str, spec: SandboxSpec, env_names: Iterable[str], now: datetime
) -> Sandbox:
    """A sandbox that was just wished. Where it will be reached is not in it: that is the engine's to say."""
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
        addresses=Addresses(),
        status=Status(phase=Phase.CREATING, reason=Reason.ACCEPTED, message=lifecycle.ACCEPTED, transition_time=now),
    )


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


def start(before: Sandbox, accept_data_loss: bool) -> Sandbox:
    """RUNNING is wished; with `accept_data_loss` a lost volume is given up for a fresh one."""
    fresh = accept_data_loss and before.status.reason is Reason.VOLUME_LOST
    if before.desired is DesiredState.RUNNING and not fresh:
        return before
    volume_uid = "" if fresh else before.volume_uid
    start_generation = before.generation + 1
    return replace(before, desired=DesiredState.RUNNING, start_generation=start_generation, volume_uid=volume_uid)


def stop(before: Sandbox) -> Sandbox:
    """STOPPED is wished."""
    return replace(before, desired=DesiredState.STOPPED)


def delete(before: Sandbox, keep_volume: bool) -> Sandbox:
    """DELETED is wished; the first who wished it said what becomes of the volume."""
    if before.desired is DesiredState.DELETED:
        return before
    return replace(before, desired=DesiredState.DELETED, keep_volume=keep_volume)


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
