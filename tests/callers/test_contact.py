"""The first contact of both clients, specs from plain values, and the typed status."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, Phase, Remedy, Status, errors

from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE

SOON = 3.0 + 7.0
"""The bound, and what a busy machine may add to it: still far less than the time of a call."""


@pytest.mark.parametrize("there", ["nothing", "silent"])
async def test_service_that_was_never_reached_is_reported_within_three_seconds(there: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if there == "nothing":
            server.close()

        def page() -> None:
            with Client(address) as client:
                client.page()

        def watch() -> None:
            with Client(address) as client:
                list(client.watch())

        async def wait() -> None:
            async with AsyncClient(address) as client:
                await client.wait_until("any", "RUNNING")

        async def refused(attempt: Awaitable[None]) -> float:
            """Returns the seconds until the attempt failed."""
            began = time.monotonic()
            with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1"):
                await attempt
            return time.monotonic() - began

        attempts = (asyncio.to_thread(page), asyncio.to_thread(watch), wait())
        assert max(await asyncio.gather(*map(refused, attempts))) < SOON


def test_call_with_less_time_than_the_first_contact_ends_in_its_time() -> None:
    with (
        Client(f"127.0.0.1:{free_port()}", timeout=0.2, contact_timeout=60) as client,
        pytest.raises(errors.Unavailable),
    ):
        began = time.monotonic()
        client.page()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_outage_after_the_first_contact_is_borne_for_the_time_of_the_call(service: Service) -> None:
    with service.client(timeout=60 * PATIENCE) as client:
        client.page()
        service.kill()
        service.start(wait=False)
        client.page()


@pytest.mark.slow
def test_spec_from_plain_values_is_what_the_contract_has(client: Client) -> None:
    base = pb.SandboxSpec(
        image="of-the-spec", command=["/bin/false"], ports=[pb.Port(number=1)], labels={"a": "1", "b": "1"}
    )
    made = client.create(
        "demo",
        spec=base,
        command=["sleep"],
        args=("1000",),
        ports=[8080, pb.Port(name="admin", number=9090)],
        labels={"b": "2"},
        resources={"cpu_limit": "2", "memory_request": "64Mi"},
        storage="1Gi",
    )
    spec = client.get(made).spec
    assert (spec.project, spec.image, list(spec.command), list(spec.args)) == (
        "demo",
        "of-the-spec",
        ["sleep"],
        ["1000"],
    )
    assert [(one.name, one.number) for one in spec.ports] == [("port-8080", 8080), ("admin", 9090)]
    assert dict(spec.labels) == {"a": "1", "b": "2"}
    assert (spec.resources.cpu_limit, spec.resources.memory_request, spec.storage.size) == ("2", "64Mi", "1Gi")
    assert list(base.command) == ["/bin/false"]
    client.delete(made)
    for ready, field in (("/health", "http_path"), (3000, "tcp_port")):
        probed = client.create("demo", command=["sleep", "9"], ready=ready)
        assert probed.spec.readiness.WhichOneof("probe") == field
        client.delete(probed)
    with pytest.raises(TypeError, match="command"):
        client.create("demo", command="sleep 1000")


def test_wait_after_an_update_is_for_the_generation_of_its_answer(client: Client) -> None:
    made = client.create("demo", command=["sleep", "1000"])
    assert client.wait_until(made, "RUNNING", timeout=20 * PATIENCE).generation == 1
    changed = client.update_env(made, set={"A": "1"})
    assert client.wait_until(changed, Phase.RUNNING, timeout=20 * PATIENCE).generation == 2
    assert client.wait_until(changed.status, "RUNNING", timeout=20 * PATIENCE).generation == 2
    assert client.wait_until(Status.of(changed), "RUNNING", timeout=20 * PATIENCE).generation == 2
    client.delete(changed)


def test_typed_status_has_the_words_of_the_contract() -> None:
    assert [one.value for one in Phase] == [one.removeprefix("PHASE_") for one in pb.Phase.keys()[1:]]
    assert [one.value for one in Remedy][1:] == [one.removeprefix("REMEDY_") for one in pb.Remedy.keys()[1:]]
    status = Status.of(pb.SandboxStatus(phase=pb.PHASE_ERROR, reason=pb.REASON_CRASH_LOOP, remedy=pb.REMEDY_CALLER))
    assert (status.phase, status.reason, status.remedy) == (Phase.ERROR, "CRASH_LOOP", Remedy.CALLER)
    newer = pb.SandboxStatus()
    newer.MergeFromString(b"\x28\x63")
    assert (Status.of(newer).phase, Status.of(newer).remedy) == ("99", Remedy.NONE)
