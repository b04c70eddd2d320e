"""Judges what callers send. Each function yields one violation for a bad field, naming the field and never its value."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from sandbox_server.domain.errors import Violation

ID_MOST = 52
"""StatefulSet names: the controller's revision label adds 11 characters, and a label holds 63."""
ENV_VARIABLES_MOST = 1000
ENV_NAME_MOST = 256
ENV_VALUE_MOST = 32 * 1024
ENV_TOTAL_MOST = 512 * 1024
"""Bytes of names and values: half of the 1 MiB that a Secret holds, since its encoding grows it by a third."""

RESERVED_PREFIXES = (
    "sandbox.fullstackagent.io/",
    "project.fullstackagent.io/",
    "cloud.sealos.io/",
    "deploy.cloud.sealos.io/",
)
RESERVED_KEYS = ("app", "originImageName")

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9]|-(?!-))*\Z")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")
_CPU = re.compile(r"([0-9]{1,9})(?:(m)|(?:\.([0-9]{1,3})))?\Z")
_MEMORY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?\Z")
_PATH = re.compile(r"/[!-~]*\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_SUFFIX |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}


def sandbox_id(field: str, value: str) -> Iterator[Violation]:
    if not value:
        yield Violation(field, "is required")
    elif len(value) > ID_MOST or not _LABEL.match(value):
        yield Violation(
            field, f"must be a DNS label of at most {ID_MOST} characters that starts with a letter: a-z, 0-9, -"
        )


def namespace(field: str, value: str) -> Iterator[Violation]:
    if len(value) > 63 or not _DNS_LABEL.match(value):
        yield Violation(field, "must be a DNS label of at most 63 characters: a-z, 0-9, -")


def project(field: str, value: str) -> Iterator[Violation]:
    if not value:
        yield Violation(field, "is required")
    elif len(value) > 63 or not _LABEL.match(value):
        yield Violation(field, "must be a DNS label of at most 63 characters that starts with a letter: a-z, 0-9, -")


def request_id(field: str, value: str) -> Iterator[Violation]:
    if value and not _UUID.match(value):
        yield Violation(field, "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000")


def image(field: str, value: str) -> Iterator[Violation]:
    if not value:
        yield Violation(field, "is required: the service has no default")
    elif len(value) > 512 or not _IMAGE.match(value):
        yield Violation(field, "must be an image reference of at most 512 characters such as registry/name:tag")


def words(field: str, values: Sequence[str], *, most: int, longest: int) -> Iterator[Violation]:
    if len(values) > most:
        yield Violation(field, f"must have at most {most} words")
    for index, word in enumerate(values[:most]):
        if len(word.encode()) > longest or "\0" in word:
            yield Violation(f"{field}[{index}]", f"must be at most {longest} bytes without NUL")


def ports(field: str, values: Sequence[tuple[str, int]], terminal: int) -> Iterator[Violation]:
    if not 1 <= len(values) <= 16:
        yield Violation(field, "must have 1 to 16 ports")
        return
    names: set[str] = set()
    numbers: set[int] = set()
    for index, (name, number) in enumerate(values):
        if len(name) > 15 or not _PORT_NAME.match(name) or name.endswith("-") or not re.search("[a-z]", name):
            yield Violation(
                f"{field}[{index}].name", "must be a DNS label of at most 15 characters with a letter, no --"
            )
        elif name in names or name == "ttyd":
            yield Violation(
                f"{field}[{index}].name", "must be unique in the sandbox, and not ttyd: that is the terminal's"
            )
        if not 1 <= number <= 65535:
            yield Violation(f"{field}[{index}].number", "must be from 1 to 65535")
        elif number in numbers or number == terminal:
            yield Violation(
                f"{field}[{index}].number", f"must be unique in the sandbox, and not {terminal}: that is the terminal's"
            )
        names.add(name)
        numbers.add(number)


def cpu_cores(value: str) -> Decimal | None:
    """A CPU quantity in cores; None if it is none."""
    match = _CPU.match(value)
    if not match:
        return None
    whole, milli, fraction = match.groups()
    return Decimal(whole) / 1000 if milli else Decimal(f"{whole}.{fraction or 0}")


def memory_bytes(value: str) -> Decimal | None:
    """A memory or storage quantity in bytes; None if it is none."""
    match = _MEMORY.match(value)
    if not match:
        return None
    whole, fraction, suffix = match.groups()
    return Decimal(f"{whole}.{fraction or 0}") * _SUFFIX[suffix or ""]


def cpu(field: str, request: str, limit: str) -> Iterator[Violation]:
    yield from _pair(
        f"{field}.cpu", "CPU in cores such as 2 or 500m", cpu_cores(request), cpu_cores(limit), Decimal(1024)
    )


def memory(field: str, request: str, limit: str) -> Iterator[Violation]:
    most = Decimal(16 * 2**40)
    yield from _pair(f"{field}.memory", "memory such as 512Mi or 2Gi", memory_bytes(request), memory_bytes(limit), most)


def _pair(field: str, what: str, request: Decimal | None, limit: Decimal | None, most: Decimal) -> Iterator[Violation]:
    bad = False
    for name, amount in (("request", request), ("limit", limit)):
        if amount is None or not 0 < amount <= most:
            bad = True
            yield Violation(f"{field}_{name}", f"must be a positive quantity of {what}")
    if not bad and request is not None and limit is not None and request > limit:
        yield Violation(f"{field}_request", f"must be at most {field.rsplit('.', 1)[-1]}_limit")


def storage(size: str, storage_class: str, access_mode: str) -> Iterator[Violation]:
    amount = memory_bytes(size)
    if amount is None or not 1 <= amount <= 64 * 2**40 or amount != int(amount):
        yield Violation("spec.storage.size", "must be a positive quantity of bytes such as 5Gi, at most 64Ti")
    if storage_class and (len(storage_class) > 253 or not _DNS_NAME.match(storage_class)):
        yield Violation("spec.storage.storage_class", "must be the name of a storage class: a DNS name")
    if access_mode not in ("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"):
        yield Violation("spec.storage.access_mode", "must be ReadWriteOnce, ReadWriteOncePod or ReadWriteMany")


def labels(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    yield from _keys(field, values)
    for key, value in values.items():
        if len(value) > 63 or (value and not _NAME.match(value)):
            yield Violation(
                _at(field, key), "must have a value of at most 63 characters: a-z, A-Z, 0-9, -, _, . inside"
            )


def annotations(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    yield from _keys(field, values)
    if sum(len(key.encode()) + len(value.encode()) for key, value in values.items()) > 16 * 1024:
        yield Violation(field, "must be at most 16 KiB in all")
    for key, value in values.items():
        if "\0" in value:
            yield Violation(_at(field, key), "must have a value without NUL")


def _keys(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    if len(values) > 64:
        yield Violation(field, "must have at most 64 entries")
    for key in values:
        prefix, slash, name = key.rpartition("/")
        if len(name) > 63 or not _NAME.match(name) or (slash and (len(prefix) > 253 or not _DNS_NAME.match(prefix))):
            yield Violation(
                _at(field, key), "must have a key such as name or example.com/name, with Kubernetes' syntax"
            )
        elif _reserved(prefix, key):
            yield Violation(
                _at(field, key), "has a key that is reserved for the service or for Kubernetes: choose another"
            )


def _reserved(prefix: str, key: str) -> bool:
    kubernetes = prefix in ("kubernetes.io", "k8s.io") or prefix.endswith((".kubernetes.io", ".k8s.io"))
    return kubernetes or key in RESERVED_KEYS or key.startswith(RESERVED_PREFIXES)


def _at(field: str, key: str) -> str:
    """Names one entry of a map; what is long or unprintable is cut and escaped, so that it stays one line."""
    shown = key if len(key) <= 64 else key[:61] + "..."
    return f"{field}[{shown.encode('unicode_escape').decode()}]"


def runtime_class(field: str, value: str) -> Iterator[Violation]:
    if value and (len(value) > 253 or not _DNS_NAME.match(value)):
        yield Violation(field, "must be the name of a runtime class: a DNS name")


def http_path(field: str, value: str) -> Iterator[Violation]:
    if value and (len(value) > 1024 or not _PATH.match(value)):
        yield Violation(field, "must be an absolute path of at most 1024 printable characters such as /healthz")


def tcp_port(field: str, value: int, numbers: Iterable[int]) -> Iterator[Violation]:
    if value and value not in numbers:
        yield Violation(field, "must be one of the sandbox's ports")


def env(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Judges a whole environment: what a sandbox would have after the wish."""
    if len(values) > ENV_VARIABLES_MOST:
        yield Violation(field, f"must have at most {ENV_VARIABLES_MOST} variables")
        return
    total = 0
    for name, value in values.items():
        yield from env_name(_at(field, name), name)
        size = len(value.encode("utf-8", "surrogatepass"))
        total += size + len(name)
        if size > ENV_VALUE_MOST:
            yield Violation(_at(field, name), f"must have a value of at most {ENV_VALUE_MOST} bytes")
        elif "\0" in value:
            yield Violation(_at(field, name), "must have a value without NUL")
    if total > ENV_TOTAL_MOST:
        yield Violation(field, f"must be at most {ENV_TOTAL_MOST} bytes in all")


def env_name(field: str, name: str) -> Iterator[Violation]:
    if not name or len(name) > ENV_NAME_MOST or not _ENV_NAME.match(name):
        yield Violation(field, f"must be a name of 1 to {ENV_NAME_MOST} characters: [A-Za-z_][A-Za-z0-9_]*")


def env_change(values: Mapping[str, str], unset: Sequence[str], replace: bool) -> Iterator[Violation]:
    """Judges a change by itself, before the sandbox is looked up."""
    yield from env("set", values)
    if len(unset) > ENV_VARIABLES_MOST:
        yield Violation("unset", f"must have at most {ENV_VARIABLES_MOST} names")
        return
    if replace and unset:
        yield Violation("unset", "must be empty with replace: everything not in set is removed")
    for index, name in enumerate(unset):
        yield from env_name(f"unset[{index}]", name)
        if name in values:
            yield Violation(f"unset[{index}]", "must not be in set too")
