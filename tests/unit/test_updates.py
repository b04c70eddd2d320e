"""What an update changes of a spec, and which of it waits for a restart."""

import dataclasses
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import errors
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.spec import PORTS, Port, Readiness, Resources, SandboxSpec, Storage
from sandbox_server.rpc import updates
from sandbox_server.settings import Settings
from sandboxctl import comparison

from tests.support import samples

SETTINGS = Settings(default_image="default.example/image:1", grace_period=9, storage_class="other", local_command="x")
DEFAULTS = SETTINGS.defaults
MESSAGES = ("resources", "storage", "readiness")
"""The fields of a spec whose members are compared one by one."""
BEFORE = samples.spec(
    command=("run",),
    args=("a", "b"),
    ports=(Port("web", 8080), Port("debug", 9000)),
    storage=Storage("5Gi", "", "ReadWriteOnce"),
    labels={"tier": "web"},
    readiness=Readiness(tcp_port=9000),
    grace_period_seconds=0,
    copy_image_home=False,
)


def changed(*paths: str, **given: Any) -> SandboxSpec:
    request = pb.UpdateSandboxRequest(sandbox_id="a", spec=given, update_mask={"paths": paths})
    assert list(updates.violations(request, DEFAULTS, SETTINGS.policy)) == []
    return updates.changed(request, DEFAULTS, BEFORE)


@pytest.mark.parametrize(
    ("paths", "given", "after"),
    [
        (["image"], {"image": "new:2"}, {"image": "new:2"}),
        (["labels"], {"labels": {"a": "b"}}, {"labels": {"a": "b"}}),
        (["command", "args"], {"command": ["sh"]}, {"command": ("sh",), "args": ()}),
        (["ports"], {"ports": [{"number": 9000}]}, {"ports": (Port("port-9000", 9000),)}),
        (["readiness"], {"readiness": {"http_path": "/up"}}, {"readiness": Readiness("/up")}),
        (["readiness"], {"readiness": {"tcp_port": 8080}}, {"readiness": Readiness(tcp_port=8080)}),
        (["grace_period_seconds"], {"grace_period_seconds": 7}, {"grace_period_seconds": 7}),
        (
            ["storage.size"],
            {"storage": {"size": "9Gi", "storage_class": "ignored"}},
            {"storage": Storage("9Gi", "", "ReadWriteOnce")},
        ),
        (
            ["resources.cpu_limit"],
            {"resources": {"cpu_limit": "3", "memory_limit": "ignored"}},
            {"resources": dataclasses.replace(BEFORE.resources, cpu_limit="3")},
        ),
        (
            ["resources.cpu_limit", "resources.memory_limit"],
            {"resources": {"cpu_limit": "3", "memory_limit": "3Gi"}},
            {"resources": dataclasses.replace(BEFORE.resources, cpu_limit="3", memory_limit="3Gi")},
        ),
    ],
    ids=str,
)
def test_an_update_changes_the_fields_of_its_mask_and_no_others(
    paths: list[str], given: dict[str, Any], after: dict[str, Any]
) -> None:
    unread = {"project": "other", "storage": {"size": "9Gi"}, "annotations": {"not": "read"}}
    assert changed(*paths, **(unread | given)) == dataclasses.replace(BEFORE, **after)


@pytest.mark.parametrize(
    ("paths", "after"),
    [
        (["image"], {"image": "default.example/image:1"}),
        (["labels"], {"labels": {}}),
        (["readiness"], {"readiness": Readiness()}),
        (["readiness", "ports"], {"readiness": Readiness(), "ports": PORTS}),
        (["grace_period_seconds"], {"grace_period_seconds": 9}),
        (["resources"], {"resources": Resources(
            DEFAULTS.default_cpu_request, DEFAULTS.default_cpu_limit,
            DEFAULTS.default_memory_request, DEFAULTS.default_memory_limit,
        )}),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_that_is_empty_gets_its_default(paths: list[str], after: dict[str, Any]) -> None:
    assert changed(*paths) == dataclasses.replace(BEFORE, **after)


def test_an_amount_that_is_written_otherwise_is_no_change() -> None:
    given = pb.Resources(cpu_request="0.1", cpu_limit="1000m", memory_request="256Mi", memory_limit="1024Mi")
    assert changed("resources", resources=given) == BEFORE
    assert changed("resources.cpu_limit", resources=given) == BEFORE
    assert changed("storage.size", storage={"size": "5120Mi"}) == BEFORE


@pytest.mark.parametrize(
    ("paths", "given", "field"),
    [
        (["ports"], {"ports": [{"number": 8080}]}, "spec.readiness.tcp_port"),
        (["readiness"], {"readiness": {"tcp_port": 8081}}, "spec.readiness.tcp_port"),
        (["resources.cpu_request"], {"resources": {"cpu_request": "2"}}, "spec.resources.cpu_request"),
    ],
    ids=str,
)
def test_the_spec_that_results_is_checked_as_a_whole(paths: list[str], given: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        changed(*paths, **given)
    assert [one.field for one in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("storage", "storage is fixed for the life of the disk, but for storage.size: leave it out"),
        ("storage.access_mode", "storage is fixed for the life of the disk, but for storage.size: leave it out"),
        ("project", "project is fixed when the sandbox is created: leave it out"),
        ("env", "env is not a part of the spec: leave it out, and call UpdateEnvVars"),
        ("labels", "is named twice: leave one of them out"),
        ("resources.cpu_limit", "is a part of resources, which is named too: leave one of them out"),
        (samples.CANARY, f"must be one of {', '.join(updates.PATHS)}"),
    ],
)
def test_a_bad_path_is_said_with_the_next_step(path: str, said: str) -> None:
    request = pb.UpdateSandboxRequest(update_mask={"paths": ["labels", "resources", path]})
    found = list(updates.violations(request, DEFAULTS, SETTINGS.policy))
    assert [(one.field, one.description) for one in found] == [("update_mask.paths[2]", said)]


@pytest.mark.parametrize(
    ("phase", "observed", "applied", "pending"),
    [
        (Phase.RUNNING, 2, ["image", "labels"], []),
        (Phase.RUNNING, 1, ["labels"], ["image"]),
        (Phase.UPDATING, 1, ["labels"], ["image"]),
        (Phase.ERROR, 1, ["labels"], ["image"]),
        (Phase.STOPPED, 2, ["labels"], ["image"]),
    ],
)
def test_what_a_running_sandbox_does_not_have_yet_is_pending(
    phase: Phase, observed: int, applied: list[str], pending: list[str]
) -> None:
    status = samples.status(phase=phase, observed_generation=observed)
    sandbox = samples.sandbox(generation=2, desired=DesiredState.RUNNING, status=status)
    told = updates.progress(["image", "labels"], sandbox)
    assert (told["applied"]["paths"], told["pending"]["paths"]) == (applied, pending)


def filled(descriptor: Descriptor) -> dict[str, Any]:
    """A value other than the default one for each field of a message, of a oneof for each as well."""
    return {field.name: _value(field) for field in descriptor.fields}


def _value(field: FieldDescriptor) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"a": "b"}
    value: Any = "x"
    if kind is not None:
        value = filled(kind)
    elif field.type != FieldDescriptor.TYPE_STRING:
        value = 1
    return [value] if field.is_repeated else value


@pytest.mark.parametrize("name", pb.SandboxSpec.DESCRIPTOR.fields_by_name)
def test_apply_compares_each_field_of_the_contract_and_updates_what_an_update_takes(name: str) -> None:
    value = _value(pb.SandboxSpec.DESCRIPTOR.fields_by_name[name])
    parts = [{name: {member: one}} for member, one in value.items()] if name in MESSAGES else [{name: value}]
    for part in parts:
        asked = pb.SandboxSpec(**part)
        (difference,) = comparison.differences(asked, pb.SandboxSpec())
        assert list(comparison.differences(asked, asked)) == []
        assert difference.fixed is not (difference.masked in updates.PATHS)
        assert str(difference).startswith(f"spec.{name}")
