"""UpdateSandbox as its callers meet it: real gRPC, the local engine."""

import uuid

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client, errors

from tests.support.waiting import PATIENCE, eventually

SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])


def running(client: Client, sandbox_id: str) -> pb.SandboxStatus:
    client.create("updates", sandbox_id=sandbox_id, spec=SLEEP)
    return client.wait_until(sandbox_id, "RUNNING", timeout=30 * PATIENCE)


@pytest.mark.slow
def test_the_answer_says_what_holds_and_what_waits_for_the_restart(client: Client) -> None:
    running(client, "told")
    answer = client.update("told", args=["5"], labels={"tier": "web"})
    assert (answer.applied.paths, answer.pending.paths) == (["labels"], ["args"])
    assert (answer.sandbox.spec.args, answer.sandbox.status.phase) == (["5"], pb.PHASE_UPDATING)
    assert [one.sandbox_id for one in client.list(label_selector="tier=web")] == ["told"]
    generation = answer.sandbox.status.generation
    assert client.wait_until("told", "RUNNING", generation=generation, timeout=30 * PATIENCE).restart_count == 0
    again = client.update("told", args=["5"], labels={"tier": "web"})
    assert (again.applied.paths, again.pending.paths) == (["args", "labels"], [])
    assert again.sandbox.status.generation == generation == 2
    stopped = client.stop("told")
    client.wait_until("told", "STOPPED", generation=stopped.status.generation, timeout=30 * PATIENCE)
    waiting = client.update("told", args=["6"])
    assert (waiting.applied.paths, waiting.pending.paths) == ([], ["args"])
    client.delete("told")


@pytest.mark.fault(7)
@pytest.mark.slow
def test_an_update_takes_effect_once_and_belongs_to_one_payload(client: Client) -> None:
    running(client, "once")
    request_id = str(uuid.uuid4())
    first = client.update("once", image="a:1", request_id=request_id)
    second = client.update("once", image="b:2")
    again = client.update("once", image="a:1", request_id=request_id.upper())
    assert (first.sandbox.spec.image, again.sandbox.spec.image) == ("a:1", "b:2")
    assert again.sandbox.status.generation == second.sandbox.status.generation == 3
    for other in ({"args": []}, {}):
        with pytest.raises(errors.InvalidArgument) as caught:
            client.update("once", image="a:1" if other else "a:2", request_id=request_id, **other)
        assert caught.value.reason == "REQUEST_ID_REUSED"
    client.delete("once")


def test_labels_alone_restart_nothing(client: Client) -> None:
    client.create("updates", sandbox_id="kept", spec=SLEEP)
    client.wait_until("kept", "RUNNING", timeout=30 * PATIENCE)
    answer = client.update("kept", labels={"tier": "kept"})
    assert (answer.applied.paths, answer.pending.paths) == (["labels"], [])
    # The pod is of this generation as soon as it is looked at; what else carries the labels follows.
    assert client.wait_until("kept", "RUNNING", generation=2, timeout=30 * PATIENCE).restart_count == 0
    eventually(lambda: client.status("kept").observed_generation == 2)
    assert [one.sandbox_id for one in client.list(label_selector="tier=kept")] == ["kept"]
    client.delete("kept")


def test_preconditions_of_an_update_say_what_to_do(client: Client) -> None:
    running(client, "held")
    with pytest.raises(errors.Aborted) as aborted:
        client.update("held", image="a:1", expected_generation=7)
    assert aborted.value.reason == "GENERATION_MISMATCH"
    with pytest.raises(errors.InvalidArgument) as invalid:
        client.update("held")
    assert list(invalid.value.fields) == ["update_mask"]
    with pytest.raises(errors.InvalidArgument) as whole:
        client.update("held", ready=9000)
    assert list(whole.value.fields) == ["spec.readiness.tcp_port"]
    assert client.get("held").status.generation == 1
    client.delete("held")
    with pytest.raises(errors.FailedPrecondition) as deleted:
        client.update("held", image="a:1")
    assert deleted.value.reason == "SANDBOX_DELETED"


def test_a_watch_by_labels_has_a_sandbox_from_the_update_on_that_makes_it_match(client: Client) -> None:
    running(client, "found")
    sequence = client.page().sequence
    client.update("found", labels={"seen": "yes"})
    first = next(iter(client.watch(label_selector="seen=yes", after_sequence=sequence, timeout=20 * PATIENCE)))
    assert first.status is not None
    assert (first.status.sandbox_id, first.status.generation) == ("found", 2)
    client.delete("found")


def test_another_size_restarts_nothing_and_is_there_at_the_next_look(client: Client) -> None:
    running(client, "sized")
    answer = client.update("sized", storage="9Gi")
    assert (answer.applied.paths, answer.pending.paths) == ([], ["storage.size"])
    eventually(lambda: client.status("sized").observed_generation == 2)
    status = client.status("sized")
    (sized,) = [one for one in status.conditions if one.type == pb.CONDITION_TYPE_VOLUME_SIZED]
    assert (sized.status, sized.reason, sized.message) == (pb.CONDITION_STATUS_TRUE, pb.REASON_READY, "")
    assert (status.volume.size, status.storage_size, status.restart_count) == ("9Gi", "9Gi", 0)
    again = client.update("sized", storage="9216Mi")
    assert (again.applied.paths, again.sandbox.status.generation) == (["storage.size"], 2)
    with pytest.raises(errors.InvalidArgument) as caught:
        client.update("sized", storage="8Gi")
    assert list(caught.value.fields) == ["spec.storage.size"]
    client.delete("sized")


def test_other_resources_restart_nothing_where_nothing_is_limited(client: Client) -> None:
    running(client, "resized")
    answer = client.update("resized", resources={"cpu_limit": "3"})
    assert (answer.applied.paths, answer.pending.paths) == ([], ["resources.cpu_limit"])
    eventually(lambda: client.status("resized").observed_generation == 2)
    status = client.status("resized")
    (applied,) = [one for one in status.conditions if one.type == pb.CONDITION_TYPE_RESOURCES_APPLIED]
    assert (applied.status, status.resources.cpu_limit, status.restart_count) == (pb.CONDITION_STATUS_TRUE, "3", 0)
    assert client.update("resized", resources={"cpu_limit": "3000m"}).applied.paths == ["resources.cpu_limit"]
    client.delete("resized")
