"""The process that enters namespaces: `enter.py`, started with the first program and used for all of them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox_server.engines.local import enter as script

_SCRIPT = (sys.executable, "-I", "-S", str(Path(script.__file__)))
_ANSWER_MOST = 100


class Forks:
    """Has programs started by one process, of which each is a fork."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    async def start(self, pid: int, folder: str, program: Sequence[str], taken: int, printed: int) -> int:
        """Starts a program beside the first process inside bubblewrap, with its input and output.

        Returns a descriptor of the process that runs it. Raises OSError.
        """
        message = json.dumps([pid, folder, *program]).encode()
        # An answer that nobody waits for any more must not be taken for the next one.
        exchange = asyncio.create_task(self._exchange(message, taken, printed))
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                end(await exchange)
            raise

    async def _exchange(self, message: bytes, taken: int, printed: int) -> int:
        async with self._turn:
            near = self._opened()
            try:
                socket.send_fds(near, [message], [taken, printed])
                await _readable(near)
                answer, found, _, _ = socket.recv_fds(near, _ANSWER_MOST, 1)
            except OSError:
                await self.close()
                raise
            if not answer:
                await self.close()
                raise ConnectionResetError("what enters sandboxes has ended")
        if not found:
            raise ProcessLookupError("the program has ended")
        return found[0]

    def _opened(self) -> socket.socket:
        if self._socket is None:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            near.setblocking(False)
            with far:
                self._process = subprocess.Popen(  # noqa: S603 - a constant
                    (*_SCRIPT, str(far.fileno())),
                    pass_fds=(far.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            self._socket = near
        return self._socket

    async def close(self) -> None:
        """Ends the process. The programs that it has started go on."""
        if self._socket is not None:
            self._socket.close()
        process, self._process, self._socket = self._process, None, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)


def end(process: int) -> None:
    """Kills a process that was started, and closes its descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)


async def _readable(one: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(one, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(one)
