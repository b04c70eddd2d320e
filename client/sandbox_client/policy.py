"""What the service config of the contract says: the time limit of a call, and when and how soon it is repeated."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import grpc

SERVICE_CONFIG = resources.files("sandbox.v1").joinpath("service_config.json").read_text(encoding="utf-8")
"""The service config, as gRPC takes it in the channel option `grpc.service_config`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one entry of the service config. Times are in seconds.

    Its `maxAttempts` and `waitForReady` are for gRPC's own retries: the clients repeat a call until its timeout.
    """

    timeout: float
    codes: frozenset[grpc.StatusCode]
    first_delay: float
    longest_delay: float
    factor: float

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """Returns the policy of an entry of `methodConfig`."""
        retry = entry["retryPolicy"]
        return cls(
            timeout=_seconds(entry["timeout"]),
            codes=frozenset(grpc.StatusCode[name] for name in retry["retryableStatusCodes"]),
            first_delay=_seconds(retry["initialBackoff"]),
            longest_delay=_seconds(retry["maxBackoff"]),
            factor=retry["backoffMultiplier"],
        )

    def delay(self, failures: int) -> float:
        """Returns the seconds to wait before the next try when `failures` delays came before."""
        return min(self.longest_delay, self.first_delay * self.factor**failures)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


CALLS = Policy.of(json.loads(SERVICE_CONFIG)["methodConfig"][0])
"""The policy of every call. A watch has the same, without the time limit."""
