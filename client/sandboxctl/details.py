"""All that is known of a sandbox, for people."""

from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import words

from sandboxctl import advice, show

_Rows = list[tuple[str, str | Text]]
_GIB = 1 << 30


def gone(one: pb.SandboxStatus) -> bool:
    """Whether the URLs of the sandbox are no longer in use."""
    return one.phase == pb.PHASE_TERMINATED


def status(one: pb.SandboxStatus) -> Table:
    """Returns all of a status."""
    rows = _now(one) + _ends(one) + _volume(one) + _usage(one) + _names(one)
    for condition in one.conditions:
        kind = words.short(pb.ConditionType, condition.type).lower().replace("_", " ")
        value = words.short(pb.ConditionStatus, condition.status).lower()
        rows.append((kind, f"{value} ({show.reason(condition.reason)})"))
    return _table(rows)


def described(one: pb.Sandbox, history: RenderableType) -> Group:
    """Returns status, spec and history of a sandbox in sections, and what to do."""
    now = one.status
    sections: list[tuple[str, RenderableType]] = [
        ("Status", _table(_now(now))),
        ("What to do", Text(advice.next_step(now))),
        ("Conditions", _conditions(now) if now.conditions else Text("none yet")),
        ("Ends and disruptions", _table(_ends(now) or [("none", "")])),
        ("Disk", _table(_volume(now) or [("none", "")])),
        ("Names and addresses", _table(_names(now))),
        ("Spec", _table(_spec(one))),
        ("Variables", Text(" ".join(one.env_names) or "none")),
        ("History", history),
    ]
    parts: list[RenderableType] = []
    for heading, content in sections:
        parts += [Text(heading, "bold"), Padding(content, (0, 0, 0, 2), expand=False)]
    return Group(*parts)


def _now(one: pb.SandboxStatus) -> _Rows:
    stale = " (stale: the service has lost sight of its engine)" if one.stale else ""
    phase = show.coloured(show.phase(one))
    phase.append(stale)
    return [
        ("id", one.sandbox_id),
        ("namespace", one.namespace),
        ("project", one.project),
        ("phase", phase),
        ("reason", f"{show.reason(one.reason)}: {show.printable(one.message)}"),
        *([("remedy", words.short(pb.Remedy, one.remedy))] if one.remedy else []),
        ("since", _time(one.transition_time)),
        ("generation", f"{one.generation} (reached: {one.observed_generation})"),
        ("restarts", str(one.restart_count)),
    ]


def _ends(one: pb.SandboxStatus) -> _Rows:
    rows: _Rows = []
    if one.HasField("last_exit"):
        rows.append(("last exit", f"{one.last_exit.code} ({show.printable(one.last_exit.reason)})"))
        if one.last_exit.message:
            rows.append(("last words", show.printable(one.last_exit.message)))
    if one.HasField("last_disruption"):
        last = one.last_disruption
        said = (
            f"{show.reason(last.reason)} at {_time(last.time)}, {last.count} in a row: {show.printable(last.message)}"
        )
        rows.append(("last disruption", said))
    return rows


def _volume(one: pb.SandboxStatus) -> _Rows:
    if not one.HasField("volume"):
        return []
    bound = "bound" if one.volume.bound else "not bound"
    return [("volume", f"{one.volume.name}, {one.volume.size}, {bound}")]


def _usage(one: pb.SandboxStatus) -> _Rows:
    if not one.HasField("usage"):
        return []
    usage = one.usage
    rows: _Rows = [("used", _share(usage.used_bytes / _GIB, usage.capacity_bytes / _GIB, ".2f", "GiB"))]
    if usage.capacity_inodes:
        rows.append(("used inodes", _share(usage.used_inodes, usage.capacity_inodes, "d", "inodes")))
    return rows


def _share(used: float, capacity: float, how: str, unit: str) -> str:
    percent = f" ({100 * used / capacity:.0f} %)" if capacity else ""
    return f"{used:{how}} of {capacity:{how}} {unit}{percent}"


def _names(one: pb.SandboxStatus) -> _Rows:
    rows: _Rows = [("stateful set", one.stateful_set_name), ("service", one.service_name), ("dns name", one.dns_name)]
    if not gone(one):
        rows += [("application", one.public_url), ("terminal", one.ttyd_url or "-")]
    return rows


def _conditions(one: pb.SandboxStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("TYPE", "STATUS", "REASON", "SINCE"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MESSAGE")
    for condition in one.conditions:
        kind = words.short(pb.ConditionType, condition.type)
        value = words.short(pb.ConditionStatus, condition.status)
        since = _time(condition.transition_time)
        table.add_row(kind, value, show.reason(condition.reason), since, Text(condition.message))
    return table


def _spec(one: pb.Sandbox) -> _Rows:
    spec = one.spec
    probe = spec.readiness.WhichOneof("probe")
    resources = ", ".join(f"{field.name} {value}" for field, value in spec.resources.ListFields())
    grace_period = f"{spec.grace_period_seconds} s" if spec.HasField("grace_period_seconds") else "-"
    return [
        ("tenant", show.printable(one.status.tenant) or "-"),
        ("created", _time(one.create_time)),
        ("desired", words.short(pb.DesiredState, one.desired_state)),
        ("image", spec.image or "-"),
        ("command", show.printable(" ".join([*spec.command, *spec.args])) or "that of the image"),
        ("ports", ", ".join(f"{port.name} {port.number}" for port in spec.ports) or "-"),
        ("resources", resources or "-"),
        ("storage", " ".join(str(value) for _, value in spec.storage.ListFields()) or "-"),
        ("readiness", f"{probe} {getattr(spec.readiness, probe)}" if probe else "its process runs"),
        ("labels", ", ".join(f"{name}={spec.labels[name]}" for name in sorted(spec.labels)) or "-"),
        ("annotations", ", ".join(sorted(spec.annotations)) or "-"),
        ("runtime class", spec.runtime_class or "-"),
        ("grace period", grace_period),
        ("image home", "copied to a fresh disk" if spec.copy_image_home else "not copied"),
    ]


def _table(rows: _Rows) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _time(at: Timestamp) -> str:
    return at.ToDatetime(UTC).isoformat(timespec="seconds")
