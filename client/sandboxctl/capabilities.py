"""`sandboxctl capabilities`: what the service is and can do, and who the caller is to it."""

from rich.table import Table
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import words

from sandboxctl import answers, show
from sandboxctl.options import Output, chosen


def capabilities() -> None:
    """Show the service, who you are to it, and what works there; with -o wide also its limits."""
    found = chosen.client.capabilities()
    if answers.structured(found):
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = [
        ("version", found.version),
        ("engine", found.engine),
        ("caller", _caller(found)),
        ("namespaces", " ".join(found.namespaces) or "-"),
        ("default namespace", found.default_namespace or "none: name a namespace"),
        ("access", " ".join(_what(found.access)) or "none"),
        *((f"part {words.short(pb.PartName, one.name).lower()}", _works(one)) for one in found.parts),
    ]
    if chosen.output is Output.WIDE:
        limits = [
            *found.limits.ListFields(),
            *((field, one) for field, one in found.access.ListFields() if one is not True),
        ]
        rows += [(field.name.replace("_", " "), f"{value:.15g}") for field, value in limits]
    for name, value in rows:
        table.add_row(name, show.printable(value))
    show.out.print(table)


def _what(access: pb.Access) -> list[str]:
    """What SandboxAccess does."""
    return [field.name for field, value in access.ListFields() if value is True]


def _caller(found: pb.GetCapabilitiesResponse) -> str:
    if not found.operator:
        return f"tenant {found.tenant}"
    return f"operator {found.operator}, which {'only reads' if found.reads_only else 'may write'}"


def _works(part: pb.Part) -> str:
    return "works" if part.available else f"does not work: {part.message}"
