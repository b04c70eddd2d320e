"""Reads the YAML of `apply`: documents with the fields of CreateSandboxRequest, by the names that the contract has."""

from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from sandbox.v1 import sandbox_pb2 as pb

_BOOLEANS = {"true": True, "false": False}


def read(data: bytes) -> list[pb.CreateSandboxRequest]:
    """Returns the sandboxes of a file. Raises ValueError, without any value of the file: some are secret.

    Every scalar is text, so that a variable has the value that the file shows: `yes`, `3000` and `0x10` are no other.
    """
    try:
        documents = list(yaml.load_all(data, Loader=yaml.BaseLoader))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the file"
        raise ValueError(f"{line} is not YAML") from None
    except yaml.YAMLError:
        raise ValueError("the file is not YAML in UTF-8") from None
    found = [_request(document) for document in documents if document]
    if not found:
        raise ValueError("there is no sandbox in the file")
    return found


def _request(document: Any) -> pb.CreateSandboxRequest:
    values = _message(pb.CreateSandboxRequest.DESCRIPTOR, document, "")
    try:
        request: pb.CreateSandboxRequest = json_format.ParseDict(values, pb.CreateSandboxRequest())
    except json_format.ParseError:
        # Its message can have values.
        raise ValueError("a field is out of range") from None
    if not request.sandbox_id:
        raise ValueError("sandbox_id is missing: without it each apply would make another sandbox")
    return request


def _message(descriptor: Descriptor, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path or "a document", "must have fields")
    fields = {**descriptor.fields_by_name, **descriptor.fields_by_camelcase_name}
    found: dict[str, Any] = {}
    for name, one in value.items():
        where = f"{path}.{name}" if path else str(name)
        field = fields.get(name)
        if field is None:
            raise ValueError(f"{where} is no field: there are {', '.join(descriptor.fields_by_name)}")
        # A key without anything after it: the field is unset.
        if one != "":
            found[field.name] = _field(field, one, where)
    return found


def _field(field: FieldDescriptor, value: Any, where: str) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise _wrong(where, "must have names with one text each")
        return value
    if not field.is_repeated:
        return _one(field, value, where)
    if not isinstance(value, list):
        raise _wrong(where, "must be a list")
    return [_one(field, one, f"{where}[{number}]") for number, one in enumerate(value)]


def _one(field: FieldDescriptor, value: Any, where: str) -> Any:
    if field.message_type is not None:
        return _message(field.message_type, value, where)
    if not isinstance(value, str):
        raise _wrong(where, "must be one value")
    if field.type == FieldDescriptor.TYPE_BOOL:
        if value.lower() not in _BOOLEANS:
            raise _wrong(where, "must be true or false")
        return _BOOLEANS[value.lower()]
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
        if not value.lstrip("-").isdecimal():
            raise _wrong(where, "must be a whole number")
        return int(value)
    return value


def _wrong(where: str, what: str) -> ValueError:
    return ValueError(f"{where} {what}")
