"""The part of `Client` that is about what is in a sandbox."""

import functools
import time
from collections.abc import Generator
from datetime import datetime

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls, errors, filing, forwarding, logs, outage, running


class Access(running.Commands):
    """Reads logs, has the files and forwards ports, beside running commands."""

    @functools.cached_property
    def files(self) -> filing.Files:
        """The files of sandboxes."""
        return filing.Files(self)

    def logs(
        self,
        sandbox: calls.Named,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        after_position: str = "",
        namespace: str = "",
        timeout: float | None = None,
        lost: outage.Lost = lambda _error: None,
        back: outage.Back = lambda: None,
    ) -> Generator[logs.Log, None, None]:
        """Yields what the process of a sandbox has printed, or with `previous` the process before it.

        With `follow` it goes on until the process has ended, which is the last event, and after a lost connection with every
        line once. `tail` is the number of lines to begin with. `after_position` begins behind the position of a `LogLines`.

        >>> made = client.create("demo", command=["sh", "-c", "echo hello; exec sleep 1000"])
        >>> running = client.wait_until(made, "RUNNING")
        >>> next(client.logs(made, follow=True)).data
        b'hello\\n'

        After `timeout` seconds it raises `TimedOut`, or `Unavailable` if the service is not reached then. For `lost` and
        `back` see `watch`.
        """
        position = logs.Position(logs.request(sandbox, namespace, previous, follow, tail, since, after_position))
        tries = outage.Tries(timeout, lost, back)
        while not position.complete:
            failure = None
            stream = self.stream("StreamLogs", position.request, tries.left())
            try:
                for message in stream:
                    tries.reached()
                    part = position.take(message)
                    if part is not None:
                        yield part
                position.ended()
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            if not position.complete:
                time.sleep(tries.delay(failure))

    def forward(
        self,
        sandbox: calls.Named,
        port: int,
        *,
        local_port: int = 0,
        host: str = "127.0.0.1",
        namespace: str = "",
        failed: forwarding.Failed = lambda _error: None,
    ) -> forwarding.Forward:
        """Listens on this machine, and carries connections to a TCP port of a sandbox while the context lasts.

            with client.forward("demo", 8080) as forward:
                urllib.request.urlopen(f"http://127.0.0.1:{forward.port}/")

        With a `local_port` of 0 it listens on any that is free. `failed` is called with what ended a connection.
        """
        sandbox_id, namespace = calls.target(sandbox, namespace)
        first = pb.ForwardPortRequest(sandbox_id=sandbox_id, namespace=namespace, port=port)
        return forwarding.Forward(self, first, host, local_port, failed)
