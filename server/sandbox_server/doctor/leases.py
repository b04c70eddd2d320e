"""Judges the leases of the namespaces: whether a live replica holds each, and observes it."""

from collections.abc import Iterable, Sequence

from sandbox_server.doctor.examination import Check
from sandbox_server.doctor.report import Result
from sandbox_server.domain.lease import Lease, Replica


def judge(
    check: Check, replicas: Sequence[Replica], leases: Iterable[Lease], engine: str, namespaces: Sequence[str]
) -> list[Result]:
    """Returns what is wrong with the leases of these namespaces, or that nothing is.

    `engine` is that of the settings, `namespaces` are those of its tenants.
    """
    if not replicas:
        return [check.ok("no replica runs")]
    by_namespace = {one.namespace: one for one in leases}
    wrong = [
        check.warning(
            f"the replica {one.id} runs the engine {one.engine}, and these settings say {engine}",
            "give each replica the same settings",
        )
        for one in replicas
        if one.engine != engine
    ]
    for namespace in namespaces:
        wrong += _wrong(check, replicas, by_namespace.get(namespace), namespace)
    return wrong or [check.ok(f"{_described(replicas)}; each of the namespaces is held and observed")]


def _described(replicas: Sequence[Replica]) -> str:
    """Returns how many replicas there are, of which releases, and for how long the youngest runs."""
    described = f"replicas: {len(replicas)} of release {', '.join(sorted({one.release for one in replicas}))}"
    known = [one.up_for for one in replicas if one.up_for is not None]
    return f"{described}, each up for {min(known):.0f} s or longer" if len(known) == len(replicas) else described


def _wrong(check: Check, replicas: Sequence[Replica], lease: Lease | None, namespace: str) -> list[Result]:
    if not any(namespace in one.namespaces for one in replicas):
        message = f"{namespace}: no running replica has it among its tenants' namespaces"
        return [check.warning(message, "give the replicas the settings and the token file that this command has")]
    if lease is None or lease.remaining <= 0 or lease.holder not in {one.id for one in replicas}:
        remedy = "look again in some seconds; if it stays so, see the log of the replicas"
        return [check.warning(f"{namespace}: no replica holds it", remedy)]
    if not lease.sight.synced:
        message = f"{namespace}: its holder {lease.holder} does not observe it"
        remedy = "see the checks of the namespace, and the log of that replica"
        if lease.sight.fault:
            return [check.failure(f"{message}: {lease.sight.fault}", remedy)]
        return [check.warning(message, remedy)]
    return []
