"""A command in a sandbox, for asyncio."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import aio_connection, aio_writing, calls, errors, execs, outage, output, retry, stdin


class AsyncExec:
    """The same as `Exec`, for `AsyncClient`.

    >>> async def story() -> bytes:
    ...     async with AsyncClient("127.0.0.1:50051") as client:
    ...         made = await client.create("demo", command=["sleep", "1000"])
    ...         await client.wait_until(made, "RUNNING")
    ...         command = await client.exec(made, ["tr", "a-z", "A-Z"], stdin=True)
    ...         await command.write(b"loud", eof=True)
    ...         return b"".join([part.data async for part in command if isinstance(part, Output)])
    >>> asyncio.run(story())
    b'LOUD'
    """

    def __init__(self, link: aio_connection.AsyncConnection, sandbox_id: str, namespace: str, started: pb.Exec) -> None:
        self._link = link
        self._place = execs.Place(sandbox_id, namespace, started.exec_id, started.incarnation)
        self._position = output.Position(self._place)
        self._accepted: int | None = started.accepted_offset

    @property
    def id(self) -> str:
        """The id, for `Client.attach`."""
        return self._place.exec_id

    @property
    def incarnation(self) -> str:
        """The incarnation of the sandbox in which it runs."""
        return self._place.incarnation

    @property
    def ended(self) -> output.Ended | None:
        """How it ended, once all its output was read; None before."""
        return self._position.ended

    def __aiter__(self) -> AsyncIterator[output.Output | output.Gap]:
        return self.read()

    async def read(
        self, *, timeout: float | None = None, lost: outage.Lost = lambda _error: None, back: outage.Back = lambda: None
    ) -> AsyncGenerator[output.Output | output.Gap, None]:
        """See `Exec.read`."""
        tries = outage.Tries(timeout, lost, back)
        while self.ended is None:
            failure = None
            stream = await self._link.stream("AttachExec", self._position.request(), tries.left())
            try:
                async for message in stream:
                    tries.reached()
                    part = self._position.take(message)
                    if part is not None:
                        yield part
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            if self.ended is None:
                await asyncio.sleep(tries.delay(failure))

    async def write(self, data: aio_writing.Chunks, *, eof: bool = False, timeout: float | None = None) -> None:
        """See `Exec.write`. The chunks can be asynchronous."""
        # After a write that failed, the service alone knows.
        offset = (await self.get(timeout=timeout)).accepted_offset if self._accepted is None else self._accepted
        self._accepted = None
        unaccepted = stdin.Unaccepted(self._place, offset)
        await aio_writing.AsyncWriter(self._link, unaccepted, eof, timeout).write(data)
        self._accepted = unaccepted.end

    async def signal(self, name: str, *, timeout: float | None = None) -> None:
        """Sends a signal, such as TERM, to the process group of the command."""
        await self._link.call(execs.signal(self._place, name, timeout))

    async def resize(self, rows: int, cols: int, *, timeout: float | None = None) -> None:
        """Sets the size of the terminal of a command that was started with `tty`."""
        await self._link.call(execs.resize(self._place, rows, cols, timeout))

    async def get(self, *, timeout: float | None = None) -> pb.Exec:
        """Returns the exec as it stands."""
        return await self._link.call(execs.get(self._place, timeout))

    async def wait(self, *, timeout: float | None = None) -> output.Ended:
        """Returns how the command ended, without its output. Raises `TimedOut` after `timeout` seconds."""
        end = retry.end_after(timeout)
        while True:
            found = await self._link.call(execs.wait(self._place, retry.seconds_until(end)))
            if found.HasField("exited"):
                return output.Ended.of(found.exited)

    async def complete(
        self, data: bytes | None = None, *, most: int = output.KEPT, timeout: float | None = None
    ) -> output.Completed:
        """Writes `data` as the whole input, reads the output to its end, and returns both. For `most` see `Client.run`."""
        feeding = asyncio.create_task(self._feed(data)) if data is not None else None
        collected = output.Collected(most)
        try:
            async for part in self.read(timeout=timeout):
                collected.add(part)
        finally:
            if feeding is not None:
                feeding.cancel()
        return collected.completed(self.id, self.ended or await self.wait(timeout=timeout))

    async def _feed(self, data: bytes) -> None:
        """See `Exec._feed`."""
        with contextlib.suppress(errors.ServiceError):
            await self.write(data, eof=True)


class AsyncCommands(aio_connection.AsyncConnection):
    """The part of `AsyncClient` that runs commands in sandboxes."""

    async def exec(
        self,
        sandbox: calls.Named,
        command: Iterable[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
        time_limit: int = 0,
        exec_id: str = "",
        expected_incarnation: str = "",
        namespace: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> AsyncExec:
        """See `Client.exec`."""
        call = execs.start(
            sandbox,
            command,
            env=env,
            cwd=cwd,
            stdin=stdin,
            tty=tty,
            time_limit=time_limit,
            exec_id=exec_id,
            expected_incarnation=expected_incarnation,
            namespace=namespace,
            request_id=request_id,
            timeout=timeout,
        )
        return AsyncExec(self, *calls.target(sandbox, namespace), await self.call(call))

    async def attach(
        self,
        sandbox: calls.Named,
        exec_id: str,
        *,
        incarnation: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> AsyncExec:
        """See `Client.attach`."""
        place = execs.Place(*calls.target(sandbox, namespace), exec_id, incarnation)
        return AsyncExec(self, place.sandbox_id, place.namespace, await self.call(execs.get(place, timeout)))

    async def run(
        self,
        sandbox: calls.Named,
        command: Iterable[str],
        *,
        input: bytes | None = None,  # noqa: A002 - as in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        time_limit: int = 0,
        most: int = output.KEPT,
        namespace: str = "",
        timeout: float | None = None,
    ) -> output.Completed:
        """See `Client.run`."""
        end = retry.end_after(timeout)
        started = await self.exec(
            sandbox,
            command,
            env=env,
            cwd=cwd,
            stdin=input is not None,
            time_limit=time_limit,
            namespace=namespace,
            timeout=timeout,
        )
        return await started.complete(input, most=most, timeout=retry.seconds_until(end))
