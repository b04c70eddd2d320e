"""The errors that callers see. `rpc.errors` maps each to a status code; other exceptions reach callers as INTERNAL."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """A bad field: its name in the contract, such as `spec.ports[1].number`, and what it must be. Never its value."""

    field: str
    description: str


class ServiceError(Exception):
    """The base of all errors that callers see.

    `reason` is the reason of `ErrorInfo`, in UPPER_SNAKE_CASE. `message` is for people and ends with the next step.
    `facts` is the metadata of `ErrorInfo`, for programs. The sandbox of the call is added to it later.
    """

    def __init__(self, reason: str, message: str, **facts: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = facts


class Invalid(ServiceError):
    """The request is wrong, whatever the state of the sandbox. Has every violation, not just the first."""

    def __init__(self, violations: tuple[Violation, ...], reason: str = "INVALID_FIELDS") -> None:
        text = "; ".join(f"{one.field}: {one.description}" for one in violations)
        super().__init__(reason, text)
        self.violations = violations


class NotFound(ServiceError):
    """There is no such sandbox, or it belongs to another tenant. The answer does not show which."""


class AlreadyExists(ServiceError):
    """The id is taken."""


class FailedPrecondition(ServiceError):
    """The state of the sandbox does not allow the mutation."""


class Aborted(ServiceError):
    """The sandbox has changed since the caller read it."""


class OutOfRange(ServiceError):
    """The stream cannot resume at that sequence or offset."""


class ResourceExhausted(ServiceError):
    """A limit is reached."""


class Unauthenticated(ServiceError):
    """The call has no credentials, or unknown ones."""


class PermissionDenied(ServiceError):
    """The caller is known, and may not make this call, whatever it is about."""


class Unavailable(ServiceError):
    """The service cannot serve the call now. The same call may succeed later."""


class DeadlineExceeded(ServiceError):
    """The time of the call ran out before there was an answer."""
