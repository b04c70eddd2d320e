"""What a pod's containers and their runtime say, fit for a status: without any value of the environment."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from sandbox_server.domain import ownership, words
from sandbox_server.domain.observed import Exit, Observed
from sandbox_server.domain.sandbox import Sandbox


async def redacted(sandbox: Sandbox, observed: Observed, env: Callable[[], Awaitable[Mapping[str, str]]]) -> Observed:
    """Returns `observed` with the values of the environment redacted in all that is quoted. `env` reads them.

    The values of another generation are not known any more. Nothing new is quoted from its pod.
    """
    pod = observed.pod
    if pod is None or not ownership.owned(sandbox, pod):
        return observed
    last_words = pod.last_exit.message if pod.last_exit is not None else ""
    if not pod.quoted and not last_words:
        return observed
    if pod.generation != sandbox.pod_generation:
        recorded = _recorded_words(sandbox.status.last_exit, pod.last_exit)
        return dataclasses.replace(observed, pod=pod.quoting("", recorded))
    values = (await env()).values()
    redacted_pod = pod.quoting(words.last(pod.quoted, values), words.last(last_words, values))
    return dataclasses.replace(observed, pod=redacted_pod)


def _recorded_words(recorded: Exit | None, seen: Exit | None) -> str:
    """Returns the last words in the status, if they are of the exit that is seen."""
    if recorded is None or seen is None or (recorded.code, recorded.reason) != (seen.code, seen.reason):
        return ""
    return recorded.message
