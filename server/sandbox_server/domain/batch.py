"""The sandboxes of a batch."""

from collections.abc import Sequence

from sandbox_server.domain import errors

MOST = 1000
"""Sandboxes in one batch."""


def checked(sandbox_ids: Sequence[str]) -> tuple[str, ...]:
    """Returns the ids that a selector matches. Raises `errors.FailedPrecondition` if there are more than `MOST`."""
    if len(sandbox_ids) > MOST:
        said = f"the selector matches more than {MOST} sandboxes: narrow it, or send ids"
        raise errors.FailedPrecondition("TOO_MANY_SANDBOXES", said)
    return tuple(sandbox_ids)
