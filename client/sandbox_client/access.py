"""The part of `Client` that is about what is in a sandbox."""

import functools
import time
from collections.abc import Generator
from datetime import datetime

import grpc

from sandbox_client import calls, errors, filing, logs, outage, running


class Access(running.Commands):
    """Reads logs and has the files, beside running commands."""

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
        >>> [part.data for part in client.logs(made)]
        [b'hello\\n']

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
