"""Writes the reference of the API in docs, a page for each file of the contract and errors.md: `python scripts/reference.py docs`."""

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import descriptor_pb2
from sandbox_server.domain import remedy
from sandbox_server.domain.phase import Reason

ROOT = Path(__file__).parent.parent
SANDBOX = "sandbox/v1/sandbox.proto"
ACCESS = "sandbox/v1/access.proto"
SNAPSHOT = "sandbox/v1/snapshot.proto"
SCHEDULE = "sandbox/v1/schedule.proto"
ADOPTION = "sandbox/v1/adoption.proto"
MADE = "<!-- Made from the comments of protos/sandbox/v1 by `make docs`. -->\n"

# Field numbers of descriptor.proto: the path of a comment is made of them.
PAGES = {
    SANDBOX: "api.md",
    ACCESS: "access.md",
    ADOPTION: "adoption-api.md",
    SNAPSHOT: "snapshots.md",
    SCHEDULE: "schedules.md",
}
"""The page of docs that each file of the contract has."""
SYNTAX, MESSAGE, ENUM, SERVICE = 12, 4, 5, 6
FIELD = VALUE = METHOD = 2

ANY_CALL = re.compile(r"Any call (?:here )?can answer:")
GENERAL = re.compile("^Errors are ", re.MULTILINE)
ERRORS = re.compile(r"^Errors(, besides those of (any \w+))?: ?(those of any call\.)?$", re.MULTILINE)
CODE = re.compile(r"^ +([A-Z_]{4,})  +(.*)$")
REASONS = re.compile(r"^([A-Z_]+(?:, [A-Z_]+)*)(?: on (.+?))?: (.*)$")
KINDS = {
    descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE: "double",
    descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT: "float",
    descriptor_pb2.FieldDescriptorProto.TYPE_INT32: "int32",
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64: "int64",
    descriptor_pb2.FieldDescriptorProto.TYPE_UINT32: "uint32",
    descriptor_pb2.FieldDescriptorProto.TYPE_UINT64: "uint64",
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL: "bool",
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING: "string",
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES: "bytes",
}
REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


@dataclass(frozen=True)
class Failure:
    """A line of the errors of a call. `reason` is empty for an error of gRPC itself, which has no ErrorInfo."""

    code: str
    reason: str
    field: str
    text: str


class Contract:
    """A file of the contract with its comments."""

    def __init__(self, file: str = SANDBOX) -> None:
        """Compiles the file. Raises CalledProcessError if it does not compile."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "contract.binpb"
            command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_source_info"]
            command += ["--include_imports", f"--descriptor_set_out={target}"]
            subprocess.run([*command, file], check=True)
            *imported, self.file = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
        self._comments: dict[tuple[int, ...], str] = {}
        for one in self.file.source_code_info.location:
            self._comments[tuple(one.path)] = re.sub(r"^ ", "", one.leading_comments, flags=re.MULTILINE).strip("\n")
        self.messages = {one.name: number for number, one in enumerate(self.file.message_type)}
        self._pages = {
            one.name: "" if file is self.file else PAGES[file.name]
            for file in (*imported, self.file)
            if file.name in PAGES
            for one in (*file.message_type, *file.enum_type)
        }

    def comment(self, *path: int) -> str:
        """Returns the comment of a part of the contract."""
        return self._comments.get(path, "")

    def kind(self, message: str, field: descriptor_pb2.FieldDescriptorProto) -> str:
        """Returns the type of a field, with a link to a message or an enumeration of the contract."""
        if field.type_name:
            name = field.type_name.rpartition(".")[2]
            entry = self._entry(message, name)
            if entry is not None:
                return f"map of {self.kind(name, entry.field[0])} to {self.kind(name, entry.field[1])}"
            page = self._pages.get(name)
            kind = f"`{field.type_name.removeprefix('.')}`" if page is None else f"[{name}]({page}#{name.lower()})"
        else:
            kind = KINDS[field.type]
        return f"list of {kind}" if field.label == REPEATED else kind

    def _entry(self, message: str, name: str) -> descriptor_pb2.DescriptorProto | None:
        number = self.messages.get(message)
        nested = () if number is None else self.file.message_type[number].nested_type
        return next((one for one in nested if one.name == name and one.options.map_entry), None)


def failures(lines: Iterable[str]) -> list[Failure]:
    """Returns the errors that the lines of a comment list: a code, then its reasons, each with its meaning."""
    found: list[Failure] = []
    code = ""
    latest = 0
    for line in itertools.takewhile(str.strip, lines):
        begins = CODE.match(line)
        code, text = (begins[1], begins[2]) if begins else (code, line.strip())
        named = REASONS.match(text)
        if named or begins:
            latest = len(found)
            reasons, field, meaning = named.groups() if named else ("", "", text)
            found += (Failure(code, one, field or "", meaning) for one in reasons.split(", "))
        else:
            found[latest:] = [replace(one, text=f"{one.text} {text}") for one in found[latest:]]
    return found


def described(comment: str) -> tuple[str, str, list[Failure]]:
    """Returns the prose of the comment of an RPC, of which calls it shares the errors, and its own errors."""
    found = ERRORS.search(comment)
    if found is None:
        raise ValueError(f"no errors in the comment: {comment[:60]!r}")
    return (
        comment[: found.start()].strip(),
        found[2] or "any call",
        failures(comment[found.end() :].lstrip("\n").split("\n")),
    )


def cell(text: str) -> str:
    """Returns text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table in Markdown, and an empty one."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(map(cell, row))} |"
    yield ""


def api(contract: Contract, title: str) -> Iterator[str]:
    """Yields the lines of docs/api.md or docs/access.md."""
    yield MADE
    yield f"# {title}"
    yield ""
    general = GENERAL.split(contract.comment(SYNTAX))[0]
    yield from ("```text", *general.strip().split("\n"), "```", "")
    yield "[errors.md](errors.md) has every error and what to do; [lifecycle.md](lifecycle.md) has the rules of the phases."
    yield ""
    for number, service in enumerate(contract.file.service):
        yield f"## {service.name}"
        yield ""
        for index, method in enumerate(service.method):
            yield from _method(contract, method, contract.comment(SERVICE, number, METHOD, index))
    yield "## Messages"
    yield ""
    own = {name.rpartition(".")[2] for one in contract.file.service for name in _own(one)}
    for name, number in contract.messages.items():
        if name not in own:
            yield f"### {name}"
            yield ""
            yield from contract.comment(MESSAGE, number).split("\n")
            yield ""
            yield from _fields(contract, name)
    yield "## Enumerations"
    yield ""
    for number, enum in enumerate(contract.file.enum_type):
        yield from _enum(contract, number, enum)


def _own(service: descriptor_pb2.ServiceDescriptorProto) -> Iterator[str]:
    for one in service.method:
        yield from (one.input_type, one.output_type)


def _method(contract: Contract, method: descriptor_pb2.MethodDescriptorProto, comment: str) -> Iterator[str]:
    prose, shared, own = described(comment)
    yield f"### {method.name}"
    yield ""
    yield from prose.split("\n")
    yield ""
    yield f"Errors: those of [{shared}](errors.md)" + (", and:" if own else ".")
    yield ""
    if own:
        yield from table(
            ("code", "reason", "meaning, and what to do"), ((one.code, _reason(one), one.text) for one in own)
        )
    for title, kind in (("Request", method.input_type), ("Answer", method.output_type)):
        name = kind.rpartition(".")[2]
        stream = (title == "Request" and method.client_streaming) or (title == "Answer" and method.server_streaming)
        yield f"{title}{', a stream of' if stream else ':'} `{name}`"
        yield ""
        yield from _fields(contract, name)


def _reason(one: Failure) -> str:
    return f"{one.reason} on {one.field}" if one.field else one.reason


def _fields(contract: Contract, name: str) -> Iterator[str]:
    number = contract.messages[name]
    message = contract.file.message_type[number]
    rows = [
        (f"`{one.name}`", contract.kind(name, one), contract.comment(MESSAGE, number, FIELD, index))
        for index, one in enumerate(message.field)
    ]
    if rows:
        yield from table(("field", "type", "meaning"), rows)


def _enum(contract: Contract, number: int, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    yield f"### {enum.name}"
    yield ""
    yield from contract.comment(ENUM, number).split("\n")
    yield ""
    rows = [
        (f"`{one.name}`", str(one.number), contract.comment(ENUM, number, VALUE, index), _remedy(enum.name, one.number))
        for index, one in enumerate(enum.value)
    ]
    if enum.name == "Reason":
        yield from table(("value", "number", "meaning", "[remedy](lifecycle.md)"), rows)
    else:
        yield from table(("value", "number", "meaning"), (row[:3] for row in rows))


def _remedy(enum: str, number: int) -> str:
    if enum != "Reason" or number == 0:
        return ""
    who = remedy.of(Reason(number))
    return "" if who is remedy.Remedy.UNSPECIFIED else who.name


def errors(contract: Contract, *others: Contract) -> Iterator[str]:
    """Yields the lines of docs/errors.md."""
    yield MADE
    yield "# Errors"
    yield ""
    general, listed = _general(contract)
    yield " ".join(f"Errors are {general}".split())
    yield ""
    shared, _, mutations = listed.strip("\n").partition("\n\n")
    every = {(one.code, one.reason, one.field): (one, ["any call"]) for one in failures(shared.split("\n"))}
    reused = Failure("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "", mutations.partition("REQUEST_ID_REUSED: ")[2])
    every[reused.code, reused.reason, ""] = (reused, ["any mutation"])
    for file in others:
        calls = f"any call of {file.file.service[0].name}"
        for one in failures(_general(file)[1].strip("\n").split("\n")):
            every[one.code, one.reason, f"{one.field} {one.text}"] = (one, [calls])
    for file in (contract, *others):
        for number, service in enumerate(file.file.service):
            for index, method in enumerate(service.method):
                for one in described(file.comment(SERVICE, number, METHOD, index))[2]:
                    every.setdefault((one.code, one.reason, f"{one.field} {one.text}"), (one, []))[1].append(
                        method.name
                    )
    rows = [
        (one.code, _reason(one), ", ".join(where), one.text)
        for one, where in sorted(every.values(), key=lambda found: (found[0].reason, found[0].field, found[1]))
    ]
    yield from table(("code", "reason", "calls", "meaning, and what to do"), rows)


def _general(contract: Contract) -> tuple[str, str]:
    """Returns what the file says of all errors, and the list of those that any call can answer."""
    general, listed = ANY_CALL.split(GENERAL.split(contract.comment(SYNTAX))[1])
    return general, listed


def written(folder: Path) -> None:
    """Writes the files into a folder."""
    contract, access, snapshot = Contract(), Contract(ACCESS), Contract(SNAPSHOT)
    schedule, adoption = Contract(SCHEDULE), Contract(ADOPTION)
    files = {
        PAGES[SANDBOX]: api(contract, "The API"),
        PAGES[ACCESS]: api(access, "Access to sandboxes"),
        PAGES[ADOPTION]: api(adoption, "The adoption of sandboxes"),
        PAGES[SNAPSHOT]: api(snapshot, "Snapshots"),
        PAGES[SCHEDULE]: api(schedule, "Schedules of snapshots"),
        "errors.md": errors(contract, access, snapshot, schedule, adoption),
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    written(Path(sys.argv[1]))
