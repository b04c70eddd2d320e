"""The errors a caller can cause or meet. `rpc.errors` maps each to a status code; nothing else may reach a caller."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its name in the contract (`spec.ports[1].number`) and what it takes. Never a value."""

    field: str
    description: str


class ServiceError(Exception):
    """Base of every error a caller may see.

    `reason` is the UPPER_SNAKE word of `ErrorInfo`; `message` is for people and ends with the next step; `facts` are
    for programs, by name, beside the sandbox of the call, which every error has.
    """

    def __init__(self, reason: str, message: str, **facts: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts = facts


class Invalid(ServiceError):
    """The request is wrong in itself. Carries every violation found, not just the first."""

    def __init__(self, violations: tuple[Violation, ...], reason: str = "INVALID_FIELDS") -> None:
        text = "; ".join(f"{one.field}: {one.description}" for one in violations)
        super().__init__(reason, text)
        self.violations = violations


class NotFound(ServiceError):
    """There is no such sandbox, or it is another tenant's: the two are the same answer."""


class AlreadyExists(ServiceError):
    """The id is taken."""


class FailedPrecondition(ServiceError):
    """The sandbox's state does not allow the wish."""


class Aborted(ServiceError):
    """The caller decided on an old state."""


class OutOfRange(ServiceError):
    """The watch cannot resume at that sequence."""


class Unauthenticated(ServiceError):
    """No credentials, or unknown ones."""


class Unavailable(ServiceError):
    """The service cannot do it now; the same call may succeed later."""


class DeadlineExceeded(ServiceError):
    """The call's time ran out before there was an answer."""
