"""Bad input through the real gRPC server: each bad field is named once, nothing is written, no value is shown."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import schedule_pb2, snapshot_pb2
from sandbox_server import app
from sandbox_server.rpc import journal, waits
from sandbox_server.rpc.server import RECEIVE_MOST
from sandbox_server.settings import Settings

from tests.support import samples, variants
from tests.support.blind import BlindEngine
from tests.support.waiting import PATIENCE

SERVICES = (
    pb.DESCRIPTOR.services_by_name["SandboxService"],
    snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
    schedule_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}
UUID = "123e4567-e89b-12d3-a456-426614174000"


class Served:
    """The service over an engine that observes nothing, on its own loop: created sandboxes do not change."""

    def __init__(self, folder: Path) -> None:
        self.writes = 0
        self._settings = Settings(
            listen="127.0.0.1:0",
            data_dir=folder,
            heartbeat=0.05,
            namespaces="default,second",
            allowed_annotations="words.example/",  # type: ignore[arg-type]
        )
        self._ended = asyncio.Event()
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.address = f"127.0.0.1:{self._port.result(20 * PATIENCE)}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with app.service(self._settings, engine=BlindEngine()) as running:
            store: Any = running.store

            def counted(write: Callable[..., Any]) -> Callable[..., Any]:
                async def counting(*arguments: Any, **options: Any) -> Any:
                    # A write that is refused, as one with the request id of another, is rolled back.
                    event = await write(*arguments, **options)
                    self.writes += 1
                    return event

                return counting

            store.write = counted(store.write)
            store.write_snapshot = counted(store.write_snapshot)
            store.write_schedule = counted(store.write_schedule)
            self._port.set_result(running.port)
            await self._ended.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20 * PATIENCE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    before, logged = structlog.get_config(), structlog.testing.LogCapture()
    structlog.configure(processors=[logged])
    made = Served(tmp_path_factory.mktemp("served"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(waits, "WAIT_MOST", 0.02)
            yield made
    finally:
        made.end()
        journal.log.info("captured")
        structlog.configure(**before)
    # What the service logs is captured, whichever of the tests this process ran.
    assert any(one["event"] == "captured" for one in logged.entries)
    assert samples.CANARY not in str(logged.entries)


@pytest.fixture(scope="module")
def call(served: Served) -> Iterator[Callable[..., "Answer"]]:
    with grpc.insecure_channel(served.address) as channel:

        def make(method: str, request: Message | bytes) -> Answer:
            return Answer(served, channel, method, request)

        yield make


class Answer:
    """What a call was answered: what it `made`, or `code`, `text` and `fields` of the error; all that was `said`,
    and how much it wrote."""

    def __init__(self, served: Served, channel: grpc.Channel, method: str, request: Message | bytes) -> None:
        written = request if isinstance(request, bytes) else request.SerializeToString()
        path, before = f"/{METHODS[method].containing_service.full_name}/{method}", served.writes
        self.code, self.text, self.fields, self.made, self.said = grpc.StatusCode.OK, "", [], b"", b""
        try:
            if METHODS[method].server_streaming:
                stream = channel.unary_stream(path)(written, timeout=20 * PATIENCE)
                self.made = next(stream)
                stream.cancel()
            else:
                self.made = channel.unary_unary(path)(written, timeout=20 * PATIENCE)
        except grpc.RpcError as error:
            self._read(error)
        self.said += self.made
        self.writes = served.writes - before

    def _read(self, error: Any) -> None:
        self.code, self.text = error.code(), error.details()
        self.said = f"{self.text} {error.trailing_metadata()}".encode()
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            found = error_details_pb2.BadRequest()
            if detail.Unpack(found):
                self.fields = [one.field for one in found.field_violations]
                self.said += str(found).encode()


Call = Callable[[str, Message | bytes], Answer]


def refused(answer: Answer, *fields: str) -> None:
    """The answer is INVALID_ARGUMENT with exactly these fields, wrote nothing and shows nothing."""
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, answer.text
    assert sorted(answer.fields) == sorted(fields)
    assert answer.writes == 0
    assert answer.text.isprintable()
    assert answer.text.isascii()
    assert samples.CANARY.encode() not in answer.said


LETTERS = st.text("ab0", min_size=1, max_size=8).map(lambda text: f"x{text}")
POISON = st.sampled_from(["A", "_", " ", "\n", "\x1b[31m", "é", "\0", "/", "\u202e", "=", "\x7f"])


def poisoned(poison: st.SearchStrategy[str] = POISON) -> st.SearchStrategy[str]:
    """Text with something in it that does not belong there."""
    return st.builds(lambda before, bad, after: before + bad + after, LETTERS, poison, LETTERS)


def longer(most: int) -> st.SearchStrategy[str]:
    return st.integers(most + 1, most + 300).map(lambda size: "a" * size)


def label(most: int) -> st.SearchStrategy[str]:
    """No DNS label of at most so many characters that starts with a letter."""
    return longer(most) | poisoned() | st.sampled_from(["-a", "a-", "1a", "a.b", "-"])


NOT_A_NAME = longer(253) | poisoned(st.sampled_from(["A", " ", "\n", "é", "\0", "..", "-."]))
NUL = st.just(f"{samples.CANARY}\0")
NOT_BYTES = st.sampled_from(
    ["", "5m", "500m", "-1Gi", "0", "1e15", "5GiB", "5 Gi", "Gi", "1gi", "\n5Gi", "9999999999999999"]
)
NOT_CPU = st.sampled_from(["5Gi", "-1", "0", "1.2345", "1e4", "x", "1025", "2 ", "1M", "½"])

# Each field, what makes it bad, and where that goes.
BREAKERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[pb.CreateSandboxRequest, Any], object]]] = {
    "request_id": (poisoned() | st.just("x") | longer(36), lambda to, bad: setattr(to, "request_id", bad)),
    "sandbox_id": (label(52), lambda to, bad: setattr(to, "sandbox_id", bad)),
    "namespace": (LETTERS | label(63), lambda to, bad: setattr(to, "namespace", bad)),
    "spec.project": (label(63) | st.just(""), lambda to, bad: setattr(to.spec, "project", bad)),
    "spec.image": (
        longer(512) | poisoned(st.sampled_from([" ", "\n", "é", "\0"])) | st.just("-x"),
        lambda to, bad: setattr(to.spec, "image", bad),
    ),
    "spec.command[1]": (longer(4096) | NUL, lambda to, bad: to.spec.command.extend(["ok", bad])),
    "spec.args[0]": (longer(32768) | NUL, lambda to, bad: to.spec.args.append(bad)),
    "spec.ports[0].number": (
        st.sampled_from([0, -1, 65536, 7681, -(2**31), 2**31 - 1]),
        lambda to, bad: to.spec.ports.add(number=bad),
    ),
    "spec.resources.cpu_limit": (NOT_CPU, lambda to, bad: setattr(to.spec.resources, "cpu_limit", bad)),
    "spec.resources.memory_request": (
        NOT_BYTES.filter(bool),
        lambda to, bad: setattr(to.spec.resources, "memory_request", bad),
    ),
    "spec.storage.size": (NOT_BYTES.filter(bool), lambda to, bad: setattr(to.spec.storage, "size", bad)),
    "spec.storage.storage_class": (NOT_A_NAME, lambda to, bad: setattr(to.spec.storage, "storage_class", bad)),
    "spec.storage.access_mode": (LETTERS, lambda to, bad: setattr(to.spec.storage, "access_mode", bad)),
    "spec.labels[key]": (
        longer(63) | poisoned(POISON.filter(lambda one: one not in "A_")),
        lambda to, bad: to.spec.labels.update(key=bad),
    ),
    "spec.labels[cloud.sealos.io/x]": (LETTERS, lambda to, good: to.spec.labels.update({"cloud.sealos.io/x": good})),
    "spec.annotations[key]": (NUL, lambda to, bad: to.spec.annotations.update(key=bad)),
    "spec.annotations[app]": (LETTERS, lambda to, good: to.spec.annotations.update(app=good)),
    "spec.runtime_class": (NOT_A_NAME, lambda to, bad: setattr(to.spec, "runtime_class", bad)),
    "spec.readiness.http_path": (
        LETTERS
        | longer(1024).map(lambda text: f"/{text}")
        | poisoned(st.sampled_from([" ", "\n", "é"])).map("/".__add__),
        lambda to, bad: setattr(to.spec.readiness, "http_path", bad),
    ),
    "env[LONG]": (longer(32 * 1024).map(samples.CANARY.__add__), lambda to, bad: to.env.update(LONG=bad)),
    "env[ZERO]": (NUL, lambda to, bad: to.env.update(ZERO=bad)),
    "env[1BAD]": (st.just(samples.CANARY), lambda to, good: to.env.update({"1BAD": good})),
}


@given(st.data(), st.sets(st.sampled_from(sorted(BREAKERS)), min_size=1, max_size=6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_every_bad_field_of_a_create_is_named_once(call: Call, data: st.DataObject, broken: set[str]) -> None:
    request = pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="demo"), env={"GOOD": samples.CANARY})
    for field in sorted(broken):
        bad, put = BREAKERS[field]
        put(request, data.draw(bad, label=field))
    refused(call("CreateSandbox", request), *broken)


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_a_good_create_is_taken_as_it_is(call: Call, data: st.DataObject) -> None:
    def text(pattern: str) -> str:
        return data.draw(st.from_regex(pattern, fullmatch=True))

    def some(pattern: str, most: int) -> list[str]:
        return data.draw(st.lists(st.from_regex(pattern, fullmatch=True), max_size=most, unique=True))

    key, value = r"([a-z0-9]{1,9}\.example/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?", r"([A-Za-z0-9]{1,63})?"
    numbers = data.draw(st.lists(st.integers(1, 65535).filter(lambda one: one != 7681), max_size=16, unique=True))
    spec = pb.SandboxSpec(
        project=text("[a-z]([a-z0-9-]{0,61}[a-z0-9])?"),
        image=text("[a-z0-9][a-z0-9._:/@-]{0,80}"),
        command=some("[^\0]{0,20}", 5),
        args=some("[^\0]{0,20}", 5),
        ports=[pb.Port(number=one) for one in numbers],
        resources=pb.Resources(cpu_request=text("[1-9][0-9]{0,2}m"), memory_limit=text("[1-9][0-9]{0,2}Gi")),
        storage=pb.Storage(size=text("[1-9]Ti|[1-9][0-9]{0,3}(Gi|G|Mi)"), access_mode="ReadWriteMany"),
        labels={one: text(value) for one in some(key, 4) if one != "app"},
        annotations={f"words.example/{one}": text("[^\0]{0,40}") for one in some("[A-Za-z0-9]{1,20}", 4)},
        readiness=pb.Readiness(http_path=text("/[!-~]{0,40}")),
    )
    env = {one: text("[^\0]{0,40}") for one in some("[A-Za-z_][A-Za-z0-9_]{0,30}", 5)}
    answer = call("CreateSandbox", pb.CreateSandboxRequest(spec=spec, env=env))
    assert answer.code is grpc.StatusCode.OK, answer.text
    made = pb.CreateSandboxResponse.FromString(answer.made).sandbox
    assert made.env_names == sorted(env)
    for field in ("project", "image", "command", "args", "labels", "annotations", "readiness"):
        assert getattr(made.spec, field) == getattr(spec, field)
    assert [one.number for one in made.spec.ports] == (numbers or [3000])


SELECTORS = ("a=b=c", "a in b", ",", "a=!", "\x1b[31m", "x" * 5000)
NAMED: dict[str, list[dict[str, Any]]] = {
    "sandbox_id": [{"sandbox_id": one} for one in ("", "A", "a" * 53, "a\n", "é", "1a")],
    "namespace": [{"sandbox_id": "a", "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
}
CHANGES: dict[str, list[dict[str, Any]]] = {
    **NAMED,
    "request_id": [{"sandbox_id": "a", "request_id": one} for one in ("x", "\x1b[31m", f"{UUID}\n", UUID + "0")],
    "expected_generation": [{"sandbox_id": "a", "expected_generation": one} for one in (0, -1, -(2**63))],
}


def masked(*paths: str, **spec: Any) -> dict[str, Any]:
    """An UpdateSandboxRequest that names these paths."""
    return {"sandbox_id": "a", "spec": spec, "update_mask": {"paths": paths}}


MASKED = masked("image")
BATCHES: dict[str, list[dict[str, Any]]] = {
    "request_id": [{"sandbox_ids": ["a"], "request_id": one} for one in ("x", f"{UUID}\n", UUID + "0")],
    "namespace": [{"sandbox_ids": ["a"], "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
    "sandbox_ids": [
        *({}, {"label_selector": " "}, {"label_selector": "\n"}, {"namespace": "default"}),
        *({"sandbox_ids": ["a"], "label_selector": "a=b"}, {"sandbox_ids": ["a"] * 1001}),
    ],
    "sandbox_ids[1]": [{"sandbox_ids": ["a", one]} for one in ("", "A", "a" * 53, "a\n", "a")],
    "label_selector": [{"label_selector": one} for one in SELECTORS],
}
READS: dict[str, list[dict[str, Any]]] = {
    **NAMED,
    "min_sequence": [{"sandbox_id": "a", "min_sequence": one} for one in (-1, -(2**63))],
}
MATCHES: dict[str, list[dict[str, Any]]] = {
    "namespace": [{"namespace": one} for one in ("A", "a" * 64, "a\n")],
    "project": [{"project": one} for one in ("A", "a" * 64, "a\n", "1a")],
    "label_selector": [{"label_selector": one} for one in SELECTORS],
}
OF_SNAPSHOT: dict[str, list[dict[str, Any]]] = {
    "snapshot_id": [{"snapshot_id": one} for one in ("", "A", "a" * 53, "a\n", "é", "1a")],
    "namespace": [{"snapshot_id": "a", "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
}
OF_SCHEDULE: dict[str, list[dict[str, Any]]] = {
    "schedule_id": [{"schedule_id": one} for one in ("", "A", "a" * 53, "a\n", "é", "1a")],
    "namespace": [{"schedule_id": "a", "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
}
CHANGED: dict[str, list[dict[str, Any]]] = OF_SCHEDULE | {
    "request_id": [{"schedule_id": "a", "request_id": one} for one in ("x", UUID + "0", "\n")],
    "sandbox_id": [{"schedule_id": "a", "sandbox_id": one} for one in ("", "A", "a" * 53, "a\n", "1a")],
    "label_selector": [{"schedule_id": "a", "label_selector": one} for one in (*SELECTORS, "", " ")],
    "when": [
        {"schedule_id": "a", "when": one} for one in ("daily", "daily 24:00", "02:00", "daily 02:00\0", samples.CANARY)
    ],
    "keep": [{"schedule_id": "a", "keep": one} for one in (-1, 1001, 2**31 - 1)],
    "consistency": [{"schedule_id": "a", "consistency": one} for one in (3, -1, 2**31 - 1)],
}
BAD: dict[str, dict[str, list[dict[str, Any]]]] = {
    "CreateSchedule": {
        field: [{"sandbox_id": "a", "when": "daily 02:00"} | one for one in several]
        if field not in ("sandbox_id", "label_selector")
        else [{"when": "daily 02:00"} | one for one in several]
        for field, several in CHANGED.items()
    }
    | {"target": [{"schedule_id": "a", "when": "daily 02:00"}]},
    "UpdateSchedule": CHANGED,
    "DeleteSchedule": OF_SCHEDULE | {"request_id": [{"schedule_id": "a", "request_id": one} for one in ("x", "\n")]},
    "GetSchedule": OF_SCHEDULE,
    "ListSchedules": {
        "namespace": [{"namespace": one} for one in ("A", "a" * 64, "a\n")],
        "page_size": [{"page_size": one} for one in (-1, 1001, -(2**31))],
        "page_token": [{"page_token": one} for one in ("?", "a", "/", "a/", "a/b/c", "a/\n")],
        "tenant": [{"tenant": one} for one in ("a\0", "x" * 1025)],
    },
    "CreateSnapshot": {
        "request_id": [{"sandbox_id": "a", "request_id": one} for one in ("x", UUID + "0", "\n")],
        "sandbox_id": [{"sandbox_id": one} for one in ("", "A", "a" * 53, "a\n", "1a")],
        "snapshot_id": [{"sandbox_id": "a", "snapshot_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "namespace": [{"sandbox_id": "a", "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
        "consistency": [{"sandbox_id": "a", "consistency": one} for one in (3, -1, 2**31 - 1)],
        "labels[app]": [{"sandbox_id": "a", "labels": {"app": samples.CANARY}}],
    },
    "VerifySnapshot": OF_SNAPSHOT | {"request_id": [{"snapshot_id": "a", "request_id": one} for one in ("x", "\n")]},
    "DeleteSnapshot": OF_SNAPSHOT | {"request_id": [{"snapshot_id": "a", "request_id": one} for one in ("x", "\n")]},
    "GetSnapshot": OF_SNAPSHOT,
    "ListSnapshots": MATCHES
    | {
        "sandbox_id": [{"sandbox_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "schedule_id": [{"schedule_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "states[1]": [{"states": [2, one]} for one in (0, 6, -1, 2**31 - 1)],
        "states": [{"states": [2] * 6}, {"states": [2] * 100_000}],
        "page_size": [{"page_size": one} for one in (-1, 1001, -(2**31))],
        "page_token": [{"page_token": one} for one in ("?", "a", "/", "a/", "a/b/c", "a/\n")],
        "tenant": [{"tenant": one} for one in ("a\0", "x" * 1025)],
    },
    "WatchSnapshots": MATCHES
    | {
        "snapshot_id": [{"snapshot_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "sandbox_id": [{"sandbox_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "after_sequence": [{"after_sequence": one} for one in (-1, -(2**63))],
        "tenant": [{"tenant": one} for one in ("a\0", "x" * 1025)],
    },
    "CloneSandbox": {name: several for name, several in CHANGES.items() if name != "expected_generation"}
    | {
        "clone_id": [{"sandbox_id": "a", "clone_id": one} for one in ("A", "a" * 53, "a\n", "1a")],
        "project": [{"sandbox_id": "a", "project": one} for one in ("A", "a" * 64, "1a")],
        "labels[app]": [{"sandbox_id": "a", "labels": {"app": samples.CANARY}}],
        "set[A B]": [{"sandbox_id": "a", "set": {"A B": samples.CANARY}}],
        "unset": [{"sandbox_id": "a", "unset": ["A"], "replace": True}],
    },
    "Start": CHANGES,
    "Stop": CHANGES,
    "Delete": CHANGES,
    "UpdateEnvVars": CHANGES
    | {
        "set[A B]": [{"sandbox_id": "a", "set": {"A B": samples.CANARY}}],
        "set[A]": [{"sandbox_id": "a", "set": {"A": samples.CANARY + bad}} for bad in ("\0", "x" * 32 * 1024)],
        "set": [
            {"sandbox_id": "a", "set": {f"A{n}": samples.CANARY for n in range(1001)}},
            {"sandbox_id": "a", "set": {f"A{n}": samples.CANARY + "x" * 32_000 for n in range(17)}},
        ],
        "unset": [{"sandbox_id": "a", "unset": ["A"], "replace": True}, {"sandbox_id": "a", "unset": ["A"] * 1001}],
        "unset[1]": [{"sandbox_id": "a", "unset": ["A", one]} for one in ("", "A B", "1", "x" * 257, "\n")],
        "unset[0]": [{"sandbox_id": "a", "unset": ["A"], "set": {"A": samples.CANARY}}],
    },
    "UpdateSandbox": {field: [MASKED | one for one in several] for field, several in CHANGES.items()}
    | {
        "update_mask": [{"sandbox_id": "a"}, masked(*["image"] * 15), masked(*["image"] * 100_000)],
        "update_mask.paths[1]": [
            masked("image", path)
            for path in (
                *("storage", "storage.access_mode", "project", "runtime_class", "copy_image_home", "env"),
                *(
                    "",
                    "*",
                    "Image",
                    "spec.image",
                    "labels.a",
                    "resources.",
                    "resources.gpu",
                    "ports.number",
                    "\x1b[31m",
                ),
                "image",
            )
        ],
        "update_mask.paths[0]": [masked("resources.cpu_limit", "resources")],
        "spec.image": [masked("image", image=one) for one in ("a b", "x" * 513, "-x", "\n")],
        "spec.command[0]": [masked("command", command=["\0"])],
        "spec.args": [masked("args", args=["x"] * 257)],
        "spec.ports[0].number": [masked("ports", ports=[{"number": one}]) for one in (0, 7681, 65536)],
        "spec.resources.cpu_limit": [
            masked(path, resources={"cpu_limit": "5Gi"}) for path in ("resources", "resources.cpu_limit")
        ],
        "spec.resources.memory_request": [
            masked("resources", resources={"memory_request": "2Gi", "memory_limit": "1Gi"})
        ],
        "spec.labels[app]": [masked("labels", labels={"app": "x"})],
        "spec.annotations[key]": [masked("annotations", annotations={"key": "is not allowed"})],
        "spec.readiness.tcp_port": [masked("readiness", readiness={"tcp_port": one}) for one in (0, -1, 65536, 7681)],
        "spec.readiness.http_path": [masked("readiness", readiness={"http_path": "x"})],
        "spec.grace_period_seconds": [masked("grace_period_seconds", grace_period_seconds=one) for one in (-1, 3601)],
    },
    **dict.fromkeys(("BatchStart", "BatchStop", "BatchDelete"), BATCHES),
    "GetStatus": READS,
    "GetSandbox": READS,
    "WatchStatus": MATCHES
    | {
        "sandbox_ids[1]": [{"sandbox_ids": ["a", one]} for one in ("", "A", "a" * 53)],
        "sandbox_ids": [{"sandbox_ids": ["a"] * 1001}],
        "after_sequence": [{"after_sequence": one} for one in (-1, -(2**63))],
    },
    "WaitForPhase": {
        "sandbox_id": [{"sandbox_id": one, "phase": 3} for one in ("", "A", "a" * 53, "a\n", "é", "1a")],
        "namespace": [{"sandbox_id": "a", "phase": 3, "namespace": one} for one in ("A", "a" * 64, "a\n", "-")],
        "phase": [{"sandbox_id": "a", "phase": one} for one in (0, 10, -1, 2**31 - 1)],
        "generation": [{"sandbox_id": "a", "phase": 3, "generation": one} for one in (-1, -(2**63))],
        **{
            field: [{"sandbox_id": "a", "phase": 3, field: one} for one in (-0.1, float("nan"), float("-inf"))]
            for field in ("patience_seconds", "timeout_seconds")
        },
    },
    "GetCapabilities": {},
    "ListEvents": {
        "sandbox_id": [{"sandbox_id": one} for one in ("A", "a" * 53, "a\n", "é", "1a")],
        "namespace": MATCHES["namespace"],
        "project": MATCHES["project"],
        "after_sequence": [{"after_sequence": one} for one in (-1, -(2**63))],
        "order": [{"order": one} for one in (3, -1, 2**31 - 1)],
        "page_size": [{"page_size": one} for one in (-1, 1001, -(2**31))],
        "page_token": [{"page_token": one} for one in ("?", "-1", "1.0", "\u0661", "1\n", " 1", "9" * 19, "1" * 5000)],
    },
    "DeleteVolume": {name: several for name, several in CHANGES.items() if name != "expected_generation"},
    "ListVolumes": MATCHES
    | {
        "page_size": [{"page_size": one} for one in (-1, 1001, -(2**31))],
        "page_token": [{"page_token": one} for one in ("?", "a", "/", "a/", "a/b/c", "a/\n")],
        "tenant": [{"tenant": one} for one in ("a\0", "x" * 1025)],
    },
    "ListSandboxes": MATCHES
    | {
        "phases[1]": [{"phases": [3, one]} for one in (0, 10, -1, 2**31 - 1)],
        "phases": [{"phases": [3] * 10}, {"phases": [3] * 100_000}],
        "page_size": [{"page_size": one} for one in (-1, 1001, -(2**31))],
        "page_token": [
            {"page_token": one} for one in ("?", "é", "YQ==", "a", "/", "a/", "/a", "a/b/c", "A/a", "a/1", "a/\n")
        ],
    },
}


@pytest.mark.parametrize(
    ("method", "field", "request_"),
    [
        one
        for method, fields in BAD.items()
        for field, several in fields.items()
        for one in variants.some([(method, field, bad) for bad in several])
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_bad_field_of_every_other_method_is_named(
    call: Call, method: str, field: str, request_: dict[str, Any]
) -> None:
    assert {*BAD, "CreateSandbox"} == set(METHODS)
    refused(call(method, message_of(method)(**request_)), field)


def message_of(method: str) -> type[Message]:
    return message_factory.GetMessageClass(METHODS[method].input_type)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("env", {"env": {f"K{n}": samples.CANARY for n in range(1001)}}),
        ("env", {"env": {f"K{n}": samples.CANARY + "x" * 32_000 for n in range(17)}}),
        ("spec.ports", {"spec": {"ports": [{"number": n + 1} for n in range(17)]}}),
        ("spec.ports[1].number", {"spec": {"ports": [{"number": 80}, {"number": 80}]}}),
        ("spec.ports[1].name", {"spec": {"ports": [{"number": 80, "name": "a"}, {"number": 81, "name": "a"}]}}),
        ("spec.ports[1].name", {"spec": {"ports": [{"number": 81, "name": "port-80"}, {"number": 80}]}}),
        ("spec.ports[0].name", {"spec": {"ports": [{"number": 80, "name": "ttyd"}]}}),
        ("spec.ports[0].name", {"spec": {"ports": [{"number": 80, "name": "a--b"}]}}),
        ("spec.resources.cpu_request", {"spec": {"resources": {"cpu_request": "2", "cpu_limit": "1"}}}),
        ("spec.resources.memory_request", {"spec": {"resources": {"memory_request": "2Gi", "memory_limit": "1Gi"}}}),
        ("spec.resources.cpu_limit", {"spec": {"resources": {"cpu_limit": "0"}}}),
        ("spec.readiness.tcp_port", {"spec": {"readiness": {"tcp_port": 0}}}),
        ("spec.readiness.tcp_port", {"spec": {"readiness": {"tcp_port": -1}}}),
        ("spec.readiness.tcp_port", {"spec": {"readiness": {"tcp_port": 80}}}),
        ("spec.command", {"spec": {"command": ["x"] * 65}}),
        ("spec.args", {"spec": {"args": ["x"] * 257}}),
        ("spec.args", {"spec": {"args": ["x" * 32_000] * 9}}),
        ("spec.labels", {"spec": {"labels": {f"k{n}": "" for n in range(50_000)}}}),
        ("spec.annotations", {"spec": {"annotations": {f"k{n}": "" for n in range(65)}}}),
        ("spec.annotations", {"spec": {"annotations": {f"k{n}": "x" * 9_000 for n in range(2)}}}),
    ],
    ids=str,
)
def test_what_is_bad_as_a_whole_is_named(call: Call, field: str, request_: dict[str, Any]) -> None:
    request = pb.CreateSandboxRequest(**request_)
    request.spec.project = "demo"
    refused(call("CreateSandbox", request), field)


def test_a_spec_that_is_missing_lacks_its_project(call: Call) -> None:
    refused(call("CreateSandbox", pb.CreateSandboxRequest()), "spec.project")


@pytest.mark.fault(44)
@given(st.text(min_size=1, max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_any_key_is_taken_or_named_in_one_printable_line(call: Call, key: str) -> None:
    answer = call("UpdateEnvVars", pb.UpdateEnvVarsRequest(sandbox_id="never-was", set={key: samples.CANARY}))
    if answer.code is not grpc.StatusCode.NOT_FOUND:
        refused(answer, *answer.fields)
        assert len(answer.fields) == 1
        assert answer.fields[0].startswith("set[")


def test_many_bad_fields_fit_an_answer_and_the_rest_is_counted(call: Call) -> None:
    env = {f"{n}" + "\x1b" * 300: samples.CANARY for n in range(1000)}
    answer = call("CreateSandbox", pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="demo"), env=env))
    refused(answer, *answer.fields)
    assert answer.fields[-1] == "request"
    assert f"has {1001 - len(answer.fields)} more bad fields" in answer.text


def test_the_environment_that_would_result_is_judged_before_it_is_written(call: Call) -> None:
    spec = pb.SandboxSpec(project="demo")
    env = {f"K{n}": samples.CANARY for n in range(600)}
    assert call("CreateSandbox", pb.CreateSandboxRequest(sandbox_id="full", spec=spec, env=env)).text == ""
    more = pb.UpdateEnvVarsRequest(sandbox_id="full", set={f"L{n}": samples.CANARY for n in range(600)})
    answer = call("UpdateEnvVars", more)
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["set"])
    assert samples.CANARY.encode() not in answer.said
    told = pb.GetSandboxResponse.FromString(call("GetSandbox", pb.GetSandboxRequest(sandbox_id="full")).made)
    assert (told.sandbox.status.generation, len(told.sandbox.env_names)) == (1, 600)


def test_a_watch_of_one_sandbox_that_is_not_of_the_project_goes_on_without_it(served: Served, call: Call) -> None:
    made = pb.CreateSandboxRequest(sandbox_id="elsewhere", spec=pb.SandboxSpec(project="demo"))
    assert call("CreateSandbox", made).text == ""
    request = pb.WatchStatusRequest(sandbox_ids=["elsewhere"], project="other")
    with grpc.insecure_channel(served.address) as channel:
        stream = channel.unary_stream("/sandbox.v1.SandboxService/WatchStatus")(
            request.SerializeToString(), timeout=20 * PATIENCE
        )
        told = [pb.WatchStatusResponse.FromString(next(stream)).WhichOneof("event") for _ in range(2)]
        stream.cancel()
    assert told == ["snapshot_complete", "heartbeat"]


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Anything that the wire can carry in a field."""
    kinds: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.TYPE_STRING: st.sampled_from(["a", "default", "second", UUID, "a=b"]) | st.text(max_size=80),
        FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5),
        FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5),
        FieldDescriptor.TYPE_DOUBLE: st.floats(),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_ENUM: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 9),
    }
    if field.message_type and field.message_type.GetOptions().map_entry:
        secret = samples.CANARY if field.name in ("env", "set") else ""
        held = st.text(max_size=20).map(secret.__add__)
        return st.dictionaries(st.sampled_from(["A", "b"]) | st.text(max_size=20), held, max_size=4)
    one = fields(field.message_type) if field.message_type else kinds[field.type]
    return st.lists(one, max_size=4) if field.is_repeated else one


def fields(message: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Any of a message's fields, one of each oneof."""
    chosen = {one.name: values(one) for one in message.fields if one.name != "min_sequence"}
    return st.fixed_dictionaries({}, optional=chosen)


EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "ABORTED", "ALREADY_EXISTS", "FAILED_PRECONDITION"}


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_whatever_a_request_holds_it_is_answered_in_good_order(call: Call, data: st.DataObject, method: str) -> None:
    request = message_of(method)(**data.draw(fields(METHODS[method].input_type)))
    answer = call(method, request)
    assert answer.code.name in EXPECTED, answer.text
    assert answer.text.isprintable()
    assert samples.CANARY.encode() not in answer.said
    if answer.fields:
        assert len(answer.fields) == len(set(answer.fields))
        assert answer.writes == 0


@pytest.mark.parametrize("method", variants.some(METHODS))
@given(written=st.binary(max_size=60))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_come_they_are_answered_in_good_order(call: Call, method: str, written: bytes) -> None:
    assert call(method, written).code.name in EXPECTED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "text", variants.some([b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80"]), ids=["junk", "surrogate", "overlong"]
)
def test_text_that_is_not_utf8_is_named_as_the_request(call: Call, method: str, text: bytes) -> None:
    for field in METHODS[method].input_type.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            written = bytes([field.number << 3 | 2, len(text)]) + text
            refused(call(method, written), "request")


@pytest.mark.fault(46)
def test_what_is_too_large_is_refused_before_it_is_read(call: Call) -> None:
    answer = call("CreateSandbox", b"\0" * (RECEIVE_MOST + 1))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call("ListSandboxes", pb.ListSandboxesRequest()).code is grpc.StatusCode.OK
