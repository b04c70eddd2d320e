"""When a sandbox is ready: it answers HTTP on its application port, or on a TCP port, or its process just runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.settings import Settings

ANSWER_WITHIN = 1.0
"""Seconds, as the kubelet's default."""
MISSES = 3
"""Probes in a row that a sandbox that was ready must miss to be so no more, as the kubelet's default."""
ALIVE = 0.15
"""Seconds that a process must run to be ready where nothing has to answer: one whose command is not there has ended."""


async def watch(sandbox: Sandbox, settings: Settings, ready: bool) -> AsyncIterator[bool]:
    """Whether a sandbox is ready, again whenever it was asked; `ready`: whether it was when last seen."""
    asked, pace, missed = _asked(sandbox, settings), settings.pace, 0
    while asked:
        answers = await probe(*asked)
        missed = 0 if answers else missed + 1
        ready = answers or (ready and missed < MISSES)
        yield ready
        await asyncio.sleep(pace.probe_until_ready if not ready else pace.probe_again if missed else pace.probe_after)
    await asyncio.sleep(ALIVE)
    yield True


def asks(sandbox: Sandbox, settings: Settings) -> bool:
    """Whether something has to answer before a sandbox is ready."""
    return _asked(sandbox, settings) is not None


def _asked(sandbox: Sandbox, settings: Settings) -> tuple[int, str] | None:
    """The loopback port that has to answer, and the HTTP path if one is asked for; None where nothing has to answer.

    The first port of the spec is the one that the sandbox was given, where a web server runs in want of a command.
    """
    spec, application = sandbox.spec, sandbox.addresses.ports[0]
    path, port = spec.readiness.http_path, spec.readiness.tcp_port
    if path or port == spec.ports[0].number:
        return application, path
    if port:
        return port, ""
    return None if spec.command or settings.local_command else (application, "")


async def probe(port: int, path: str) -> bool:
    """Asks once: with no path, whether the port is open."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                if not path:
                    # The kernel may give a connection the very port that it leads to: it then meets itself.
                    return bool(writer.get_extra_info("sockname") != writer.get_extra_info("peername"))
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                version, _, rest = (await reader.readline()).partition(b" ")
                return version.startswith(b"HTTP/1.") and 200 <= int(rest[:3]) < 400
    except (OSError, TimeoutError, ValueError):
        return False
