"""The stubs are what the contract makes, and the contract says everything in comments."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "generated"

# Field numbers of descriptor.proto: a location's path is made of them.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
VALUES = METHODS = 2


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_committed_stubs_are_those_that_the_contract_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "generate.py", tmp_path], check=True)
    made, committed = files(tmp_path), files(GENERATED)
    assert sorted(committed) == sorted(made)
    assert [name for name in made if made[name] != committed[name]] == [], "run make generate"


def compiled(name: str, folder: Path) -> descriptor_pb2.FileDescriptorProto:
    target = folder / f"{name}.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_source_info"]
    subprocess.run([*command, f"--descriptor_set_out={target}", f"sandbox/v1/{name}.proto"], check=True)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    return file


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    return compiled("sandbox", tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    return compiled("access", tmp_path_factory.mktemp("contract"))


Named = Iterator[tuple[str, tuple[int, ...]]]


def enum_parts(enum: descriptor_pb2.EnumDescriptorProto, name: str, path: tuple[int, ...]) -> Named:
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, VALUES, index)


def message_parts(message: descriptor_pb2.DescriptorProto, name: str, path: tuple[int, ...]) -> Named:
    if message.options.map_entry:
        return  # Made by the compiler for a map field; nobody wrote it.
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, FIELDS, index)
    # An `optional` field is in a generated oneof of its own.
    optional = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in optional:
            yield f"{name}.{oneof.name}", (*path, ONEOFS, index)
    for index, nested in enumerate(message.nested_type):
        yield from message_parts(nested, f"{name}.{nested.name}", (*path, NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from enum_parts(enum, f"{name}.{enum.name}", (*path, NESTED_ENUMS, index))


def parts(file: descriptor_pb2.FileDescriptorProto) -> Named:
    for index, message in enumerate(file.message_type):
        yield from message_parts(message, message.name, (MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from enum_parts(enum, enum.name, (ENUMS, index))
    for index, service in enumerate(file.service):
        yield service.name, (SERVICES, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (SERVICES, index, METHODS, number)


@pytest.mark.slow
def test_every_part_of_the_contract_has_a_comment(
    contract: descriptor_pb2.FileDescriptorProto, access: descriptor_pb2.FileDescriptorProto
) -> None:
    for file in (contract, access):
        commented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        named = dict(parts(file))
        assert len(named) > 80
        assert [name for name, path in named.items() if path not in commented] == []


def test_access_has_the_rpcs_that_callers_know(access: descriptor_pb2.FileDescriptorProto) -> None:
    (service,) = access.service
    assert f"{access.package}.{service.name}" == "sandbox.v1.SandboxAccess"
    execs = {"StartExec", "AttachExec", "WriteStdin", "SignalExec", "GetExec", "ListExecs", "WaitExec"}
    files = {
        "ReadFile",
        "WriteFile",
        "StatFile",
        "ListFiles",
        "MakeDirectory",
        "RemoveFile",
        "MoveFile",
        "GetVolumeUsage",
    }
    streams = {"AttachExec", "StreamLogs", "ReadFile", "ForwardPort"}
    assert {method.name for method in service.method} >= execs | files | streams
    assert {method.name for method in service.method if method.server_streaming} == streams
    assert {method.name for method in service.method if method.client_streaming} == {
        "WriteStdin",
        "WriteFile",
        "ForwardPort",
    }


def test_the_service_has_the_rpcs_that_callers_know(contract: descriptor_pb2.FileDescriptorProto) -> None:
    (service,) = contract.service
    assert f"{contract.package}.{service.name}" == "sandbox.v1.SandboxService"
    assert {method.name for method in service.method} >= {
        "CreateSandbox",
        "Start",
        "Stop",
        "Delete",
        "GetStatus",
        "UpdateEnvVars",
        "UpdateSandbox",
        "BatchStart",
        "BatchStop",
        "BatchDelete",
        "WatchStatus",
        "ListSandboxes",
        "GetSandbox",
    }
    assert {method.name for method in service.method if method.server_streaming} == {"WatchStatus"}
    assert not any(method.client_streaming for method in service.method)


def test_over_half_of_the_contract_is_comments() -> None:
    lines = (ROOT / "protos" / "sandbox" / "v1" / "sandbox.proto").read_text().splitlines()
    written = [line.strip() for line in lines if line.strip()]
    assert sum(line.startswith("//") for line in written) * 2 > len(written)
