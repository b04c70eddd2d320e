"""A command in a sandbox, for code without asyncio."""

import contextlib
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls, connection, errors, execs, outage, output, retry, stdin, writing


class Exec:
    """A command that was started in a sandbox. Methods raise `ServiceError`.

    Iterating yields what it prints, and goes on after a lost connection with nothing missing and nothing twice. For output
    that the sandbox no longer keeps it yields a `Gap`. `ended` is None while the command runs, and then says how it ended. The
    command goes on whether or not its output is read.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> command = client.exec(made, ["sh", "-c", "echo one; read word; echo got $word"], stdin=True)
    >>> command.write(b"two\\n", eof=True)
    >>> b"".join(part.data for part in command if isinstance(part, Output))
    b'one\\ngot two\\n'
    >>> command.ended.code
    0
    """

    def __init__(self, link: connection.Connection, sandbox_id: str, namespace: str, started: pb.Exec) -> None:
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

    def __iter__(self) -> Iterator[output.Output | output.Gap]:
        return self.read()

    def read(
        self, *, timeout: float | None = None, lost: outage.Lost = lambda _error: None, back: outage.Back = lambda: None
    ) -> Generator[output.Output | output.Gap, None, None]:
        """Yields what follows the output that was read before, until the end of the command.

        Raises `TimedOut` after `timeout` seconds, or `Unavailable` if the service is not reached then. For `lost` and `back`
        see `Client.watch`.
        """
        tries = outage.Tries(timeout, lost, back)
        while self.ended is None:
            failure = None
            stream = self._link.stream("AttachExec", self._position.request(), tries.left())
            try:
                for message in stream:
                    tries.reached()
                    part = self._position.take(message)
                    if part is not None:
                        yield part
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            if self.ended is None:
                time.sleep(tries.delay(failure))

    def write(self, data: bytes | Iterable[bytes], *, eof: bool = False, timeout: float | None = None) -> None:
        """Writes to the input of a command that was started with `stdin`, and with `eof` ends it. For one thread at a time.

        Returns when the sandbox has accepted all; of several chunks each is written when it comes. Nothing is written
        twice. Raises `FailedPrecondition` with the reason STDIN_CLOSED when the command has ended or its input has.
        """
        # After a write that failed, the service alone knows.
        offset = self.get(timeout=timeout).accepted_offset if self._accepted is None else self._accepted
        self._accepted = None
        unaccepted = stdin.Unaccepted(self._place, offset)
        writing.Writer(self._link, unaccepted, eof, timeout).write(data)
        self._accepted = unaccepted.end

    def signal(self, name: str, *, timeout: float | None = None) -> None:
        """Sends a signal, such as TERM, to the process group of the command."""
        self._link.call(execs.signal(self._place, name, timeout))

    def resize(self, rows: int, cols: int, *, timeout: float | None = None) -> None:
        """Sets the size of the terminal of a command that was started with `tty`."""
        self._link.call(execs.resize(self._place, rows, cols, timeout))

    def get(self, *, timeout: float | None = None) -> pb.Exec:
        """Returns the exec as it stands."""
        return self._link.call(execs.get(self._place, timeout))

    def wait(self, *, timeout: float | None = None) -> output.Ended:
        """Returns how the command ended, without its output. Raises `TimedOut` after `timeout` seconds."""
        end = retry.end_after(timeout)
        while True:
            found = self._link.call(execs.wait(self._place, retry.seconds_until(end)))
            if found.HasField("exited"):
                return output.Ended.of(found.exited)

    def complete(
        self, data: bytes | None = None, *, most: int = output.KEPT, timeout: float | None = None
    ) -> output.Completed:
        """Writes `data` as the whole input, reads the output to its end, and returns both. For `most` see `Client.run`."""
        if data is not None:
            threading.Thread(target=self._feed, args=(data,), daemon=True).start()
        collected = output.Collected(most)
        for part in self.read(timeout=timeout):
            collected.add(part)
        return collected.completed(self.id, self.ended or self.wait(timeout=timeout))

    def _feed(self, data: bytes) -> None:
        """Writes the whole input. A command need not read it, and whatever else fails, reading its output shows.

        The client may be closed when the command has ended: gRPC then raises ValueError.
        """
        with contextlib.suppress(errors.ServiceError, ValueError):
            self.write(data, eof=True)


class Commands(connection.Connection):
    """The part of `Client` that runs commands in sandboxes."""

    def exec(
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
    ) -> Exec:
        """Starts a command in a sandbox that runs. The command is never run twice, and goes on when the caller disconnects.

        There is no shell unless it is the program. With `stdin` the command has an input: see `Exec.write`. With
        `tty`, rows and columns, it runs on a terminal, which is its input too, and all its output is in stdout. After
        `time_limit` seconds it is ended. A repeat with the same `exec_id` finds the command instead of starting it again.
        """
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
        return Exec(self, *calls.target(sandbox, namespace), self.call(call))

    def attach(
        self,
        sandbox: calls.Named,
        exec_id: str,
        *,
        incarnation: str = "",
        namespace: str = "",
        timeout: float | None = None,
    ) -> Exec:
        """Returns a command that was started before, to read its output from the beginning. Raises `NotFound`."""
        place = execs.Place(*calls.target(sandbox, namespace), exec_id, incarnation)
        return Exec(self, place.sandbox_id, place.namespace, self.call(execs.get(place, timeout)))

    def run(
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
        """Runs a command to its end and returns its exit code and what it printed.

        Of each channel the last `most` bytes are kept; `gaps` has what is missing. The exit code is None if the sandbox
        was stopped before the command ended. Raises `TimedOut` after `timeout` seconds, and leaves the command running: only
        `time_limit` ends it.

        >>> made = client.create("demo", command=["sleep", "1000"])
        >>> running = client.wait_until(made, "RUNNING")
        >>> result = client.run(made, ["sh", "-c", "tr a-z A-Z; echo done >&2; exit 3"], input=b"hello")
        >>> result.exit_code, result.stdout, result.stderr, result.truncated
        (3, b'HELLO', b'done\\n', False)
        """
        end = retry.end_after(timeout)
        started = self.exec(
            sandbox,
            command,
            env=env,
            cwd=cwd,
            stdin=input is not None,
            time_limit=time_limit,
            namespace=namespace,
            timeout=timeout,
        )
        return started.complete(input, most=most, timeout=retry.seconds_until(end))
