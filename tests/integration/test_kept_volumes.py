"""Kept disks as a caller meets them: listed, adopted as they are, removed by another Delete."""

import uuid
from collections.abc import Callable, Iterator

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import Client, errors

from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE

SLEEP = pb.SandboxSpec(command=["/bin/sh", "-c", "exec sleep 1000"])
pytestmark = pytest.mark.find(25)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One whose callers may name a storage class."""
    made = Service(tmp_path_factory.mktemp("service"), "--allowed-storage-classes", "fast")
    try:
        yield made.start()
    finally:
        made.end()


def spec(**storage: str) -> pb.SandboxSpec:
    made = pb.SandboxSpec()
    made.CopyFrom(SLEEP)
    made.storage.CopyFrom(pb.Storage(**storage))
    return made


def keep(client: Client, sandbox_id: str, *, project: str = "kept", **storage: str) -> pb.Sandbox:
    client.create(project, sandbox_id=sandbox_id, spec=spec(**storage))
    client.wait_until(sandbox_id, "RUNNING", timeout=30 * PATIENCE)
    client.delete(sandbox_id, keep_volume=True)
    client.wait_until(sandbox_id, "TERMINATED", timeout=30 * PATIENCE)
    return client.get(sandbox_id)


def kept(client: Client, **wanted: object) -> list[str]:
    return [one.sandbox_id for one in client.list(volume_kept=True, **wanted)]  # type: ignore[arg-type]


@pytest.mark.slow
def test_kept_volumes_are_listed_until_they_are_adopted_or_removed(client: Client) -> None:
    keep(client, "keep-a")
    keep(client, "keep-b", project="other")
    client.create("kept", sandbox_id="ended", spec=SLEEP)
    client.delete("ended")
    client.wait_until("ended", "TERMINATED", timeout=30 * PATIENCE)
    assert kept(client) == ["keep-a", "keep-b"]
    assert kept(client, project="other") == ["keep-b"]
    assert kept(client, phases=["TERMINATED", "RUNNING"]) == ["keep-a", "keep-b"]
    (found,) = client.list(volume_kept=True, project="kept", basic=True)
    assert (found.status.reason, found.status.volume.size) == (pb.REASON_VOLUME_KEPT, "5Gi")
    with pytest.raises(errors.InvalidArgument) as caught:
        kept(client, phases=["RUNNING"])
    assert set(caught.value.fields) == {"volume_kept"}

    client.create("kept", sandbox_id="keep-a", spec=SLEEP, adopt_volume=True)
    client.delete("keep-b")
    client.wait_until("keep-b", "TERMINATED", generation=3, timeout=30 * PATIENCE)
    assert kept(client) == []
    client.delete("keep-a")
    client.wait_until("keep-a", "TERMINATED", timeout=30 * PATIENCE)


@pytest.mark.slow
def test_an_adopted_volume_has_the_size_that_it_was_made_with(client: Client) -> None:
    keep(client, "sized", size="2Gi")
    for asked in ({"size": "7Gi"}, {"size": "2G"}, {"storage_class": "fast"}, {"access_mode": "ReadWriteMany"}):
        with pytest.raises(errors.FailedPrecondition) as caught:
            client.create("kept", sandbox_id="sized", spec=spec(**asked), adopt_volume=True)
        assert caught.value.reason == "VOLUME_DIFFERS"
        assert next(iter(asked)) in caught.value.message
    made = client.create("kept", sandbox_id="sized", spec=SLEEP, adopt_volume=True)
    assert made.spec.storage.size == "2Gi"
    client.wait_until("sized", "RUNNING", timeout=30 * PATIENCE)
    assert client.status("sized").volume.size == "2Gi"
    client.delete("sized")
    client.wait_until("sized", "TERMINATED", timeout=30 * PATIENCE)


def test_removal_of_a_kept_volume_is_seen_by_watches_and_takes_effect_once(client: Client, service: Service) -> None:
    before = keep(client, "removed")
    folder = next(one for one in service.sandboxes() if one.name == "removed")
    assert folder.exists()
    request_id = str(uuid.uuid4())
    client.delete("removed", request_id=request_id)
    client.wait_until("removed", "TERMINATED", generation=3, timeout=30 * PATIENCE)
    assert not folder.exists()
    again = client.delete("removed", request_id=request_id)
    assert (again.status.generation, again.status.reason) == (3, pb.REASON_DELETED)
    assert client.delete("removed").status == again.status
    heard = [
        (one.status.phase, one.status.generation)
        for one in client.watch(["removed"], after_sequence=before.status.sequence, timeout=20 * PATIENCE)
        if one.status is not None
    ]
    assert heard[0] == (pb.PHASE_TERMINATING, 3)
    assert heard[-1] == (pb.PHASE_TERMINATED, 3)


def test_a_kept_volume_is_listed_and_deleted_by_its_own_calls(client: Client, service: Service) -> None:
    made = keep(client, "own-calls", size="2Gi")
    folder = next(one for one in service.sandboxes() if one.name == "own-calls")
    (volume,) = client.volumes(project="kept")
    assert (volume.sandbox_id, volume.uid, volume.size, volume.tenant) == ("own-calls", made.uid, "2Gi", "default")
    assert volume.keep_time == made.status.transition_time
    assert volume.name == made.status.volume.name
    client.wait_until(client.delete_volume(volume), "TERMINATED", timeout=30 * PATIENCE)
    assert not folder.exists()
    assert list(client.volumes()) == []
    assert client.delete_volume(volume).status.reason == pb.REASON_DELETED


@pytest.mark.slow
def test_removal_of_a_kept_volume_leaves_the_ports_of_others_alone(make_service: Callable[..., Service]) -> None:
    # A port and the one after it belong to the test.
    first = free_port()
    service = make_service("--local-ports", f"{first}-{first + 1}").start()
    with service.client() as client, grpc.insecure_channel(service.address) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)

        def full() -> bool:
            """Whether another sandbox is refused for want of a port. The bare stub repeats nothing."""
            request = pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="kept", command=SLEEP.command))
            try:
                stub.CreateSandbox(request, timeout=20 * PATIENCE, wait_for_ready=True)
            except grpc.RpcError as error:
                assert errors.from_rpc(error).reason == "NO_FREE_PORT"
                return True
            return False

        keep(client, "first")
        # It has the ports that the first gave back.
        client.create("kept", sandbox_id="second", spec=SLEEP)
        client.wait_until("second", "RUNNING", timeout=30 * PATIENCE)
        while not full():
            pass
        service.kill()
        service.start()
        client.delete("first")
        client.wait_until("first", "TERMINATED", generation=3, timeout=30 * PATIENCE)
        assert full()


def test_a_kept_volume_that_was_removed_by_hand_can_be_deleted(client: Client, service: Service) -> None:
    keep(client, "by-hand")
    folder = next(one for one in service.sandboxes() if one.name == "by-hand")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    client.delete("by-hand")
    client.wait_until("by-hand", "TERMINATED", generation=3, timeout=30 * PATIENCE)
    assert client.status("by-hand").reason == pb.REASON_DELETED
