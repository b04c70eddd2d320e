"""Who may call, what they can tell of others, and what is never served."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf import message_factory
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc, schedule_pb2, snapshot_pb2
from sandbox_client import Client, errors
from sandbox_server import store
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import journal

from tests.support import programs
from tests.support.certificates import certificate
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

SERVICES = (
    pb.DESCRIPTOR.services_by_name["SandboxService"],
    snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
    schedule_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}
TOKENS = {"a": "token-of-tenant-a", "b": "token-of-tenant-b"}
SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])


@pytest.fixture
def tenants(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.json"
    listed = [{"name": one, "namespaces": [f"{one}-ns"], "tokens": [token]} for one, token in TOKENS.items()]
    path.write_text(json.dumps({"tenants": listed}))
    return path


def call(service: Service, method: str, request: Any, token: str | None) -> tuple[grpc.StatusCode, str, bytes]:
    """Code, text and details of a failed call; a stream is read to its end."""
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    with grpc.insecure_channel(service.address) as channel:
        path = f"/{METHODS[method].containing_service.full_name}/{method}"
        with pytest.raises(grpc.RpcError) as caught:
            if METHODS[method].server_streaming:
                list(channel.unary_stream(path)(request.SerializeToString(), timeout=5 * PATIENCE, metadata=metadata))
            else:
                channel.unary_unary(path)(request.SerializeToString(), timeout=5 * PATIENCE, metadata=metadata)
    error: Any = caught.value
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return error.code(), error.details(), details


def answered(service: Service, method: str, request: Any, token: str) -> bytes:
    """The answer of a unary call."""
    with grpc.insecure_channel(service.address) as channel:
        made = channel.unary_unary(f"/sandbox.v1.SandboxService/{method}")
        return bytes(
            made(request.SerializeToString(), timeout=20 * PATIENCE, metadata=(("authorization", f"Bearer {token}"),))
        )


@pytest.mark.fault(47)
@pytest.mark.slow
def test_every_method_needs_a_known_token(make_service: Callable[..., Service], tenants: Path) -> None:
    service = make_service("--token-file", str(tenants))
    service.start(wait=False)
    with Client(service.address, token=TOKENS["a"], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    assert len(METHODS) >= 10
    for name, method in METHODS.items():
        request = message_factory.GetMessageClass(method.input_type)()
        for token in (None, "", "wrong", TOKENS["a"][:-1], TOKENS["a"] + "x"):
            code, _, details = call(service, name, request, token)
            assert code is grpc.StatusCode.UNAUTHENTICATED, (name, token)
            assert b"UNAUTHENTICATED" in details
    assert not any(token in service.log.read_text() for token in TOKENS.values())


@pytest.mark.find(40)
@pytest.mark.parametrize("method", ["GetStatus", "WatchStatus", "Stop"])
@pytest.mark.slow
def test_refused_token_leaves_a_line_and_a_flood_leaves_few(
    make_service: Callable[..., Service], tenants: Path, method: str
) -> None:
    service = make_service("--token-file", str(tenants), "--log-format", "json")
    service.start(wait=False)
    with Client(service.address, token=TOKENS["a"], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    request = message_factory.GetMessageClass(METHODS[method].input_type)()
    began = time.monotonic()
    for _ in range(100):
        call(service, method, request, "wrong-token")
    most = journal.BURST + (time.monotonic() - began) / journal.EACH + 1
    lines = [json.loads(one) for one in service.log.read_text().splitlines()]
    refused = [one for one in lines if one.get("method") == method]
    assert refused
    assert len(refused) <= most
    assert {one["event"] for one in refused} == {"credentials_refused"}
    assert all(one["peer"].startswith("ipv4:127.0.0.1:") for one in refused)
    assert "wrong-token" not in service.log.read_text()


@pytest.mark.fault(48)
@pytest.mark.slow
def test_another_tenants_sandbox_is_answered_like_an_unknown_one(
    make_service: Callable[..., Service], tenants: Path
) -> None:
    service = make_service("--token-file", str(tenants))
    service.start(wait=False)
    with (
        Client(service.address, token=TOKENS["a"], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as a,
        Client(service.address, token=TOKENS["b"]) as b,
    ):
        made = a.create("demo", sandbox_id="secret-one", spec=SLEEP)
        a.wait_until(made, "RUNNING", fail_on_error=True)
        a.create_snapshot(made, snapshot_id="secret-one")
        a.create_schedule("secret-one", "daily 02:00", sandbox=made)
        requests: dict[str, Callable[[str, str], Any]] = {
            "Start": lambda name, ns: pb.StartRequest(sandbox_id=name, namespace=ns),
            "Stop": lambda name, ns: pb.StopRequest(sandbox_id=name, namespace=ns),
            "Delete": lambda name, ns: pb.DeleteRequest(sandbox_id=name, namespace=ns),
            "UpdateEnvVars": lambda name, ns: pb.UpdateEnvVarsRequest(sandbox_id=name, namespace=ns, set={"A": "1"}),
            "UpdateSandbox": lambda name, ns: pb.UpdateSandboxRequest(
                sandbox_id=name, namespace=ns, update_mask={"paths": ["labels"]}
            ),
            "GetStatus": lambda name, ns: pb.GetStatusRequest(sandbox_id=name, namespace=ns),
            "GetSandbox": lambda name, ns: pb.GetSandboxRequest(sandbox_id=name, namespace=ns),
            "WatchStatus": lambda name, ns: pb.WatchStatusRequest(sandbox_ids=[name], namespace=ns, after_sequence=0),
            "ListEvents": lambda name, ns: pb.ListEventsRequest(sandbox_id=name, namespace=ns),
            "DeleteVolume": lambda name, ns: pb.DeleteVolumeRequest(sandbox_id=name, namespace=ns, uid="none"),
            "WaitForPhase": lambda name, ns: pb.WaitForPhaseRequest(sandbox_id=name, namespace=ns, phase=3),
            "CloneSandbox": lambda name, ns: pb.CloneSandboxRequest(sandbox_id=name, namespace=ns),
            "CreateSnapshot": lambda name, ns: snapshot_pb2.CreateSnapshotRequest(sandbox_id=name, namespace=ns),
            "GetSnapshot": lambda name, ns: snapshot_pb2.GetSnapshotRequest(snapshot_id=name, namespace=ns),
            "VerifySnapshot": lambda name, ns: snapshot_pb2.VerifySnapshotRequest(snapshot_id=name, namespace=ns),
            "DeleteSnapshot": lambda name, ns: snapshot_pb2.DeleteSnapshotRequest(snapshot_id=name, namespace=ns),
            "CreateSchedule": lambda name, ns: schedule_pb2.CreateScheduleRequest(
                schedule_id=name, sandbox_id=name, namespace=ns, when="daily 02:00"
            ),
            "GetSchedule": lambda name, ns: schedule_pb2.GetScheduleRequest(schedule_id=name, namespace=ns),
            "UpdateSchedule": lambda name, ns: schedule_pb2.UpdateScheduleRequest(
                schedule_id=name, namespace=ns, keep=1
            ),
            "DeleteSchedule": lambda name, ns: schedule_pb2.DeleteScheduleRequest(schedule_id=name, namespace=ns),
            "WatchSnapshots": lambda name, ns: snapshot_pb2.WatchSnapshotsRequest(snapshot_id=name, namespace=ns),
        }
        batches = {
            "BatchStart": pb.BatchStartRequest,
            "BatchStop": pb.BatchStopRequest,
            "BatchDelete": pb.BatchDeleteRequest,
        }
        lists = {"ListSandboxes", "ListVolumes", "ListSnapshots", "ListSchedules"}
        assert {*requests, *batches, *lists, "CreateSandbox", "GetCapabilities"} == set(METHODS)
        for name, request in requests.items():
            for namespace in ("", "a-ns"):
                theirs = call(service, name, request("secret-one", namespace), TOKENS["b"])
                unknown = call(service, name, request("secret-two", namespace), TOKENS["b"])
                assert theirs[0] is grpc.StatusCode.NOT_FOUND
                assert theirs == tuple(
                    one.replace("secret-two", "secret-one")
                    if isinstance(one, str)
                    else one.replace(b"secret-two", b"secret-one")
                    if isinstance(one, bytes)
                    else one
                    for one in unknown
                )
        for name, request in batches.items():
            for namespace in ("", "a-ns"):
                theirs, unknown = (
                    answered(service, name, request(sandbox_ids=[one], namespace=namespace), TOKENS["b"])
                    for one in ("secret-one", "secret-two")
                )
                assert b"SANDBOX_NOT_FOUND" in theirs
                assert theirs == unknown.replace(b"secret-two", b"secret-one")
                selected = request(label_selector="!never", namespace=namespace)
                assert answered(service, name, selected, TOKENS["b"]) == b""
        assert list(b.list()) == []
        assert list(b.list(namespace="a-ns")) == []
        assert list(b.snapshots()) == list(b.snapshots(namespace="a-ns")) == []
        assert list(b.schedules()) == list(b.schedules(namespace="a-ns")) == []
        assert list(b.events()) == list(b.events(namespace="a-ns")) == list(b.events(project="demo")) == []
        with pytest.raises(errors.InvalidArgument) as caught:
            b.create("demo", namespace="a-ns", spec=SLEEP)
        assert list(caught.value.fields) == ["namespace"]
        assert b.create("demo", sandbox_id="secret-one", spec=SLEEP).namespace == "b-ns"
        watched = b.watch(after_sequence=0, timeout=10 * PATIENCE)
        first = next(watched)
        assert first.status is not None
        assert first.status.namespace == "b-ns"
        a.delete("secret-one")
        b.delete("secret-one")
        a.wait_until("secret-one", "TERMINATED", timeout=20 * PATIENCE)


@pytest.mark.fault(48)
@pytest.mark.slow
def test_former_tenant_no_longer_sees_sandboxes_of_a_namespace_taken_from_it(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    path = tmp_path / "tenants.json"

    def has(*namespaces: str) -> None:
        path.write_text(json.dumps({"tenants": [{"name": "a", "namespaces": namespaces, "tokens": [TOKENS["a"]]}]}))

    has("kept", "taken")
    service = make_service("--token-file", str(path)).start(wait=False)
    with Client(service.address, token=TOKENS["a"], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.create("demo", sandbox_id="one", namespace="kept", spec=SLEEP)
        client.create("demo", sandbox_id="two", namespace="taken", spec=SLEEP)
    service.terminate()
    has("kept")
    service.start(wait=False)
    with Client(service.address, token=TOKENS["a"], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        assert [one.sandbox_id for one in client.list()] == ["one"]
        assert list(client.list(namespace="taken")) == []
        assert list(client.events(namespace="taken")) == []
        assert {one.status.namespace for one in client.events()} == {"kept"}
        for asked in (client.status, client.get, client.delete):
            with pytest.raises(errors.NotFound):
                asked("two", namespace="taken")
        for options in ({}, {"after_sequence": 0}):
            with contextlib.closing(client.watch(timeout=10 * PATIENCE, **options)) as events:  # type: ignore[arg-type]
                first = next(events).status
                assert first is not None
                assert first.sandbox_id == "one"
        client.delete("one")
        for event in client.watch(timeout=20 * PATIENCE):
            assert event.status is None or event.status.sandbox_id == "one"
            if event.status is not None and event.status.phase == pb.PHASE_TERMINATED:
                break


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--listen", "0.0.0.0:1"], "tls-cert"),
        (["--listen", "0.0.0.0:1", "--allow-plaintext"], "token-file"),
        (["--metrics-listen", "0.0.0.0:1"], "metrics-listen"),
        (["--tls-cert", "x"], "both or neither"),
        (["--tls-cert", "/no/x", "--tls-key", "/no/y"], "tls-cert"),
        (["--token-file", "/no/x"], "token file"),
        (["--engine", "nonsense"], "engine"),
        (["--local-ports", "1"], "local-ports"),
        (["--default-memory-limit", "5x"], "memory_limit"),
        (["--storage-class", "A B"], "storage_class"),
        (["--database-url", "mysql://x"], "database-url"),
        (["--encryption-keys", "short"], "32 bytes"),
        (["--engine", "kubernetes"], "kubeconfig"),
        (["nonsense"], "no command"),
    ],
)
@pytest.mark.slow
def test_bad_settings_refuse_to_start_and_say_which(flags: list[str], said: str, tmp_path: Path) -> None:
    words = [*flags]
    if flags[0] != "nonsense":
        words += ["--data-dir", str(tmp_path / "data")]
    if "--listen" not in flags:
        words += ["--listen", "127.0.0.1:0"]
    done = programs.run("sandbox-server", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault(49)
@pytest.mark.slow
def test_settings_that_no_service_could_have_end_with_2(tmp_path: Path) -> None:
    done = programs.run("sandbox-server", "--listen", "127.0.0.1:99999", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    said = "must be an address and a port of at most 65535, such as 127.0.0.1:50051"
    assert done.stderr == f"sandbox-server: listen: {said}\n"


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("command", "url", "said"),
    [
        (
            "serve",
            "postgresql://u:canary@127.0.0.1:1/d?password=canary",
            "+psycopg://u:***@127.0.0.1:1/d cannot be used",
        ),
        ("serve", "postgresql://u:canary@127.0.0.1:canary/d", "must be sqlite:///path or postgresql://"),
        ("serve", "sqlite:///{folder}/canary.txt", "file is not a database"),
        ("migrate", "sqlite:///{folder}/canary.txt", "file is not a database"),
        ("migrate", "sqlite:///{folder}", "unable to open database file"),
        ("serve", "sqlite:///", "needs the path of a file"),
    ],
)
@pytest.mark.slow
def test_unusable_database_is_reported_in_one_line(command: str, url: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "canary.txt").write_text("no database, and longer than the header of one would be " * 9)
    keys = tmp_path / "keys"
    store.Cipher.from_file(keys, create=True)
    words = [command, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    words += ["--database-url", url.format(folder=tmp_path), "--encryption-key-file", str(keys)]
    done = programs.run("sandbox-server", *words)
    assert done.returncode == 1
    assert done.stderr.startswith("sandbox-server: database-url: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "canary" not in done.stderr.replace("canary.txt", "")


@pytest.mark.fault(49)
@pytest.mark.slow
def test_a_bad_certificate_refuses_to_start(tmp_path: Path) -> None:
    good, expired = certificate(tmp_path / "tls", "good"), certificate(tmp_path / "tls", "expired", days=-1)
    future = certificate(tmp_path / "tls", "future", age=-1)
    wrong = (((good[0], expired[1]), "tls-cert"), (expired, "expired on"), (future, "is not valid before"))
    for pair, said in wrong:
        flags = ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1]), "--data-dir", str(tmp_path / "data")]
        done = programs.run("sandbox-server", "--listen", "127.0.0.1:0", *flags)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tenants": [{"name": "a"}]}',
        '{"tenants": [{"name": "a", "namespaces": ["A B"], "tokens": []}]}',
        '{"tenants": [{"name": "a", "namespaces": ["x"], "tokens": ["short"]}]}',
        '{"tenants": [{"name": "a", "namespaces": ["x"], "tokens": []}, {"name": "b", "namespaces": ["x"], "tokens": []}]}',
        '{"tenants": [{"name": "a", "namespaces": ["x"], "tokens": []}, {"name": "a", "namespaces": ["y"], "tokens": []}]}',
    ],
)
def test_a_bad_token_file_refuses_to_start_without_showing_tokens(content: str, tmp_path: Path) -> None:
    from sandbox_server.rpc import auth

    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="token file") as caught:
        auth.TokenFile(path, Pace())
    assert "short" not in str(caught.value)


@pytest.mark.fault(50)
@pytest.mark.slow
def test_tls_is_served_and_replaced_files_are_used_by_new_connections(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    first, second = certificate(tmp_path / "tls", "first"), certificate(tmp_path / "tls", "second")
    served = tmp_path / "served.crt", tmp_path / "served.key"
    for source, target in zip(first, served, strict=True):
        target.write_bytes(source.read_bytes())
    service = make_service("--tls-cert", str(served[0]), "--tls-key", str(served[1]))
    service.start(wait=False)
    with Client(service.address, ca_file=first[0], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    with grpc.insecure_channel(service.address) as plain, pytest.raises(grpc.RpcError) as caught:
        sandbox_pb2_grpc.SandboxServiceStub(plain).ListSandboxes(pb.ListSandboxesRequest(), timeout=20 * PATIENCE)
    assert errors.from_rpc(caught.value).code is grpc.StatusCode.UNAVAILABLE
    # The key does not fit a certificate that is replaced alone: the former pair is still served.
    served[0].write_bytes(second[0].read_bytes())
    with Client(service.address, ca_file=first[0], timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    served[1].write_bytes(second[1].read_bytes())

    def renewed() -> bool:
        try:
            with Client(service.address, ca_file=second[0], timeout=2) as client:
                client.page()
        except (errors.Unavailable, errors.TimedOut):
            return False
        return True

    eventually(renewed)
    flags = ["--tls-cert", str(served[0]), "--tls-key", str(served[1])]
    words = ("health", "--listen", service.address, *flags)
    eventually(lambda: programs.run("sandbox-server", *words).returncode == 0)


@pytest.mark.fault(50)
@pytest.mark.parametrize("name", ["sandboxes.example", "*.sandboxes.example"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
@pytest.mark.slow
def test_the_health_probe_needs_no_name_of_the_certificate_and_no_address_of_its_own(
    make_service: Callable[..., Service], tmp_path: Path, name: str, host: str
) -> None:
    served, key = certificate(tmp_path / "tls", "named", served=x509.DNSName(name))
    other, _ = certificate(tmp_path / "tls", "other", served=x509.DNSName(name))
    service = make_service("--tls-cert", str(served), "--tls-key", str(key), "--allow-anonymous")
    service.address = f"{host}:{service.port}"
    service.start(wait=False)

    def health(trusted: Path) -> tuple[int, str]:
        words = ["health", "--listen", service.address, "--allow-anonymous"]
        done = programs.run("sandbox-server", *words, "--tls-cert", str(trusted), "--tls-key", str(key))
        return done.returncode, done.stderr

    eventually(lambda: health(served) == (0, ""), within=20)
    eventually(lambda: health(other) == (1, "sandbox-server: health: UNAVAILABLE\n"))


@pytest.mark.slow
def test_what_grpc_has_to_say_is_not_in_the_log(make_service: Callable[..., Service], tmp_path: Path) -> None:
    served, key = certificate(tmp_path / "tls", "served")
    service = make_service("--tls-cert", str(served), "--tls-key", str(key), "--log-format", "json")
    service.start(wait=False)
    with Client(service.address, ca_file=served, timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", service.port), timeout=5 * PATIENCE) as scanned:
            scanned.sendall(b"GET / HTTP/1.1\r\n\r\n")
            # The service has judged it once it has hung up.
            assert scanned.recv(100) is not None
    assert service.terminate() == 0
    for line in service.log.read_text().splitlines():
        assert json.loads(line)["event"]


def test_config_hides_secrets(tmp_path: Path) -> None:
    words = ["config", "--database-url", "postgresql://u:canary@h/d", "--data-dir", str(tmp_path)]
    done = programs.run("sandbox-server", *words)
    assert "canary" not in done.stdout
    assert json.loads(done.stdout)["engine"] == "local"


@pytest.mark.slow
def test_render_prints_every_object(tmp_path: Path) -> None:
    request = {"sandbox_id": "demo", "spec": {"project": "demo"}, "env": {"A": "1"}}
    words = ["sandbox-server", "render", "--data-dir", str(tmp_path)]
    done = programs.run(*words, input=json.dumps(request))
    kinds = [line for line in done.stdout.splitlines() if line.startswith("kind:")]
    expected = ["Service", "PersistentVolumeClaim", "Secret", "Ingress", "Ingress", "StatefulSet"]
    assert kinds == [f"kind: {one}" for one in expected]
    bad = programs.run(*words, input='{"spec": {"project": "Bad"}}')
    assert bad.returncode == 1
    assert "spec.project" in bad.stderr
    assert "Traceback" not in bad.stderr
