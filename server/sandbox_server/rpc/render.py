"""Domain values to messages."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain import sandbox as domain

_CONDITION_STATUS = {
    True: pb.CONDITION_STATUS_TRUE,
    False: pb.CONDITION_STATUS_FALSE,
    None: pb.CONDITION_STATUS_UNKNOWN,
}


def status(sandbox: domain.Sandbox, stale: bool = False) -> pb.SandboxStatus:
    """The status of a sandbox as a message."""
    known, addresses = sandbox.status, sandbox.addresses
    return pb.SandboxStatus(
        sandbox_id=sandbox.id,
        namespace=sandbox.namespace,
        uid=sandbox.uid,
        project=sandbox.spec.project,
        phase=pb.Phase.ValueType(known.phase.value),
        reason=pb.Reason.ValueType(known.reason.value),
        message=known.message,
        conditions=[
            pb.Condition(
                type=pb.ConditionType.ValueType(one.type.value),
                status=_CONDITION_STATUS[one.status],
                reason=pb.Reason.ValueType(one.reason.value),
                transition_time=_time(one.changed_at),
            )
            for one in known.conditions
        ],
        generation=sandbox.generation,
        observed_generation=known.observed_generation,
        transition_time=_time(known.transitioned_at),
        restart_count=known.restart_count,
        last_exit=pb.Exit(code=known.last_exit.code, reason=known.last_exit.reason) if known.last_exit else None,
        stateful_set_name=sandbox.stateful_set_name,
        service_name=sandbox.service_name,
        dns_name=addresses.dns_name,
        public_url=addresses.public_url,
        ttyd_url=addresses.ttyd_url,
        volume=pb.Volume(name=known.volume.name, size=known.volume.size, bound=known.volume.bound)
        if known.volume
        else None,
        sequence=sandbox.sequence,
        stale=stale,
    )


def whole(sandbox: domain.Sandbox, stale: bool = False) -> pb.Sandbox:
    """A sandbox with its spec and status as a message."""
    return pb.Sandbox(
        sandbox_id=sandbox.id,
        namespace=sandbox.namespace,
        uid=sandbox.uid,
        spec=_spec(sandbox.spec),
        env_names=sandbox.env_names,
        desired_state=pb.DesiredState.ValueType(sandbox.desired.value),
        create_time=_time(sandbox.created_at),
        stateful_set_name=sandbox.stateful_set_name,
        service_name=sandbox.service_name,
        public_url=sandbox.addresses.public_url,
        ttyd_url=sandbox.addresses.ttyd_url,
        status=status(sandbox, stale),
    )


def _spec(spec: domain.SandboxSpec) -> pb.SandboxSpec:
    resources, storage, readiness = spec.resources, spec.storage, spec.readiness
    return pb.SandboxSpec(
        project=spec.project,
        image=spec.image,
        command=spec.command,
        args=spec.args,
        ports=[pb.Port(name=one.name, number=one.number) for one in spec.ports],
        resources=pb.Resources(
            cpu_request=resources.cpu_request,
            cpu_limit=resources.cpu_limit,
            memory_request=resources.memory_request,
            memory_limit=resources.memory_limit,
        ),
        storage=pb.Storage(size=storage.size, storage_class=storage.storage_class, access_mode=storage.access_mode),
        labels=spec.labels,
        annotations=spec.annotations,
        runtime_class=spec.runtime_class,
        readiness=_readiness(readiness),
    )


def _readiness(readiness: domain.Readiness) -> pb.Readiness | None:
    if readiness.http_path:
        return pb.Readiness(http_path=readiness.http_path)
    return pb.Readiness(tcp_port=readiness.tcp_port) if readiness.tcp_port else None


def _time(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


class Encoder:
    """Writes the messages that many callers share; see `feed.Encoder`."""

    def status(self, sandbox: domain.Sandbox) -> bytes:
        """The answer to GetStatus."""
        return pb.GetStatusResponse(status=status(sandbox)).SerializeToString()

    def change(self, sandbox: domain.Sandbox) -> bytes:
        """One change of a watch."""
        return pb.WatchStatusResponse(sequence=sandbox.sequence, status=status(sandbox)).SerializeToString()

    def snapshot_complete(self, sequence: int, count: int) -> bytes:
        """The end of a snapshot."""
        marker = pb.SnapshotComplete(count=count)
        return pb.WatchStatusResponse(sequence=sequence, snapshot_complete=marker).SerializeToString()

    def heartbeat(self, sequence: int) -> bytes:
        """A sign of life."""
        return pb.WatchStatusResponse(sequence=sequence, heartbeat=pb.Heartbeat()).SerializeToString()
