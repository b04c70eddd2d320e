"""Whether a sandbox answers: HTTP on its application port, or a TCP port."""

import asyncio
import contextlib

from sandbox_server.domain.sandbox import SandboxSpec

ANSWER_WITHIN = 1.0
"""Seconds, as the kubelet's default."""


def needed(spec: SandboxSpec) -> bool:
    """Whether anything has to answer before the sandbox counts as ready."""
    return bool(spec.readiness.http_path or spec.readiness.tcp_port)


async def answers(spec: SandboxSpec, application: int) -> bool:
    """Asks once. `application`: the loopback port that stands for the first port of the spec."""
    asked = spec.readiness.tcp_port
    port = application if spec.readiness.http_path or asked == spec.ports[0].number else asked
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return not spec.readiness.http_path or await _get(reader, writer, spec.readiness.http_path)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bool:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    version, _, rest = line.partition(b" ")
    return version.startswith(b"HTTP/1.") and 200 <= int(rest[:3]) < 400
