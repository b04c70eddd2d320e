"""Whether a sandbox answers: HTTP on its application port, or a TCP port."""

import asyncio
import contextlib

from sandbox_server.domain.spec import SandboxSpec

ANSWER_WITHIN = 1.0
"""Seconds, as the kubelet's default."""


def needed(spec: SandboxSpec) -> bool:
    """Whether anything has to answer before the sandbox counts as ready."""
    return bool(spec.readiness.http_path or spec.readiness.tcp_port)


async def answers(spec: SandboxSpec, application: int) -> bool:
    """Asks once. `application`: the loopback port that stands for the first port of the spec."""
    path, port = spec.readiness.http_path, spec.readiness.tcp_port
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            first = path or port == spec.ports[0].number
            reader, writer = await asyncio.open_connection("127.0.0.1", application if first else port)
            with contextlib.closing(writer):
                if not path:
                    return True
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                version, _, rest = (await reader.readline()).partition(b" ")
                return version.startswith(b"HTTP/1.") and 200 <= int(rest[:3]) < 400
    except (OSError, TimeoutError, ValueError):
        return False
