"""BatchStart, BatchStop and BatchDelete, on real SQLite and real PostgreSQL, where no sandbox has to run."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, errors
from sandbox_server import app
from sandbox_server.domain import batch, selector
from sandbox_server.domain import errors as domain_errors
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import batches
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.blind import BlindEngine
from tests.support.waiting import PATIENCE

WEB = {"tier": "web"}


class Served:
    """The service and a client of it."""

    def __init__(self, running: app.Service, client: AsyncClient) -> None:
        self.running = running
        self.client = client
        self.commits: list[int] = []
        commit = running.store._commit

        def counted(jobs: Any) -> Any:
            self.commits.append(len(jobs))
            return commit(jobs)

        running.store._commit = counted  # type: ignore[method-assign]

    async def make(self, *names: str, **options: Any) -> None:
        await asyncio.gather(*(self.client.create("demo", sandbox_id=one, **options) for one in names))

    async def generations(self) -> dict[str, int]:
        return {one.sandbox_id: one.status.generation async for one in self.client.list()}


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    settings = Settings(
        listen="127.0.0.1:0",
        data_dir=tmp_path,
        database_url=SecretStr(database_url),
        encryption_keys=SecretStr(base64.b64encode(b"k" * 32).decode()),
        namespaces="default,second",
        default_image="sandbox:1",
    )
    async with (
        app.service(settings, engine=BlindEngine()) as running,
        AsyncClient(f"127.0.0.1:{running.port}", timeout=30 * PATIENCE) as client,
    ):
        yield Served(running, client)


def told(results: Any) -> list[tuple[str, int, str]]:
    """The id, the generation and the reason of the error of each."""
    return [(one.sandbox_id, one.sandbox.status.generation, one.error.reason) for one in results]


@pytest.mark.slow
async def test_each_sandbox_has_a_result_of_its_own(served: Served) -> None:
    await served.make("a", "b", "gone")
    await served.client.delete("gone")
    results = await served.client.batch_stop(["b", "never-was", "gone", "a"])
    assert told(results) == [
        ("b", 2, ""),
        ("never-was", 0, "SANDBOX_NOT_FOUND"),
        ("gone", 0, "SANDBOX_DELETED"),
        ("a", 2, ""),
    ]
    assert [one.error.code for one in results] == [0, 5, 9, 0]
    assert {one.namespace for one in results} == {"default"}
    first = results[0].sandbox
    assert (first.desired_state, first.status.phase) == (pb.DESIRED_STATE_STOPPED, pb.PHASE_STOPPING)
    assert (first.spec, list(first.env_names)) == (pb.SandboxSpec(), [])
    again = await served.client.batch_stop(["a", "b"])
    assert told(again) == [("a", 2, ""), ("b", 2, "")]
    assert told(await served.client.batch_start(["a"])) == [("a", 3, "")]
    assert told(await served.client.batch_delete(["a", "gone", "b"], keep_volume=True)) == [
        ("a", 4, ""),
        ("gone", 2, ""),
        ("b", 3, ""),
    ]


async def test_a_selector_is_about_one_namespace_and_about_what_was_not_deleted(served: Served) -> None:
    await served.make("b", "a", "gone", labels=WEB)
    await served.make("other")
    await served.make("second", labels=WEB, namespace="second")
    await served.client.delete("gone")
    assert told(await served.client.batch_stop(label_selector="tier=web")) == [("a", 2, ""), ("b", 2, "")]
    second = await served.client.batch_stop(label_selector="tier=web", namespace="second")
    assert [(one.sandbox_id, one.namespace) for one in second] == [("second", "second")]
    assert list(await served.client.batch_stop(label_selector="tier=none")) == []
    assert await served.generations() == {"a": 2, "b": 2, "gone": 2, "other": 1, "second": 2}


@pytest.mark.fault(7)
async def test_a_repeat_is_about_the_same_sandboxes_and_changes_nothing(served: Served) -> None:
    await served.make("a", "b", labels=WEB)
    request_id = str(uuid.uuid4())
    first = await served.client.batch_stop(label_selector="tier=web", request_id=request_id)
    assert told(first) == [("a", 2, ""), ("b", 2, "")]
    await served.make("late", labels=WEB)
    await served.client.update("a", labels={})
    await served.client.start("b")
    again = await served.client.batch_stop(label_selector="tier=web", request_id=request_id.upper())
    assert told(again) == [("a", 3, ""), ("b", 3, "")]
    assert again[1].sandbox.desired_state == pb.DESIRED_STATE_RUNNING
    assert await served.generations() == {"a": 3, "b": 3, "late": 1}
    made = [one.cause async for one in served.client.events("b") if one.status.generation == 2]
    assert [(one.method, one.request_id) for one in made] == [("BatchStop", request_id)]


@pytest.mark.fault(7)
async def test_a_request_id_belongs_to_one_batch(served: Served) -> None:
    await served.make("a", "b")
    batch_id, single_id = str(uuid.uuid4()), str(uuid.uuid4())
    await served.client.batch_stop(["a"], request_id=batch_id)
    await served.client.stop("b", request_id=single_id)
    others: list[Callable[[], Any]] = [
        lambda: served.client.batch_stop(["a", "b"], request_id=batch_id),
        lambda: served.client.batch_start(["a"], request_id=batch_id),
        lambda: served.client.start("a", request_id=batch_id),
        lambda: served.client.batch_start(["b"], request_id=single_id),
    ]
    for other in others:
        with pytest.raises(errors.InvalidArgument) as caught:
            await other()
        assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await served.generations() == {"a": 2, "b": 2}


async def test_a_batch_that_was_cut_off_is_completed_by_its_repeat(served: Served) -> None:
    await served.make("a", "b", "c", labels=WEB)
    write = served.running.store.write
    refused: list[str] = []

    async def cut_off(mutation: Any, request: Any = None) -> Any:
        if request.id.endswith("/b") and not refused:
            refused.append(request.id)
            raise domain_errors.Unavailable("DATABASE_UNAVAILABLE", "the database did not answer")
        return await write(mutation, request)

    served.running.store.write = cut_off  # type: ignore[method-assign]
    # The client repeats the call with the same request id.
    request_id = str(uuid.uuid4())
    results = await served.client.batch_stop(label_selector="tier=web", request_id=request_id)
    assert refused == [f"{request_id}/b"]
    assert told(results) == [("a", 2, ""), ("b", 2, ""), ("c", 2, "")]


@pytest.mark.slow
async def test_a_thousand_sandboxes_are_a_few_commits_and_more_are_refused(served: Served) -> None:
    names = [f"s{number}" for number in range(batch.MOST)]
    for begin in range(0, batch.MOST, 250):
        await served.make(*names[begin : begin + 250], labels=WEB)
    served.commits.clear()
    results = await served.client.batch_stop(label_selector="tier")
    assert told(results) == [(one, 2, "") for one in sorted(names)]
    assert sum(served.commits) == batch.MOST
    assert len(served.commits) <= 20
    await served.make("one-more", labels=WEB)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await served.client.batch_delete(label_selector="tier")
    assert caught.value.reason == "TOO_MANY_SANDBOXES"
    assert set((await served.generations()).values()) == {1, 2}


@pytest.mark.slow
async def test_an_answer_with_many_long_messages_fits_what_clients_receive() -> None:
    status = samples.status(phase=Phase.ERROR, reason=Reason.CRASH_LOOP, message="\N{SNOWMAN}" * 4096)
    found: list[Any] = []
    for number in range(batch.MOST):
        sandbox = samples.sandbox(f"s{number}".ljust(52, "x"), namespace="n" * 63, status=status)
        found.append((sandbox.key, samples.event(sandbox, number + 1)))
    written = await batches.answer(found, stale=False)
    assert len(written) < 4 * 1024 * 1024
    results = pb.BatchStopResponse.FromString(written).results
    assert [one.sandbox.status.sequence for one in results] == [*range(1, batch.MOST + 1)]
    assert {one.sandbox.status.reason for one in results} == {pb.REASON_CRASH_LOOP}
    assert results[0].sandbox.status.message
    assert not results[-1].sandbox.status.message


async def test_a_selector_of_another_tenant_matches_nothing(served: Served) -> None:
    await served.make("a", labels=WEB)
    tenant = Tenant("other", ("default",))
    selection = batches.feed.Filter(tenant, namespace="default", labels=selector.parse("labels", "tier=web"))
    assert await served.running.manager.batch(None, selection, ()) == ()
