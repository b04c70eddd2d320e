"""Checks the local engine: how sandboxes are isolated, and their ports."""

from pathlib import Path

from sandbox_server.doctor.examination import Check, Examination, in_thread
from sandbox_server.doctor.report import Result
from sandbox_server.engines import local
from sandbox_server.settings import Settings

LISTENING = "0A"
"""The state of a socket in /proc/net/tcp."""


async def examine(examination: Examination, settings: Settings) -> None:
    """Checks this machine."""

    async def isolation(check: Check) -> list[Result]:
        described = await in_thread(lambda: local.describe(settings.local_isolation))
        if not described.startswith("none"):
            return [check.ok(described)]
        if settings.local_isolation == "none":
            return [check.warning(described, "give local-isolation=auto")]
        remedy = "allow user namespaces; see `sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`"
        return [check.warning(described, remedy)]

    async def ports(check: Check) -> list[Result]:
        return [_ports(check, settings.port_range)]

    await examination.check("isolation", "", isolation)
    await examination.check("ports", settings.local_ports, ports)


def _ports(check: Check, ports: range) -> Result:
    """Judges how many ports are free. None is opened: a sandbox may be about to use it."""
    free = len(ports) - len(listening() & set(ports))
    message = f"{free} of {len(ports)} are free"
    if not free:
        return check.failure(message, "delete sandboxes, or widen local-ports")
    outgoing = _outgoing()
    if ports.start < outgoing.stop and outgoing.start < ports.stop:
        between = f"the kernel gives {outgoing.start}-{outgoing.stop - 1} to outgoing connections"
        return check.warning(f"{message}, but {between}", "give local-ports outside of that range")
    return check.warning(message, "widen local-ports") if free < len(ports) / 10 else check.ok(message)


def _outgoing() -> range:
    """Returns the ports that the kernel gives to outgoing connections; empty where it does not say."""
    file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    low, high = map(int, file.read_text().split()) if file.exists() else (0, -1)
    return range(low, high + 1)


def listening() -> set[int]:
    """Returns the ports that programs of this machine listen on."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            lines = [line.split() for line in table.read_text().splitlines()[1:]]
            found |= {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == LISTENING}
    return found
