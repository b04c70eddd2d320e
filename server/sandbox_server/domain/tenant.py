"""Who calls, and what is theirs."""

from dataclasses import dataclass

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of one or more namespaces; the first is the one meant when a request names none."""

    name: str
    namespaces: tuple[str, ...]

    def key(self, namespace: str, sandbox_id: str) -> Key:
        """The key of one of its sandboxes. A namespace of somebody else's is answered like an unknown sandbox."""
        if namespace and namespace not in self.namespaces:
            raise not_found(sandbox_id)
        return Key(namespace or self.namespaces[0], sandbox_id)


def not_found(sandbox_id: str) -> errors.NotFound:
    """The one answer for a sandbox that is unknown, never was, or is another tenant's."""
    return errors.NotFound("SANDBOX_NOT_FOUND", f"there is no sandbox {sandbox_id!r}: check its id and namespace")
