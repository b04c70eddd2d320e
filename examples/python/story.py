"""Creates a sandbox, waits for it by watching, changes it, repairs it and deletes it. Prints a line for each step."""

import itertools
import os
import pathlib
import time
import uuid
from collections.abc import Iterator

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc

SERVER = os.environ.get("SANDBOX_SERVER", "127.0.0.1:50051")
SERVICE_CONFIG = pathlib.Path(__file__).parents[2] / "protos" / "service_config.json"
OPTIONS = [
    # gRPC repeats calls on UNAVAILABLE and CANCELLED, which is safe because every mutation has a request id.
    ("grpc.service_config", SERVICE_CONFIG.read_text()),
    # A connection that went silent is noticed within 40 seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
# Ends with exit code 3 while the variable BROKEN is set.
COMMAND = ["/bin/sh", "-c", 'test -z "$BROKEN" || exit 3; exec sleep 1000000']
PATIENCE = 60.0


def watch(stub: sandbox_pb2_grpc.SandboxServiceStub, sandbox_id: str, after: int | None) -> Iterator[pb.SandboxStatus]:
    """Yields the statuses of a sandbox, without a gap across lost connections.

    Begins with the current one if `after` is None. With several sandboxes, resume only from snapshot_complete on.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        request = pb.WatchStatusRequest(sandbox_ids=[sandbox_id], after_sequence=after)
        try:
            for message in stub.WatchStatus(request, timeout=deadline - time.monotonic()):
                after = message.sequence
                if message.HasField("status"):
                    yield message.status
            return
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                after = None  # The history is no longer kept: begin with the current status.
            elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                time.sleep(0.2)
            else:
                raise


def wait(
    stub: sandbox_pb2_grpc.SandboxServiceStub, sandbox: pb.Sandbox, phase: "pb.Phase.ValueType"
) -> pb.SandboxStatus:
    """Returns the status with which the sandbox has `phase`, or the error that its caller has to remove."""
    for status in watch(stub, sandbox.sandbox_id, None):
        if status.generation < sandbox.status.generation:
            continue  # From before the mutation.
        if status.phase == phase:
            return status
        # With another remedy the sandbox may recover by itself, so that waiting goes on.
        if status.phase == pb.PHASE_ERROR and status.remedy == pb.REMEDY_CALLER:
            return status
    raise RuntimeError("the sandbox ended")


def request_id() -> str:
    return str(uuid.uuid4())


def report(step: str, status: pb.SandboxStatus) -> None:
    words = [pb.Phase.Name(status.phase), f"generation {status.generation}"]
    if status.phase == pb.PHASE_ERROR:
        words += [pb.Reason.Name(status.reason), pb.Remedy.Name(status.remedy)]
    print(f"{step}: {', '.join(words)}", flush=True)


def explain(step: str, error: grpc.RpcError) -> None:
    """Prints what the details of an error say: its reason, bad fields, and the current generation."""
    words = [error.code().name]
    for detail in rpc_status.from_call(error).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            words.append(info.reason)
            if "generation" in info.metadata:
                words.append(f"generation {info.metadata['generation']}")
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            words += [bad.field for bad in error_details_pb2.BadRequest.FromString(detail.value).field_violations]
    print(f"{step}: {', '.join(words)}", flush=True)


def main() -> None:
    with grpc.insecure_channel(SERVER, OPTIONS) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)

        spec = pb.SandboxSpec(project="example", command=COMMAND)
        create = pb.CreateSandboxRequest(request_id=request_id(), spec=spec, env={"GREETING": "hello"})
        sandbox = stub.CreateSandbox(create).sandbox
        print(f"create: generation {sandbox.status.generation}", flush=True)
        again = stub.CreateSandbox(create).sandbox
        print(f"repeat: {'the same sandbox' if again.uid == sandbox.uid else 'another sandbox'}", flush=True)
        first = wait(stub, sandbox, pb.PHASE_RUNNING)
        report("wait", first)

        named = {"sandbox_id": sandbox.sandbox_id, "namespace": sandbox.namespace}
        update = pb.UpdateEnvVarsRequest(request_id=request_id(), **named, set={"GREETING": "hi"})
        report("env", wait(stub, stub.UpdateEnvVars(update).sandbox, pb.PHASE_RUNNING))
        stop = pb.StopRequest(request_id=request_id(), **named)
        report("stop", wait(stub, stub.Stop(stop).sandbox, pb.PHASE_STOPPED))
        start = pb.StartRequest(request_id=request_id(), **named)
        last = wait(stub, stub.Start(start).sandbox, pb.PHASE_RUNNING)
        report("start", last)

        # A watch that begins where another one ended has every event since then.
        phases: list[str] = []
        for status in watch(stub, sandbox.sandbox_id, first.sequence):
            phases.append(pb.Phase.Name(status.phase))
            if status.sequence >= last.sequence:
                break
        print(f"resume: {', '.join(phase for phase, _ in itertools.groupby(phases))}", flush=True)

        try:
            stub.Stop(pb.StopRequest(request_id=request_id(), **named, expected_generation=1))
        except grpc.RpcError as error:
            explain("stale", error)
        try:
            stub.CreateSandbox(
                pb.CreateSandboxRequest(request_id=request_id(), spec=pb.SandboxSpec(project="No_Label"))
            )
        except grpc.RpcError as error:
            explain("refused", error)

        update = pb.UpdateEnvVarsRequest(request_id=request_id(), **named, set={"BROKEN": "yes"})
        report("remedy", wait(stub, stub.UpdateEnvVars(update).sandbox, pb.PHASE_RUNNING))
        update = pb.UpdateEnvVarsRequest(request_id=request_id(), **named, unset=["BROKEN"])
        report("repair", wait(stub, stub.UpdateEnvVars(update).sandbox, pb.PHASE_RUNNING))

        delete = pb.DeleteRequest(request_id=request_id(), **named)
        report("delete", wait(stub, stub.Delete(delete).sandbox, pb.PHASE_TERMINATED))


if __name__ == "__main__":
    main()
