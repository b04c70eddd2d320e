"""Who makes a call. What a caller sees and may change is decided here and in `tenant`, and nowhere else."""

from collections.abc import Collection
from dataclasses import dataclass

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.schedule import Schedule
from sandbox_server.domain.snapshot import Snapshot
from sandbox_server.domain.tenant import ANY, Reach, Tenant


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who runs the service, or a program that does. It sees the sandboxes of all tenants and owns none.

    `namespaces` are those of all tenants. It changes sandboxes, on behalf of their tenants, only if it `writes`.
    """

    name: str
    namespaces: tuple[str, ...]
    writes: bool = False

    @property
    def tenant(self) -> str:
        """The tenant whose sandboxes alone it sees: `ANY`."""
        return ANY

    @property
    def default_namespace(self) -> str:
        """It has no default: an id alone could be that of any tenant."""
        return ""

    def permit(self, method: str) -> None:
        """Permits the mutation `method` if it writes. Raises `errors.PermissionDenied`."""
        if not self.writes:
            raise errors.PermissionDenied(
                "OPERATOR_READS_ONLY",
                f"the token of the operator {self.name!r} only reads: use one of the tenant, or of an operator that "
                "may write",
                operator=self.name,
            )
        if method in ("CreateSandbox", "CloneSandbox", "CreateSchedule"):
            owned = "schedule" if method == "CreateSchedule" else "sandbox"
            raise errors.PermissionDenied(
                "OPERATOR_OWNS_NOTHING",
                f"a {owned} belongs to a tenant, and an operator is none: create it with a token of the tenant",
                operator=self.name,
            )

    def sees(self, _owned: Sandbox | Snapshot | Schedule) -> bool:
        """Whether it sees the sandbox, the snapshot or the schedule: always."""
        return True

    def reach(self, namespace: str = "", tenant: str = ANY) -> Reach:
        """Returns what it sees of a tenant, or of all tenants, in a namespace or in any."""
        return Reach(tenant, frozenset({namespace}) if namespace else None)

    def key(self, namespace: str, sandbox_id: str) -> Key:
        """Returns the key of a sandbox. The namespace must not be empty."""
        return Key(namespace, sandbox_id)

    def keys(self, namespace: str, sandbox_ids: Collection[str]) -> frozenset[Key]:
        """Returns the keys of sandboxes in one namespace, which must not be empty, unless there are no ids."""
        return frozenset(Key(namespace, sandbox_id) for sandbox_id in sandbox_ids)


Principal = Tenant | Operator
"""Who makes a call.

- `tenant`: the tenant whose sandboxes alone it sees, or `ANY`.
- `default_namespace`: the namespace of requests without one. Empty: such a request must have a namespace.
- `permit`: raises `errors.PermissionDenied` for a mutation that it may not make.
- `sees`: whether it sees a sandbox, a snapshot or a schedule. To it, others do not exist.
- `reach`: what it sees of a namespace and a tenant, for a search.
- `key`, `keys`: the keys of sandboxes that a request names.
"""
