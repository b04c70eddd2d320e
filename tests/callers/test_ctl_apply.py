"""`sandboxctl apply`: what it reads, makes and says."""

import uuid
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client
from sandboxctl import comparison, manifest

from tests.support import samples
from tests.support.ctl import Run

WHOLE = """
request_id: 3f0e3d2c-7d1b-4b8e-8a51-0d8c5f4f9e10
sandbox_id: whole
namespace: default
adopt_volume: true
snapshot_id: before
env:
  PORT: 3000
  ON: yes
  OCTAL: 010
  NOTHING: ""
spec:
  project: demo
  image: python:3.13-slim
  command: [sleep]
  args: ["1000"]
  ports:
    - number: 8080
      name: web
  resources: {cpu_request: 500m, cpu_limit: 2, memory_request: 64Mi, memory_limit: 1Gi}
  storage: {size: 1Gi, storage_class: fast, access_mode: ReadWriteOnce}
  labels: {tier: web}
  annotations: {note: "1"}
  runtime_class: gvisor
  readiness: {tcp_port: 8080}
  grace_period_seconds: 0
  copy_image_home: false
"""


def file(folder: Path, text: str) -> str:
    path = folder / f"{uuid.uuid4().hex}.yaml"
    path.write_text(text)
    return str(path)


def minimal(sandbox_id: str, more: str = "", env: str = "") -> str:
    variables = f"env: {{{env}}}\n" if env else ""
    return f"sandbox_id: {sandbox_id}\n{variables}spec:\n  project: demo\n  command: [sleep, '1000']\n{more}"


def test_file_can_have_every_field_of_a_create_request() -> None:
    (request,) = manifest.read(WHOLE.encode())

    def unset(message: object, path: str) -> list[str]:
        found = []
        there = {field.name for field, _ in message.ListFields()}  # type: ignore[attr-defined]
        for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
            if field.containing_oneof is not None and field.name == "http_path":
                continue
            if field.name not in there:
                found.append(f"{path}{field.name}")
            elif field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
                found += unset(getattr(message, field.name), f"{path}{field.name}.")
        return found

    assert unset(request, "") == []
    assert dict(request.env) == {"PORT": "3000", "ON": "yes", "OCTAL": "010", "NOTHING": ""}
    assert request.spec.HasField("copy_image_home")
    camel = "sandboxId: a\nspec: {project: demo, gracePeriodSeconds: 5}\n---\n---\nsandbox_id: b\nspec:\n"
    assert [one.sandbox_id for one in manifest.read(camel.encode())] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no sandbox"),
        ("spec: {project: demo}", "sandbox_id is missing"),
        ("sandbox_id: a\nspec: {projekt: demo}", "spec.projekt is no field: there are project,"),
        ("sandbox_id: a\nspec: [1]", "spec must have fields"),
        ("sandbox_id: a\nspec: {command: sleep}", "spec.command must be a list"),
        ("sandbox_id: a\nspec: {ports: [{number: CANARY}]}", "spec.ports[0].number must be a whole number"),
        ("sandbox_id: a\nspec: {ports: [{number: 99999999999}]}", "out of range"),
        ("sandbox_id: a\nadopt_volume: CANARY", "adopt_volume must be true or false"),
        ("sandbox_id: a\nenv: {A: [CANARY]}", "env must have names with one text each"),
        ("sandbox_id: a\nenv: {A: *CANARY}", "line 2 is not YAML"),
        ("sandbox_id: a\nenv:\n  A: 'CANARY", "is not YAML"),
        ("sandbox_id: a\nenv: {A: {B: CANARY}}", "env must have names"),
    ],
)
def test_file_that_cannot_be_read_is_refused_without_its_values(run: Run, tmp_path: Path, text: str, said: str) -> None:
    done = run("apply", "-f", file(tmp_path, text.replace("CANARY", samples.CANARY)))
    assert done.code == 2
    assert said in " ".join(done.err.replace("\u2502", " ").split())
    assert samples.CANARY not in done.err + done.out


@pytest.mark.slow
def test_apply_creates_what_is_missing_and_repeats_change_nothing(run: Run, client: Client, tmp_path: Path) -> None:
    text = minimal("app-1", env=f"A: {samples.CANARY}") + "---\n" + minimal("app-2")
    path = file(tmp_path, text)
    dry = run("apply", "-f", path, "--dry-run")
    assert (dry.code, dry.out.splitlines()) == (0, ["app-1 would be created", "app-2 would be created"])
    assert not [one for one in client.list() if one.sandbox_id.startswith("app-")]
    done = run("apply", "-f", path, "--wait")
    assert (done.code, done.out.splitlines()) == (0, ["default/app-1 created", "default/app-2 created"]), done.err
    assert client.status("app-1").phase == pb.PHASE_RUNNING
    again = run("apply", "-f", path, "-o", "json")
    assert [one["action"] for one in again.json["results"]] == ["unchanged"] * 2
    assert client.status("app-1").generation == 1
    for one in (done, again):
        assert samples.CANARY not in one.out + one.err
    for name in ("app-1", "app-2"):
        client.delete(name)


@pytest.mark.slow
def test_apply_updates_what_differs_and_says_what_cannot_change(run: Run, client: Client, tmp_path: Path) -> None:
    client.create("demo", sandbox_id="app-3", command=["sleep", "1000"], env={"OLD": "1"}, resources={"cpu_limit": "2"})
    path = file(tmp_path, minimal("app-3", "  resources: {cpu_limit: 2000m}\n", env=f"NEW: {samples.CANARY}"))
    dry = run("apply", "-f", path, "--dry-run")
    assert "env NEW would be added" in dry.out
    assert "env OLD would be removed" in dry.out
    assert client.status("app-3").generation == 1
    assert run("apply", "-f", path).out == "default/app-3 updated\n"
    assert list(client.get("app-3").env_names) == ["NEW"]
    more = "  image: other\n  ports: [{number: 81}]\n  resources: {cpu_limit: 3}\n  readiness: {tcp_port: 81}\n"
    path = file(tmp_path, minimal("app-3", more))
    paths = ["image", "ports", "resources.cpu_limit", "readiness.tcp_port"]
    dry = run("apply", "-f", path, "-o", "json", "--dry-run")
    done = run("apply", "-f", path, "-o", "json")
    for one, action in ((dry, "would be updated"), (done, "updated")):
        (result,) = one.json["results"]
        assert (one.code, result["action"]) == (0, action), one.err
        assert [said.partition(" is ")[0] for said in result["differences"]] == [f"spec.{path}" for path in paths]
    there = client.get("app-3")
    assert (there.spec.image, there.spec.ports[0].number, there.spec.resources.cpu_limit) == ("other", 81, "3")
    assert list(there.env_names) == ["NEW"]
    fixed = "  image: third\n  storage: {storage_class: other}\n"
    done = run("apply", "-f", file(tmp_path, minimal("app-3", fixed, env="X: y")))
    assert (done.code, done.out.splitlines()[0]) == (1, "default/app-3 differs")
    assert "spec.storage.storage_class is " in done.out
    assert client.get("app-3").spec.image == "other"
    client.delete("app-3")


def test_failure_of_one_document_keeps_no_other_from_its_turn(run: Run, client: Client, tmp_path: Path) -> None:
    text = "sandbox_id: Bad Id\nspec: {project: demo}\n---\n" + minimal("app-4")
    done = run("apply", "-f", file(tmp_path, text))
    assert (done.code, done.out) == (2, "default/app-4 created\n")
    assert "sandbox_id" in done.err
    client.delete("app-4")


@pytest.mark.parametrize(
    ("asked", "there", "same"),
    [
        ("2", "2000m", True),
        (".5", "500m", True),
        ("1Gi", "1073741824", True),
        ("1e3", "1k", True),
        ("1Gi", "1G", False),
        ("fast", "fast", True),
        ("fast", "slow", False),
        (".", "1", False),
    ],
)
def test_quantities_are_compared_by_their_amount(asked: str, there: str, same: bool) -> None:
    def spec(size: str) -> pb.SandboxSpec:
        return pb.SandboxSpec(storage=pb.Storage(size=size))

    assert (list(comparison.differences(spec(asked), spec(there))) == []) is same


def test_only_what_is_asked_for_is_compared() -> None:
    there = pb.SandboxSpec(image="i", ports=[pb.Port(name="port-3000", number=3000)], labels={"a": "1"})
    assert not list(comparison.differences(pb.SandboxSpec(ports=[pb.Port(number=3000)]), there))
    (found,) = comparison.differences(pb.SandboxSpec(labels={"a": "2"}), there)
    assert str(found) == "spec.labels is {'a': '1'}, not {'a': '2'}"
