"""Both clients against the live service: lost answers, cut connections, restarts, TLS and tokens."""

import asyncio
import contextlib
import datetime
import inspect
import ipaddress
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, Kind, channel, errors

from tests import samples
from tests.callers import relay
from tests.conftest import Service, eventually

SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])
TOKEN = "token-of-the-first-tenant"


@pytest.fixture
async def aio(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(one).parameters) for name, one in members if name[0] != "_"}

    assert public(Client) == public(AsyncClient)


def test_a_create_whose_answer_was_lost_is_repeated_and_makes_one_sandbox(between: relay.Relay, client: Client) -> None:
    with Client(between.address) as far:
        far.page()
        between.hold_answers()
        made: list[pb.Sandbox] = []
        thread = threading.Thread(target=lambda: made.append(far.create("lost", spec=SLEEP)), daemon=True)
        thread.start()
        eventually(lambda: len(list(client.list(project="lost"))) == 1)
        assert not made
        between.cut()
        thread.join(10)
    assert between.connections >= 2
    assert [one.uid for one in client.list(project="lost")] == [made[0].uid]
    client.delete(made[0].sandbox_id)


async def test_an_async_create_whose_answer_was_lost_is_repeated_and_makes_one_sandbox(
    between: relay.Relay, aio: AsyncClient
) -> None:
    async with AsyncClient(between.address) as far:
        await far.page()
        between.hold_answers()
        answer = asyncio.create_task(far.create("lost-too", spec=SLEEP))
        while not [one async for one in aio.list(project="lost-too")]:
            await asyncio.sleep(0.02)
        between.cut()
        made = await answer
    assert [one.uid async for one in aio.list(project="lost-too")] == [made.uid]
    await aio.delete(made.sandbox_id)


def test_a_call_made_while_the_service_is_down_is_answered_once_it_is_up(make_service: Callable[..., Service]) -> None:
    service = make_service()
    with service.client() as client:
        made: list[pb.Sandbox] = []
        thread = threading.Thread(target=lambda: made.append(client.create("early", spec=SLEEP)), daemon=True)
        thread.start()
        service.start()
        thread.join(20)
        assert [one.uid for one in client.list()] == [made[0].uid]
        client.delete(made[0].sandbox_id)
        client.wait_until(made[0].sandbox_id, "TERMINATED", timeout=20)


def test_a_watch_over_a_connection_that_is_cut_again_and_again_misses_and_repeats_nothing(
    between: relay.Relay, client: Client
) -> None:
    seen: list[tuple[int, int]] = []
    kinds: list[Kind] = []

    def watch() -> None:
        with Client(between.address) as far:
            for event in far.watch(project="cut", timeout=60):
                kinds.append(event.kind)
                if event.status is not None:
                    seen.append((event.sequence, event.status.phase))
                    if event.status.phase == pb.PHASE_TERMINATED:
                        return

    def cut() -> None:
        """Cuts, and waits until the watch is back: a cut where nothing is connected would show nothing."""
        before = between.connections
        between.cut()
        eventually(lambda: between.connections > before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    eventually(lambda: Kind.SYNCED in kinds)
    before = client.page().sequence
    made = client.create("cut", spec=SLEEP)
    for wish, phase in ((client.stop, "STOPPED"), (client.start, "RUNNING"), (client.delete, "TERMINATED")):
        cut()
        wished = wish(made.sandbox_id)
        cut()
        client.wait_until(made.sandbox_id, phase, generation=wished.status.generation, timeout=20)
    thread.join(20)
    assert not thread.is_alive()
    whole = [
        (event.sequence, event.status.phase)
        for event in client.watch([made.sandbox_id], after_sequence=before, timeout=20)
        if event.status is not None
    ]
    assert seen == whole
    assert Kind.RESYNC not in kinds
    assert between.connections >= 7


def test_a_watch_notices_a_connection_that_went_silent_and_goes_on_over_another(
    between: relay.Relay, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The options themselves, at a twentieth of the time: 2 seconds instead of 40.
    waits = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    quicker = tuple((name, value // 20 if name in waits else value) for name, value in channel.OPTIONS)
    monkeypatch.setattr(channel, "OPTIONS", quicker)
    kinds: list[Kind] = []

    def watch() -> None:
        with Client(between.address) as far:
            for event in far.watch(project="silent", timeout=60):
                kinds.append(event.kind)
                if event.kind is Kind.CHANGE:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    eventually(lambda: Kind.SYNCED in kinds)
    between.hold_answers()
    eventually(lambda: between.connections > 1, within=15)
    between.cut()
    made = client.create("silent", spec=SLEEP)
    thread.join(15)
    assert kinds == [Kind.SYNCED, Kind.CHANGE]
    client.delete(made.sandbox_id)


async def test_an_async_watch_resumes_across_a_kill_of_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    async with AsyncClient(service.address, timeout=60) as client:
        seen: list[tuple[int, int]] = []
        synced = asyncio.Event()

        async def watch() -> None:
            async for event in client.watch(project="killed", timeout=60):
                if event.kind is Kind.SYNCED:
                    synced.set()
                assert event.kind is not Kind.RESYNC
                if event.status is not None:
                    seen.append((event.sequence, event.status.phase))
                    if event.status.phase == pb.PHASE_TERMINATED:
                        return

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(synced.wait(), 10)
        made = await client.create("killed", spec=SLEEP)
        await client.wait_until(made.sandbox_id, "RUNNING", timeout=20)
        service.kill()
        stopping = asyncio.create_task(client.stop(made.sandbox_id))
        await asyncio.to_thread(service.start)
        stopped = await stopping
        await client.wait_until(made.sandbox_id, "STOPPED", generation=stopped.status.generation, timeout=20)
        await client.delete(made.sandbox_id)
        await asyncio.wait_for(watching, 30)
        again = client.watch([made.sandbox_id], after_sequence=made.status.sequence - 1, timeout=20)
        whole = [(event.sequence, event.status.phase) async for event in again if event.status is not None]
    assert seen == whole


def test_a_resume_past_the_newest_change_is_told_and_begins_with_a_snapshot(client: Client) -> None:
    kinds = []
    for event in client.watch(project="nobody", after_sequence=10**12, timeout=10):
        kinds.append(event.kind)
        if event.kind is Kind.SYNCED:
            break
    assert kinds == [Kind.RESYNC, Kind.SYNCED]


def test_waiting_after_an_update_does_not_take_the_old_pod_for_the_new_one(client: Client) -> None:
    made = client.create("demo", spec=SLEEP)
    client.wait_until(made.sandbox_id, "RUNNING", timeout=20)
    heard: list[int] = []
    changed = client.update_env(made.sandbox_id, set={"A": "1"})
    status = client.wait_until(
        made.sandbox_id,
        "running",
        generation=changed.status.generation,
        timeout=20,
        progress=lambda one: heard.append(one.phase),
    )
    assert (status.generation, status.observed_generation) == (2, 2)
    assert heard[-1] == pb.PHASE_RUNNING
    client.delete(made.sandbox_id)


async def test_a_wait_that_runs_out_of_time_says_where_the_sandbox_stands(client: Client, aio: AsyncClient) -> None:
    never = pb.SandboxSpec(command=["/bin/sleep", "1000"], readiness=pb.Readiness(http_path="/"))
    made = client.create("demo", spec=never)
    with pytest.raises(errors.TimedOut, match=f"not RUNNING within the time: {made.sandbox_id} is STARTING"):
        client.wait_until(made.sandbox_id, "RUNNING", timeout=1)
    with pytest.raises(errors.TimedOut, match=f"{made.sandbox_id} is STARTING"):
        await aio.wait_until(made.sandbox_id, "RUNNING", timeout=1)
    client.delete(made.sandbox_id)


async def test_waiting_for_a_sandbox_that_ends_or_is_not_there_fails_at_once(client: Client, aio: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await aio.wait_until("never-was", "RUNNING")
    assert caught.value.reason == "SANDBOX_NOT_FOUND"
    made = client.create("demo", spec=SLEEP)
    client.delete(made.sandbox_id)
    with pytest.raises(errors.SandboxFailed, match="DELETED"):
        await aio.wait_until(made.sandbox_id, "STOPPED", timeout=20)


async def test_async_errors_are_the_same_types_with_reason_and_fields(aio: AsyncClient) -> None:
    with pytest.raises(errors.InvalidArgument) as bad:
        await aio.create("Bad", env={"A B": samples.CANARY})
    assert {"spec.project"} < set(bad.value.fields)
    assert samples.CANARY not in str(bad.value) + str(bad.value.fields)
    made = await aio.create("demo", spec=SLEEP)
    with pytest.raises(errors.AlreadyExists):
        await aio.create("demo", sandbox_id=made.sandbox_id, spec=SLEEP)
    with pytest.raises(errors.Aborted) as aborted:
        await aio.stop(made.sandbox_id, expected_generation=9)
    assert aborted.value.reason == "GENERATION_MISMATCH"
    await aio.delete(made.sandbox_id)
    with pytest.raises(errors.FailedPrecondition):
        await aio.start(made.sandbox_id)


async def test_a_cancelled_wait_is_cancelled_and_the_client_goes_on(aio: AsyncClient) -> None:
    made = await aio.create("demo", spec=SLEEP)
    waiting = asyncio.create_task(aio.wait_until(made.sandbox_id, "STOPPED"))
    await asyncio.sleep(0.3)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await aio.status(made.sandbox_id)).sandbox_id == made.sandbox_id
    await aio.delete(made.sandbox_id)


def test_lists_go_on_over_pages_in_both_clients(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"pages-{number}" for number in range(5)]
    for name in names:
        client.create("pages", sandbox_id=name, spec=SLEEP)
    whole = Client.page
    monkeypatch.setattr(Client, "page", lambda self, **given: whole(self, **{**given, "page_size": 2}))
    assert [one.sandbox_id for one in client.list(project="pages")] == names
    for name in names:
        client.delete(name)


def test_loopback_is_reached_past_an_http_proxy_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with service.client(timeout=5) as client:
        client.page()


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sandbox test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return chain, secret


async def test_tls_and_tokens_let_in_who_has_them_and_nobody_else(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path)
    tokens = tmp_path / "tokens.json"
    tenant = {"name": "first", "namespaces": ["first"], "tokens": [TOKEN]}
    tokens.write_text(json.dumps({"tenants": [tenant]}))
    tokens.chmod(0o600)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--token-file", str(tokens))
    service = make_service(*flags).start(wait=False)
    with Client(service.address, token=TOKEN, ca_file=chain) as client:
        made = client.create("demo", spec=SLEEP)
        assert made.namespace == "first"
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20)
        client.delete(made.sandbox_id)
        client.wait_until(made.sandbox_id, "TERMINATED", timeout=20)
    async with AsyncClient(service.address, token=TOKEN, ca_file=chain) as client_too:
        assert not [one async for one in client_too.list()]
    for wrong in ("", "token-of-nobody-at-all"):
        with Client(service.address, token=wrong, ca_file=chain) as client:
            with pytest.raises(errors.Unauthenticated) as caught:
                client.page()
            assert not wrong or wrong not in str(caught.value)
            with pytest.raises(errors.Unauthenticated), contextlib.closing(client.watch()) as events:
                next(events)
    # In plaintext, and without the authority that signed: no way in, and no hanging either.
    for options in ({}, {"tls": True}):
        with Client(service.address, token=TOKEN, timeout=1.5, **options) as client:  # type: ignore[arg-type]
            with pytest.raises((errors.Unavailable, errors.TimedOut)) as refused:
                client.page()
            assert TOKEN not in str(refused.value)
