"""When a sandbox is ready: it answers HTTP on its application port, or listens on a TCP port, or its process just runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.settings import Local

MISSES = 3
"""After as many failed probes in a row a ready sandbox is not ready any more, the kubelet's default."""


async def watch(sandbox: Sandbox, settings: Local, pace: Pace, ready: bool) -> AsyncIterator[bool]:
    """Yields after each probe whether the sandbox is ready. `ready` says whether it was before.

    Without a probe it yields True once, and ends.
    """
    probed = _probed(sandbox, settings)
    if probed is None:
        await asyncio.sleep(pace.local_alive)
        yield True
        return
    port, path = probed
    missed = 0
    while True:
        answers = await probe(port, path, pace.probe_within)
        missed = 0 if answers else missed + 1
        ready = answers or (ready and missed < MISSES)
        yield ready
        if not ready:
            await asyncio.sleep(pace.probe_until_ready)
        elif missed > 0:
            await asyncio.sleep(pace.probe_again)
        else:
            await asyncio.sleep(pace.probe_after)


def has_probe(sandbox: Sandbox, settings: Local) -> bool:
    """Whether a probe must succeed before the sandbox is ready."""
    return _probed(sandbox, settings) is not None


def _probed(sandbox: Sandbox, settings: Local) -> tuple[int, str] | None:
    """Returns the loopback port to probe, and the HTTP path or an empty one; None without a probe.

    The first port of the spec stands for the loopback port of the sandbox. The default command, a web server, is
    probed there even if the spec has no probe.
    """
    spec = sandbox.spec
    application = sandbox.addresses.ports[0]
    path = spec.readiness.http_path
    port = spec.readiness.tcp_port
    if path or port == spec.ports[0].number:
        return application, path
    if port != 0:
        return port, ""
    has_command = bool(spec.command) or settings.local_command != ""
    return None if has_command else (application, "")


async def probe(port: int, path: str, within: float) -> bool:
    """Probes once and returns whether it succeeded within so many seconds: a GET of `path`, or with an empty path a connection."""
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                if not path:
                    # The kernel may choose the probed port as the connection's own port, which then connects to itself.
                    return bool(writer.get_extra_info("sockname") != writer.get_extra_info("peername"))
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                version, _, rest = (await reader.readline()).partition(b" ")
                return version.startswith(b"HTTP/1.") and 200 <= int(rest[:3]) < 400
    except (OSError, TimeoutError, ValueError):
        return False
