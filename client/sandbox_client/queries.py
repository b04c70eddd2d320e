"""Calls for callers that ask instead of watching: a wait without a stream, the history, and what the service can do."""

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import calls, retry


def wait_for_phase(
    sandbox: calls.Named,
    phase: str | int,
    *,
    namespace: str = "",
    generation: int = 0,
    fail_on_error: bool = False,
    patience: float = retry.PATIENCE,
    wait: float | None = None,
    timeout: float | None = None,
) -> calls.Call[pb.WaitForPhaseResponse]:
    """Waits for a phase in one call, for half a minute at most. Where a stream can be held, use `wait_until`.

    `wait` is the seconds that the service waits. With `fail_on_error` an error that the caller need not act on counts after
    `patience` seconds. Ask again while the outcome is WAIT_OUTCOME_PENDING.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> answer = client.wait_for_phase(made, "RUNNING")
    >>> pb.WaitOutcome.Name(answer.outcome), Status.of(answer.status).phase == "RUNNING"
    ('WAIT_OUTCOME_REACHED', True)
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.WaitForPhaseRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        phase=calls.phase(phase),
        generation=generation or calls.generation(sandbox),
        fail_on_error=fail_on_error,
        patience_seconds=patience,
        timeout_seconds=wait,
    )
    return calls.Call("WaitForPhase", request, "", timeout)


def events_page(
    sandbox: calls.Named = "",
    *,
    namespace: str = "",
    project: str = "",
    tenant: str = "",
    after_sequence: int = 0,
    oldest_first: bool = False,
    page_size: int = 0,
    page_token: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.ListEventsResponse]:
    """Returns a page of the history, the newest events first, and the token of the next page.

    Without a sandbox and a project: of everything that the caller may see. `tenant` is for operators.
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.ListEventsRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        project=project,
        tenant=tenant,
        after_sequence=after_sequence,
        order=pb.EVENT_ORDER_OLDEST_FIRST if oldest_first else pb.EVENT_ORDER_NEWEST_FIRST,
        page_size=page_size,
        page_token=page_token,
    )
    return calls.Call("ListEvents", request, "", timeout)


def capabilities(*, timeout: float | None = None) -> calls.Call[pb.GetCapabilitiesResponse]:
    """Returns what the service is, who the caller is to it, its limits, and which optional parts work.

    >>> found = client.capabilities()
    >>> found.engine, found.tenant, found.default_namespace, found.limits.page_size
    ('local', 'default', 'default', 1000)
    """
    return calls.Call("GetCapabilities", pb.GetCapabilitiesRequest(), "", timeout)
